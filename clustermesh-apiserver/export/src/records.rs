//! Makes records of objects.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use mesh_model::{
    ClusterId, ClusterName, EndpointAddress, EndpointSlice, GlobalService, Identity,
    LocalNamespace, LocalPod, LocalService, Node, Port, PortMap, Record, RecordKey, ServiceName,
    SliceEndpoint,
    node::FamilyPair,
    object,
    service::{HEADLESS_LABEL, SlicePort, Zone},
};

use crate::{annotations::LbAnnotations, exporter::drain::Drained};

/// The source in node records, as in those of Cilium's exporter.
const SOURCE: &str = "custom-resource";

/// Cilium's annotations with a node's WireGuard key, the newer one first.
const WIREGUARD_KEYS: [&str; 2] = ["network.cilium.io/wg-pub-key", "io.cilium.network.wg-pub-key"];

/// The exporting cluster.
#[derive(Clone, Debug)]
pub(crate) struct LocalCluster {
    pub(crate) name: ClusterName,
    pub(crate) id: ClusterId,
}

/// The keys of a pod's records: that for its node, and one for each address, in the order of [`local_pod`] and
/// [`addresses`].
pub(crate) fn pod_keys(pod: &object::Pod) -> impl Iterator<Item = RecordKey> {
    let local = is_scheduled(pod).then(|| RecordKey::Pod {
        node: pod.node.to_string(),
        namespace: pod.namespace.to_string(),
        name: pod.name.to_string(),
    });
    let addresses = pod.ips.iter().map(|ip| RecordKey::Address(IpNet::from(*ip)));
    local.into_iter().chain(addresses)
}

/// Whether a pod is scheduled to a node, has not ended, and has addresses of its own.
fn is_scheduled(pod: &object::Pod) -> bool {
    !pod.node.is_empty() && !pod.host_network && !pod.finished
}

/// The record of a pod for its node; `None` if it is not scheduled, has ended, or has its node's addresses.
pub(crate) fn local_pod(pod: &object::Pod, identity: Option<Identity>) -> Option<Record> {
    is_scheduled(pod).then(|| {
        Record::Pod(Box::new(LocalPod {
            namespace: pod.namespace.to_string(),
            name: pod.name.to_string(),
            node: pod.node.to_string(),
            uid: pod.uid.to_string(),
            identity,
            ips: pod.ips.to_vec(),
            socket_lb: !pod.socket_lb_off,
            named_ports: pod.template.named_ports.clone(),
        }))
    })
}

pub(crate) fn local_namespace(namespace: &object::Namespace, global: bool) -> LocalNamespace {
    LocalNamespace { name: namespace.name.clone(), labels: namespace.labels.clone(), global }
}

pub(crate) fn node(local: &LocalCluster, node: &object::Node) -> Node {
    Node {
        name: node.name.clone(),
        cluster: local.name.clone(),
        cluster_id: local.id,
        addresses: node.addresses.clone(),
        pod_cidrs: node.pod_cidrs.clone(),
        health_ips: FamilyPair::default(),
        ingress_ips: FamilyPair::default(),
        source: SOURCE.into(),
        encryption_key: 0,
        labels: node.labels.clone(),
        // Annotations are long, and of no use to other clusters.
        annotations: BTreeMap::new(),
        wireguard_public_key: String::new(),
        boot_id: node.boot_id.clone(),
    }
}

pub(crate) fn cilium_node(local: &LocalCluster, node: &object::CiliumNode) -> Node {
    let key = WIREGUARD_KEYS.iter().find_map(|name| node.annotations.get(*name));
    Node {
        name: node.name.clone(),
        cluster: local.name.clone(),
        cluster_id: local.id,
        addresses: node.addresses.clone(),
        pod_cidrs: node.pod_cidrs.clone(),
        health_ips: node.health_ips,
        ingress_ips: node.ingress_ips,
        source: SOURCE.into(),
        encryption_key: node.encryption_key,
        labels: node.labels.clone(),
        annotations: node.annotations.clone(),
        wireguard_public_key: key.cloned().unwrap_or_default(),
        boot_id: node.boot_id.clone(),
    }
}

/// The address records of a CiliumEndpoint.
pub(crate) fn cilium_addresses(endpoint: &object::CiliumEndpoint) -> Vec<EndpointAddress> {
    let address = |ip: &IpAddr| EndpointAddress {
        net: IpNet::from(*ip),
        host: endpoint.node_ip,
        identity: endpoint.identity,
        encryption_key: endpoint.encryption_key,
        metadata: String::new(),
        namespace: endpoint.namespace.clone(),
        pod: endpoint.name.clone(),
        service_account: endpoint.service_account.clone(),
        named_ports: endpoint.named_ports.clone(),
    };
    endpoint.ips.iter().map(address).collect()
}

/// The records of a pod's addresses. The caller excludes pods with their node's addresses, and those that have ended.
pub(crate) fn addresses(
    pod: &object::Pod,
    node: Option<&object::Node>,
    identity: Identity,
) -> Vec<EndpointAddress> {
    pod.ips
        .iter()
        .map(|ip| EndpointAddress {
            net: IpNet::from(*ip),
            host: node.and_then(|node| host_ip(node, *ip)),
            identity,
            encryption_key: 0,
            metadata: String::new(),
            namespace: pod.namespace.to_string(),
            pod: pod.name.to_string(),
            service_account: pod.template.service_account.clone(),
            named_ports: pod.template.named_ports.clone(),
        })
        .collect()
}

/// A service with its backends, except drained ones, and messages about backends that the record cannot represent. `slices`
/// are the slices of the service, in the order of their names.
pub(crate) fn service<'a>(
    local: &LocalCluster,
    service: &object::Service,
    slices: impl Iterator<Item = &'a EndpointSlice>,
    drained: &Drained,
) -> (GlobalService, Vec<String>) {
    let mut conflicts = BTreeMap::<String, Conflict>::new();
    let mut record = GlobalService {
        cluster: local.name.clone(),
        cluster_id: local.id,
        name: ServiceName::new(&service.namespace, &service.name),
        frontends: frontends(service),
        backends: BTreeMap::new(),
        hostnames: BTreeMap::new(),
        zones: BTreeMap::new(),
        labels: service.labels.clone(),
        selector: service.selector.clone(),
        include_external: true,
        shared: true,
    };
    for slice in slices.filter(|slice| !slice.is_copy()) {
        let ports: PortMap = slice.ports.iter().filter_map(named_port).collect();
        let listed = slice.endpoints.iter().filter(|endpoint| endpoint.is_listed());
        for endpoint in listed.filter(|endpoint| !drained.has(endpoint)) {
            for ip in endpoint.ips() {
                add_backend(&mut record, ip, endpoint, &ports, &mut conflicts);
            }
        }
    }
    let notes = conflicts.into_iter().map(|(name, conflict)| conflict.sentence(&name)).collect();
    (record, notes)
}

/// A port that has two numbers at one address. A service record can only have one.
struct Conflict {
    /// The number of such addresses.
    addresses: usize,
    /// One of them.
    ip: IpAddr,
    /// The port in the record, and the one that is left out.
    ports: [Port; 2],
}

impl Conflict {
    fn sentence(&self, name: &str) -> String {
        let Self { addresses, ip, ports: [kept, left] } = self;
        format!(
            "port {name:?} has two numbers at one address (for example {ip}: {} and {}; {addresses} addresses): services v1 have the first, slices both",
            kept.number, left.number
        )
    }
}

/// Adds a backend. An address in several slices gets the ports of all. If a port has two numbers, that of the earlier slice
/// is used.
fn add_backend(
    record: &mut GlobalService,
    ip: IpAddr,
    endpoint: &SliceEndpoint,
    ports: &PortMap,
    conflicts: &mut BTreeMap<String, Conflict>,
) {
    let known = record.backends.entry(ip).or_default();
    for (name, port) in ports {
        let kept = *known.entry(name.clone()).or_insert(*port);
        if kept != *port {
            let first = || Conflict { addresses: 0, ip, ports: [kept, *port] };
            conflicts.entry(name.clone()).or_insert_with(first).addresses += 1;
        }
    }
    if let Some(hostname) = &endpoint.hostname {
        record.hostnames.insert(ip, hostname.clone());
    }
    if let Some(zone) = &endpoint.zone {
        record.zones.insert(ip, Zone { zone: zone.clone(), for_zones: endpoint.for_zones.clone() });
    }
}

/// The record of a service for local nodes.
pub(crate) fn local_service(service: &object::Service, asked: LbAnnotations) -> LocalService {
    let LbAnnotations { traffic, shared, foreign_proxy, problems: _ } = asked;
    LocalService {
        name: ServiceName::new(&service.namespace, &service.name),
        cluster_ips: cluster_ips(service).to_vec(),
        ports: ports(service),
        traffic,
        shared,
        publish_not_ready_addresses: service.publish_not_ready_addresses,
        foreign_proxy,
        outside_addresses: service.outside_addresses,
    }
}

/// Whether a slice has IP addresses, not host names.
pub(crate) fn has_addresses(slice: &EndpointSlice) -> bool {
    matches!(slice.address_type.as_str(), "IPv4" | "IPv6")
}

/// The exported slice, and messages about addresses that are left out because they are not of its family. Readers would
/// refuse the whole slice.
pub(crate) fn slice(
    local: &LocalCluster,
    slice: &EndpointSlice,
    drained: &Drained,
) -> (EndpointSlice, Vec<String>) {
    let mut exported = slice.clone();
    exported.cluster = local.name.to_string();
    exported.cluster_id = local.id;
    let v4 = slice.address_type == "IPv4";
    let is_good =
        |text: &String| text.parse::<IpAddr>().is_ok_and(|address| address.is_ipv4() == v4);
    let mut notes = Vec::new();
    for endpoint in &mut exported.endpoints {
        if drained.has(endpoint) {
            leave(endpoint);
        }
        endpoint.addresses.retain(|address| {
            let good = is_good(address);
            if !good {
                notes.push(format!("{address:?} is not an {} address", slice.address_type));
            }
            good
        });
    }
    if !notes.is_empty() {
        exported.endpoints.retain(|endpoint| !endpoint.addresses.is_empty());
    }
    (exported, notes)
}

/// Marks a drained endpoint as terminating: established connections continue, and it gets no new ones as long as there is
/// another endpoint.
fn leave(endpoint: &mut SliceEndpoint) {
    let serves = endpoint.is_listed();
    endpoint.ready = Some(false);
    endpoint.serving = Some(serves);
    endpoint.terminating = Some(true);
}

fn frontends(service: &object::Service) -> BTreeMap<IpAddr, PortMap> {
    let ports = ports(service);
    cluster_ips(service).iter().map(|ip| (*ip, ports.clone())).collect()
}

/// A service's cluster IPs; none if it is headless or has the label for that.
fn cluster_ips(service: &object::Service) -> &[IpAddr] {
    let headless = service.headless || service.labels.contains_key(HEADLESS_LABEL);
    if headless { &[] } else { &service.cluster_ips }
}

fn ports(service: &object::Service) -> PortMap {
    let port =
        |p: &object::ServicePort| (p.name.clone(), Port { protocol: p.protocol, number: p.port });
    service.ports.iter().map(port).collect()
}

/// A slice's port with its name; `None` without a number, which means all ports.
fn named_port(port: &SlicePort) -> Option<(String, Port)> {
    Some((port.name.clone().unwrap_or_default(), port.port()?))
}

/// The internal address of a pod's node, if possible of the family of `like`.
fn host_ip(node: &object::Node, like: IpAddr) -> Option<IpAddr> {
    let internal = || {
        node.addresses.iter().filter(|a| a.kind == mesh_model::AddressKind::Internal).map(|a| a.ip)
    };
    internal().find(|ip| ip.is_ipv4() == like.is_ipv4()).or_else(|| internal().next())
}
