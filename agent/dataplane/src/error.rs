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
    /// The pin is not what its name says.
    #[error("{}: pinned there is {found}; expected is {expected}; remove the pin", pin.display())]
    Foreign {
        /// The pin.
        pin: PathBuf,
        /// The present shape.
        found: Shape,
        /// The expected shape.
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
    /// The kernel is too old for them.
    #[error(
        "this kernel is Linux {release}: the programs need 5.19 or newer (bpf_set_retval, bpf_loop, bpf_skc_to_mptcp_sock), \
         or their backports: {source}"
    )]
    OldKernel {
        /// What it calls itself.
        release: String,
        /// What it refused.
        source: Box<ProgramsError>,
    },
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

// === impl ProgramsError ===

impl ProgramsError {
    /// The same, with the reason why a kernel of this release would refuse the programs.
    pub(crate) fn on(self, release: &str) -> Self {
        /// The first that has all helpers.
        const OLDEST: (u32, u32) = (5, 19);
        let mut numbers = release.split(['.', '-']).map_while(|number| number.parse().ok());
        let version = numbers.next().zip(numbers.next());
        match (version, &self) {
            (Some(version), Self::Load(_) | Self::Program { .. }) if version < OLDEST => {
                Self::OldKernel { release: release.into(), source: Box::new(self) }
            }
            _ => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kernel_is_named_with_the_reason() {
        let refused =
            || ProgramsError::Program { program: "cm_connect4", source: ProgramError::NotAttached };
        for old in ["5.15.0-91-generic", "4.18.0", "5.18.19"] {
            let text = refused().on(old).to_string();
            assert!(text.starts_with(&format!("this kernel is Linux {old}: ")), "{text}");
            assert!(text.ends_with(&refused().to_string()), "{text}");
        }
        for new in ["5.19.0", "6.1.0-50-cloud-amd64", "10.0", "strange"] {
            assert_eq!(refused().on(new).to_string(), refused().to_string());
        }
        let missing = ProgramsError::Missing("x").on("5.15.0").to_string();
        assert_eq!(missing, ProgramsError::Missing("x").to_string());
    }
}
