//! One etcd key's worth of what a cluster reports.

use std::fmt;

use ipnet::IpNet;

use crate::{
    endpoint::EndpointAddress,
    identity::{Identity, Labels},
    local::{LocalNamespace, LocalPod, LocalService},
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
    /// A namespace. Only of the local cluster.
    Namespace(Box<LocalNamespace>),
    /// A pod that has a node. Only of the local cluster.
    Pod(Box<LocalPod>),
    /// A service with what it asks for. Only of the local cluster.
    LocalService(Box<LocalService>),
    /// An endpoint slice of such a service. Only of the local cluster.
    LocalEndpointSlice(Box<EndpointSlice>),
}

/// What a record is about, unique in its cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKey {
    /// A node by name.
    Node(String),
    /// An identity by ID.
    Identity(Identity),
    /// An address or prefix.
    Address(IpNet),
    /// A service.
    Service(ServiceName),
    /// An endpoint slice by namespace and name.
    EndpointSlice(ServiceName),
    /// A namespace by name.
    Namespace(String),
    /// A pod.
    Pod {
        /// Its node.
        node: String,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A service of the local cluster.
    LocalService(ServiceName),
    /// An endpoint slice of the local cluster, by namespace and name.
    LocalEndpointSlice(ServiceName),
}

/// A kind of record. Each is reported and confirmed by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKind {
    /// Nodes.
    Node,
    /// Identities.
    Identity,
    /// Addresses.
    Address,
    /// Services v1.
    Service,
    /// Endpoint slices.
    EndpointSlice,
    /// Namespaces, for the local cluster's nodes.
    Namespace,
    /// Pods, for the local cluster's nodes.
    Pod,
    /// Services, for the local cluster's nodes.
    LocalService,
    /// Their endpoint slices, for the local cluster's nodes.
    LocalEndpointSlice,
}

/// What a cluster reports about its records. A kind's content is `Begin`, its records, `Confirmed`; from then on
/// changes. What was there before `Begin` and was not reported again when `Confirmed` comes is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordEvent {
    /// All records of the kind follow.
    Begin(RecordKind),
    /// A record is there.
    Upsert(Record),
    /// A record is there, but its new content was rejected: what it reported before stays.
    Keep(RecordKey),
    /// A record is gone.
    Remove(RecordKey),
    /// The records since `Begin` were all, and the writer vouches for it.
    Confirmed(RecordKind),
    /// The cluster exports what these records were about as records of other kinds, which are confirmed: none of this
    /// one are left, and none are followed.
    Without(RecordKind),
}

// === impl RecordKind ===

impl RecordKind {
    /// All kinds.
    pub const ALL: [Self; 9] = [
        Self::Node,
        Self::Identity,
        Self::Address,
        Self::Service,
        Self::EndpointSlice,
        Self::Namespace,
        Self::Pod,
        Self::LocalService,
        Self::LocalEndpointSlice,
    ];

    /// The word for its records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Node => "nodes",
            Self::Identity => "identities",
            Self::Address => "addresses",
            Self::Service => "services",
            Self::EndpointSlice => "endpoint slices",
            Self::Namespace => "namespaces",
            Self::Pod => "pods",
            Self::LocalService => "local services",
            Self::LocalEndpointSlice => "local endpoint slices",
        }
    }
}

impl fmt::Display for RecordKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl RecordKey ===

impl RecordKey {
    /// The kind of record it names.
    pub fn kind(&self) -> RecordKind {
        match self {
            Self::Node(_) => RecordKind::Node,
            Self::Identity(_) => RecordKind::Identity,
            Self::Address(_) => RecordKind::Address,
            Self::Service(_) => RecordKind::Service,
            Self::EndpointSlice(_) => RecordKind::EndpointSlice,
            Self::Namespace(_) => RecordKind::Namespace,
            Self::Pod { .. } => RecordKind::Pod,
            Self::LocalService(_) => RecordKind::LocalService,
            Self::LocalEndpointSlice(_) => RecordKind::LocalEndpointSlice,
        }
    }
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
            Self::Namespace(namespace) => RecordKey::Namespace(namespace.name.clone()),
            Self::Pod(pod) => RecordKey::Pod {
                node: pod.node.clone(),
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
            },
            Self::LocalService(service) => RecordKey::LocalService(service.name.clone()),
            Self::LocalEndpointSlice(slice) => {
                RecordKey::LocalEndpointSlice(ServiceName::new(&slice.namespace, &slice.name))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_kind_has_a_plain_word() {
        let words: BTreeSet<String> = RecordKind::ALL.iter().map(ToString::to_string).collect();
        assert_eq!(words.len(), RecordKind::ALL.len(), "each another one");
        let is_plain = |word: &String| word.chars().all(|c| c.is_ascii_lowercase() || c == ' ');
        assert!(words.iter().all(is_plain), "{words:?}");
    }
}
