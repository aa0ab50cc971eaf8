//! Whose keys are read.

use mesh_model::{ClusterId, ClusterLimit, ClusterName};

use crate::key::Layout;

/// Whether a followed cluster is the local one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The local cluster: it must have the local ID, and reports more to its nodes than to others.
    Local,
    /// Another: it must have another ID.
    Remote,
}

/// Which cluster a reader expects: every record is checked against it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The peer's name, that of its configuration file.
    pub name: ClusterName,
    /// Whether it is the reader's local cluster.
    pub role: Role,
    /// The ID in its cluster config.
    pub id: ClusterId,
    /// The limit the whole mesh shares.
    pub limit: ClusterLimit,
    /// The tree its data is in.
    pub layout: Layout,
}
