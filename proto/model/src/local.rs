//! Records for the local cluster's nodes only: services, pods, namespaces, policies and drains (`docs/wire.md`, "Local prefix").

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    endpoint::NamedPort,
    identity::Identity,
    service::{PortMap, Protocol, ServiceName},
    traffic::ServiceTraffic,
};

/// A service of the local cluster, global or not, with its load-balancing settings. Its backends are in endpoint slices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalService {
    /// Which service.
    pub name: ServiceName,
    /// Its cluster IPs; empty if it is headless.
    pub cluster_ips: Vec<IpAddr>,
    /// Its ports by name.
    pub ports: PortMap,
    /// Its load-balancing settings.
    pub traffic: ServiceTraffic,
    /// Other clusters may use its backends. Only if `traffic.global`.
    pub shared: bool,
    /// Its pods count as ready even if they are not.
    pub publish_not_ready_addresses: bool,
    /// Another proxy serves it (`service.kubernetes.io/service-proxy-name`), so our agents do not.
    pub foreign_proxy: bool,
    /// It has more addresses than its cluster IPs: node ports, external IPs or a load balancer's. Agents do not serve them.
    pub outside_addresses: bool,
}

/// A pod of the local cluster that is scheduled to a node. It is published before it has an address, so that the node that
/// starts the pod knows its identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalPod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The node it is scheduled to.
    pub node: String,
    /// Distinguishes it from earlier and later pods of the same name. Empty if its object has none.
    pub uid: String,
    /// Its identity; `None` while no ID is allocated. The labels are in the identity's record.
    pub identity: Option<Identity>,
    /// Its addresses; empty until they are known.
    pub ips: Vec<IpAddr>,
    /// Whether the node's socket hooks translate its connections to services.
    pub socket_lb: bool,
    /// Its named ports, for policies that name them.
    pub named_ports: Vec<NamedPort>,
}

/// A namespace of the local cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalNamespace {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether its pods and services are exported to other clusters.
    pub global: bool,
}

/// Which parts of the local cluster are drained.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalDrain {
    /// The whole cluster is.
    pub cluster: bool,
    /// The names of drained nodes.
    pub nodes: BTreeSet<String>,
}

impl LocalService {
    /// Whether a part of it is served by a kube-proxy, or by no program where none runs.
    pub fn needs_kube_proxy(&self) -> bool {
        let is_sctp = self.ports.values().any(|port| port.protocol == Protocol::Sctp);
        !self.foreign_proxy && (self.outside_addresses || is_sctp && !self.cluster_ips.is_empty())
    }
}

impl LocalDrain {
    /// Whether nothing is drained.
    pub fn is_empty(&self) -> bool {
        !self.cluster && self.nodes.is_empty()
    }

    /// Whether a node is drained, itself or with the whole cluster.
    pub fn has(&self, node: &str) -> bool {
        self.cluster || self.nodes.contains(node)
    }
}
