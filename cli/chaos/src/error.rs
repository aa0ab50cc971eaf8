//! Why a campaign ended.

use std::io;

/// Why a campaign ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum ChaosError {
    /// A file or a process.
    #[error("{what}: {source}")]
    Io {
        /// What it was about.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A command that does a part of it.
    #[error("`{command}` failed: {printed}")]
    Command {
        /// The command.
        command: String,
        /// What it printed.
        printed: String,
    },
    /// Requests that were not answered.
    #[error("{failed} of {offered} requests failed: {reasons}")]
    Harmed {
        /// How many.
        failed: u64,
        /// Of how many.
        offered: u64,
        /// Why, with the number of each.
        reasons: String,
    },
    /// Too few requests to say anything.
    #[error("only {0} requests a second were answered: the machine is too busy to judge")]
    TooFew(u64),
    /// Something did not come about.
    #[error("{0}")]
    Unexpected(String),
}
