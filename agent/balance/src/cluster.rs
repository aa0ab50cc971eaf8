//! What is known of a cluster, besides what it reports of its services.

use mesh_model::ClusterName;

/// A cluster of the mesh, the local one included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterView {
    /// Its name: weights and tiers name it.
    pub name: ClusterName,
    /// Whether its backends are used.
    pub state: ClusterState,
    /// All its services are known, and it is connected: a service that it has no backend for has none there.
    pub synced: bool,
}

/// Whether a cluster's backends are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClusterState {
    /// They are.
    #[default]
    InUse,
    /// None of its nodes answers, nor does its etcd: they are used only if nothing answers at all.
    Cut,
    /// The operator of the local cluster has it leave that one alone: likewise.
    Drained,
    /// It was disconnected for longer than its staleness budget: its state is no longer valid.
    Stale,
}

impl ClusterState {
    /// Whether its backends are used only if nothing else answers at all.
    pub(crate) fn is_last(self) -> bool {
        matches!(self, Self::Cut | Self::Drained)
    }

    /// Its stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InUse => "in-use",
            Self::Cut => "cut",
            Self::Drained => "drained",
            Self::Stale => "stale",
        }
    }
}
