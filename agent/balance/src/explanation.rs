//! Explains which backends a frontend leads to, in words and numbers.

use std::{fmt, sync::Arc};

use mesh_model::{
    ServiceName, ServiceTraffic,
    lb::{Backend, Condition, Frontend, Group, NodeHealth, Settings},
};

use crate::cluster::ClusterState;

/// All that decides where a frontend leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Its service.
    pub service: Arc<ServiceName>,
    /// The name of its port.
    pub port_name: Arc<str>,
    /// Where clients connect to.
    pub frontend: Frontend,
    /// Its service's settings.
    pub traffic: Arc<ServiceTraffic>,
    /// Its settings; `None` if it is left to another proxy, such as a kube-proxy.
    pub settings: Option<Settings>,
    /// How the result depends on the client's node, as a sentence; `None` if all clients are treated alike.
    pub locality: Option<String>,
    /// Which backends were looked for last, and found.
    pub basis: Basis,
    /// The tiers that have backends, in their order.
    pub tiers: Vec<Tier>,
    /// The groups that are in use.
    pub groups: Vec<GroupShare>,
    /// All backends of the service in the frontend's family, by cluster, node and address.
    pub backends: Vec<Candidate>,
}

/// Which backends are used: the first of these that there are any of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// Ready backends of clusters with a weight, on nodes that answer.
    Ready,
    /// Ready backends of clusters of weight 0, on nodes that answer.
    WeightZero,
    /// Backends that shut down, on nodes that answer.
    Terminating,
    /// The same on nodes that have never answered, while others of their cluster did.
    Unverified,
    /// No backend's node answers: all of them, as if all nodes did.
    NoAnsweringNode,
    /// There is none.
    Empty,
}

/// A part of all connections, in billionths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(pub u64);

/// Clusters that are used before or after others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tier {
    /// Its number, from 1.
    pub number: usize,
    /// The clusters in it that have backends.
    pub clusters: Vec<TierCluster>,
    /// Backends that can be used now.
    pub usable: u64,
    /// Backends that count in health: all except those that shut down, and those of clusters of weight 0.
    pub meant: u64,
    /// Usable backends divided by those that count.
    pub health: Share,
    /// From which health on it carries everything, in percent; `None` where one usable backend does, or where those are
    /// used that would not be otherwise.
    pub minimum: Option<u8>,
    /// How much it can carry.
    pub capacity: Share,
    /// How much it carries.
    pub load: Share,
}

/// A cluster in a tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TierCluster {
    /// Its name, or `id N` if it has none.
    pub cluster: Arc<str>,
    /// How many connections it, or one of its backends, gets relative to weight 1: `traffic.weights_of`.
    pub weight: u32,
    /// Whether its backends are used.
    pub state: ClusterState,
    /// Its backends that can be used now.
    pub usable: u64,
}

/// Backends that have the same chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupShare {
    /// Which group.
    pub group: Group,
    /// Its tier's number.
    pub tier: usize,
    /// The weight of its clusters.
    pub weight: u32,
    /// Its backends.
    pub backends: u64,
    /// Its weight in the kernel, out of the sum of all groups.
    pub kernel_weight: u32,
    /// How much all of them get.
    pub share: Share,
}

/// A backend, and whether it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Where it is. Its port is 0 where it has none.
    pub backend: Backend,
    /// The name under which its cluster reports its port: the frontend's, or of those that the frontend leads to as well.
    pub port_name: Arc<str>,
    /// Its cluster's name, or `id N` where none is known.
    pub cluster: Arc<str>,
    /// Its node, where known.
    pub node: Option<Arc<str>>,
    /// Its zone, where its cluster reports it.
    pub zone: Option<Arc<str>>,
    /// The condition that its cluster reports.
    pub condition: Condition,
    /// How its node is.
    pub node_health: NodeHealth,
    /// Whether its cluster is used.
    pub cluster_state: ClusterState,
    /// The number of its tier; `None` where it is in none.
    pub tier: Option<usize>,
    /// Whether it is used.
    pub usage: Usage,
    /// Why.
    pub reason: Reason,
    /// Why, as a sentence with the numbers.
    pub because: String,
}

/// Whether a backend is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// It is, and gets this share.
    InUse(Share),
    /// Not now, but when those before it are gone.
    Fallback,
    /// In no case, as things are.
    LeftOut,
}

/// Why a backend is used or not. The names are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Used: it is ready, in the first tier.
    Ready,
    /// Used: no tier before this one has a usable backend.
    Failover,
    /// Used: the tiers before this one cannot carry everything.
    SpillOver,
    /// Used although its cluster has weight 0: no other backend is ready.
    OnlyWeightZero,
    /// Used although it shuts down: no backend is ready.
    OnlyTerminating,
    /// Used although its node never answered: no backend on a node that did is left.
    NoVerifiedNode,
    /// Used although it may be out of reach: no node answers.
    NoAnsweringNode,
    /// A tier before this one carries everything.
    LaterTier,
    /// Its cluster has weight 0.
    WeightZero,
    /// It shuts down.
    Terminating,
    /// Its node does not answer.
    NodeDead,
    /// Its node has never answered, while others of its cluster did.
    NodeUnverified,
    /// Its cluster is cut off.
    ClusterCut,
    /// Its cluster is drained in this one.
    ClusterDrained,
    /// It is not ready.
    NotReady,
    /// Its cluster has been disconnected for too long.
    ClusterStale,
    /// The service's connections stay on their node, and it is on another.
    OtherNode,
    /// Its hint is for clients of other nodes or zones, and other backends have hints for this one.
    HintedElsewhere,
    /// It is another cluster's, and the service is not global.
    NotGlobal,
    /// The service is not global, and those are left to what serves them without us.
    NotTaken,
    /// Its address serves no port that the frontend's name and protocol lead to.
    OtherPort,
    /// It has no port that a frontend could lead to.
    NoPort,
    /// Its ports are SCTP.
    Sctp,
}

// === impl Basis ===

impl Basis {
    /// Its stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::WeightZero => "weight-zero",
            Self::Terminating => "terminating",
            Self::Unverified => "unverified",
            Self::NoAnsweringNode => "nobody-answers",
            Self::Empty => "nobody",
        }
    }
}

// === impl Usage ===

impl Usage {
    /// Its stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InUse(_) => "in-use",
            Self::Fallback => "fallback",
            Self::LeftOut => "left-out",
        }
    }

    /// How much it gets.
    pub fn share(self) -> Share {
        match self {
            Self::InUse(share) => share,
            Self::Fallback | Self::LeftOut => Share(0),
        }
    }
}

// === impl Candidate ===

impl Candidate {
    /// Its state in one word: the worst that is known of it.
    pub fn state(&self) -> &'static str {
        match (self.cluster_state, self.condition) {
            (ClusterState::Stale, _) => Reason::ClusterStale.as_str(),
            (_, Condition::NotReady) => Reason::NotReady.as_str(),
            (ClusterState::Cut, _) => Reason::ClusterCut.as_str(),
            (ClusterState::Drained, _) => Reason::ClusterDrained.as_str(),
            _ if self.node_health == NodeHealth::Dead => Reason::NodeDead.as_str(),
            _ if self.node_health == NodeHealth::Unverified => Reason::NodeUnverified.as_str(),
            (_, Condition::Terminating) => Reason::Terminating.as_str(),
            (_, Condition::Ready) => Reason::Ready.as_str(),
        }
    }
}

// === impl Reason ===

impl Reason {
    /// Its stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Failover => "failover",
            Self::SpillOver => "spill-over",
            Self::OnlyWeightZero => "nobody-with-weight",
            Self::OnlyTerminating => "nobody-ready",
            Self::NoVerifiedNode => "no-verified-node",
            Self::NoAnsweringNode => "nobody-answers",
            Self::LaterTier => "later-tier",
            Self::WeightZero => "weight-zero",
            Self::Terminating => "terminating",
            Self::NodeDead => "node-dead",
            Self::NodeUnverified => "node-unverified",
            Self::ClusterCut => "cluster-cut",
            Self::ClusterDrained => "cluster-drained",
            Self::NotReady => "not-ready",
            Self::ClusterStale => "cluster-stale",
            Self::OtherNode => "other-node",
            Self::HintedElsewhere => "hinted-elsewhere",
            Self::NotGlobal => "not-global",
            Self::NotTaken => "not-taken",
            Self::OtherPort => "other-port",
            Self::NoPort => "no-port",
            Self::Sctp => "sctp",
        }
    }
}

// === impl Share ===

impl Share {
    /// Everything.
    pub const WHOLE: Self = Self(1_000_000_000);

    /// So many of so many; nothing of none.
    pub(crate) fn of(part: u64, whole: u64) -> Self {
        let exact = u128::from(part) * u128::from(Self::WHOLE.0) / u128::from(whole.max(1));
        Self(u64::try_from(exact).unwrap_or(u64::MAX))
    }
}

/// In percent, to two places, without zeros at the end.
impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hundredths = (self.0 + 50_000) / 100_000;
        match (hundredths / 100, hundredths % 100) {
            (0, 0) if self.0 > 0 => f.write_str("< 0.01 %"),
            (whole, 0) => write!(f, "{whole} %"),
            (whole, part) if part % 10 == 0 => write!(f, "{whole}.{} %", part / 10),
            (whole, part) => write!(f, "{whole}.{part:02} %"),
        }
    }
}
