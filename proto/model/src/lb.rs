//! Load balancing: what a client connects to, and where it ends up.

use std::{collections::HashMap, fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;

pub use crate::condition::Condition;
use crate::{
    cluster::{ClusterId, ClusterName},
    service::{Protocol, ServiceName},
    traffic::ServiceTraffic,
};

/// A service's address and port as a client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// The cluster IP.
    pub address: IpAddr,
    /// The service port.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
}

/// Where a connection to a service may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// The pod's address, of the frontend's family.
    pub address: IpAddr,
    /// The pod's port.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The cluster the pod is in.
    pub cluster: ClusterId,
}

/// What a frontend is like, beside its backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Settings {
    /// For so many seconds a client comes back to the backend it had; 0: to any.
    pub session_affinity: u32,
    /// Its service is not global: a kube-proxy, where there is one, knows it too.
    pub plain: bool,
    /// Without a backend connections pass untouched and are not refused.
    pub pass_if_empty: bool,
}

/// Backends of a frontend that have the same chance. A backend of a frontend is in one group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group(u8);

/// How many connections each group gets, in proportion. A group without backends counts as 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weights(pub [u32; Group::COUNT]);

/// A change to what clients connect to. Each is idempotent: adding what is there and removing what is not do nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Change {
    /// The frontend exists, with or without backends, and is like that.
    SetFrontend(Frontend, Settings),
    /// The frontend is gone, with whatever backends it has.
    RemoveFrontend(Frontend),
    /// The frontend, which exists, has this backend in this group, and in no other.
    AddBackend(Frontend, Backend, Group),
    /// The frontend has it no more.
    RemoveBackend(Frontend, Backend),
    /// The frontend, which exists, has groups of these weights. A new one has all weight on its first group.
    SetWeights(Frontend, Weights),
}

/// All that a frontend should be, for those who compare and do not follow changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// What it is like.
    pub settings: Settings,
    /// The weights of its groups.
    pub weights: Weights,
    /// Its backends, each with its group.
    pub backends: HashMap<Backend, Group>,
}

/// Whether connections to a node are likely to arrive, by its answers to probes (`docs/adr/0035`). In the order of
/// preference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeHealth {
    /// It answers, or nothing speaks against it.
    #[default]
    Alive,
    /// It has never answered, while most nodes of its cluster did: it may be out of reach, or a firewall keeps probes away.
    Unverified,
    /// It answered, and does so no more.
    Dead,
}

/// What a cluster reports of a backend, beside where it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackendState {
    /// Whether it takes connections. Services v1 do not say, so those are ready.
    pub condition: Condition,
    /// The node it is on, where the cluster reports it.
    pub node: Option<Arc<str>>,
    /// Whether the node was found by the address, because what reports the backend names none, as services v1.
    pub node_is_derived: bool,
    /// The zone it is in, where the cluster reports it.
    pub zone: Option<Arc<str>>,
    /// For whose clients it is, where the local cluster reports it. Other clusters' are for their own clients.
    pub hints: Option<Arc<Hints>>,
}

/// For whose clients a backend is.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hints {
    /// For those on these nodes; for all where there is none.
    pub nodes: Vec<Arc<str>>,
    /// For those in these zones; for all where there is none.
    pub zones: Vec<Arc<str>>,
}

/// A change to what the clusters report about a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceDelta {
    /// One of our services is there, and asks for this. Before its frontends, and again when it asks for something else.
    ServiceSet {
        /// The service.
        service: Arc<ServiceName>,
        /// What it asks for.
        traffic: Arc<ServiceTraffic>,
    },
    /// It is ours no more. After its frontends.
    ServiceRemoved {
        /// The service.
        service: Arc<ServiceName>,
    },
    /// One of our services has this frontend.
    FrontendAdded {
        /// The service.
        service: Arc<ServiceName>,
        /// The name of its port.
        port_name: Arc<str>,
        /// Its address and port.
        frontend: Frontend,
    },
    /// It has it no more.
    FrontendRemoved {
        /// The service.
        service: Arc<ServiceName>,
        /// Its address and port.
        frontend: Frontend,
    },
    /// A cluster has a backend for a service, which need not be ours; or reports something else of it than before.
    BackendSet {
        /// The service.
        service: Arc<ServiceName>,
        /// The name of the port that it serves.
        port_name: Arc<str>,
        /// Where it is.
        backend: Backend,
        /// What its cluster reports of it.
        state: BackendState,
    },
    /// It has it no more.
    BackendRemoved {
        /// The service.
        service: Arc<ServiceName>,
        /// The name of the port that it served.
        port_name: Arc<str>,
        /// Where it was.
        backend: Backend,
    },
}

/// The way to a range of a cluster's pods.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// The pods' range.
    pub range: IpNet,
    /// The node's address that leads there.
    pub via: IpAddr,
    /// The cluster.
    pub cluster: ClusterName,
    /// The node.
    pub node: String,
}

/// A change to the ways to clusters' pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteDelta {
    /// There is one more.
    Added(Route),
    /// There is one less.
    Removed(Route),
}

// === impl Frontend ===

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, port, protocol } = self;
        write!(f, "{}/{protocol}", std::net::SocketAddr::from((*address, *port)))
    }
}

// === impl Group ===

impl Group {
    /// How many groups a frontend can have.
    pub const COUNT: usize = 8;
    /// The first, and the only one of most frontends.
    pub const FIRST: Self = Self(0);

    /// The group of a number below [`Group::COUNT`].
    pub fn new(number: usize) -> Option<Self> {
        u8::try_from(number).ok().filter(|_| number < Self::COUNT).map(Self)
    }

    /// Its number.
    pub fn number(self) -> usize {
        self.0.into()
    }
}

// === impl Weights ===

impl Weights {
    /// Everything for the first group.
    pub const ONE: Self = {
        let mut weights = [0; Group::COUNT];
        weights[0] = 1;
        Self(weights)
    };
}

impl Default for Weights {
    fn default() -> Self {
        Self::ONE
    }
}

// === impl NodeHealth ===

impl NodeHealth {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Unverified => "unverified",
            Self::Dead => "dead",
        }
    }
}

impl fmt::Display for NodeHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Change ===

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetFrontend(frontend, _) => write!(f, "set {frontend}"),
            Self::RemoveFrontend(frontend) => write!(f, "remove {frontend}"),
            Self::AddBackend(frontend, backend, _) => write!(f, "add {backend} to {frontend}"),
            Self::RemoveBackend(frontend, backend) => {
                write!(f, "remove {backend} from {frontend}")
            }
            Self::SetWeights(frontend, _) => write!(f, "set the weights of {frontend}"),
        }
    }
}

// === impl Backend ===

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, port, protocol, cluster } = self;
        let address = std::net::SocketAddr::from((*address, *port));
        write!(f, "{address}/{protocol} of cluster {cluster}")
    }
}
