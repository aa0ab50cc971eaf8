//! The errors of benchmarks.

use std::{fmt, io, path::PathBuf};

use mesh_dataplane::{PinError, ProgramsError, TablesError};
use mesh_dump::DumpError;
use mesh_lab::LabError;
use mesh_policy_kernel::KernelError;

/// Why a benchmark failed.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A file or folder could not be used.
    #[error("{}: {source}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// An operation on the network, a process or the kernel failed.
    #[error("{what}: {source}")]
    Io {
        /// The operation, or its object.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// A command failed.
    #[error("`{command}` failed: {printed}")]
    Command {
        /// The command line.
        command: String,
        /// What it printed.
        printed: String,
    },
    /// A daemon or a command did not do what was expected.
    #[error("{0}")]
    Unexpected(String),
    /// The pins could not be used.
    #[error(transparent)]
    Pins(#[from] PinError),
    /// The programs could not be loaded or attached.
    #[error(transparent)]
    Programs(#[from] ProgramsError),
    /// The tables could not be used.
    #[error(transparent)]
    Tables(#[from] TablesError),
    /// Judging programs could not be used.
    #[error(transparent)]
    Judge(#[from] KernelError),
    /// The lab reports an error.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// A cluster directory is invalid.
    #[error(transparent)]
    Directory(#[from] mesh_source::cluster_directory::ClusterDirectoryError),
    /// The kernel's tables could not be read.
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

/// An error about a file.
pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> BenchError {
    move |source| BenchError::File { path: path.into(), source }
}
