//! The verdicts about nodes and clusters.

use std::{net::IpAddr, sync::Arc, time::Instant};

use mesh_model::{ClusterName, Protocol};

/// A change of a node or a cluster, and what follows for sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A node answers, or no longer answers, at an address.
    Node {
        /// Its cluster.
        cluster: ClusterName,
        /// Its name.
        node: Arc<str>,
        /// The address, which identifies its family.
        address: IpAddr,
        /// Whether it answers.
        alive: bool,
        /// When it answered last there; or, if that was later, when the first question left that was not answered.
        last_answer: Option<Instant>,
    },
    /// A node has never answered while most of its cluster did, or that is over.
    Unverified {
        /// Its cluster.
        cluster: ClusterName,
        /// Its name.
        node: Arc<str>,
        /// Whether it is so.
        unverified: bool,
    },
    /// No node of a cluster answers, nor does its etcd; or one does again. The cluster's state word in the kernel is
    /// written before this is reported. Nodes that died with their cluster are not reported as dead before it is back.
    Cluster {
        /// The cluster.
        cluster: ClusterName,
        /// Whether it is cut.
        cut: bool,
        /// The same of the node that answered last; `None` where none did since this agent runs.
        last_answer: Option<Instant>,
    },
    /// Sockets are to be ended, or no longer.
    Sockets(Ending),
}

/// What to do with sockets to nodes or clusters that do not answer (`docs/adr/0036`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Nothing has answered for long enough: the sockets are to be ended.
    End {
        /// Whose.
        scope: Scope,
        /// Those of this protocol.
        protocol: Protocol,
    },
    /// Something answers again: sockets that are to be ended and have not been stay.
    Spare {
        /// Whose.
        scope: Scope,
    },
}

/// The backends whose sockets are to be ended or spared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// All of a cluster.
    Cluster(ClusterName),
    /// Those on a node, in one family.
    Node {
        /// The node's cluster.
        cluster: ClusterName,
        /// Its name.
        node: Arc<str>,
        /// The address at which it is probed. Backends of its family are included.
        address: IpAddr,
    },
}

// === impl Verdict ===

impl Verdict {
    /// Writes it to the log, where an operator should know of it.
    pub(crate) fn log(&self) {
        match self {
            Self::Node { cluster, node, address, alive: true, .. } => {
                tracing::info!(peer = %cluster, %node, %address, "the node answers again");
            }
            Self::Node { cluster, node, address, alive: false, .. } => {
                tracing::warn!(peer = %cluster, %node, %address, "the node does not answer: its pods are used if there are no others");
            }
            Self::Unverified { cluster, node, unverified: true } => {
                tracing::warn!(peer = %cluster, %node, "the node has never answered, and most of its cluster do: its pods are used if there are no others");
            }
            Self::Unverified { cluster, node, unverified: false } => {
                tracing::info!(peer = %cluster, %node, "the node is used like others of its cluster");
            }
            Self::Cluster { cluster, cut: true, last_answer: None } => {
                tracing::info!(peer = %cluster, "the cluster was cut when the agent's previous run ended: it stays cut until it answers");
            }
            Self::Cluster { cluster, cut: true, last_answer: Some(_) } => {
                tracing::warn!(peer = %cluster, "neither a node nor the etcd answers: the cluster is unreachable");
            }
            Self::Cluster { cluster, cut: false, .. } => {
                tracing::info!(peer = %cluster, "the cluster answers again");
            }
            Self::Sockets(ending) => tracing::debug!(?ending, "sockets"),
        }
    }
}

// === impl Scope ===

impl Scope {
    /// The cluster of these backends.
    pub fn cluster(&self) -> &ClusterName {
        match self {
            Self::Cluster(cluster) | Self::Node { cluster, .. } => cluster,
        }
    }
}
