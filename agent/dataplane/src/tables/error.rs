//! Why a change cannot be made.

use std::io;

use mesh_model::{ClusterId, lb::Frontend};

/// Why a change was not made. The tables are as they were before it.
#[derive(Debug, thiserror::Error)]
pub enum TablesError {
    /// A table is full.
    #[error("{map} is full: all of {size} entries are in use")]
    Full {
        /// The table.
        map: &'static str,
        /// Its size.
        size: u32,
    },
    /// A peer has as much of a table as it may have.
    #[error(
        "{map}: cluster {cluster} has {has} of {size} entries, and may have no more: as much must be free for others"
    )]
    Share {
        /// The table.
        map: &'static str,
        /// Its size.
        size: u32,
        /// The peer.
        cluster: ClusterId,
        /// What it has.
        has: u32,
    },
    /// The kernel refused.
    #[error("{map}: {source}")]
    Kernel {
        /// The table.
        map: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A backend for a frontend that does not exist.
    #[error("{0} is no frontend")]
    NoFrontend(Frontend),
}
