//! The cluster whose keys are read.

use mesh_model::{ClusterId, ClusterLimit, ClusterName};

use crate::key::Layout;

/// Whether a followed cluster is the local one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The local cluster. Its nodes also read the keys for local nodes.
    Local,
    /// Another cluster.
    Remote,
}

/// The cluster that a reader expects. Every record is checked against it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name, which is the name of its peer file.
    pub name: ClusterName,
    /// Whether it is the reader's local cluster.
    pub role: Role,
    /// The ID in its cluster config.
    pub id: ClusterId,
    /// The limit of the mesh.
    pub limit: ClusterLimit,
    /// The tree that contains its records.
    pub layout: Layout,
}
