//! What a cluster's own Service asks of load balancing (`docs/wire.md`, "Annotations").

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::cluster::ClusterName;

/// Which clusters' backends a global service's clients get, as long as they are healthy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Affinity {
    /// All clusters' alike.
    #[default]
    None,
    /// The local cluster's.
    Local,
    /// Other clusters'.
    Remote,
}

/// What a weight is given to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WeightsOf {
    /// Each backend of the cluster: more backends get more connections. What a local prefix means that does not say.
    #[default]
    Backends,
    /// The cluster as a whole, however many backends it has.
    Clusters,
}

/// How connections to a service are spread. Of the local cluster's Service only: what a peer wishes for its own clients
/// is its own business.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceTraffic {
    /// Other clusters' backends are used.
    pub global: bool,
    /// Which of them are preferred. Without meaning unless `global`.
    pub affinity: Affinity,
    /// For so many seconds a client comes back to the backend it had, 1 to 86,400.
    pub session_affinity: Option<u32>,
    /// How many connections a cluster gets, beside one of weight 1; which is that of a cluster that is not named.
    /// 0: none, as long as there is another. At most [`ServiceTraffic::MAX_WEIGHT`].
    pub weights: BTreeMap<ClusterName, u32>,
    /// What a weight is given to. Without meaning where there are no weights.
    pub weights_of: WeightsOf,
    /// Clusters in the order in which they are used, in place of `affinity`. Those that are not named come last.
    pub tiers: Vec<BTreeSet<ClusterName>>,
    /// The share of a tier's backends, in percent, 1 to 100, that can carry all its load. With less, the rest of the load
    /// goes to the next tier, in proportion. `None`: one healthy backend carries all.
    pub minimum_healthy: Option<u8>,
    /// Connections end on the node where they begin (`internalTrafficPolicy: Local`): no backend elsewhere is used, of
    /// whatever cluster.
    pub internal_traffic_local: bool,
    /// The local cluster's hints are followed: of its backends those are used that are meant for clients of the node, or of
    /// its zone.
    pub topology_hints: bool,
}

// === impl ServiceTraffic ===

impl ServiceTraffic {
    /// The longest session affinity, in seconds: a day, as in Kubernetes.
    pub const MAX_SESSION_AFFINITY: u32 = 86_400;
    /// The largest weight: sums of what a thousand backends have stay far below 32 bits.
    pub const MAX_WEIGHT: u32 = 65_535;
}

// === impl Affinity ===

impl Affinity {
    /// The word in annotations.
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
    /// The word in annotations.
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
