//! What only the local cluster's nodes get: services, pods by name, and namespaces (`docs/wire.md`, "Local prefix").

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    identity::Identity,
    service::{PortMap, ServiceName},
    traffic::ServiceTraffic,
};

/// A service of the local cluster, global or not, with what it asks for. Its backends are in slices of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalService {
    /// Which service.
    pub name: ServiceName,
    /// Its cluster IPs; none where it is headless.
    pub cluster_ips: Vec<IpAddr>,
    /// Its ports by name.
    pub ports: PortMap,
    /// How its connections are spread.
    pub traffic: ServiceTraffic,
    /// Its backends are for all clusters; never so unless `traffic.global`.
    pub shared: bool,
    /// Pods count as ready whether they are or not.
    pub publish_not_ready_addresses: bool,
    /// Another proxy serves it (`service.kubernetes.io/service-proxy-name`): no node of ours does.
    pub foreign_proxy: bool,
}

/// A pod of the local cluster, known from the moment that it has a node: before it has an address, so that the node
/// that starts it knows who it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalPod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The node it is scheduled to.
    pub node: String,
    /// Distinguishes it from another pod of that name, before or after it. Empty where its source gives none.
    pub uid: String,
    /// Who it is; `None` while it has no ID. Its labels are in the identity's own record.
    pub identity: Option<Identity>,
    /// Its addresses, as far as they are known.
    pub ips: Vec<IpAddr>,
    /// Its connections to services are led by the node's socket hooks.
    pub socket_lb: bool,
}

/// A namespace of the local cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalNamespace {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its pods and services take part in the mesh.
    pub global: bool,
}

/// What of the local cluster is drained.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalDrain {
    /// All of it.
    pub cluster: bool,
    /// Nodes by name.
    pub nodes: BTreeSet<String>,
}

impl LocalDrain {
    /// Whether anything is.
    pub fn is_empty(&self) -> bool {
        !self.cluster && self.nodes.is_empty()
    }

    /// Whether a node is, by itself or with all of its cluster.
    pub fn has(&self, node: &str) -> bool {
        self.cluster || self.nodes.contains(node)
    }
}
