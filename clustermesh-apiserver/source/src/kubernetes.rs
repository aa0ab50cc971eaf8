//! The fields of Kubernetes objects that the mesh uses, and their conversion.
//!
//! Unknown fields are ignored, and absent ones have Kubernetes' defaults, so objects of any version are accepted. What an API
//! server would refuse is refused here too, and the error names the field.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use mesh_model::{
    AddressKind, NamedPort, NodeAddress, Port, Protocol, names,
    object::{self, Kind, Object, ObjectKey},
};
use serde::Deserialize;

mod cilium;
mod endpoints;
mod services;

pub(crate) use cilium::{CiliumEndpoint, CiliumEndpointSlice, CiliumIdentity, CiliumNode};
pub(crate) use endpoints::Endpoints;
pub(crate) use services::{Service, Slice};

/// The fields that decide how to decode an object.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Header {
    #[serde(default)]
    pub(crate) api_version: String,
    #[serde(default)]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) metadata: Name,
}

/// The name and namespace of an object.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Name {
    pub(crate) name: String,
    namespace: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Metadata {
    name: String,
    namespace: Option<String>,
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
    pod_cidr: String,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Vec<String>,
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
    init_containers: Vec<Container>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    ports: Vec<ContainerPort>,
    restart_policy: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerPort {
    name: Option<String>,
    container_port: i64,
    protocol: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodStatus {
    phase: Option<String>,
    conditions: Vec<Condition>,
    #[serde(rename = "podIP")]
    pod_ip: String,
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
    ip: String,
}

/// The label that an API server adds to every namespace: its name.
pub const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";
/// The annotation of a pod. With `off`, the socket hooks do not translate its connections.
pub(crate) const SOCKET_LB_ANNOTATION: &str = "clustermesh.dev/socket-lb";
const DEFAULT: &str = "default";

// === impl Header ===

impl Header {
    /// The key of the object, which has this kind.
    pub(crate) fn key(&self, kind: Kind) -> ObjectKey {
        let namespace = match kind.is_namespaced() {
            true => self.metadata.namespace(),
            false => String::new(),
        };
        let (namespace, name) = (namespace.into(), self.metadata.name.as_str().into());
        ObjectKey { kind, namespace, name }
    }

    /// Takes kind and version from a List of one kind, such as a PodList, whose items need not have them.
    pub(crate) fn inherit(&mut self, list: Option<&Self>) {
        let Some(list) = list else { return };
        let Some(kind) = list.kind.strip_suffix("List").filter(|kind| !kind.is_empty()) else {
            return;
        };
        if self.kind.is_empty() {
            self.kind = kind.into();
            if self.api_version.is_empty() {
                self.api_version.clone_from(&list.api_version);
            }
        }
    }
}

// === impl Name ===

impl Name {
    /// The namespace, or `default` if it is empty.
    pub(crate) fn namespace(&self) -> String {
        namespace_or_default(self.namespace.as_deref())
    }

    /// Refuses names that an API server would refuse, because they become parts of keys.
    pub(crate) fn check(&self, kind: Kind) -> Result<(), String> {
        let name = match kind {
            Kind::Namespace | Kind::Service => names::label(&self.name),
            _ => names::subdomain(&self.name),
        };
        name.map_err(|reason| format!("metadata.name {:?}: {reason}", self.name))?;
        let namespace = self.namespace();
        names::label(&namespace)
            .map_err(|reason| format!("metadata.namespace {namespace:?}: {reason}"))
    }
}

// === impl Metadata ===

impl Metadata {
    /// The namespace, or `default` if it is empty.
    pub(crate) fn namespace(&self) -> String {
        namespace_or_default(self.namespace.as_deref())
    }
}

fn namespace_or_default(namespace: Option<&str>) -> String {
    namespace.filter(|namespace| !namespace.is_empty()).unwrap_or(DEFAULT).into()
}

// === impl Namespace ===

impl Namespace {
    pub(crate) fn into_object(self) -> Object {
        let Metadata { name, labels, annotations, .. } = self.metadata;
        let mut labels = labels.unwrap_or_default();
        labels.insert(NAMESPACE_NAME_LABEL.into(), name.clone());
        Object::from(object::Namespace {
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
        for (index, NodeAddressJson { kind, address }) in (0..).zip(status.addresses) {
            let kind = match kind.as_str() {
                "InternalIP" => AddressKind::Internal,
                "ExternalIP" => AddressKind::External,
                // Host names.
                _ => continue,
            };
            let field = || format!("status.addresses[{index}].address");
            addresses.push(NodeAddress { kind, ip: parse_ip(&address, field)? });
        }
        let ranges = listed(spec.pod_cidr, spec.pod_cidrs, "spec.podCIDR");
        let mut pod_cidrs = Vec::new();
        for (field, range) in ranges {
            let range: IpNet =
                range.parse().map_err(|_| format!("{field}: {range:?} is not a CIDR"))?;
            pod_cidrs.push(range.trunc());
        }
        Ok(Object::from(object::Node {
            name: metadata.name,
            labels: metadata.labels.unwrap_or_default(),
            annotations: metadata.annotations.unwrap_or_default(),
            addresses,
            pod_cidrs,
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
        let mut ips = Vec::new();
        let of_list = status.pod_ips.into_iter().map(|ip| ip.ip).collect();
        for (field, ip) in listed(status.pod_ip, of_list, "status.podIP") {
            ips.push(parse_ip(&ip, || field.clone())?);
        }
        let mut named_ports = Vec::new();
        // An init container with the restart policy `Always` is a sidecar.
        let sidecars = spec.init_containers.into_iter().map(|container| {
            let ports =
                if container.restart_policy == "Always" { container.ports } else { Vec::new() };
            ("initContainers", ports)
        });
        let containers =
            spec.containers.into_iter().map(|container| ("containers", container.ports));
        for (list, ports) in containers.chain(sidecars) {
            for ContainerPort { name, container_port, protocol } in ports {
                let field = format!("spec.{list}[].ports[]");
                let port = parse_port(container_port, || format!("{field}.containerPort"))?;
                let protocol = parse_protocol(protocol.as_deref(), || format!("{field}.protocol"))?;
                let Some(name) = name.filter(|name| !name.is_empty()) else { continue };
                named_ports.push(NamedPort { name, port: Port { protocol, number: port } });
            }
        }
        Ok(Object::from(object::Pod {
            namespace: namespace.into(),
            name: metadata.name.into(),
            uid: metadata.uid.unwrap_or_default().as_str().into(),
            template: Arc::new(object::PodTemplate {
                labels: metadata.labels.unwrap_or_default(),
                service_account: spec.service_account_name.unwrap_or_else(|| DEFAULT.into()),
                hostname: spec.hostname,
                subdomain: spec.subdomain,
                named_ports,
            }),
            node: spec.node_name.unwrap_or_default().into(),
            host_network: spec.host_network,
            ips: ips.into(),
            ready: status.conditions.iter().any(ready),
            terminating: metadata.deletion_timestamp.is_some(),
            finished: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
            socket_lb_off,
        }))
    }
}

/// The values of a list, or of the single field if the list is empty, without empty values. Each has its path.
fn listed(one: String, list: Vec<String>, field: &'static str) -> Vec<(String, String)> {
    let all = match list.is_empty() {
        true => vec![(field.to_owned(), one)],
        false => (0..)
            .zip(list)
            .map(|(index, entry): (usize, _)| (format!("{field}s[{index}]"), entry))
            .collect(),
    };
    all.into_iter().filter(|(_, text)| !text.is_empty()).collect()
}

fn parse_ip(text: &str, field: impl FnOnce() -> String) -> Result<IpAddr, String> {
    let ip: Result<IpAddr, _> = text.parse();
    ip.map(|ip| ip.to_canonical())
        .map_err(|_| format!("{}: {text:?} is not an IP address", field()))
}

fn parse_port(number: i64, field: impl FnOnce() -> String) -> Result<u16, String> {
    let port = u16::try_from(number).ok().filter(|number| *number != 0);
    port.ok_or_else(|| format!("{} {number}: it is 1 to 65535", field()))
}

fn parse_protocol(word: Option<&str>, field: impl FnOnce() -> String) -> Result<Protocol, String> {
    let word = word.filter(|word| !word.is_empty());
    word.map_or(Ok(Protocol::Tcp), str::parse).map_err(|error| format!("{}: {error}", field()))
}
