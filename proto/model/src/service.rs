//! Services as clusters share them: v1 (one record a service) and v2 (one record an endpoint slice).

use std::{collections::BTreeMap, fmt, net::IpAddr, str::FromStr};

use crate::{
    cluster::{ClusterId, ClusterName},
    condition::Condition,
};

/// A transport protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP, what an absent protocol means in Kubernetes.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP: carried on the wire, not load-balanced by us.
    Sctp,
}

/// A port with its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// Transport.
    pub protocol: Protocol,
    /// Number.
    pub number: u16,
}

/// Ports by name; an unnamed port has the empty name.
pub type PortMap = BTreeMap<String, Port>;

/// A service's namespace and name. Clusters mean the same service by the same pair.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName {
    /// The namespace.
    pub namespace: Box<str>,
    /// The name in it.
    pub name: Box<str>,
}

/// A service record v1 (`cilium/state/services/v1/<cluster>/<namespace>/<name>`): the whole service in one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GlobalService {
    /// The cluster that exports it.
    pub cluster: ClusterName,
    /// That cluster's ID.
    pub cluster_id: ClusterId,
    /// Which service.
    pub name: ServiceName,
    /// Cluster IPs with the service's ports. Only the local cluster's are load-balanced.
    pub frontends: BTreeMap<IpAddr, PortMap>,
    /// Pod addresses with the target ports, by service port name.
    pub backends: BTreeMap<IpAddr, PortMap>,
    /// Pod host names (headless services).
    pub hostnames: BTreeMap<IpAddr, String>,
    /// Zones of the backends, where known.
    pub zones: BTreeMap<IpAddr, Zone>,
    /// Labels of the service.
    pub labels: BTreeMap<String, String>,
    /// Selector of the service.
    pub selector: BTreeMap<String, String>,
    /// Always true from today's writers.
    pub include_external: bool,
    /// False withdraws the backends.
    pub shared: bool,
}

/// Where a backend is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Zone {
    /// The zone.
    pub zone: String,
    /// Zones whose clients should prefer it.
    pub for_zones: Vec<String>,
}

/// An endpoint slice record (`cilium/state/endpointslices/v1/<cluster>/<namespace>/<slice>`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointSlice {
    /// The cluster that exports it, as text: checked against the key by the reader.
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
    /// `IPv4`, `IPv6`, or (never a backend) `FQDN`.
    pub address_type: String,
    /// The endpoints.
    pub endpoints: Vec<SliceEndpoint>,
    /// The ports all endpoints have.
    pub ports: Vec<SlicePort>,
}

/// One endpoint of a slice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// Addresses as text; by contract all of the slice's family.
    pub addresses: Vec<String>,
    /// Takes traffic. Absent means yes.
    pub ready: Option<bool>,
    /// Able to take traffic, terminating or not. Absent means as `ready`.
    pub serving: Option<bool>,
    /// Being deleted. Absent means no.
    pub terminating: Option<bool>,
    /// The pod's host name (headless services).
    pub hostname: Option<String>,
    /// The node it is on.
    pub node: Option<String>,
    /// The zone it is in.
    pub zone: Option<String>,
    /// Zones whose clients should prefer it.
    pub for_zones: Vec<String>,
    /// Nodes whose clients should prefer it. For the local cluster's nodes alone.
    pub for_nodes: Vec<String>,
}

/// One port of a slice.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlicePort {
    /// Its name, possibly empty.
    pub name: Option<String>,
    /// Its protocol as text.
    pub protocol: Option<String>,
    /// Its number, signed on the wire.
    pub number: Option<i32>,
    /// The application protocol.
    pub app_protocol: Option<String>,
}

/// The label of an endpoint slice that names its service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// The label of an endpoint slice that names who keeps it.
pub const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
/// Who keeps copies of other clusters' backends as slices of a cluster.
pub const MESH_CONTROLLER: &str = "endpointslice-mesh-controller.cilium.io";
/// The label that marks a service or slice as headless.
pub const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// A word that names no protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no protocol: it is TCP, UDP or SCTP")]
pub struct UnknownProtocol(pub String);

// === impl Protocol ===

impl Protocol {
    /// The word on the wire and in Kubernetes.
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
    /// The service that its endpoints are backends of, if it is any's.
    pub fn service(&self) -> Option<ServiceName> {
        let name = self.labels.get(SERVICE_NAME_LABEL)?;
        Some(ServiceName::new(&self.namespace, name))
    }

    /// Whether it is a copy of what another cluster reports: that cluster reports it itself.
    pub fn is_copy(&self) -> bool {
        self.labels.get(MANAGED_BY_LABEL).is_some_and(|by| by == MESH_CONTROLLER)
    }
}

// === impl SliceEndpoint ===

impl SliceEndpoint {
    /// Whether services v1 list it: it takes connections, or is shutting down and still serves. Readers of them know no
    /// conditions, and use what is listed in full.
    pub fn is_listed(&self) -> bool {
        self.condition() != Condition::NotReady
    }

    /// Whether it takes connections (`docs/wire.md`, "Endpoint slices").
    pub fn condition(&self) -> Condition {
        let Self { ready, serving, terminating, .. } = self;
        match (ready.unwrap_or(true), serving.unwrap_or(true), terminating.unwrap_or(false)) {
            (true, _, _) => Condition::Ready,
            (false, true, true) => Condition::Terminating,
            (false, _, _) => Condition::NotReady,
        }
    }

    /// Its addresses, v4-mapped ones as v4. Names (FQDN slices) are none.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> {
        let parsed = self.addresses.iter().filter_map(|text| text.parse::<IpAddr>().ok());
        parsed.map(|address| address.to_canonical())
    }
}

// === impl SlicePort ===

impl SlicePort {
    /// Its number and protocol. One without a number stands for all ports, and leads to none.
    pub fn port(&self) -> Option<Port> {
        let number = u16::try_from(self.number?).ok().filter(|number| *number != 0)?;
        let protocol = self.protocol.as_deref().filter(|word| !word.is_empty());
        let protocol = protocol.map_or(Ok(Protocol::default()), str::parse).ok()?;
        Some(Port { protocol, number })
    }
}
