//! Whose keys are read.

use mesh_model::{ClusterId, ClusterLimit, ClusterName};

use crate::key::Layout;

/// Whether a followed cluster is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Ours: it must have our number, and tells its own nodes more than others.
    Own,
    /// Another: it must have another number.
    Remote,
}

/// Whom a reader believes to be talking to: every record is checked against it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The peer's name, that of its configuration file.
    pub name: ClusterName,
    /// Whether it is the reader's own.
    pub role: Role,
    /// The number in its cluster config.
    pub id: ClusterId,
    /// The limit the whole mesh shares.
    pub limit: ClusterLimit,
    /// The tree its data is in.
    pub layout: Layout,
}
