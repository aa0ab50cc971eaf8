//! Why a chaos run or a recording ended early.

use std::io;

/// Why a chaos run or a recording ended early.
#[derive(Debug, thiserror::Error)]
pub enum ChaosError {
    /// A file could not be used, or a process not started.
    #[error("{what}: {source}")]
    Io {
        /// The file or the process.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// A command that the run depends on failed.
    #[error("`{command}` failed: {printed}")]
    Command {
        /// The command line.
        command: String,
        /// What it printed.
        printed: String,
    },
    /// Requests of the load failed.
    #[error("{failed} of {offered} requests failed: {reasons}")]
    Harmed {
        /// How many requests failed.
        failed: u64,
        /// How many were sent.
        offered: u64,
        /// Each reason, with the number of requests that failed for it.
        reasons: String,
    },
    /// The load answered too few requests for a verdict. The value is requests a second.
    #[error("only {0} requests a second were answered: the machine is too busy to judge")]
    TooFew(u64),
    /// A daemon or a tool answered something that the run cannot use.
    #[error("{0}")]
    Unexpected(String),
}
