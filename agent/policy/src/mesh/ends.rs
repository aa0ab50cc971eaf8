//! What there is in a mesh, and the ends of a flow.

use std::{collections::BTreeMap, net::IpAddr};

use mesh_model::{Labels, NamedPort, Protocol};
use mesh_policy_rules::IcmpFamily;

/// Names a pod in the mesh.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodName {
    /// Its cluster.
    pub cluster: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A pod with an identity of its own. One on its node's network is none: it is its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub name: PodName,
    /// The labels of its identity, the cluster's and the namespace's included.
    pub labels: Labels,
    /// Its node, or empty.
    pub node: String,
    /// Its addresses; may be empty.
    pub ips: Vec<IpAddr>,
    /// Its named ports.
    pub ports: Vec<NamedPort>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its cluster.
    pub cluster: String,
    /// Its name.
    pub name: String,
    /// Its addresses; may be empty.
    pub ips: Vec<IpAddr>,
    /// The cluster whose API server runs on it.
    pub kube_apiserver_of: Option<String>,
}

/// An address outside the mesh about which something is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct External {
    /// The address.
    pub ip: IpAddr,
    /// The cluster whose API server it is.
    pub kube_apiserver_of: Option<String>,
}

/// A service of a cluster, for rules that name services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its cluster.
    pub cluster: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its selector; empty: its backends come from elsewhere.
    pub selector: BTreeMap<String, String>,
    /// The addresses of its backends.
    pub backends: Vec<IpAddr>,
}

/// One end of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// A pod, and the address that it uses, if it has one of the flow's family.
    Pod(PodName, Option<IpAddr>),
    /// A node by cluster and name, and the address that it uses.
    Node(String, String, Option<IpAddr>),
    /// An address. It is looked up: a pod's or node's address is that pod or node.
    Address(IpAddr),
}

/// What a flow carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// To a port of the receiving end.
    Port(Protocol, u16),
    /// An ICMP message of a type, with any code.
    Icmp(IcmpFamily, u8),
}

// === impl Traffic ===

impl Traffic {
    /// The protocol's number in the IP header (IANA, "Protocol Numbers").
    pub const fn protocol(self) -> u8 {
        match self {
            Self::Port(Protocol::Tcp, _) => 6,
            Self::Port(Protocol::Udp, _) => 17,
            Self::Port(Protocol::Sctp, _) => 132,
            Self::Icmp(IcmpFamily::V4, _) => 1,
            Self::Icmp(IcmpFamily::V6, _) => 58,
        }
    }
}
