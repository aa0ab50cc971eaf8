//! The orders that health takes.

use std::{collections::BTreeMap, fmt};

use mesh_model::{ClusterId, ClusterName};

use crate::{targets::Target, words::PeerStates};

/// An order to [`Health`](crate::Health).
pub enum Order {
    /// A cluster is followed: how to send its etcd a keepalive.
    Follow(ClusterName, Etcd),
    /// A cluster is no longer followed.
    Forget(ClusterName),
    /// The nodes of a cluster to probe, in place of those before.
    Probe(ClusterName, Vec<Target>),
    /// The clusters' IDs, whenever one changes.
    Clusters {
        /// Those that are known.
        ids: BTreeMap<ClusterName, ClusterId>,
        /// All clusters are known: there are no others in the mesh.
        all: bool,
    },
    /// The kernel's state words: at the start, and after an upgrade to another layout.
    States(Box<dyn PeerStates>),
    /// Compare the kernel's state words with what they should be, repair and count.
    Audit,
}

/// A cluster's etcd, as far as health needs it.
pub type Etcd = Box<dyn EtcdLink>;

/// How to send a cluster's etcd a keepalive.
pub trait EtcdLink: fmt::Debug + Send {
    /// How the connection is now.
    fn state(&self) -> EtcdState;
    /// Asks. Returns whether the question was taken; one that was not is asked again soon.
    fn ask(&self) -> bool;
}

/// How the connection to an etcd is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EtcdState {
    /// There is a connection, as far as is known.
    pub connected: bool,
    /// How many questions were answered in all.
    pub answers: u64,
}

// === impl Order ===

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Follow(name, _) => write!(f, "Follow({name})"),
            Self::Forget(name) => write!(f, "Forget({name})"),
            Self::Probe(name, targets) => write!(f, "Probe({name}, {})", targets.len()),
            Self::Clusters { ids, all } => write!(f, "Clusters({}, {all})", ids.len()),
            Self::States(_) => f.write_str("States"),
            Self::Audit => f.write_str("Audit"),
        }
    }
}
