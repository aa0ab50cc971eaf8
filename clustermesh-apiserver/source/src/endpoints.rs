//! Makes endpoint slices from the pods that a service selects, as the kube-controller-manager does.
//!
//! The slice of an endpoint depends on the hash of its pod's name, and not on its position in a list. So every replica
//! makes the same slices, and a pod that is added or removed changes only one slice.

use std::collections::BTreeMap;

use mesh_model::{
    EndpointSlice, SliceEndpoint,
    node::ZONE_LABEL,
    object::{IpFamily, Node, Pod, Service, ServicePort, TargetPort, TrafficDistribution},
    service::{HEADLESS_LABEL, SERVICE_NAME_LABEL, SlicePort},
};
use sha2::{Digest as _, Sha256};

/// What all endpoints of a slice have in common: the address family and the ports.
type Sort = (IpFamily, Vec<SlicePort>);

/// An endpoint with the hash of its pod's name.
type Placed = (u64, SliceEndpoint);

/// The maximum number of endpoints in a slice, as in the kube-controller-manager.
const MAX_ENDPOINTS: usize = 100;

/// The slices of a service. Pods that it does not select are ignored. Each address family and each set of port numbers has
/// its own slices, because a named target port may have a different number in each pod.
pub(crate) fn slices<'a>(
    service: &Service,
    pods: impl Iterator<Item = &'a Pod>,
    nodes: &BTreeMap<&str, &Node>,
) -> Vec<EndpointSlice> {
    if service.selector.is_empty() || service.external_name {
        return Vec::new();
    }
    let families = families(service);
    let mut by_sort = BTreeMap::<Sort, Vec<Placed>>::new();
    let mut selected: Vec<&Pod> = pods.filter(|pod| selects(service, pod)).collect();
    selected.sort_by_key(|pod| &pod.name);
    for pod in selected {
        let place = number(pod.name.as_bytes());
        for family in &families {
            // A pod has one endpoint for each family, at its first address of that family.
            let of_family = |ip: &&std::net::IpAddr| ip.is_ipv4() == (*family == IpFamily::V4);
            let Some(ip) = pod.ips.iter().find(of_family) else { continue };
            let ports: Vec<SlicePort> =
                service.ports.iter().filter_map(|port| resolve(port, pod)).collect();
            let node = nodes.get(&*pod.node).copied();
            let endpoint = endpoint(service, pod, node, *ip);
            by_sort.entry((*family, ports)).or_default().push((place, endpoint));
        }
    }
    let mut slices = Vec::new();
    for (sort, endpoints) in by_sort {
        let name = format!("{}-{:08x}", service.name, number(sort_text(&sort).as_bytes()) >> 32);
        divide(service, &sort, name, 0, endpoints, &mut slices);
    }
    slices
}

/// The address families of a service's endpoints: those of its cluster IPs, or the `ipFamilies` of a headless service.
fn families(service: &Service) -> Vec<IpFamily> {
    let both = [IpFamily::V4, IpFamily::V6];
    let has = |family: &IpFamily| match service.headless {
        true => service.ip_families.is_empty() || service.ip_families.contains(family),
        false => service.cluster_ips.iter().any(|ip| ip.is_ipv4() == (*family == IpFamily::V4)),
    };
    both.into_iter().filter(has).collect()
}

/// Makes one slice if the endpoints fit into it. Else splits them by a bit of their hash, which is appended to the names of
/// the slices, and divides each half again.
fn divide(
    service: &Service,
    sort: &Sort,
    name: String,
    bit: u32,
    endpoints: Vec<Placed>,
    slices: &mut Vec<EndpointSlice>,
) {
    if endpoints.len() <= MAX_ENDPOINTS || bit == u64::BITS {
        let endpoints = endpoints.into_iter().map(|(_, endpoint)| endpoint).collect();
        slices.push(slice(service, sort, name, endpoints));
        return;
    }
    let is_one = |place: u64| place.rotate_left(bit + 1) & 1 == 1;
    let (ones, zeros): (Vec<_>, Vec<_>) =
        endpoints.into_iter().partition(|(place, _)| is_one(*place));
    let separator = if bit == 0 { "-" } else { "" };
    for (digit, half) in [(0, zeros), (1, ones)] {
        if !half.is_empty() {
            let name = format!("{name}{separator}{digit}");
            divide(service, sort, name, bit + 1, half, slices);
        }
    }
}

/// A hash of a text that is the same in every build.
fn number(text: &[u8]) -> u64 {
    let digest = Sha256::digest(text);
    digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn sort_text((family, ports): &Sort) -> String {
    let port = |port: &SlicePort| {
        let SlicePort { name, protocol, number, app_protocol: _ } = port;
        let [name, protocol] = [name, protocol].map(|text| text.as_deref().unwrap_or_default());
        format!("{name}/{protocol}/{}", number.unwrap_or_default())
    };
    let ports: Vec<String> = ports.iter().map(port).collect();
    format!("{} {}", address_type(*family), ports.join(" "))
}

fn address_type(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "IPv4",
        IpFamily::V6 => "IPv6",
    }
}

/// Whether a service's selector picks a pod, whatever the pod's state. Without a selector it picks none.
pub fn picks(service: &Service, pod: &Pod) -> bool {
    !service.selector.is_empty()
        && *pod.namespace == *service.namespace
        && service.selector.iter().all(|(key, value)| pod.template.labels.get(key) == Some(value))
}

/// Whether a pod is one of a service's endpoints, ready or not.
fn selects(service: &Service, pod: &Pod) -> bool {
    picks(service, pod) && !pod.finished && !pod.ips.is_empty()
}

fn resolve(port: &ServicePort, pod: &Pod) -> Option<SlicePort> {
    let number = match &port.target {
        TargetPort::Number(number) => *number,
        TargetPort::Name(name) => {
            let named = pod
                .template
                .named_ports
                .iter()
                .find(|p| p.name == *name && p.port.protocol == port.protocol);
            named?.port.number
        }
    };
    Some(SlicePort {
        name: Some(port.name.clone()),
        protocol: Some(port.protocol.as_str().into()),
        number: Some(number.into()),
        app_protocol: None,
    })
}

/// An endpoint, with conditions and hints as the endpoint slice controller sets them.
fn endpoint(
    service: &Service,
    pod: &Pod,
    node: Option<&Node>,
    ip: std::net::IpAddr,
) -> SliceEndpoint {
    let zone = node.and_then(|node| node.labels.get(ZONE_LABEL)).filter(|zone| !zone.is_empty());
    let node = Some(&*pod.node).filter(|node| !node.is_empty());
    let prefers = |what: &[TrafficDistribution]| {
        service.traffic_distribution.is_some_and(|asked| what.contains(&asked))
    };
    let is_there = pod.template.subdomain.as_deref() == Some(&*service.name);
    let hostname = pod.template.hostname.as_deref().filter(|_| is_there);
    let (same_node, same_zone) = (TrafficDistribution::SameNode, TrafficDistribution::SameZone);
    SliceEndpoint {
        addresses: vec![ip.to_string()],
        ready: Some(service.publish_not_ready_addresses || (pod.ready && !pod.terminating)),
        serving: Some(pod.ready),
        terminating: Some(pod.terminating),
        // Only for a pod whose `subdomain` is this service.
        hostname: hostname.map(Into::into),
        node: node.map(Into::into),
        zone: zone.cloned(),
        for_zones: zone.filter(|_| prefers(&[same_node, same_zone])).cloned().into_iter().collect(),
        for_nodes: node.filter(|_| prefers(&[same_node])).map(Into::into).into_iter().collect(),
    }
}

fn slice(
    service: &Service,
    (family, ports): &Sort,
    name: String,
    endpoints: Vec<SliceEndpoint>,
) -> EndpointSlice {
    let mut labels = BTreeMap::from([(SERVICE_NAME_LABEL.to_owned(), service.name.clone())]);
    if service.headless {
        labels.insert(HEADLESS_LABEL.into(), String::new());
    }
    EndpointSlice {
        namespace: service.namespace.clone(),
        name,
        labels,
        address_type: address_type(*family).into(),
        endpoints,
        ports: ports.clone(),
        ..EndpointSlice::default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mesh_model::{NamedPort, Port, Protocol, object::PodTemplate};

    use super::*;

    fn service() -> Service {
        Service {
            namespace: "shop".into(),
            name: "web".into(),
            selector: BTreeMap::from([("app".into(), "web".into())]),
            cluster_ips: vec!["10.101.0.10".parse().unwrap(), "fd00:100:1::10".parse().unwrap()],
            ports: vec![ServicePort {
                name: "http".into(),
                protocol: Protocol::Tcp,
                port: 80,
                target: TargetPort::Name("http".into()),
            }],
            ..Service::default()
        }
    }

    fn pod(name: &str, last: u8, port: u16) -> Pod {
        Pod {
            namespace: "shop".into(),
            name: name.into(),
            template: Arc::new(PodTemplate {
                labels: [("app", "web"), ("x", "y")]
                    .map(|(key, value)| (key.into(), value.into()))
                    .into(),
                named_ports: vec![NamedPort {
                    name: "http".into(),
                    port: Port { protocol: Protocol::Tcp, number: port },
                }],
                ..PodTemplate::default()
            }),
            node: "n1".into(),
            ips: vec![
                format!("10.1.1.{last}").parse().unwrap(),
                format!("fd00:10:1:1::{last}").parse().unwrap(),
            ]
            .into(),
            ready: true,
            ..Pod::default()
        }
    }

    fn slices_of(service: &Service, pod: &Pod) -> Vec<EndpointSlice> {
        slices(service, [pod].into_iter(), &BTreeMap::new())
    }

    fn summary(service: &Service, pods: &[Pod]) -> Vec<(String, Option<i32>, Vec<String>)> {
        let all = slices(service, pods.iter(), &BTreeMap::new()).into_iter();
        let mut all: Vec<_> = all
            .map(|slice| {
                let number = slice.ports.first().and_then(|p| p.number);
                let addresses = slice.endpoints.into_iter().flat_map(|e| e.addresses).collect();
                (slice.address_type, number, addresses)
            })
            .collect();
        all.sort();
        all
    }

    #[test]
    fn each_family_and_set_of_port_numbers_has_a_slice() {
        let pods = [pod("a", 1, 8080), pod("b", 2, 8080), pod("c", 3, 9090)];
        let expected = [
            ("IPv4", 8080, vec!["10.1.1.1", "10.1.1.2"]),
            ("IPv4", 9090, vec!["10.1.1.3"]),
            ("IPv6", 8080, vec!["fd00:10:1:1::1", "fd00:10:1:1::2"]),
            ("IPv6", 9090, vec!["fd00:10:1:1::3"]),
        ];
        let expected = expected.map(|(family, port, addresses)| {
            (family.to_owned(), Some(port), addresses.into_iter().map(str::to_owned).collect())
        });
        assert_eq!(summary(&service(), &pods), expected);
    }

    #[test]
    fn pods_are_selected_by_namespace_labels_and_state() {
        let base = pod("a", 1, 8080);
        for (change, selected) in [
            (&(|_: &mut Pod| {}) as &dyn Fn(&mut Pod), true),
            (&|p| p.namespace = "other".into(), false),
            (&|p| p.template = Arc::default(), false),
            (&|p| p.finished = true, false),
            (&|p| p.ips = Box::default(), false),
            (&|p| p.ready = false, true),
        ] {
            let mut pod = base.clone();
            change(&mut pod);
            assert_eq!(!slices_of(&service(), &pod).is_empty(), selected, "{pod:?}");
        }
        let mut bare = service();
        bare.selector.clear();
        assert!(slices_of(&bare, &base).is_empty());
    }

    #[test]
    fn conditions() {
        let conditions = |ready, terminating, publish| {
            let mut service = service();
            service.publish_not_ready_addresses = publish;
            let pod = Pod { ready, terminating, ..pod("a", 1, 8080) };
            let endpoint = slices_of(&service, &pod).remove(0).endpoints.remove(0);
            [endpoint.ready, endpoint.serving, endpoint.terminating].map(Option::unwrap)
        };
        // From the Kubernetes API reference, EndpointConditions: `serving` is whether the pod is ready, and
        // `publishNotReadyAddresses` overrides `ready` alone.
        assert_eq!(conditions(true, false, false), [true, true, false]);
        assert_eq!(conditions(false, false, false), [false, false, false]);
        assert_eq!(conditions(true, true, false), [false, true, true]);
        assert_eq!(conditions(false, true, false), [false, false, true]);
        assert_eq!(conditions(false, false, true), [true, false, false]);
        assert_eq!(conditions(false, true, true), [true, false, true]);
    }

    #[test]
    fn host_names_need_the_services_subdomain() {
        let mut pod = pod("a", 1, 8080);
        Arc::make_mut(&mut pod.template).hostname = Some("db-0".into());
        let hostname =
            |pod: &Pod| slices_of(&service(), pod).remove(0).endpoints.remove(0).hostname;
        assert_eq!(hostname(&pod), None);
        Arc::make_mut(&mut pod.template).subdomain = Some("web".into());
        assert_eq!(hostname(&pod), Some("db-0".into()));
    }

    #[test]
    fn a_headless_service_has_its_ip_families() {
        let mut headless = Service { headless: true, cluster_ips: Vec::new(), ..service() };
        let families = |service: &Service| -> Vec<String> {
            let all = slices_of(service, &pod("a", 1, 8080)).into_iter();
            all.map(|slice| slice.address_type).collect()
        };
        assert_eq!(families(&headless), ["IPv4", "IPv6"]);
        headless.ip_families = vec![IpFamily::V6];
        assert_eq!(families(&headless), ["IPv6"]);
    }

    #[test]
    fn an_endpoint_is_in_its_nodes_zone() {
        let label = |zone: &str| BTreeMap::from([(ZONE_LABEL.to_owned(), zone.to_owned())]);
        let zone = |labels| {
            let node = Node { name: "n1".into(), labels, ..Node::default() };
            let pods = [pod("a", 1, 8080)];
            let nodes = BTreeMap::from([("n1", &node)]);
            slices(&service(), pods.iter(), &nodes).remove(0).endpoints.remove(0).zone
        };
        assert_eq!(zone(label("east")), Some("east".into()));
        assert_eq!(zone(label("")), None);
        assert_eq!(zone(BTreeMap::new()), None);
    }

    /// As in the endpoint slice controller: an endpoint is for clients in its own zone, or on its own node.
    #[test]
    fn hints_follow_from_traffic_distribution() {
        let zone = BTreeMap::from([(ZONE_LABEL.to_owned(), "east".to_owned())]);
        let node = Node { name: "n1".into(), labels: zone, ..Node::default() };
        for (asked, zone, zones, names) in [
            (None, true, &[][..], &[][..]),
            (Some(TrafficDistribution::SameZone), true, &["east"], &[]),
            (Some(TrafficDistribution::SameZone), false, &[], &[]),
            (Some(TrafficDistribution::SameNode), true, &["east"], &["n1"]),
            (Some(TrafficDistribution::SameNode), false, &[], &["n1"]),
        ] {
            let service = Service { traffic_distribution: asked, ..service() };
            let nodes = BTreeMap::from([("n1", &node)]).into_iter().filter(|_| zone).collect();
            let pod = pod("a", 1, 8080);
            let endpoint =
                slices(&service, [&pod].into_iter(), &nodes).remove(0).endpoints.remove(0);
            assert_eq!(
                (endpoint.for_zones.as_slice(), endpoint.for_nodes.as_slice()),
                (
                    zones.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>().as_slice(),
                    names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>().as_slice(),
                ),
                "{asked:?}"
            );
        }
    }

    /// `count` pods with IPv4 addresses.
    fn many(count: usize) -> Vec<Pod> {
        let pod = |n: usize| Pod {
            ips: vec![std::net::Ipv4Addr::from(0x0a01_0000 + u32::try_from(n).unwrap()).into()]
                .into(),
            ..pod(&format!("web-{n}"), 1, 8080)
        };
        (0..count).map(pod).collect()
    }

    fn by_name(pods: &[Pod]) -> BTreeMap<String, EndpointSlice> {
        let all = slices(&service(), pods.iter(), &BTreeMap::new()).into_iter();
        all.map(|slice| (slice.name.clone(), slice)).collect()
    }

    #[test]
    fn no_slice_has_more_than_a_hundred_endpoints_and_each_pod_is_in_one() {
        for count in [1, 100, 101, 1_000, 3_000] {
            let slices = by_name(&many(count));
            let sizes = slices.values().map(|slice| slice.endpoints.len());
            assert!(sizes.clone().all(|size| size > 0 && size <= MAX_ENDPOINTS), "{count}");
            assert_eq!(sizes.sum::<usize>(), count);
            // On average, slices are at least a quarter full.
            assert!(slices.len() <= 1 + count / 25, "{count}: {}", slices.len());
        }
    }

    #[test]
    fn a_pod_that_is_added_or_removed_changes_or_splits_one_slice() {
        let pods = many(1_000);
        let mut before = by_name(&pods[..1]);
        let mut divided = 0;
        for count in 2..=pods.len() {
            let now = by_name(&pods[..count]);
            let new = now.iter().filter(|(name, slice)| before.get(*name) != Some(slice)).count();
            let gone = before.keys().filter(|name| !now.contains_key(*name)).count();
            match (new, gone) {
                (1, 0) => {}
                // A full slice was split into others with new names, which are added before it is removed.
                (2.., 1) => divided += 1,
                other => panic!("{count} pods: {other:?}"),
            }
            before = now;
        }
        assert!((9..=40).contains(&divided), "{divided}");

        // The order of pods does not matter, and neither does which pod is removed.
        let reversed: Vec<Pod> = pods.iter().rev().cloned().collect();
        assert_eq!(by_name(&reversed), before);
        let mut fewer = pods.clone();
        fewer.remove(500);
        let now = by_name(&fewer);
        let new = now.iter().filter(|(name, slice)| before.get(*name) != Some(slice)).count();
        assert!(new <= 1 && before.len() - now.len() <= 1);
    }

    #[test]
    fn slices_have_the_same_names_in_every_build() {
        let names: Vec<String> = by_name(&[pod("a", 1, 8080)]).into_keys().collect();
        // The first bytes of SHA-256 of `IPv4 http/TCP/8080` and `IPv6 http/TCP/8080`.
        assert_eq!(names, ["web-3f55708c", "web-cfed18e3"]);
    }
}
