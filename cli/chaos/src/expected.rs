//! What a node's kernel should hold, worked out from manifests alone.
//!
//! The rule, in one sentence: a service leads, at each of its addresses, to all ready pods of that family that it selects,
//! and if it is global to those that the services of its name select in the clusters that it follows and that share theirs,
//! port name by port name; where only one of two ports has a name they meet too. A service of which connections stay on their
//! node leads to that node's own.
//! It judges the daemons, so it shares their decoding of manifests and nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use mesh_dump::{Destination, Services};
use mesh_model::{
    EndpointSlice, Protocol,
    object::{Object, ObjectKey, Pod, Service, ServicePort, TargetPort},
    service::{HEADLESS_LABEL, SERVICE_NAME_LABEL},
};
use mesh_source::{Format, decode};

/// What a cluster's manifests hold.
#[derive(Debug, Default)]
pub(crate) struct Manifests {
    objects: BTreeMap<ObjectKey, Object>,
}

/// A service's pods as its cluster offers them.
type Offer = BTreeSet<Served>;

/// A port's name and protocol, where it is served, and on which node; that is empty where it is not known.
type Served = (String, u8, SocketAddr, String);

/// IP protocol numbers of what is balanced.
const BALANCED: [(Protocol, u8); 2] = [(Protocol::Tcp, 6), (Protocol::Udp, 17)];

impl Manifests {
    /// Reads a folder. What a file holds that cannot be decoded is not there: the daemons say what is wrong with it.
    pub(crate) fn read(folder: &Path) -> io::Result<Self> {
        let mut files = BTreeSet::new();
        list(folder, &mut files)?;
        let mut objects = BTreeMap::new();
        for file in files {
            let text = match fs::read_to_string(&file) {
                Ok(text) => text,
                // Gone since it was listed.
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

    /// The services that the cluster's nodes serve, by namespace and name.
    fn served(&self) -> impl Iterator<Item = &Service> {
        let services = self.objects.values().filter_map(|object| match object {
            Object::Service(service) => Some(service),
            _ => None,
        });
        services.filter(|service| {
            let proxy = service.labels.contains_key("service.kubernetes.io/service-proxy-name");
            !service.external_name && !proxy
        })
    }

    /// Whether a service is one with those of its name in other clusters.
    fn takes_part(&self, service: &Service) -> bool {
        is_global(service) && self.is_global(&service.namespace)
    }

    /// A namespace takes part that says so, or says nothing. One without an object does where no namespace has one.
    fn is_global(&self, namespace: &str) -> bool {
        let objects = self.objects.values().filter_map(|object| match object {
            Object::Namespace(found) => Some(found),
            _ => None,
        });
        let mut objects = objects.peekable();
        let none = objects.peek().is_none();
        let found = objects.find(|found| found.name == namespace);
        found.map_or(none, |found| {
            let word = found.annotations.get("clustermesh.cilium.io/global");
            word.is_none_or(|word| word.eq_ignore_ascii_case("true"))
        })
    }

    /// What the cluster offers under a service's name.
    fn offer(&self, namespace: &str, name: &str) -> Offer {
        let shared = |service: &&Service| self.takes_part(service) && is_shared(service);
        let mut shared = self.served().filter(shared);
        let found = shared.find(|service| service.namespace == namespace && service.name == name);
        found.map(|service| self.backends(service)).unwrap_or_default()
    }

    /// What a service selects.
    fn backends(&self, service: &Service) -> Offer {
        let slices = self.objects.values().filter_map(|object| match object {
            Object::EndpointSlice(slice) if is_of(slice, service) => Some(slice),
            _ => None,
        });
        let given: Vec<&EndpointSlice> = slices.collect();
        if !given.is_empty() {
            return given.into_iter().flat_map(in_slice).collect();
        }
        let pods = self.objects.values().filter_map(|object| match object {
            Object::Pod(pod) => Some(pod),
            _ => None,
        });
        pods.filter(|pod| is_ready(service, pod)).flat_map(|pod| in_pod(service, pod)).collect()
    }
}

/// What the kernel of a cluster's node should hold: `local` with its ID and manifests, and those of all clusters
/// that it follows.
pub(crate) fn expected(
    local: (u16, &Manifests),
    followed: &[(u16, &Manifests)],
    node: &str,
) -> Services {
    let mut services = Services::new();
    for service in local.1.served() {
        let stays = service.internal_traffic_local;
        let others = followed.iter().filter(|_| !stays && local.1.takes_part(service));
        let others = others.map(|(number, manifests)| {
            (*number, manifests.offer(&service.namespace, &service.name))
        });
        let mut of_local = local.1.backends(service);
        of_local.retain(|(.., on)| !stays || on == node);
        let mine = std::iter::once((local.0, of_local));
        let offers: Vec<(u16, Offer)> = mine.chain(others).collect();
        for (ip, port) in frontends(service)
            .iter()
            .flat_map(|ip| service.ports.iter().map(move |port| (ip, port)))
        {
            let Some(protocol) = balanced(port.protocol) else { continue };
            let destinations = offers.iter().flat_map(|(cluster, offer)| {
                let leading = offer.iter().filter(|served| {
                    let (_, of, address, _) = served;
                    *of == protocol
                        && address.is_ipv4() == ip.is_ipv4()
                        && meets(&port.name, served, offer)
                });
                leading.map(|(.., address, _)| Destination { address: *address, cluster: *cluster })
            });
            let frontend = (SocketAddr::new(*ip, port.port), protocol);
            services.insert(frontend, destinations.collect());
        }
    }
    services
}

/// Whether a port of a service leads to one that is served. One has no name if no other entry gives it one.
fn meets(name: &str, served: &Served, offer: &Offer) -> bool {
    let (of, protocol, address, _) = served;
    let mut same = offer.iter().filter(|(_, p, a, _)| (p, a) == (protocol, address));
    name == of || name.is_empty() || same.all(|(of, ..)| of.is_empty())
}

fn balanced(protocol: Protocol) -> Option<u8> {
    BALANCED.iter().find(|(known, _)| *known == protocol).map(|(_, number)| *number)
}

/// The first of two annotations that is there.
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

fn is_ready(service: &Service, pod: &Pod) -> bool {
    let selected = |(key, value): (&String, &String)| pod.labels.get(key) == Some(value);
    pod.namespace == service.namespace
        && !pod.finished
        && (pod.ready || service.publish_not_ready_addresses)
        && !service.selector.is_empty()
        && service.selector.iter().all(selected)
}

/// A pod answers at its first address of each family that its service has.
fn in_pod(service: &Service, pod: &Pod) -> Offer {
    let has =
        |v4: bool| service.headless || service.cluster_ips.iter().any(|ip| ip.is_ipv4() == v4);
    let of = |v4: bool| pod.ips.iter().find(move |ip| ip.is_ipv4() == v4);
    let ips = [true, false].into_iter().filter(|v4| has(*v4)).filter_map(of);
    let mut offer = Offer::new();
    for (ip, port) in ips.flat_map(|ip| service.ports.iter().map(move |port| (ip, port))) {
        if let (Some(number), Some(protocol)) = (target(port, pod), balanced(port.protocol)) {
            let address = SocketAddr::new(*ip, number);
            offer.insert((port.name.clone(), protocol, address, pod.node.clone()));
        }
    }
    offer
}

fn target(port: &ServicePort, pod: &Pod) -> Option<u16> {
    match &port.target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(name) => {
            let mut named = pod.named_ports.iter();
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
    let endpoints = slice
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.ready.unwrap_or(true) || endpoint.serving.unwrap_or(true));
    let ips = endpoints.flat_map(|endpoint| {
        let ips = endpoint.addresses.iter().filter_map(|text| text.parse().ok());
        ips.map(|ip: IpAddr| (ip, endpoint.node.clone().unwrap_or_default()))
    });
    let ips: Vec<(IpAddr, String)> = ips.collect();
    let mut offer = Offer::new();
    for port in &slice.ports {
        let protocol = port.protocol.as_deref().unwrap_or(Protocol::Tcp.as_str()).parse().ok();
        let number = port.number.and_then(|number| u16::try_from(number).ok());
        let (Some(protocol), Some(number)) = (protocol.and_then(balanced), number) else {
            continue;
        };
        let name = port.name.clone().unwrap_or_default();
        offer.extend(ips.iter().map(|(ip, node)| {
            (name.clone(), protocol, SocketAddr::new(*ip, number), node.clone())
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
mod tests {
    use super::*;

    const ECHO: &str = r#"
apiVersion: v1
kind: Service
metadata: { name: echo, namespace: shop, annotations: { service.cilium.io/global: "true" } }
spec:
  clusterIP: 10.101.0.10
  clusterIPs: [10.101.0.10, "fd00:100:1::a"]
  selector: { app: echo }
  ports:
    - { name: http, port: 80, targetPort: web }
    - { name: dns, port: 53, protocol: UDP }
"#;

    fn pod(name: &str, ips: [&str; 2], ready: &str) -> String {
        format!(
            r#"
---
apiVersion: v1
kind: Pod
metadata: {{ name: {name}, namespace: shop, labels: {{ app: echo }} }}
spec: {{ nodeName: n1, containers: [{{ name: c, ports: [{{ name: web, containerPort: 8080 }}] }}] }}
status:
  phase: Running
  podIP: "{0}"
  podIPs: [{{ ip: "{0}" }}, {{ ip: "{1}" }}]
  conditions: [{{ type: Ready, status: "{ready}" }}]
"#,
            ips[0], ips[1]
        )
    }

    fn manifests(text: &str) -> Manifests {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("all.yaml"), text).unwrap();
        fs::write(folder.path().join(".swp.yaml"), "no: [manifest").unwrap();
        Manifests::read(folder.path()).unwrap()
    }

    fn shown(services: &Services) -> Vec<String> {
        let line =
            |((frontend, protocol), destinations): (&(SocketAddr, u8), &BTreeSet<Destination>)| {
                let to = destinations.iter().map(|d| format!("{}@{}", d.address, d.cluster));
                format!("{frontend}/{protocol}: {}", to.collect::<Vec<_>>().join(" "))
            };
        services.iter().map(line).collect()
    }

    #[test]
    fn pods_of_all_clusters_by_port_name_and_family() {
        let local =
            manifests(&(ECHO.to_owned() + &pod("p", ["10.1.1.2", "fd00:10:1:1::2"], "True")));
        let other = ECHO.replace("10.101", "10.102").replace("::a", "::b");
        let other = other + &pod("p", ["10.2.1.2", "fd00:10:2:1::2"], "True");
        let other = manifests(&(other + &pod("q", ["10.2.1.3", "fd00:10:2:1::3"], "False")));
        assert_eq!(
            shown(&expected((1, &local), &[(2, &other)], "n1")),
            [
                "10.101.0.10:53/17: 10.1.1.2:53@1 10.2.1.2:53@2",
                "10.101.0.10:80/6: 10.1.1.2:8080@1 10.2.1.2:8080@2",
                "[fd00:100:1::a]:53/17: [fd00:10:1:1::2]:53@1 [fd00:10:2:1::2]:53@2",
                "[fd00:100:1::a]:80/6: [fd00:10:1:1::2]:8080@1 [fd00:10:2:1::2]:8080@2",
            ]
        );
        assert_eq!(shown(&expected((1, &local), &[], "n1"))[0], "10.101.0.10:53/17: 10.1.1.2:53@1");
    }

    #[test]
    fn connections_that_stay_on_their_node_lead_to_it_alone() {
        let stays = ECHO.replace("spec:\n", "spec:\n  internalTrafficPolicy: Local\n");
        let here = pod("p", ["10.1.1.2", "fd00:10:1:1::2"], "True");
        let there = pod("q", ["10.1.2.2", "fd00:10:1:2::2"], "True").replace("n1", "n2");
        let local = manifests(&(stays + &here + &there));
        let other = ECHO.replace("10.101", "10.102").replace("::a", "::b");
        let other = manifests(&(other + &pod("p", ["10.2.1.2", "fd00:10:2:1::2"], "True")));
        for (node, address) in [("n1", "10.1.1.2"), ("n2", "10.1.2.2"), ("n3", "")] {
            let found = shown(&expected((1, &local), &[(2, &other)], node));
            let to = if address.is_empty() { "".into() } else { format!("{address}:8080@1") };
            assert_eq!(found[1], format!("10.101.0.10:80/6: {to}"), "{node}");
        }
    }

    #[test]
    fn a_port_without_a_name_meets_any() {
        let one_port = |name: &str| {
            format!(
                r#"
apiVersion: v1
kind: Service
metadata: {{ name: echo, namespace: shop, annotations: {{ service.cilium.io/global: "true" }} }}
spec: {{ clusterIP: 10.101.0.10, ports: [{{ {name}port: 80 }}] }}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{ name: echo, namespace: shop, labels: {{ kubernetes.io/service-name: echo }} }}
addressType: IPv4
endpoints: [{{ addresses: [10.2.1.2] }}]
ports: [{{ {name}port: 8080 }}]
"#
            )
        };
        let [named, other, unnamed] =
            ["name: http, ", "name: web, ", ""].map(|name| manifests(&one_port(name)));
        for (local, theirs, meet) in [
            (&named, &named, true),
            (&named, &unnamed, true),
            (&unnamed, &named, true),
            (&unnamed, &unnamed, true),
            (&named, &other, false),
        ] {
            let found = expected((1, local), &[(2, theirs)], "n1");
            let theirs = found.values().flatten().filter(|to| to.cluster == 2).count();
            assert_eq!(theirs == 1, meet, "{found:?}");
        }
        // It has a name, if not the one that is looked for.
        let twice = one_port("name: web, ").replace(
            "ports: [{ name: web, port: 8080 }]",
            "ports: [{ name: web, port: 8080 }, { name: '', port: 8080 }]",
        );
        let found = expected((1, &named), &[(2, &manifests(&twice))], "n1");
        assert!(found.values().flatten().all(|to| to.cluster == 1), "{found:?}");
    }

    #[test]
    fn what_is_withheld_is_its_own_clusters_alone() {
        let shares = manifests(ECHO);
        let namespace = |global: &str| {
            format!(
                "\n---\napiVersion: v1\nkind: Namespace\nmetadata: {{ name: shop, annotations: {{ clustermesh.cilium.io/global: \"{global}\" }} }}\n"
            )
        };
        for text in [
            ECHO.replace("service.cilium.io/global: \"true\"", "a: b"),
            ECHO.replace(
                "global: \"true\"",
                "global: \"true\", service.cilium.io/shared: \"false\"",
            ),
            ECHO.to_owned() + &namespace("false"),
            ECHO.to_owned() + &namespace("flase"),
        ] {
            let text = text + &pod("p", ["10.1.1.2", "fd00:10:1:1::2"], "True");
            let withholds = manifests(&text);
            let local = expected((1, &withholds), &[(2, &shares)], "n1");
            let is_local = |to: &BTreeSet<Destination>| to.iter().all(|to| to.cluster == 1);
            assert!(
                local.len() == 4 && local.values().all(|to| to.len() == 1 && is_local(to)),
                "{text}"
            );
            let offered = expected((2, &shares), &[(1, &withholds)], "n1");
            assert!(offered.len() == 4 && offered.values().all(BTreeSet::is_empty), "{text}");
        }
    }
}
