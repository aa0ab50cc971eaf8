//! Flows to the address of a service are flows to its backends.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use mesh_model::{
    EndpointSlice, Protocol,
    object::{Kind, Object, Service, ServicePort, TargetPort},
    service::{SERVICE_NAME_LABEL, SlicePort},
};
use mesh_policy::{External, Node};
use mesh_source::{decode_object, picks};
use serde_json::Value;

use crate::{
    flow::Asked,
    problem::{Problem, object_name},
    world::{Endpoint, Place, World},
};

/// A service, and where its connections go.
#[derive(Debug)]
pub(crate) struct Found {
    /// `<cluster>/<namespace>/<name>`.
    pub(crate) name: String,
    pub(crate) backends: Vec<Backend>,
}

/// One backend, at the port to which the asked one leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Backend {
    pub(crate) address: IpAddr,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
}

/// The service of a cluster's API server, in namespace `default`.
const API_SERVER: &str = "kubernetes";
/// The widest ranges of services that are guessed: kubeadm's default, and the widest of IPv6 that Kubernetes accepts.
const WIDEST_V4: u8 = 12;
const WIDEST_V6: u8 = 108;
/// Usual lengths of ranges of services.
const USUAL_V4: [u8; 3] = [16, 20, 24];
const USUAL_V6: [u8; 2] = [108, 112];
/// Either makes a service global (`docs/annotations.md`).
const GLOBAL: [&str; 2] = ["service.cilium.io/global", "io.cilium/global-service"];

// === impl World ===

impl World {
    /// Tells policies of the services, once they are all there.
    pub fn link_services(&mut self) {
        self.link_api_servers();
        for ((cluster, ..), service) in &self.services {
            self.mesh.put_service(mesh_policy::Service {
                cluster: cluster.clone(),
                namespace: service.namespace.clone(),
                name: service.name.clone(),
                labels: service.labels.clone(),
                selector: service.selector.clone(),
                backends: addresses(self, cluster, service),
            });
        }
    }

    /// The addresses of `default/kubernetes` are those of a cluster's API server: of nodes, or outside.
    fn link_api_servers(&mut self) {
        let slices = self.slices.iter().filter(|(_, slice)| is_api_servers(slice));
        let found: Vec<(String, IpAddr)> = slices
            .flat_map(|((cluster, ..), slice)| addresses_in(slice).map(|ip| (cluster.clone(), ip)))
            .collect();
        for (cluster, ip) in found {
            let kube_apiserver_of = Some(cluster);
            match self.node_or_pod_at(ip).map(|endpoint| (&endpoint.place, &endpoint.addresses)) {
                Some((Place::Node(of, name), ips)) => {
                    let (cluster, name, ips) = (of.clone(), name.clone(), ips.clone());
                    self.mesh.put_node(Node { cluster, name, ips, kube_apiserver_of });
                }
                Some((Place::Pod(_), _)) => {}
                Some((Place::Address, _)) | None => {
                    self.mesh.put_external(External { ip, kube_apiserver_of });
                }
            }
        }
    }

    /// Adds a Service, an `EndpointSlice` or a `ServiceCIDR` as an API server has it.
    ///
    /// # Errors
    /// When it is neither, or invalid.
    pub fn add_service_object(
        &mut self,
        cluster: &str,
        object: &Value,
        part: &str,
    ) -> Result<(), Problem> {
        let name = object.get("kind").and_then(Value::as_str).unwrap_or_default();
        let kind = match name {
            "Service" => Kind::Service,
            "EndpointSlice" => Kind::EndpointSlice,
            "ServiceCIDR" => return self.add_service_cidr(cluster, object, part),
            _ => {
                let reason = format!("{name:?}: a Service, an EndpointSlice or a ServiceCIDR");
                return Err(Problem::new(object_name(object, part), "kind", reason));
            }
        };
        match decode_object(kind, &object.to_string()) {
            Ok(Object::Service(service)) => self.add_service(cluster, *service),
            Ok(Object::EndpointSlice(slice)) => self.add_slice(cluster, *slice),
            Ok(_) => {}
            Err(error) => {
                let (field, reason) = field_of(&error.reason);
                return Err(Problem::new(object_name(object, part), field, reason));
            }
        }
        Ok(())
    }

    fn add_service_cidr(
        &mut self,
        cluster: &str,
        object: &Value,
        part: &str,
    ) -> Result<(), Problem> {
        let refuse =
            |reason: &str| Problem::new(object_name(object, part), "spec.cidrs", reason.to_owned());
        let ranges = object.pointer("/spec/cidrs").and_then(Value::as_array);
        for range in ranges.ok_or_else(|| refuse("it is missing"))? {
            let range = range.as_str().and_then(|text| text.parse::<IpNet>().ok());
            self.add_service_range(cluster, range.ok_or_else(|| refuse("not a list of ranges"))?);
        }
        Ok(())
    }
}

/// The path with which a reason begins, and the rest.
fn field_of(reason: &str) -> (&str, &str) {
    let is_path =
        |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"./[]-_".contains(&b));
    reason.split_once(": ").filter(|(field, _)| is_path(field)).unwrap_or(("", reason))
}

/// Whether an address is in a range of services, or is one.
pub(crate) fn is_in_range(world: &World, address: IpAddr) -> bool {
    range_of(world, address).is_some()
        || world.services.values().any(|service| service.cluster_ips.contains(&address))
}

/// The cluster and the range of services in which an address is: one that was given, or one around the services of a
/// cluster in which nothing else is.
fn range_of(world: &World, address: IpAddr) -> Option<(String, IpNet)> {
    let mut given = world.service_ranges.iter();
    if let Some(given) = given.find(|(_, range)| range.contains(&address)) {
        return Some(given.clone());
    }
    // Not the clusters that are named: where there is one, it may have no name.
    let clusters: BTreeSet<&String> = world.services.keys().map(|(cluster, ..)| cluster).collect();
    clusters.into_iter().find_map(|cluster| {
        let services = world.services.iter().filter(|((of, ..), _)| of == cluster);
        let all = services.flat_map(|(_, service)| &service.cluster_ips);
        let all: Vec<IpAddr> =
            all.copied().filter(|one| one.is_ipv6() == address.is_ipv6()).collect();
        let mut around = IpNet::from(*all.first()?);
        while !all.iter().all(|one| around.contains(one)) {
            around = around.supernet()?;
        }
        let widest = if address.is_ipv6() { WIDEST_V6 } else { WIDEST_V4 };
        if around.prefix_len() < widest {
            return None;
        }
        let mut guesses = guesses(around).take_while(|range| range.contains(&address));
        guesses.find(|range| is_free(world, range)).map(|range| (cluster.to_owned(), range))
    })
}

/// What may be the range of services that are within a range, the widest first. One service says little of the size, so
/// usual sizes are tried where the addresses are private.
fn guesses(around: IpNet) -> impl Iterator<Item = IpNet> {
    let usual = match around.addr() {
        IpAddr::V4(address) if address.is_private() => USUAL_V4.as_slice(),
        IpAddr::V6(address) if address.is_unique_local() => USUAL_V6.as_slice(),
        IpAddr::V4(_) | IpAddr::V6(_) => &[],
    };
    let wider = usual.iter().filter(move |length| **length < around.prefix_len());
    let wider = wider.filter_map(move |length| IpNet::new(around.addr(), *length).ok());
    wider.map(|range| range.trunc()).chain([around])
}

/// Whether no endpoint is in a range, and no range of pods meets it.
fn is_free(world: &World, range: &IpNet) -> bool {
    let meets = |pods: &IpNet| pods.contains(range) || range.contains(pods);
    !world.pod_ranges.iter().any(meets)
        && !world.endpoints.iter().flat_map(|one| &one.addresses).any(|one| range.contains(one))
}

/// The service at an address, and its backends at the asked port. `None`: the address is no service's.
pub(crate) fn find(
    world: &World,
    address: IpAddr,
    asked: &Asked,
    part: &str,
) -> Result<Option<Found>, Problem> {
    let mut services = world.services.iter();
    let found = services.find(|(_, service)| service.cluster_ips.contains(&address));
    let Some(((cluster, namespace, name), service)) = found else {
        return match range_of(world, address) {
            None => Ok(None),
            Some((cluster, range)) => {
                let reason = format!(
                    "{address} is in {range}, the services of cluster {cluster:?}, but no service has it"
                );
                Err(Problem::new(part, "to", reason))
            }
        };
    };
    let port = port_of(service, asked).ok_or_else(|| {
        let reason = format!("service {namespace}/{name} has no such port");
        Problem::new(part, "port", reason)
    })?;
    let is_global =
        GLOBAL.iter().any(|key| service.annotations.get(*key).is_some_and(|value| value == "true"));
    let of_clusters = world.services.iter().filter(|((other, ..), one)| {
        other == cluster || is_global && one.namespace == *namespace && one.name == *name
    });
    let same = of_clusters.filter(|(_, one)| one.namespace == *namespace && one.name == *name);
    let mut backends: Vec<Backend> = same
        .flat_map(|((cluster, ..), one)| {
            let port = port_of(one, asked).unwrap_or(port);
            backends(world, cluster, one, port)
        })
        .filter(|backend| backend.address.is_ipv6() == address.is_ipv6())
        .collect();
    backends.sort_unstable();
    backends.dedup();
    Ok(Some(Found { name: format!("{cluster}/{namespace}/{name}"), backends }))
}

/// The addresses of a service's backends, whatever their ports.
fn addresses(world: &World, cluster: &str, service: &Service) -> Vec<IpAddr> {
    let ports = service.ports.iter();
    ports.flat_map(|port| backends(world, cluster, service, port)).map(|one| one.address).collect()
}

fn port_of<'a>(service: &'a Service, asked: &Asked) -> Option<&'a ServicePort> {
    service.ports.iter().find(|port| match asked {
        Asked::Port(protocol, number) => port.protocol == *protocol && port.port == *number,
        Asked::Name(protocol, name) => {
            port.name == *name && protocol.is_none_or(|one| one == port.protocol)
        }
        Asked::Icmp(..) => false,
    })
}

fn backends(world: &World, cluster: &str, service: &Service, port: &ServicePort) -> Vec<Backend> {
    let protocol = port.protocol;
    let slices = world.slices.iter().filter(|((of, namespace, _), slice)| {
        of == cluster
            && *namespace == service.namespace
            && slice.labels.get(SERVICE_NAME_LABEL) == Some(&service.name)
    });
    let mut in_slices = Vec::new();
    let mut any_slice = false;
    for (_, slice) in slices {
        any_slice = true;
        let name = Some(port.name.as_str()).filter(|name| !name.is_empty());
        let numbers = slice.ports.iter().filter(|one| {
            one.name.as_deref().filter(|name| !name.is_empty()) == name
                && one.protocol.as_deref().unwrap_or("TCP") == protocol.as_str()
        });
        let number = |one: &SlicePort| u16::try_from(one.number?).ok();
        let numbers: Vec<u16> = numbers.filter_map(number).collect();
        let ready = slice.endpoints.iter().filter(|one| one.ready != Some(false));
        for address in ready.flat_map(|one| &one.addresses) {
            let Ok(address) = address.parse::<IpAddr>() else { continue };
            in_slices.extend(numbers.iter().map(|port| Backend { address, protocol, port: *port }));
        }
    }
    if any_slice {
        return in_slices;
    }
    let selected = world.endpoints.iter().filter(|one| {
        one.cluster() == Some(cluster) && one.pod.as_ref().is_some_and(|pod| picks(service, pod))
    });
    selected.flat_map(|one| of_pod(one, port)).collect()
}

fn of_pod(endpoint: &Endpoint, port: &ServicePort) -> Vec<Backend> {
    let protocol = port.protocol;
    let number = match &port.target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(name) => endpoint.pod.as_ref().and_then(|pod| {
            let mut ports = pod.template.named_ports.iter();
            let named = ports.find(|one| one.name == *name && one.port.protocol == protocol);
            named.map(|one| one.port.number)
        }),
    };
    let Some(port) = number else { return Vec::new() };
    let addresses = endpoint.addresses.iter();
    addresses.map(|address| Backend { address: *address, protocol, port }).collect()
}

/// Whether a slice is of a cluster's API server.
pub(crate) fn is_api_servers(slice: &EndpointSlice) -> bool {
    slice.namespace == "default"
        && slice.labels.get(SERVICE_NAME_LABEL).is_some_and(|name| name == API_SERVER)
}

/// The addresses in a slice.
pub(crate) fn addresses_in(slice: &EndpointSlice) -> impl Iterator<Item = IpAddr> + '_ {
    slice.endpoints.iter().flat_map(|one| &one.addresses).filter_map(|text| text.parse().ok())
}

#[cfg(test)]
mod tests {
    use mesh_labels::LabelFilter;
    use mesh_policy::{End, Options, PodName, Traffic};
    use mesh_policy_rules::parse;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_mesh_knows_the_node_of_an_api_server_by_all_its_addresses() {
        // As `kubectl` prints them: pods, also those on a node's network, before nodes.
        let entries = json!([
            { "kind": "pod", "namespace": "shop", "name": "web", "ips": ["10.1.0.1"] },
            { "kind": "pod", "namespace": "kube-system", "name": "api", "node": "n1", "ips": ["172.31.0.1"], "hostNetwork": true },
            { "kind": "node", "name": "n1", "ips": ["172.31.0.1", "203.0.113.1"] },
        ]);
        let entries: Vec<crate::Entry> = serde_json::from_value(entries).unwrap();
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": { "namespace": "default", "name": "kubernetes", "labels": { "kubernetes.io/service-name": "kubernetes" } },
            "endpoints": [{ "addresses": ["172.31.0.1"] }],
        });
        let policy = json!({
            "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": { "namespace": "shop", "name": "api" },
            "spec": { "endpointSelector": {}, "egress": [{ "toEntities": ["kube-apiserver"] }] },
        });
        let mut world = World::new(Options::default(), LabelFilter::new([]).unwrap());
        world.add(&entries, |index| index.to_string()).unwrap();
        world.add_service_object("default", &slice, "slice").unwrap();
        world.link_services();
        world.put_policy("default", parse(&policy, &world.filter).unwrap().policy.unwrap());
        let web =
            PodName { cluster: "default".into(), namespace: "shop".into(), name: "web".into() };
        for (address, passes) in
            [("172.31.0.1", true), ("203.0.113.1", true), ("203.0.113.2", false)]
        {
            let to = End::Address(address.parse().unwrap());
            let answer = world.mesh.judge(
                &End::Pod(web.clone(), None),
                &to,
                Traffic::Port(Protocol::Tcp, 6443),
            );
            assert_eq!(answer.egress.passes(), passes, "{address}: {answer:?}");
        }
    }
}
