//! Records: what a cluster reports, one for each etcd key.

use std::fmt;

use ipnet::IpNet;

use crate::{
    endpoint::EndpointAddress,
    identity::{Identity, Labels},
    local::{LocalNamespace, LocalPod, LocalService},
    node::Node,
    policy::{LocalPolicy, PolicyRef},
    service::{EndpointSlice, GlobalService, ServiceName},
};

/// A record of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A node.
    Node(Box<Node>),
    /// An identity's labels.
    Identity(Identity, Labels),
    /// The identity of an address.
    Address(Box<EndpointAddress>),
    /// A service v1.
    Service(Box<GlobalService>),
    /// An endpoint slice (service v2).
    EndpointSlice(Box<EndpointSlice>),
    /// A namespace. Local cluster only.
    Namespace(Box<LocalNamespace>),
    /// A pod that is scheduled to a node. Local cluster only.
    Pod(Box<LocalPod>),
    /// A service with its load-balancing settings. Local cluster only.
    LocalService(Box<LocalService>),
    /// An endpoint slice of such a service. Local cluster only.
    LocalEndpointSlice(Box<EndpointSlice>),
    /// A policy. Local cluster only.
    Policy(Box<LocalPolicy>),
}

/// The key of a record, unique in its cluster.
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
    /// A service, for the local cluster's nodes.
    LocalService(ServiceName),
    /// An endpoint slice by namespace and name, for the local cluster's nodes.
    LocalEndpointSlice(ServiceName),
    /// A policy.
    Policy(PolicyRef),
}

/// A kind of record. The events `Begin`, `Confirmed` and `Without` concern one kind each.
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
    /// Policies, for the local cluster's nodes.
    Policy,
}

/// An event of a cluster's records. A complete list of a kind is `Begin`, its records, `Confirmed`; changes follow. A record
/// that existed before `Begin` and is not listed again before `Confirmed` no longer exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordEvent {
    /// A complete list of the kind follows.
    Begin(RecordKind),
    /// A record exists, with this content.
    Upsert(Record),
    /// A record exists, but its new content was rejected. Its previous content stays.
    Keep(RecordKey),
    /// A record no longer exists, or its writer does not: it was removed as an expired lease removes it. Its content stays
    /// until the next list, and may be out of date.
    Doubt(RecordKey),
    /// A record no longer exists.
    Remove(RecordKey),
    /// The list since `Begin` is complete, and the writer has confirmed that by its canary.
    Confirmed(RecordKind),
    /// The cluster now exports the content of this kind as records of other kinds, which are confirmed. No records of this
    /// kind are left, and they are no longer watched.
    Without(RecordKind),
}

// === impl RecordKind ===

impl RecordKind {
    /// All kinds.
    pub const ALL: [Self; 10] = [
        Self::Node,
        Self::Identity,
        Self::Address,
        Self::Service,
        Self::EndpointSlice,
        Self::Namespace,
        Self::Pod,
        Self::LocalService,
        Self::LocalEndpointSlice,
        Self::Policy,
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
            Self::Policy => "policies",
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
    /// The kind of the record.
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
            Self::Policy(_) => RecordKind::Policy,
        }
    }
}

// === impl Record ===

impl Record {
    /// The key of the record.
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
            Self::Policy(policy) => RecordKey::Policy(policy.reference.clone()),
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
