//! What is known of a cluster, beside what it says of its services.

use mesh_model::ClusterName;

/// A cluster of the mesh, the own one included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterView {
    /// Its name: weights and tiers name it.
    pub name: ClusterName,
    /// Whether its backends are used.
    pub state: ClusterState,
    /// It has told all its services in this life, and is heard: a service that it has no backend for has none there.
    pub sure: bool,
}

/// Whether a cluster's backends are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClusterState {
    /// They are.
    #[default]
    InUse,
    /// None of its nodes answers, nor does its etcd: only if nobody answers at all.
    Cut,
    /// It was silent beyond its staleness budget: what it said is not believed any more.
    Stale,
}

impl ClusterState {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InUse => "in-use",
            Self::Cut => "cut",
            Self::Stale => "stale",
        }
    }
}
