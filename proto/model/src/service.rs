//! Services as clusters export them: v1 (one record for each service) and v2 (one record for each endpoint slice).

use std::{collections::BTreeMap, fmt, net::IpAddr, str::FromStr};

use crate::{
    cluster::{ClusterId, ClusterName},
    condition::Condition,
};

/// A transport protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP, the default in Kubernetes.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP. Records may have it, but agents do not load-balance it.
    Sctp,
}

/// A port with its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// The protocol.
    pub protocol: Protocol,
    /// The port number.
    pub number: u16,
}

/// Ports by name; an unnamed port has the empty name.
pub type PortMap = BTreeMap<String, Port>;

/// A service's namespace and name. Services of different clusters with the same pair are the same service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName {
    /// The namespace.
    pub namespace: Box<str>,
    /// The name in it.
    pub name: Box<str>,
}

/// A service record v1 (`cilium/state/services/v1/<cluster>/<namespace>/<name>`): a service with all its backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GlobalService {
    /// The cluster that exports it.
    pub cluster: ClusterName,
    /// That cluster's ID.
    pub cluster_id: ClusterId,
    /// Which service.
    pub name: ServiceName,
    /// Cluster IPs with the service's ports. Agents only use those of the local cluster.
    pub frontends: BTreeMap<IpAddr, PortMap>,
    /// Pod addresses with the target ports, by service port name.
    pub backends: BTreeMap<IpAddr, PortMap>,
    /// Pod host names (headless services).
    pub hostnames: BTreeMap<IpAddr, String>,
    /// Zones of the backends, if known.
    pub zones: BTreeMap<IpAddr, Zone>,
    /// Labels of the service.
    pub labels: BTreeMap<String, String>,
    /// Selector of the service.
    pub selector: BTreeMap<String, String>,
    /// Always true in records of current writers.
    pub include_external: bool,
    /// If false, other clusters do not use the backends.
    pub shared: bool,
}

/// The zone of a backend, and its topology hints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Zone {
    /// The zone.
    pub zone: String,
    /// Topology hints: zones whose clients should prefer it.
    pub for_zones: Vec<String>,
}

/// An endpoint slice record (`cilium/state/endpointslices/v1/<cluster>/<namespace>/<slice>`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointSlice {
    /// The cluster that exports it. Not checked yet: the reader compares it with the key.
    pub cluster: String,
    /// That cluster's ID.
    pub cluster_id: ClusterId,
    /// The namespace.
    pub namespace: String,
    /// The slice's name.
    pub name: String,
    /// Labels; `kubernetes.io/service-name` names the service.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// `IPv4`, `IPv6`, or `FQDN`, whose endpoints are never backends.
    pub address_type: String,
    /// The endpoints.
    pub endpoints: Vec<SliceEndpoint>,
    /// The ports of all endpoints.
    pub ports: Vec<SlicePort>,
}

/// One endpoint of a slice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// Addresses as text, all of the slice's family.
    pub addresses: Vec<String>,
    /// Accepts connections. Absent: yes.
    pub ready: Option<bool>,
    /// Serves, even if it is terminating. Absent: yes.
    pub serving: Option<bool>,
    /// It is being deleted. Absent: no.
    pub terminating: Option<bool>,
    /// The pod's host name (headless services).
    pub hostname: Option<String>,
    /// The node that it is on.
    pub node: Option<String>,
    /// The zone that it is in.
    pub zone: Option<String>,
    /// Topology hints: zones whose clients should prefer it.
    pub for_zones: Vec<String>,
    /// Topology hints: nodes whose clients should prefer it. Only in records for the local cluster's nodes.
    pub for_nodes: Vec<String>,
}

/// One port of a slice.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlicePort {
    /// Its name, possibly empty.
    pub name: Option<String>,
    /// Its protocol as text.
    pub protocol: Option<String>,
    /// Its port number, which is signed on the wire. Absent: all ports.
    pub number: Option<i32>,
    /// The application protocol.
    pub app_protocol: Option<String>,
}

/// The label of an endpoint slice that names its service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// The label of an endpoint slice that names the controller that manages it.
pub const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
/// Cilium's controller that copies backends of other clusters into slices of the local cluster.
pub const MESH_CONTROLLER: &str = "endpointslice-mesh-controller.cilium.io";
/// The label that marks a service or slice as headless.
pub const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// A text is not the name of a protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a protocol: it is TCP, UDP or SCTP")]
pub struct UnknownProtocol(pub String);

// === impl Protocol ===

impl Protocol {
    /// The name on the wire and in Kubernetes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Protocol {
    type Err = UnknownProtocol;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "TCP" => Ok(Self::Tcp),
            "UDP" => Ok(Self::Udp),
            "SCTP" => Ok(Self::Sctp),
            other => Err(UnknownProtocol(other.into())),
        }
    }
}

// === impl ServiceName ===

impl ServiceName {
    /// A name from its two parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

// === impl EndpointSlice ===

impl EndpointSlice {
    /// The service to which the slice belongs, if its label names one.
    pub fn service(&self) -> Option<ServiceName> {
        let name = self.labels.get(SERVICE_NAME_LABEL)?;
        Some(ServiceName::new(&self.namespace, name))
    }

    /// Whether it is a copy of another cluster's backends, which that cluster exports itself.
    pub fn is_copy(&self) -> bool {
        self.labels.get(MANAGED_BY_LABEL).is_some_and(|by| by == MESH_CONTROLLER)
    }
}

// === impl SliceEndpoint ===

impl SliceEndpoint {
    /// Whether services v1 contain it: if it accepts connections, or is shutting down but still serves. Services v1 have no
    /// conditions, so readers use every backend in them.
    pub fn is_listed(&self) -> bool {
        self.condition() != Condition::NotReady
    }

    /// Whether it accepts connections (`docs/wire.md`, "Endpoint slices").
    pub fn condition(&self) -> Condition {
        let Self { ready, serving, terminating, .. } = self;
        match (ready.unwrap_or(true), serving.unwrap_or(true), terminating.unwrap_or(false)) {
            (true, _, _) => Condition::Ready,
            (false, true, true) => Condition::Terminating,
            (false, _, _) => Condition::NotReady,
        }
    }

    /// Its IP addresses, IPv4-mapped ones as IPv4. Host names (of FQDN slices) are left out.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> {
        let parsed = self.addresses.iter().filter_map(|text| text.parse::<IpAddr>().ok());
        parsed.map(|address| address.to_canonical())
    }
}

// === impl SlicePort ===

impl SlicePort {
    /// Its port number and protocol. `None` without a number, which means all ports: that cannot be a backend.
    pub fn port(&self) -> Option<Port> {
        let number = u16::try_from(self.number?).ok().filter(|number| *number != 0)?;
        let protocol = self.protocol.as_deref().filter(|word| !word.is_empty());
        let protocol = protocol.map_or(Ok(Protocol::default()), str::parse).ok()?;
        Some(Port { protocol, number })
    }
}
