//! One etcd key's worth of what a cluster says.

use ipnet::IpNet;

use crate::{
    endpoint::EndpointAddress,
    identity::{Identity, Labels},
    node::Node,
    service::{EndpointSlice, GlobalService, ServiceName},
};

/// A record of a cluster's data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A node.
    Node(Box<Node>),
    /// An identity's labels.
    Identity(Identity, Labels),
    /// Who is behind an address.
    Address(Box<EndpointAddress>),
    /// A service v1.
    Service(Box<GlobalService>),
    /// An endpoint slice (service v2).
    EndpointSlice(Box<EndpointSlice>),
}

/// What a record is about, unique in its cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKey {
    /// A node by name.
    Node(String),
    /// An identity by number.
    Identity(Identity),
    /// An address or prefix.
    Address(IpNet),
    /// A service.
    Service(ServiceName),
    /// An endpoint slice by namespace and name.
    EndpointSlice(ServiceName),
}

// === impl Record ===

impl Record {
    /// What the record is about.
    pub fn key(&self) -> RecordKey {
        match self {
            Self::Node(node) => RecordKey::Node(node.name.clone()),
            Self::Identity(identity, _) => RecordKey::Identity(*identity),
            Self::Address(address) => RecordKey::Address(address.net),
            Self::Service(service) => RecordKey::Service(service.name.clone()),
            Self::EndpointSlice(slice) => {
                RecordKey::EndpointSlice(ServiceName::new(&slice.namespace, &slice.name))
            }
        }
    }
}
