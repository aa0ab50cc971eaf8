//! Load balancing: what a client connects to, and where it ends up.

use std::{fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;

use crate::{
    cluster::{ClusterId, ClusterName},
    service::{Protocol, ServiceName},
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

/// A change to what clients connect to. Each is idempotent: adding what is there and removing what is not do nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Change {
    /// The frontend exists, with or without backends.
    AddFrontend(Frontend),
    /// The frontend is gone, with whatever backends it has.
    RemoveFrontend(Frontend),
    /// The frontend, which exists, has this backend.
    AddBackend(Frontend, Backend),
    /// The frontend has it no more.
    RemoveBackend(Frontend, Backend),
}

/// A change to what the clusters say about a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceDelta {
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
    /// A cluster has a backend for a service, which need not be ours.
    BackendAdded {
        /// The service.
        service: Arc<ServiceName>,
        /// The name of the port that it serves.
        port_name: Arc<str>,
        /// Where it is.
        backend: Backend,
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

// === impl Backend ===

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, port, protocol, cluster } = self;
        let address = std::net::SocketAddr::from((*address, *port));
        write!(f, "{address}/{protocol} of cluster {cluster}")
    }
}
