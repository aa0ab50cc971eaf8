//! What is followed, and where an API server has it.

use std::fmt;

use mesh_model::object::{Kind, Object, ObjectKey};

/// Objects of an API server that can be listed and watched.
pub(crate) trait Resource {
    /// What an object is known by.
    type Key: Clone + Ord + fmt::Debug;
    /// An object, as far as it is read.
    type Object;

    /// The path of the collection.
    fn path(&self) -> &str;

    /// What a role must allow, as `kubectl create role` takes it: the resource with its group.
    fn name(&self) -> &str;

    /// What must allow it.
    fn role(&self) -> &str {
        "its ClusterRole"
    }

    /// Why there is no such collection, and what to do.
    fn absence(&self) -> String {
        format!("the API server has no {}", self.name())
    }

    /// Whether an API server may do without it: then there are no such objects.
    fn is_optional(&self) -> bool {
        false
    }

    /// Reads an object.
    fn decode(&self, json: &str) -> Result<Self::Object, Unreadable<Self::Key>>;

    /// What an object is known by, if it says so.
    fn key_of(&self, json: &str) -> Option<Self::Key>;

    /// What an object is known by.
    fn key(&self, object: &Self::Object) -> Self::Key;
}

/// An object that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unreadable<K> {
    /// Which, if it says so.
    pub(crate) key: Option<K>,
    /// Why.
    pub(crate) reason: String,
}

/// The kinds that are followed, each after those that its records depend on: labels of namespaces are part of identities, a
/// node's drain of endpoints, endpoints of services.
pub(crate) const FOLLOWED: [Kind; 8] = [
    Kind::Namespace,
    Kind::Node,
    Kind::Pod,
    Kind::EndpointSlice,
    Kind::Service,
    Kind::NetworkPolicy,
    Kind::CiliumNetworkPolicy,
    Kind::CiliumClusterwideNetworkPolicy,
];

impl Resource for Kind {
    type Key = ObjectKey;
    type Object = Object;

    fn path(&self) -> &str {
        match self {
            Self::Namespace => "/api/v1/namespaces",
            Self::Node => "/api/v1/nodes",
            Self::Pod => "/api/v1/pods",
            Self::Service => "/api/v1/services",
            Self::EndpointSlice => "/apis/discovery.k8s.io/v1/endpointslices",
            Self::Endpoints => "/api/v1/endpoints",
            Self::CiliumNode => "/apis/cilium.io/v2/ciliumnodes",
            Self::CiliumIdentity => "/apis/cilium.io/v2/ciliumidentities",
            Self::CiliumEndpoint => "/apis/cilium.io/v2/ciliumendpoints",
            Self::CiliumEndpointSlice => "/apis/cilium.io/v2alpha1/ciliumendpointslices",
            Self::NetworkPolicy => "/apis/networking.k8s.io/v1/networkpolicies",
            Self::CiliumNetworkPolicy => "/apis/cilium.io/v2/ciliumnetworkpolicies",
            Self::CiliumClusterwideNetworkPolicy => {
                "/apis/cilium.io/v2/ciliumclusterwidenetworkpolicies"
            }
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Namespace => "namespaces",
            Self::Node => "nodes",
            Self::Pod => "pods",
            Self::Service => "services",
            Self::EndpointSlice => "endpointslices.discovery.k8s.io",
            Self::Endpoints => "endpoints",
            Self::CiliumNode => "ciliumnodes.cilium.io",
            Self::CiliumIdentity => "ciliumidentities.cilium.io",
            Self::CiliumEndpoint => "ciliumendpoints.cilium.io",
            Self::CiliumEndpointSlice => "ciliumendpointslices.cilium.io",
            Self::NetworkPolicy => "networkpolicies.networking.k8s.io",
            Self::CiliumNetworkPolicy => "ciliumnetworkpolicies.cilium.io",
            Self::CiliumClusterwideNetworkPolicy => "ciliumclusterwidenetworkpolicies.cilium.io",
        }
    }

    /// Cilium's kinds come with Cilium.
    fn is_optional(&self) -> bool {
        matches!(self, Self::CiliumNetworkPolicy | Self::CiliumClusterwideNetworkPolicy)
    }

    fn decode(&self, json: &str) -> Result<Object, Unreadable<ObjectKey>> {
        mesh_source::decode_object(*self, json)
            .map_err(|mesh_source::Unreadable { key, reason }| Unreadable { key, reason })
    }

    fn key_of(&self, json: &str) -> Option<ObjectKey> {
        mesh_source::key_of(*self, json)
    }

    fn key(&self, object: &Object) -> ObjectKey {
        object.key()
    }
}
