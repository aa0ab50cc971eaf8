//! Why programs or maps are not in place.

use std::{io, path::PathBuf};

use aya::{
    EbpfError,
    maps::MapError,
    programs::{ProgramError, links::LinkError},
};

use crate::{pins::PinError, shape::Shape};

/// Why a map cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MapsError {
    /// The programs' object has no such map.
    #[error("the programs have no map {0}")]
    Missing(&'static str),
    /// The kernel, or aya, refuses it.
    #[error("{map}: {source}")]
    Map {
        /// The map.
        map: &'static str,
        /// Why.
        source: MapError,
    },
    /// More is asked of it than it has room for.
    #[error("{map} has room for {size}, not for {count}")]
    TooMany {
        /// The map.
        map: &'static str,
        /// How many there are.
        count: usize,
        /// Its size.
        size: usize,
    },
    /// It cannot be mapped as memory, or opened.
    #[error("{map}: {source}")]
    Memory {
        /// The map.
        map: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The pin is something else than its name says.
    #[error("{}: pinned there is {found}; expected is {expected}; remove the pin", pin.display())]
    Foreign {
        /// The pin.
        pin: PathBuf,
        /// What is there.
        found: Shape,
        /// What should be.
        expected: Shape,
    },
}

/// Why the programs are not in place.
#[derive(Debug, thiserror::Error)]
pub enum ProgramsError {
    /// Pins cannot be used.
    #[error(transparent)]
    Pins(#[from] PinError),
    /// Tables cannot be used.
    #[error(transparent)]
    Maps(#[from] MapsError),
    /// The object cannot be loaded.
    #[error("the programs do not load: {0}")]
    Load(#[from] EbpfError),
    /// The object lacks a program, or the kernel refuses it.
    #[error("{program}: {source}")]
    Program {
        /// The program.
        program: &'static str,
        /// Why.
        source: ProgramError,
    },
    /// The object lacks a program.
    #[error("the object has no program {0}")]
    Missing(&'static str),
    /// The link cannot be made or kept.
    #[error("{program}: link: {source}")]
    Link {
        /// The program.
        program: &'static str,
        /// Why.
        source: LinkError,
    },
    /// The link cannot be pinned.
    #[error("{program}: pin: {source}")]
    Pin {
        /// The program.
        program: &'static str,
        /// Why.
        source: aya::pin::PinError,
    },
    /// The cgroup, or a pinned link, cannot be used.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}
