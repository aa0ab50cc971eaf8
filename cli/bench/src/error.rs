//! Why something could not be measured.

use std::{fmt, io, path::PathBuf};

use mesh_dataplane::{PinError, ProgramsError, TablesError};
use mesh_dump::DumpError;
use mesh_lab::LabError;

/// Why something could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A file or a folder.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The network, a process, or the kernel.
    #[error("{what}: {source}")]
    Io {
        /// What was done.
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
    /// Something did not come about.
    #[error("{0}")]
    Unexpected(String),
    /// The pins.
    #[error(transparent)]
    Pins(#[from] PinError),
    /// The programs.
    #[error(transparent)]
    Programs(#[from] ProgramsError),
    /// The tables.
    #[error(transparent)]
    Tables(#[from] TablesError),
    /// A pod that cannot be attached.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// A cluster directory.
    #[error(transparent)]
    Directory(#[from] mesh_source::cluster_directory::ClusterDirectoryError),
    /// What is in the kernel.
    #[error(transparent)]
    Dump(#[from] DumpError),
}

// === impl BenchError ===

impl BenchError {
    /// Something that was waited for, and did not come: `what` is a sentence without its end.
    pub(crate) fn late(what: impl fmt::Display) -> Self {
        Self::Unexpected(format!(
            "{what} in time: the machine is too busy, or a daemon fails. Try again while nothing else runs; `make demo` shows \
             whether the daemons work"
        ))
    }
}

/// Names what was done.
pub(crate) fn io(what: &'static str) -> impl FnOnce(io::Error) -> BenchError {
    move |source| BenchError::Io { what, source }
}

/// Names the file.
pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> BenchError {
    move |source| BenchError::File { path: path.into(), source }
}
