//! Load balancing: frontends, to which clients connect, and backends, which serve them.

use std::{collections::HashMap, fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;

pub use crate::condition::Condition;
use crate::{
    cluster::{ClusterId, ClusterName},
    service::{Protocol, ServiceName},
    traffic::ServiceTraffic,
};

/// The address and port of a service to which clients connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// The cluster IP.
    pub address: IpAddr,
    /// The service port.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
}

/// The address and port of a pod that serves a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// The pod's address, of the frontend's family.
    pub address: IpAddr,
    /// The pod's port.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The pod's cluster.
    pub cluster: ClusterId,
}

/// The settings of a frontend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Settings {
    /// Session affinity: for so many seconds, a client gets the same backend again. 0: none.
    pub session_affinity: u32,
    /// Its service is not global. A kube-proxy on the node, if there is one, also serves it.
    pub plain: bool,
    /// If there is no backend, connections pass unchanged instead of being refused.
    pub pass_if_empty: bool,
}

/// A group of a frontend's backends that get the same share. Each backend is in one group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group(u8);

/// The share of connections of each group, relative to the others. A group without backends counts as 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weights(pub [u32; Group::COUNT]);

/// A change of a frontend. Changes are idempotent: adding what exists and removing what does not exist do nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Change {
    /// Add the frontend, or change its settings. It may have no backends.
    SetFrontend(Frontend, Settings),
    /// Remove the frontend with all its backends.
    RemoveFrontend(Frontend),
    /// Add the backend to this group of an existing frontend. If it is in another group, move it.
    AddBackend(Frontend, Backend, Group),
    /// Remove the backend from the frontend.
    RemoveBackend(Frontend, Backend),
    /// Set the weights of an existing frontend's groups. A new frontend has all weight on its first group.
    SetWeights(Frontend, Weights),
}

/// The complete wanted content of a frontend, for comparisons.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// Its settings.
    pub settings: Settings,
    /// The weights of its groups.
    pub weights: Weights,
    /// Its backends, each with its group.
    pub backends: HashMap<Backend, Group>,
}

/// Whether connections to a node are likely to succeed, according to its answers to probes (`docs/adr/0035`). The preferred
/// ones come first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeHealth {
    /// It answers, or there is no reason to assume that it does not.
    #[default]
    Alive,
    /// It has never answered, but at least half of its cluster's nodes have. It may be unreachable, or a firewall drops
    /// probes.
    Unverified,
    /// It answered before, and no longer does.
    Dead,
}

/// What a cluster reports about a backend, beside its address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackendState {
    /// Whether it accepts connections. Services v1 have no conditions, so their backends are ready.
    pub condition: Condition,
    /// The node that it is on, if the cluster reports it.
    pub node: Option<Arc<str>>,
    /// Whether `node` was derived from the backend's address, because the record names no node, as in services v1.
    pub node_is_derived: bool,
    /// The zone that it is in, if the cluster reports it.
    pub zone: Option<Arc<str>>,
    /// Its topology hints, if the local cluster reports them. Hints of other clusters concern only their own clients.
    pub hints: Option<Arc<Hints>>,
}

/// Topology hints: for which clients a backend is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hints {
    /// For clients on these nodes. Empty: for all.
    pub nodes: Vec<Arc<str>>,
    /// For clients in these zones. Empty: for all.
    pub zones: Vec<Arc<str>>,
}

/// A change of what the clusters report about a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceDelta {
    /// The local cluster has this service, with these settings. It comes before the service's frontends, and again when the
    /// settings change.
    ServiceSet {
        /// The service.
        service: Arc<ServiceName>,
        /// Its load-balancing settings.
        traffic: Arc<ServiceTraffic>,
    },
    /// The local cluster no longer has the service. It comes after the removal of the service's frontends.
    ServiceRemoved {
        /// The service.
        service: Arc<ServiceName>,
    },
    /// A service of the local cluster has this frontend.
    FrontendAdded {
        /// The service.
        service: Arc<ServiceName>,
        /// The name of its port.
        port_name: Arc<str>,
        /// Its address and port.
        frontend: Frontend,
    },
    /// The service no longer has this frontend.
    FrontendRemoved {
        /// The service.
        service: Arc<ServiceName>,
        /// Its address and port.
        frontend: Frontend,
    },
    /// A cluster has a backend of a service, or reports a new state of it. The local cluster need not have the service.
    BackendSet {
        /// The service.
        service: Arc<ServiceName>,
        /// The name of the port that it serves.
        port_name: Arc<str>,
        /// Its address, port and cluster.
        backend: Backend,
        /// What its cluster reports about it.
        state: BackendState,
    },
    /// The cluster no longer has this backend.
    BackendRemoved {
        /// The service.
        service: Arc<ServiceName>,
        /// The name of the port that it served.
        port_name: Arc<str>,
        /// Its address, port and cluster.
        backend: Backend,
    },
}

/// A route to a range of a cluster's pods.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// The pods' range.
    pub range: IpNet,
    /// The address of the node that has the range: the next hop.
    pub via: IpAddr,
    /// The cluster.
    pub cluster: ClusterName,
    /// The node.
    pub node: String,
}

/// A change of the routes to clusters' pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteDelta {
    /// A new route.
    Added(Route),
    /// A route that no longer exists.
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
    /// The maximum number of groups of a frontend.
    pub const COUNT: usize = 8;
    /// The first group. Most frontends have only this one.
    pub const FIRST: Self = Self(0);

    /// The group with a number, which must be below [`Group::COUNT`].
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
    /// All weight on the first group.
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
    /// The stable word in output.
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
