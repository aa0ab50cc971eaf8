//! Load balancing: what a client connects to, and where it ends up.

use std::{fmt, net::IpAddr};

use crate::{cluster::ClusterId, service::Protocol};

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
