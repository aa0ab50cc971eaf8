//! The objects of a cluster: the Kubernetes kinds that the exporter reads, with the fields that the mesh uses.

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;

use crate::{
    endpoint::NamedPort,
    identity::{Identity, Labels},
    node::{FamilyPair, NodeAddress},
    policy::PolicyObject,
    service::{EndpointSlice, Protocol},
};
pub use kind::Kind;
pub use pod::{Pod, PodTemplate, Uid};

mod kind;
mod pod;

/// The key of an object, unique in its cluster. Copies share the texts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; empty for cluster-scoped kinds.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// An object of any kind. Each is in a box of its own: most objects of a cluster are pods, which are small. Copies of a pod
/// share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A namespace.
    Namespace(Box<Namespace>),
    /// A node.
    Node(Box<Node>),
    /// A pod.
    Pod(Arc<Pod>),
    /// A service.
    Service(Box<Service>),
    /// An endpoint slice. Its fields `cluster` and `cluster_id` are empty: the exporter sets them.
    EndpointSlice(Box<EndpointSlice>),
    /// Cilium's object of a node.
    CiliumNode(Box<CiliumNode>),
    /// An identity that Cilium allocated.
    CiliumIdentity(Box<CiliumIdentity>),
    /// Cilium's object of a pod: addresses and identity.
    CiliumEndpoint(Box<CiliumEndpoint>),
    /// Several Cilium endpoints in one object.
    CiliumEndpointSlice(Box<CiliumEndpointSlice>),
    /// The endpoints of a service, in the older API that endpoint slices replaced.
    Endpoints(Box<Endpoints>),
    /// A policy of any kind.
    Policy(Box<PolicyObject>),
}

/// A namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// Its labels, which are part of its pods' identities.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Its addresses.
    pub addresses: Vec<NodeAddress>,
    /// Its pod ranges.
    pub pod_cidrs: Vec<IpNet>,
    /// An ID that changes with each boot, or empty.
    pub boot_id: String,
}

/// A service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Its selector. Empty: its endpoint slices come from elsewhere.
    pub selector: BTreeMap<String, String>,
    /// Its cluster IPs, at most one of each family; empty if it is headless.
    pub cluster_ips: Vec<IpAddr>,
    /// `clusterIP: None`.
    pub headless: bool,
    /// `type: ExternalName`: a DNS alias without endpoints.
    pub external_name: bool,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Its pods count as ready even if they are not.
    pub publish_not_ready_addresses: bool,
    /// Its address families, if they are set. A headless service without them has both.
    pub ip_families: Vec<IpFamily>,
    /// `sessionAffinity: ClientIP`: for so many seconds, a client gets the same pod again; 1 to 86,400.
    pub session_affinity: Option<u32>,
    /// `internalTrafficPolicy: Local`: clients only get pods on their own node.
    pub internal_traffic_local: bool,
    /// `trafficDistribution`, if it is set.
    pub traffic_distribution: Option<TrafficDistribution>,
    /// It is of type `NodePort` or `LoadBalancer`, or has `externalIPs`.
    pub outside_addresses: bool,
}

/// Which pods a client of a service prefers (`trafficDistribution`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TrafficDistribution {
    /// Those in the client's zone: `PreferSameZone`, or its former name `PreferClose`.
    SameZone,
    /// Those on the client's node, else those in its zone: `PreferSameNode`.
    SameNode,
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IpFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name, possibly empty.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port at the cluster IP.
    pub port: u16,
    /// The port of the pod.
    pub target: TargetPort,
}

/// The port of the pods to which a service port leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// A port number.
    Number(u16),
    /// The name of a container port.
    Name(String),
}

/// Cilium's object of a node. It replaces the [`Node`] of the same name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CiliumNode {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Its addresses.
    pub addresses: Vec<NodeAddress>,
    /// Its pod ranges.
    pub pod_cidrs: Vec<IpNet>,
    /// The addresses at which Cilium's health endpoint answers.
    pub health_ips: FamilyPair,
    /// The addresses at which its ingress listens.
    pub ingress_ips: FamilyPair,
    /// The IPsec key index; 0: not encrypted.
    pub encryption_key: u8,
    /// An ID that changes with each boot, or empty.
    pub boot_id: String,
}

/// An identity that Cilium allocated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CiliumIdentity {
    /// Its ID, which is the object's name.
    pub identity: Identity,
    /// Its labels; empty if the object has none.
    pub labels: Labels,
}

/// Cilium's object of a pod: addresses and identity. They replace those of the [`Pod`] of the same name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CiliumEndpoint {
    /// Its namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// Its identity; [`Identity::UNKNOWN`] while Cilium does not know it.
    pub identity: Identity,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// Texts in place of addresses that cannot be parsed.
    pub bad_ips: Vec<String>,
    /// Its node's address.
    pub node_ip: Option<IpAddr>,
    /// The IPsec key index; 0: not encrypted.
    pub encryption_key: u8,
    /// Its service account, or empty.
    pub service_account: String,
    /// Its named ports.
    pub named_ports: Vec<NamedPort>,
}

/// Several of a namespace's endpoints in one object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CiliumEndpointSlice {
    /// Its name.
    pub name: String,
    /// The endpoints' namespace; the object itself has none.
    pub namespace: String,
    /// The endpoints, each with the slice's namespace.
    pub endpoints: Vec<CiliumEndpoint>,
}

/// The endpoints of the service with the same name. They are used if that service has neither a selector nor slices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// Their namespace.
    pub namespace: String,
    /// Their name, and their service's.
    pub name: String,
    /// Their label `endpointslice.kubernetes.io/skip-mirror` is set: no slices are made of them.
    pub skip: bool,
    /// The equivalent slices. Their fields `cluster` and `cluster_id` are empty.
    pub slices: Vec<EndpointSlice>,
}

// === impl ObjectKey ===

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.namespace {
            "" => write!(f, "{} {}", self.kind, self.name),
            namespace => write!(f, "{} {namespace}/{}", self.kind, self.name),
        }
    }
}

// === impl Object ===

/// Makes objects of each kind.
macro_rules! boxed {
    ($($kind:ident)*) => {
        $(impl From<$kind> for Object {
            fn from(object: $kind) -> Self {
                Self::$kind(object.into())
            }
        })*
    };
}

boxed!(Namespace Node Pod Service EndpointSlice CiliumNode CiliumIdentity CiliumEndpoint CiliumEndpointSlice Endpoints);

impl From<PolicyObject> for Object {
    fn from(object: PolicyObject) -> Self {
        Self::Policy(object.into())
    }
}

impl Object {
    /// The key of the object.
    pub fn key(&self) -> ObjectKey {
        let (kind, namespace, name) = match self {
            Self::Pod(o) => {
                let (namespace, name) = (Arc::clone(&o.namespace), Arc::clone(&o.name));
                return ObjectKey { kind: Kind::Pod, namespace, name };
            }
            Self::CiliumIdentity(o) => (Kind::CiliumIdentity, "", &o.identity.to_string()),
            Self::CiliumNode(o) => (Kind::CiliumNode, "", &o.name),
            Self::CiliumEndpoint(o) => (Kind::CiliumEndpoint, o.namespace.as_str(), &o.name),
            Self::CiliumEndpointSlice(o) => (Kind::CiliumEndpointSlice, "", &o.name),
            Self::Endpoints(o) => (Kind::Endpoints, o.namespace.as_str(), &o.name),
            Self::Namespace(o) => (Kind::Namespace, "", &o.name),
            Self::Node(o) => (Kind::Node, "", &o.name),
            Self::Service(o) => (Kind::Service, o.namespace.as_str(), &o.name),
            Self::EndpointSlice(o) => (Kind::EndpointSlice, o.namespace.as_str(), &o.name),
            Self::Policy(o) => {
                (o.reference.kind.into(), o.reference.namespace.as_str(), &o.reference.name)
            }
        };
        ObjectKey { kind, namespace: namespace.into(), name: name.as_str().into() }
    }
}
