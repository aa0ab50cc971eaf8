//! The trees that keys are in.

use mesh_model::{ClusterConfig, ClusterName, RecordKind};

use super::{ADDRESS_SPACE, LOCAL};

/// Which tree data is in: a cluster writes about itself under `state`, a copier about others under `cache`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layout {
    /// `cilium/state`: identities and addresses are not scoped by cluster. So is what is for local nodes only.
    State,
    /// `cilium/cache`: everything is.
    Cache,
}

/// A kind of data, which is a tree of keys with a canary of its own.
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
    /// What only the local cluster's nodes get: namespaces, pods, services.
    Local,
}

// === impl Layout ===

impl Layout {
    /// Both.
    pub const ALL: [Self; 2] = [Self::State, Self::Cache];

    /// The tree that a cluster's records are in.
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
    /// All kinds of Cilium's, in the order of their keys.
    pub const ALL: [Self; 6] = [
        Self::EndpointSlices,
        Self::Identities,
        Self::Ip,
        Self::Nodes,
        Self::ServiceExports,
        Self::Services,
    ];

    /// The kind as a word: `nodes`, `ip`, …
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

    /// The tree's name, which its canary carries: `cilium/state/nodes/v1`.
    pub fn path(self, layout: Layout) -> String {
        match self {
            Self::Local => LOCAL.trim_end_matches('/').into(),
            _ => format!("{}{}/v1", layout.root(), self.as_str()),
        }
    }

    /// What all keys of one cluster's data begin with, ending in a slash so that `c1` never covers `c10`.
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

    /// The tree that a kind of record is in.
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
            | RecordKind::LocalEndpointSlice => Self::Local,
        }
    }

    pub(super) fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|prefix| prefix.as_str() == word)
    }
}
