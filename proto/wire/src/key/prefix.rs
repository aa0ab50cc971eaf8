//! The trees and prefixes of keys.

use mesh_model::{ClusterConfig, ClusterName, RecordKind};

use super::{ADDRESS_SPACE, LOCAL};

/// The tree that contains records: a cluster writes its own records under `state`, and copies of other clusters' records are
/// under `cache` (Cilium's KVStoreMesh).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layout {
    /// `cilium/state`: keys of identities and addresses do not contain the cluster. Keys for local nodes count as this
    /// layout.
    State,
    /// `cilium/cache`: all keys contain the cluster.
    Cache,
}

/// A prefix of keys, which has its own canary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Prefix {
    /// Nodes.
    Nodes,
    /// Identities.
    Identities,
    /// Addresses.
    Ip,
    /// Services v1.
    Services,
    /// Service exports (MCS-API).
    ServiceExports,
    /// Endpoint slices (services v2).
    EndpointSlices,
    /// Namespaces, pods, services, endpoint slices and policies for the local cluster's nodes.
    Local,
}

// === impl Layout ===

impl Layout {
    /// Both layouts.
    pub const ALL: [Self; 2] = [Self::State, Self::Cache];

    /// The layout of a cluster's records.
    pub fn of(config: &ClusterConfig) -> Self {
        if config.cached { Self::Cache } else { Self::State }
    }

    pub(super) fn root(self) -> &'static str {
        match self {
            Self::State => "cilium/state/",
            Self::Cache => "cilium/cache/",
        }
    }
}

// === impl Prefix ===

impl Prefix {
    /// Cilium's prefixes, in the order of their keys.
    pub const ALL: [Self; 6] = [
        Self::EndpointSlices,
        Self::Identities,
        Self::Ip,
        Self::Nodes,
        Self::ServiceExports,
        Self::Services,
    ];

    /// The prefix as a word: `nodes`, `ip`, …
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nodes => "nodes",
            Self::Identities => "identities",
            Self::Ip => "ip",
            Self::Services => "services",
            Self::ServiceExports => "serviceexports",
            Self::EndpointSlices => "endpointslices",
            Self::Local => "local",
        }
    }

    /// The prefix without the final slash, as in the key of its canary: `cilium/state/nodes/v1`.
    pub fn path(self, layout: Layout) -> String {
        match self {
            Self::Local => LOCAL.trim_end_matches('/').into(),
            _ => format!("{}{}/v1", layout.root(), self.as_str()),
        }
    }

    /// The prefix of all such keys of a cluster. It ends with a slash, so that the prefix of `c1` does not match `c10`.
    pub fn of_cluster(self, layout: Layout, cluster: &ClusterName) -> String {
        let path = self.path(layout);
        match (layout, self) {
            (_, Self::Local) => LOCAL.into(),
            (Layout::State, Self::Identities) => format!("{path}/id/"),
            (Layout::State, Self::Ip) => format!("{path}/{ADDRESS_SPACE}/"),
            (Layout::Cache, Self::Identities) => format!("{path}/{cluster}/id/"),
            _ => format!("{path}/{cluster}/"),
        }
    }

    /// The prefix of a kind of record.
    pub fn of(kind: RecordKind) -> Self {
        match kind {
            RecordKind::Node => Self::Nodes,
            RecordKind::Identity => Self::Identities,
            RecordKind::Address => Self::Ip,
            RecordKind::Service => Self::Services,
            RecordKind::EndpointSlice => Self::EndpointSlices,
            RecordKind::Namespace
            | RecordKind::Pod
            | RecordKind::LocalService
            | RecordKind::LocalEndpointSlice
            | RecordKind::Policy => Self::Local,
        }
    }

    pub(super) fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|prefix| prefix.as_str() == word)
    }
}
