//! What a node's kernel should hold, computed from manifests alone.
//!
//! At each of its addresses, a service leads to all ready pods of that address family that it selects. A global service
//! also leads to the pods that shared services of the same name select in the clusters that its cluster follows. Ports
//! are matched by name; a port without a name matches every name. Pods that shut down are used if none is ready. [`client`]
//! has the services that ask for backends near their clients.
//!
//! The daemons are checked against this, so it shares only their decoding of manifests.

mod client;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    fs, io, iter,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use mesh_dump::{Destination, Services};
use mesh_model::{
    AddressKind, EndpointSlice, Protocol,
    object::{Node, Object, ObjectKey, Pod, Service, ServicePort, TargetPort, TrafficDistribution},
    service::{HEADLESS_LABEL, SERVICE_NAME_LABEL},
};
use mesh_source::{Format, decode};

use client::Client;

/// What a cluster's manifests hold.
#[derive(Debug, Default)]
pub(crate) struct Manifests {
    objects: BTreeMap<ObjectKey, Object>,
}

/// The ports of the pods behind a service, in one cluster.
type Offer = BTreeSet<Served>;

/// A port of a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Served {
    /// The port's name, or empty.
    name: String,
    /// Its protocol's number.
    protocol: u8,
    address: SocketAddr,
    location: Location,
}

/// Where a pod is, and for whom.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Location {
    /// Its node; empty where it is not known.
    node: String,
    /// It shuts down.
    terminating: bool,
    /// The nodes whose clients should prefer it.
    for_nodes: Vec<String>,
    /// The zones whose clients should.
    for_zones: Vec<String>,
}

/// The protocols that are balanced, with their IP protocol numbers.
const BALANCED: [(Protocol, u8); 2] = [(Protocol::Tcp, 6), (Protocol::Udp, 17)];

impl Manifests {
    /// Reads all manifests in a folder. Skips what cannot be decoded: the daemons report that.
    pub(crate) fn read(folder: &Path) -> io::Result<Self> {
        let mut files = BTreeSet::new();
        list(folder, &mut files)?;
        let mut objects = BTreeMap::new();
        for file in files {
            let text = match fs::read_to_string(&file) {
                Ok(text) => text,
                // Removed since the folder was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let json = file.extension().is_some_and(|extension| extension == "json");
            let decoded = decode(if json { Format::Json } else { Format::Yaml }, &text);
            for (_, object) in decoded.objects {
                objects.entry(object.key()).or_insert(object);
            }
        }
        Ok(Self { objects })
    }

    /// The services that the cluster's nodes serve: no external names, and none that is left to another proxy.
    fn served(&self) -> impl Iterator<Item = &Service> {
        let services = self.objects.values().filter_map(|object| match object {
            Object::Service(service) => Some(&**service),
            _ => None,
        });
        services.filter(|service| {
            let proxy = service.labels.contains_key("service.kubernetes.io/service-proxy-name");
            !service.external_name && !proxy
        })
    }

    /// Whether a service is merged with those of the same name in other clusters.
    fn takes_part(&self, service: &Service) -> bool {
        is_global(service) && self.is_global(&service.namespace)
    }

    /// A namespace is global unless its annotation is `false`. If the manifests have any namespace, one without an object is
    /// not global.
    fn is_global(&self, namespace: &str) -> bool {
        let objects = self.objects.values().filter_map(|object| match object {
            Object::Namespace(found) => Some(&**found),
            _ => None,
        });
        let mut objects = objects.peekable();
        let none = objects.peek().is_none();
        let found = objects.find(|found| found.name == namespace);
        found.map_or(none, |found| {
            let word = found.annotations.get("clustermesh.cilium.io/global");
            !word.is_some_and(|word| word.eq_ignore_ascii_case("false"))
        })
    }

    /// The backends that the cluster shares under a service's name.
    fn offer(&self, namespace: &str, name: &str) -> Offer {
        let shared = |service: &&Service| self.takes_part(service) && is_shared(service);
        let mut shared = self.served().filter(shared);
        let found = shared.find(|service| service.namespace == namespace && service.name == name);
        found.map(|service| self.backends(service)).unwrap_or_default()
    }

    /// The backends of a service: those in its slices, or else the ready pods that it selects.
    fn backends(&self, service: &Service) -> Offer {
        let slices = self.objects.values().filter_map(|object| match object {
            Object::EndpointSlice(slice) if is_of(slice, service) => Some(&**slice),
            _ => None,
        });
        let given: Vec<&EndpointSlice> = slices.collect();
        if !given.is_empty() {
            return given.into_iter().flat_map(in_slice).collect();
        }
        let pods = self.objects.values().filter_map(|object| match object {
            Object::Pod(pod) => Some(&**pod),
            _ => None,
        });
        let pods = pods.filter(|pod| is_serving(service, pod));
        pods.flat_map(|pod| in_pod(service, pod, self.zone(&pod.node))).collect()
    }

    /// What a service of the cluster selects, for the cluster's clients: they know on which node an address is.
    fn local_backends(&self, service: &Service) -> Offer {
        let on_its_node = |mut served: Served| {
            if served.location.node.is_empty() {
                served.location.node = self.node_having(served.address.ip()).unwrap_or_default();
            }
            served
        };
        self.backends(service).into_iter().map(on_its_node).collect()
    }

    fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.objects.values().filter_map(|object| match object {
            Object::Node(node) => Some(&**node),
            _ => None,
        })
    }

    /// The zone of a node, if it is in one.
    fn zone(&self, node: &str) -> Option<&str> {
        let node = self.nodes().find(|found| found.name == node)?;
        let zone = node.labels.get("topology.kubernetes.io/zone")?;
        Some(zone.as_str()).filter(|zone| !zone.is_empty())
    }

    /// The node that has an address, itself or in the longest of the pod ranges around it.
    fn node_having(&self, address: IpAddr) -> Option<String> {
        let closeness = |node: &Node| {
            let mut internal = node.addresses.iter().filter(|a| a.kind == AddressKind::Internal);
            let itself = internal.any(|a| a.ip == address);
            let ranges = node.pod_cidrs.iter().filter(|range| range.contains(&address));
            ranges.map(|range| range.prefix_len()).chain(itself.then_some(u8::MAX)).max()
        };
        let nodes = self.nodes().filter_map(|node| Some((closeness(node)?, node)));
        nodes.min_by_key(|(closeness, _)| Reverse(*closeness)).map(|(_, node)| node.name.clone())
    }
}

/// What the kernel of a node should hold. `local` is the node's cluster, `followed` are the clusters that it follows,
/// each with its ID and manifests.
pub(crate) fn expected(
    local: (u16, &Manifests),
    followed: &[(u16, &Manifests)],
    node: &str,
) -> Services {
    let client = Client { cluster: local.0, node, zone: local.1.zone(node) };
    let mut services = Services::new();
    for service in local.1.served() {
        let others = followed.iter().filter(|_| local.1.takes_part(service));
        let others = others.map(|(number, manifests)| {
            (*number, manifests.offer(&service.namespace, &service.name))
        });
        let mine = iter::once((local.0, local.1.local_backends(service)));
        let offers: Vec<(u16, Offer)> = mine.chain(others).collect();
        for (ip, port) in frontends(service)
            .iter()
            .flat_map(|ip| service.ports.iter().map(move |port| (ip, port)))
        {
            let Some(protocol) = balanced(port.protocol) else { continue };
            let pool = offers.iter().flat_map(|(cluster, offer)| {
                let leading = offer.iter().filter(|served| {
                    served.protocol == protocol
                        && served.address.is_ipv4() == ip.is_ipv4()
                        && meets(&port.name, served, offer)
                });
                leading.map(|served| (*cluster, served))
            });
            let reached = client.reached(service, pool.collect()).into_iter();
            let reached =
                reached.map(|(cluster, served)| Destination { address: served.address, cluster });
            services.insert((SocketAddr::new(*ip, port.port), protocol), reached.collect());
        }
    }
    services
}

/// Whether a service port named `name` leads to a served port. A served port has no name if no entry with the same
/// protocol and address has one.
fn meets(name: &str, served: &Served, offer: &Offer) -> bool {
    let port = |served: &Served| (served.protocol, served.address);
    let mut same = offer.iter().filter(|other| port(other) == port(served));
    name == served.name || name.is_empty() || same.all(|other| other.name.is_empty())
}

fn balanced(protocol: Protocol) -> Option<u8> {
    BALANCED.iter().find(|(known, _)| *known == protocol).map(|(_, number)| *number)
}

/// The value of the first of two annotations that is set.
fn word<'a>(service: &'a Service, names: [&str; 2]) -> Option<&'a String> {
    names.iter().find_map(|name| service.annotations.get(*name))
}

fn is_global(service: &Service) -> bool {
    let global = word(service, ["service.cilium.io/global", "io.cilium/global-service"]);
    global.is_some_and(|word| word.eq_ignore_ascii_case("true"))
}

fn is_shared(service: &Service) -> bool {
    let shared = word(service, ["service.cilium.io/shared", "io.cilium/shared-service"]);
    shared.is_none_or(|word| word.eq_ignore_ascii_case("true"))
}

fn frontends(service: &Service) -> &[IpAddr] {
    if service.headless || service.labels.contains_key(HEADLESS_LABEL) {
        &[]
    } else {
        &service.cluster_ips
    }
}

/// Whether a pod is one of a service's, and takes connections; it may do so while it shuts down.
fn is_serving(service: &Service, pod: &Pod) -> bool {
    let selected = |(key, value): (&String, &String)| pod.template.labels.get(key) == Some(value);
    *pod.namespace == *service.namespace
        && !pod.finished
        && (pod.ready || service.publish_not_ready_addresses)
        && !service.selector.is_empty()
        && service.selector.iter().all(selected)
}

/// A pod answers at its first address of each family that its service has. A service that asks for near pods has each of its
/// pods meant for clients of the pod's zone, and some services for those of the pod's node.
fn in_pod(service: &Service, pod: &Pod, zone: Option<&str>) -> Offer {
    let has =
        |v4: bool| service.headless || service.cluster_ips.iter().any(|ip| ip.is_ipv4() == v4);
    let of = |v4: bool| pod.ips.iter().find(move |ip| ip.is_ipv4() == v4);
    let asked = service.traffic_distribution;
    let zones = zone.filter(|_| asked.is_some());
    let is_for_node = asked == Some(TrafficDistribution::SameNode) && !pod.node.is_empty();
    let location = Location {
        node: pod.node.to_string(),
        terminating: pod.terminating && !service.publish_not_ready_addresses,
        for_nodes: is_for_node.then(|| pod.node.to_string()).into_iter().collect(),
        for_zones: zones.map(str::to_owned).into_iter().collect(),
    };
    let ips = [true, false].into_iter().filter(|v4| has(*v4)).filter_map(of);
    let mut offer = Offer::new();
    for (ip, port) in ips.flat_map(|ip| service.ports.iter().map(move |port| (ip, port))) {
        if let (Some(number), Some(protocol)) = (target(port, pod), balanced(port.protocol)) {
            let address = SocketAddr::new(*ip, number);
            offer.insert(Served {
                name: port.name.clone(),
                protocol,
                address,
                location: location.clone(),
            });
        }
    }
    offer
}

fn target(port: &ServicePort, pod: &Pod) -> Option<u16> {
    match &port.target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(name) => {
            let mut named = pod.template.named_ports.iter();
            let named = named.find(|p| p.name == *name && p.port.protocol == port.protocol);
            named.map(|named| named.port.number)
        }
    }
}

fn is_of(slice: &EndpointSlice, service: &Service) -> bool {
    slice.namespace == service.namespace
        && slice.labels.get(SERVICE_NAME_LABEL) == Some(&service.name)
}

fn in_slice(slice: &EndpointSlice) -> Offer {
    let endpoints = slice.endpoints.iter().filter_map(|endpoint| {
        let ready = endpoint.ready.unwrap_or(true);
        let leaves = endpoint.terminating.unwrap_or(false) && endpoint.serving.unwrap_or(true);
        let location = Location {
            node: endpoint.node.clone().unwrap_or_default(),
            terminating: !ready,
            for_nodes: endpoint.for_nodes.clone(),
            for_zones: endpoint.for_zones.clone(),
        };
        (ready || leaves).then_some((endpoint, location))
    });
    let ips = endpoints.flat_map(|(endpoint, location)| {
        let ips = endpoint.addresses.iter().filter_map(|text| text.parse().ok());
        ips.map(move |ip: IpAddr| (ip, location.clone()))
    });
    let ips: Vec<(IpAddr, Location)> = ips.collect();
    let mut offer = Offer::new();
    for port in &slice.ports {
        let protocol = port.protocol.as_deref().unwrap_or(Protocol::Tcp.as_str()).parse().ok();
        let number = port.number.and_then(|number| u16::try_from(number).ok());
        let (Some(protocol), Some(number)) = (protocol.and_then(balanced), number) else {
            continue;
        };
        let name = port.name.clone().unwrap_or_default();
        offer.extend(ips.iter().map(|(ip, location)| Served {
            name: name.clone(),
            protocol,
            address: SocketAddr::new(*ip, number),
            location: location.clone(),
        }));
    }
    offer
}

fn list(folder: &Path, found: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        if path.is_dir() {
            list(&path, found)?;
        } else if path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json") {
            found.insert(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
