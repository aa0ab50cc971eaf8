//! The kinds of objects.

use std::fmt;

use crate::policy::PolicyKind;

/// The kinds of objects that a source delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `v1 Namespace`.
    Namespace,
    /// `v1 Node`.
    Node,
    /// `v1 Pod`.
    Pod,
    /// `v1 Service`.
    Service,
    /// `discovery.k8s.io/v1 EndpointSlice`.
    EndpointSlice,
    /// `cilium.io/v2 CiliumNode`.
    CiliumNode,
    /// `cilium.io/v2 CiliumIdentity`.
    CiliumIdentity,
    /// `cilium.io/v2 CiliumEndpoint`.
    CiliumEndpoint,
    /// `cilium.io/v2alpha1 CiliumEndpointSlice`.
    CiliumEndpointSlice,
    /// `v1 Endpoints`.
    Endpoints,
    /// `networking.k8s.io/v1 NetworkPolicy`.
    NetworkPolicy,
    /// `cilium.io/v2 CiliumNetworkPolicy`.
    CiliumNetworkPolicy,
    /// `cilium.io/v2 CiliumClusterwideNetworkPolicy`.
    CiliumClusterwideNetworkPolicy,
}

// === impl Kind ===

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 13] = [
        Self::Namespace,
        Self::Node,
        Self::Pod,
        Self::Service,
        Self::EndpointSlice,
        Self::CiliumNode,
        Self::CiliumIdentity,
        Self::CiliumEndpoint,
        Self::CiliumEndpointSlice,
        Self::Endpoints,
        Self::NetworkPolicy,
        Self::CiliumNetworkPolicy,
        Self::CiliumClusterwideNetworkPolicy,
    ];

    /// The kinds that are read of a Kubernetes. All have a position.
    pub const KUBERNETES: [Self; 8] = [
        Self::Namespace,
        Self::Node,
        Self::Pod,
        Self::Service,
        Self::EndpointSlice,
        Self::NetworkPolicy,
        Self::CiliumNetworkPolicy,
        Self::CiliumClusterwideNetworkPolicy,
    ];

    /// The kinds in a folder of manifests. Endpoints are included: no controller makes slices of them.
    pub const MANIFESTS: [Self; 9] = [
        Self::Namespace,
        Self::Node,
        Self::Pod,
        Self::Service,
        Self::EndpointSlice,
        Self::Endpoints,
        Self::NetworkPolicy,
        Self::CiliumNetworkPolicy,
        Self::CiliumClusterwideNetworkPolicy,
    ];

    /// The kind's name in Kubernetes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::CiliumNode => "CiliumNode",
            Self::CiliumIdentity => "CiliumIdentity",
            Self::CiliumEndpoint => "CiliumEndpoint",
            Self::CiliumEndpointSlice => "CiliumEndpointSlice",
            Self::Endpoints => "Endpoints",
            Self::NetworkPolicy => PolicyKind::NetworkPolicy.as_str(),
            Self::CiliumNetworkPolicy => PolicyKind::CiliumNetworkPolicy.as_str(),
            Self::CiliumClusterwideNetworkPolicy => {
                PolicyKind::CiliumClusterwideNetworkPolicy.as_str()
            }
        }
    }

    /// Whether its objects are in a namespace.
    pub fn is_namespaced(self) -> bool {
        match self {
            Self::Pod
            | Self::Service
            | Self::EndpointSlice
            | Self::CiliumEndpoint
            | Self::Endpoints
            | Self::NetworkPolicy
            | Self::CiliumNetworkPolicy => true,
            Self::Namespace
            | Self::Node
            | Self::CiliumNode
            | Self::CiliumIdentity
            | Self::CiliumEndpointSlice
            | Self::CiliumClusterwideNetworkPolicy => false,
        }
    }

    /// The kind of policy that it is.
    pub fn policy(self) -> Option<PolicyKind> {
        PolicyKind::ALL.into_iter().find(|policy| Self::from(*policy) == self)
    }
}

impl From<PolicyKind> for Kind {
    fn from(kind: PolicyKind) -> Self {
        match kind {
            PolicyKind::NetworkPolicy => Self::NetworkPolicy,
            PolicyKind::CiliumNetworkPolicy => Self::CiliumNetworkPolicy,
            PolicyKind::CiliumClusterwideNetworkPolicy => Self::CiliumClusterwideNetworkPolicy,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
