//! What a cluster has: the Kubernetes kinds the exporter reads, cut down to the fields the mesh uses.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use ipnet::IpNet;

use crate::{
    endpoint::NamedPort,
    identity::{Identity, Labels},
    node::{FamilyPair, NodeAddress},
    service::{EndpointSlice, Protocol},
};

/// The kinds a source delivers.
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
}

/// What names an object in its cluster. Namespace is empty for the cluster-scoped kinds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace, or empty.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// An object of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A namespace.
    Namespace(Namespace),
    /// A node.
    Node(Node),
    /// A pod.
    Pod(Pod),
    /// A service.
    Service(Service),
    /// An endpoint slice. Its `cluster` fields are empty: the exporter fills them.
    EndpointSlice(EndpointSlice),
    /// A node, as a Cilium knows it.
    CiliumNode(CiliumNode),
    /// An identity that a Cilium allocated.
    CiliumIdentity(CiliumIdentity),
    /// A pod's addresses and identity, as a Cilium knows them.
    CiliumEndpoint(CiliumEndpoint),
    /// Several of those in one object.
    CiliumEndpointSlice(CiliumEndpointSlice),
    /// The endpoints of a service in the form that slices replaced.
    Endpoints(Endpoints),
}

/// A namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// Its labels; they are part of its pods' identities.
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
    /// Changes with each boot, or empty.
    pub boot_id: String,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Distinguishes it from another pod of that name, before or after it; or empty.
    pub uid: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its service account.
    pub service_account: String,
    /// The node it is scheduled to, or empty.
    pub node: String,
    /// It shares its node's addresses and has no identity of its own.
    pub host_network: bool,
    /// Its addresses, empty until it has been started.
    pub ips: Vec<IpAddr>,
    /// Its condition `Ready` is `True`.
    pub ready: bool,
    /// It is being deleted.
    pub terminating: bool,
    /// It ran to its end (phase `Succeeded` or `Failed`) and owns its addresses no more.
    pub finished: bool,
    /// Its host name, if it is a stable one.
    pub hostname: Option<String>,
    /// The service its host name belongs to, if any.
    pub subdomain: Option<String>,
    /// It wants its connections to services left alone at the socket.
    pub socket_lb_off: bool,
    /// Its containers' named ports.
    pub named_ports: Vec<NamedPort>,
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
    /// Its selector; empty: another controller makes its slices.
    pub selector: BTreeMap<String, String>,
    /// Its cluster IPs, at most one a family; empty when headless.
    pub cluster_ips: Vec<IpAddr>,
    /// `clusterIP: None`.
    pub headless: bool,
    /// `type: ExternalName`: a DNS alias without endpoints.
    pub external_name: bool,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Pods count as ready whether they are or not.
    pub publish_not_ready_addresses: bool,
    /// The families its pods' addresses are of, where it says; a headless service without is of both.
    pub ip_families: Vec<IpFamily>,
    /// For so many seconds a client comes back to the pod it had (`sessionAffinity: ClientIP`), 1 to 86,400.
    pub session_affinity: Option<u32>,
    /// Connections end on their own node (`internalTrafficPolicy: Local`).
    pub internal_traffic_local: bool,
    /// Whose pods a client is to have, where it says.
    pub traffic_distribution: Option<TrafficDistribution>,
}

/// Whose pods a client of a service is to have, if there are any (`trafficDistribution`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TrafficDistribution {
    /// Those of its zone: `PreferSameZone`, or `PreferClose` as it was called.
    SameZone,
    /// Those of its node, or else of its zone: `PreferSameNode`.
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
    /// Its number on the cluster IP.
    pub port: u16,
    /// Where it leads in the pod.
    pub target: TargetPort,
}

/// A service port's end in the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// The same number in each pod.
    Number(u16),
    /// The container port of that name.
    Name(String),
}

/// A node, as a Cilium knows it. It stands in place of a [`Node`] of the same name.
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
    /// Where it answers health probes, by family.
    pub health_ips: FamilyPair,
    /// Where its ingress listens, by family.
    pub ingress_ips: FamilyPair,
    /// IPsec key index; 0 is plain text.
    pub encryption_key: u8,
    /// Changes with each boot, or empty.
    pub boot_id: String,
}

/// An identity that a Cilium allocated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CiliumIdentity {
    /// Its ID, which is the object's name.
    pub identity: Identity,
    /// What it stands for; empty if the object does not say.
    pub labels: Labels,
}

/// A pod's addresses and identity, as a Cilium knows them. They stand in place of what a [`Pod`] of the same name has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CiliumEndpoint {
    /// Its namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// Who it is; [`Identity::UNKNOWN`] while the Cilium does not know.
    pub identity: Identity,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// Those of them that are none, as they were written.
    pub bad_ips: Vec<String>,
    /// Its node's address.
    pub node_ip: Option<IpAddr>,
    /// IPsec key index; 0 is plain text.
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

/// The endpoints of the service of their name. They count where it has neither a selector nor slices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// Their namespace.
    pub namespace: String,
    /// Their name, and their service's.
    pub name: String,
    /// Their keeper wants no slices made of them.
    pub skip: bool,
    /// The slices that they stand for. Their `cluster` fields are empty.
    pub slices: Vec<EndpointSlice>,
}

// === impl Kind ===

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 10] = [
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
    ];

    /// Those that every Kubernetes has.
    pub const KUBERNETES: [Self; 5] =
        [Self::Namespace, Self::Node, Self::Pod, Self::Service, Self::EndpointSlice];

    /// Those of a folder of manifests, where no controller makes slices of Endpoints.
    pub const MANIFESTS: [Self; 6] = [
        Self::Namespace,
        Self::Node,
        Self::Pod,
        Self::Service,
        Self::EndpointSlice,
        Self::Endpoints,
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
        }
    }

    /// Whether its objects are in a namespace.
    pub fn is_namespaced(self) -> bool {
        match self {
            Self::Pod
            | Self::Service
            | Self::EndpointSlice
            | Self::CiliumEndpoint
            | Self::Endpoints => true,
            Self::Namespace
            | Self::Node
            | Self::CiliumNode
            | Self::CiliumIdentity
            | Self::CiliumEndpointSlice => false,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl ObjectKey ===

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => write!(f, "{} {}", self.kind, self.name),
            namespace => write!(f, "{} {namespace}/{}", self.kind, self.name),
        }
    }
}

// === impl Object ===

impl Object {
    /// What names the object.
    pub fn key(&self) -> ObjectKey {
        let (kind, namespace, name) = match self {
            Self::CiliumIdentity(o) => (Kind::CiliumIdentity, "", &o.identity.to_string()),
            Self::CiliumNode(o) => (Kind::CiliumNode, "", &o.name),
            Self::CiliumEndpoint(o) => (Kind::CiliumEndpoint, o.namespace.as_str(), &o.name),
            Self::CiliumEndpointSlice(o) => (Kind::CiliumEndpointSlice, "", &o.name),
            Self::Endpoints(o) => (Kind::Endpoints, o.namespace.as_str(), &o.name),
            Self::Namespace(o) => (Kind::Namespace, "", &o.name),
            Self::Node(o) => (Kind::Node, "", &o.name),
            Self::Pod(o) => (Kind::Pod, o.namespace.as_str(), &o.name),
            Self::Service(o) => (Kind::Service, o.namespace.as_str(), &o.name),
            Self::EndpointSlice(o) => (Kind::EndpointSlice, o.namespace.as_str(), &o.name),
        };
        ObjectKey { kind, namespace: namespace.into(), name: name.clone() }
    }
}
