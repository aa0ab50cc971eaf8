//! The load-balancing settings of a service (`docs/wire.md`, "Annotations").

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::cluster::ClusterName;

/// Which clusters' backends clients of a global service prefer, as long as these backends are healthy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Affinity {
    /// Those of all clusters equally.
    #[default]
    None,
    /// Those of the local cluster.
    Local,
    /// Those of other clusters.
    Remote,
}

/// What a weight applies to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WeightsOf {
    /// Each backend of the cluster, so more backends get more connections. It is the default of records for local nodes.
    #[default]
    Backends,
    /// The cluster as a whole. Its number of backends does not matter.
    Clusters,
}

/// How connections to a service are distributed. Agents use the settings of the local cluster's Service; those of other
/// clusters only concern clients there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceTraffic {
    /// Whether backends of other clusters are used.
    pub global: bool,
    /// Which clusters are preferred. Only used if `global`.
    pub affinity: Affinity,
    /// Session affinity: for so many seconds, a client gets the same backend again; 1 to 86,400.
    pub session_affinity: Option<u32>,
    /// The weight of each cluster, from 0 to [`ServiceTraffic::MAX_WEIGHT`]. Clusters that are not listed have weight 1. A
    /// cluster of weight 0 gets no connections as long as there is another one.
    pub weights: BTreeMap<ClusterName, u32>,
    /// What weights apply to. Only used if there are weights.
    pub weights_of: WeightsOf,
    /// Clusters in the order of preference, instead of `affinity`. Clusters that are not listed come last.
    pub tiers: Vec<BTreeSet<ClusterName>>,
    /// The percentage of healthy backends, 1 to 100, with which a tier gets all connections. With less, a proportional part
    /// of the connections goes to the next tier. `None`: one healthy backend is enough.
    pub minimum_healthy: Option<u8>,
    /// `internalTrafficPolicy: Local`: only backends on the client's node are used.
    pub internal_traffic_local: bool,
    /// Topology hints are used: of the local cluster's backends, clients get those that are meant for their node or zone.
    pub topology_hints: bool,
}

// === impl ServiceTraffic ===

impl ServiceTraffic {
    /// The longest session affinity, in seconds: one day, as in Kubernetes.
    pub const MAX_SESSION_AFFINITY: u32 = 86_400;
    /// The largest weight. The sum of 65,536 such weights still fits into 32 bits.
    pub const MAX_WEIGHT: u32 = 65_535;
}

// === impl Affinity ===

impl Affinity {
    /// The value in annotations.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Local => "local",
            Self::Remote => "remote",
        }
    }
}

// === impl WeightsOf ===

impl WeightsOf {
    /// The value in annotations.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Backends => "backends",
            Self::Clusters => "clusters",
        }
    }
}

impl fmt::Display for Affinity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
