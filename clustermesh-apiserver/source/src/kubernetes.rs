//! The fields of Kubernetes' kinds that the mesh uses, and what becomes of them.
//!
//! Unknown fields are ignored and absent ones have Kubernetes' defaults, so an object of any version is read.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use mesh_model::{
    AddressKind, NamedPort, NodeAddress, Port, Protocol,
    object::{self, Object},
};
use serde::Deserialize;

mod cilium;
mod services;

pub(crate) use cilium::{CiliumEndpoint, CiliumEndpointSlice, CiliumIdentity, CiliumNode};
pub(crate) use services::{Service, Slice};

/// What says how to read the rest.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Header {
    #[serde(default)]
    pub(crate) api_version: String,
    #[serde(default)]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) metadata: Metadata,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Metadata {
    pub(crate) name: String,
    pub(crate) namespace: Option<String>,
    uid: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    deletion_timestamp: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Namespace {
    metadata: Metadata,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Node {
    metadata: Metadata,
    #[serde(default)]
    spec: NodeSpec,
    #[serde(default)]
    status: NodeStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeSpec {
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<IpNet>,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Vec<IpNet>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeStatus {
    addresses: Vec<NodeAddressJson>,
    node_info: NodeInfo,
}

#[derive(Debug, Deserialize)]
struct NodeAddressJson {
    #[serde(rename = "type")]
    kind: String,
    address: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NodeInfo {
    #[serde(rename = "bootID")]
    boot_id: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Pod {
    metadata: Metadata,
    #[serde(default)]
    spec: PodSpec,
    #[serde(default)]
    status: PodStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    node_name: Option<String>,
    service_account_name: Option<String>,
    host_network: bool,
    hostname: Option<String>,
    subdomain: Option<String>,
    containers: Vec<Container>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Container {
    ports: Vec<ContainerPort>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerPort {
    name: Option<String>,
    container_port: u16,
    protocol: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodStatus {
    phase: Option<String>,
    conditions: Vec<Condition>,
    #[serde(rename = "podIP")]
    pod_ip: Option<IpAddr>,
    #[serde(rename = "podIPs")]
    pod_ips: Vec<PodIp>,
}

#[derive(Debug, Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

#[derive(Debug, Deserialize)]
struct PodIp {
    ip: IpAddr,
}

/// The label that an API server puts on every namespace.
pub const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";
/// On a pod: `off` leaves its connections alone at the socket.
const SOCKET_LB_ANNOTATION: &str = "clustermesh.dev/socket-lb";
const DEFAULT: &str = "default";

// === impl Metadata ===

impl Metadata {
    /// The namespace of a namespaced object.
    pub(crate) fn namespace(&self) -> String {
        let namespace = self.namespace.as_deref().filter(|namespace| !namespace.is_empty());
        namespace.unwrap_or(DEFAULT).into()
    }
}

// === impl Namespace ===

impl Namespace {
    pub(crate) fn into_object(self) -> Object {
        let Metadata { name, labels, annotations, .. } = self.metadata;
        let mut labels = labels.unwrap_or_default();
        labels.insert(NAMESPACE_NAME_LABEL.into(), name.clone());
        Object::Namespace(object::Namespace {
            name,
            labels,
            annotations: annotations.unwrap_or_default(),
        })
    }
}

// === impl Node ===

impl Node {
    pub(crate) fn into_object(self) -> Result<Object, String> {
        let Self { metadata, spec, status } = self;
        let mut addresses = Vec::new();
        for NodeAddressJson { kind, address } in status.addresses {
            let kind = match kind.as_str() {
                "InternalIP" => AddressKind::Internal,
                "ExternalIP" => AddressKind::External,
                // Names.
                _ => continue,
            };
            let ip: IpAddr =
                address.parse().map_err(|_| format!("{address:?} is no IP address"))?;
            addresses.push(NodeAddress { kind, ip: ip.to_canonical() });
        }
        let one = spec.pod_cidr.into_iter().filter(|_| spec.pod_cidrs.is_empty());
        Ok(Object::Node(object::Node {
            name: metadata.name,
            labels: metadata.labels.unwrap_or_default(),
            annotations: metadata.annotations.unwrap_or_default(),
            addresses,
            pod_cidrs: one.chain(spec.pod_cidrs.iter().copied()).map(|net| net.trunc()).collect(),
            boot_id: status.node_info.boot_id,
        }))
    }
}

// === impl Pod ===

impl Pod {
    pub(crate) fn into_object(self) -> Result<Object, String> {
        let Self { metadata, spec, status } = self;
        let namespace = metadata.namespace();
        let annotations = metadata.annotations.unwrap_or_default();
        let socket_lb = annotations.get(SOCKET_LB_ANNOTATION);
        let socket_lb_off = socket_lb.is_some_and(|word| word.eq_ignore_ascii_case("off"));
        let ready = |c: &Condition| c.kind == "Ready" && c.status == "True";
        let one = status.pod_ip.into_iter().filter(|_| status.pod_ips.is_empty());
        let ports = spec.containers.into_iter().flat_map(|container| container.ports);
        let mut named_ports = Vec::new();
        for ContainerPort { name, container_port, protocol } in ports {
            let Some(name) = name else { continue };
            let port =
                Port { protocol: parse_protocol(protocol.as_deref())?, number: container_port };
            named_ports.push(NamedPort { name, port });
        }
        Ok(Object::Pod(object::Pod {
            namespace,
            name: metadata.name,
            uid: metadata.uid.unwrap_or_default(),
            labels: metadata.labels.unwrap_or_default(),
            service_account: spec.service_account_name.unwrap_or_else(|| DEFAULT.into()),
            node: spec.node_name.unwrap_or_default(),
            host_network: spec.host_network,
            ips: one
                .chain(status.pod_ips.iter().map(|p| p.ip))
                .map(|ip| ip.to_canonical())
                .collect(),
            ready: status.conditions.iter().any(ready),
            terminating: metadata.deletion_timestamp.is_some(),
            finished: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
            hostname: spec.hostname,
            subdomain: spec.subdomain,
            socket_lb_off,
            named_ports,
        }))
    }
}

fn parse_protocol(word: Option<&str>) -> Result<Protocol, String> {
    word.map_or(Ok(Protocol::Tcp), str::parse).map_err(|e| e.to_string())
}
