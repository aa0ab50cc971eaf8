//! What `kubectl get pods,namespaces,nodes,services,endpointslices -o json` prints, as a world.

use std::{collections::BTreeMap, net::IpAddr};

use mesh_model::{
    AddressKind, Protocol,
    object::{Node, Object, Pod},
};
use mesh_source::{Format, decode};

use crate::{
    entry::{Entry, EntryKind, EntryPort},
    problem::Problem,
    service::{addresses_in, is_api_servers},
    world::World,
};

// === impl World ===

impl World {
    /// Adds the objects of a cluster. `part` names the file.
    pub fn add_objects(
        &mut self,
        cluster: &str,
        format: Format,
        text: &str,
        part: &str,
    ) -> Result<(), Vec<Problem>> {
        let decoded = decode(format, text);
        let wrong = decoded.rejected.iter().chain(&decoded.broken);
        let wrong: Vec<Problem> = wrong
            .map(|one| Problem::new(part, &format!("line {}", one.line), one.reason.clone()))
            .collect();
        if !wrong.is_empty() {
            return Err(wrong);
        }
        self.name_cluster(cluster);
        let (mut entries, mut api_server) = (Vec::new(), Vec::new());
        for (_, object) in decoded.objects {
            match object {
                Object::Namespace(namespace) => entries.push(Entry {
                    labels: namespace.labels,
                    ..Entry::new(EntryKind::Namespace, &namespace.name, cluster)
                }),
                Object::Node(node) => {
                    for range in &node.pod_cidrs {
                        self.add_pod_range(cluster, *range);
                    }
                    entries.push(of_node(&node, cluster));
                }
                Object::Pod(pod) if pod.finished => {}
                Object::Pod(pod) => entries.push(of_pod(&pod, cluster)),
                Object::Service(service) => self.add_service(cluster, *service),
                Object::EndpointSlice(slice) => {
                    if is_api_servers(&slice) {
                        api_server.extend(addresses_in(&slice));
                    }
                    self.add_slice(cluster, *slice);
                }
                _ => {}
            }
        }
        for address in api_server {
            mark_api_server(&mut entries, address, cluster);
        }
        let part = |index: usize| {
            let name = entries.get(index).map(|entry| entry.name.as_str()).unwrap_or_default();
            format!("{part}: {name}")
        };
        self.add(&entries, part).map_err(|problem| vec![problem])
    }
}

/// An address of the API server is a node's, or outside the mesh.
fn mark_api_server(entries: &mut Vec<Entry>, address: IpAddr, cluster: &str) {
    let mut nodes = entries.iter_mut().filter(|entry| entry.kind == EntryKind::Node);
    if let Some(node) = nodes.find(|node| node.ips.contains(&address)) {
        node.kube_apiserver = true;
        return;
    }
    let name = format!("{cluster}/kube-apiserver/{address}");
    entries.push(Entry {
        ips: vec![address],
        kube_apiserver: true,
        ..Entry::new(EntryKind::External, &name, cluster)
    });
}

fn of_node(node: &Node, cluster: &str) -> Entry {
    let of_hosts = |kind| matches!(kind, AddressKind::Internal | AddressKind::External);
    let addresses = node.addresses.iter().filter(|address| of_hosts(address.kind));
    Entry {
        ips: addresses.map(|address| address.ip).collect(),
        ..Entry::new(EntryKind::Node, &node.name, cluster)
    }
}

fn of_pod(pod: &Pod, cluster: &str) -> Entry {
    let node = Some(pod.node.to_string()).filter(|node| !node.is_empty());
    let ports = pod.template.named_ports.iter();
    Entry {
        namespace: Some(pod.namespace.to_string()),
        ips: pod.ips.to_vec(),
        labels: pod.template.labels.clone(),
        service_account: Some(pod.template.service_account.clone()).filter(|one| !one.is_empty()),
        ports: ports
            .map(|port| EntryPort::new(&port.name, port.port.number, port.port.protocol))
            .collect(),
        // One that is not scheduled yet is on no network.
        host_network: pod.host_network && node.is_some(),
        node,
        ..Entry::new(EntryKind::Pod, &pod.name, cluster)
    }
}

// === impl Entry ===

impl Entry {
    /// Of a cluster, with nothing but a name.
    pub(crate) fn new(kind: EntryKind, name: &str, cluster: &str) -> Self {
        Self {
            kind,
            name: name.into(),
            cluster: Some(cluster.into()),
            namespace: None,
            node: None,
            ips: Vec::new(),
            ip: None,
            labels: BTreeMap::new(),
            identity_labels: None,
            service_account: None,
            ports: Vec::new(),
            kube_apiserver: false,
            kube_apiserver_of: None,
            host_network: false,
        }
    }
}

// === impl EntryPort ===

impl EntryPort {
    fn new(name: &str, number: u16, protocol: Protocol) -> Self {
        Self { name: name.into(), container_port: number, protocol: protocol.into() }
    }
}
