//! Why the kernel does not answer.

use std::{io, path::PathBuf};

use aya::{EbpfError, maps::MapError, programs::ProgramError};

/// Why the kernel does not answer.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The kernel refuses programs of this user.
    #[error(
        "the kernel lets only root load programs (CAP_BPF, CAP_NET_ADMIN): use sudo, or --engine model"
    )]
    NotPermitted,
    /// The programs or their maps cannot be made.
    #[error("the kernel's programs cannot be loaded: {0}")]
    Load(#[source] EbpfError),
    /// A program is refused, or does not run.
    #[error("program {program}: {source}")]
    Program {
        /// Its name.
        program: &'static str,
        /// The kernel's reason.
        source: ProgramError,
    },
    /// A map cannot be read or written.
    #[error("map {map}: {source}")]
    Map {
        /// Its name.
        map: &'static str,
        /// The kernel's reason.
        source: MapError,
    },
    /// A map cannot be mapped as memory.
    #[error("map {map} cannot be mapped: {source}")]
    Memory {
        /// Its name.
        map: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The object lacks a map or program: it is of another version.
    #[error("{0} is missing in the object")]
    Missing(&'static str),
    /// More than a node's tables have room for.
    #[error("{what}: {count} are more than the {limit} that a node's kernel can hold")]
    TooMany {
        /// Of what.
        what: String,
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// A program cannot be attached.
    #[error("program {program} cannot be attached at interface {interface}: {source}")]
    Attach {
        /// Its name.
        program: &'static str,
        /// The interface's index.
        interface: u32,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A pin cannot be made, read or removed.
    #[error("{}: {source}", path.display())]
    Pin {
        /// The pin, or its folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A table has no room.
    #[error("{what} is full")]
    Full {
        /// The table.
        what: String,
    },
    /// A program's answer is none that it gives.
    #[error("program {program} answers {answer}, which means nothing")]
    Answer {
        /// Its name.
        program: &'static str,
        /// The answer.
        answer: u32,
    },
}

// === impl KernelError ===

impl KernelError {
    pub(crate) fn too_many(what: &str, count: usize, limit: usize) -> Self {
        Self::TooMany { what: what.into(), count, limit }
    }
}
