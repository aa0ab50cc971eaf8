//! Endpoint slices as the kube-controller-manager makes them: from a service's selector and the pods it selects.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::IpAddr,
};

use mesh_model::{
    EndpointSlice, SliceEndpoint,
    object::{Pod, Service, ServicePort, TargetPort},
    service::{HEADLESS_LABEL, SERVICE_NAME_LABEL, SlicePort},
};

/// The slices of a service from its pods (those of its namespace; others are passed over). One slice for each family and
/// each set of port numbers: a named target port may be another number in each pod.
pub(crate) fn slices<'a>(
    service: &Service,
    pods: impl Iterator<Item = &'a Pod>,
) -> Vec<EndpointSlice> {
    if service.selector.is_empty() || service.external_name {
        return Vec::new();
    }
    let families: BTreeSet<bool> = match service.headless {
        true => BTreeSet::from([true, false]),
        false => service.cluster_ips.iter().map(IpAddr::is_ipv4).collect(),
    };
    let mut by_ports = BTreeMap::<(bool, Vec<SlicePort>), Vec<SliceEndpoint>>::new();
    let mut selected: Vec<&Pod> = pods.filter(|pod| selects(service, pod)).collect();
    selected.sort_by_key(|pod| &pod.name);
    for pod in selected {
        for v4 in &families {
            // A pod is one endpoint, at its first address of the family.
            let Some(ip) = pod.ips.iter().find(|ip| ip.is_ipv4() == *v4) else { continue };
            let ports: Vec<SlicePort> =
                service.ports.iter().filter_map(|port| resolve(port, pod)).collect();
            by_ports.entry((*v4, ports)).or_default().push(endpoint(service, pod, *ip));
        }
    }
    by_ports
        .into_iter()
        .map(|((v4, ports), endpoints)| slice(service, v4, ports, endpoints))
        .collect()
}

/// Whether a pod is one of a service's endpoints, ready or not.
fn selects(service: &Service, pod: &Pod) -> bool {
    pod.namespace == service.namespace
        && !pod.finished
        && !pod.ips.is_empty()
        && service.selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value))
}

fn resolve(port: &ServicePort, pod: &Pod) -> Option<SlicePort> {
    let number = match &port.target {
        TargetPort::Number(number) => *number,
        TargetPort::Name(name) => {
            let named = pod
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

/// Conditions as the endpoint slice controller sets them.
fn endpoint(service: &Service, pod: &Pod, ip: IpAddr) -> SliceEndpoint {
    let serving = pod.ready || service.publish_not_ready_addresses;
    SliceEndpoint {
        addresses: vec![ip.to_string()],
        ready: Some(serving && (!pod.terminating || service.publish_not_ready_addresses)),
        serving: Some(serving),
        terminating: Some(pod.terminating),
        // Only a pod that is found by its host name under this service.
        hostname: pod.hostname.clone().filter(|_| pod.subdomain.as_ref() == Some(&service.name)),
        node: Some(pod.node.clone()).filter(|node| !node.is_empty()),
        zone: None,
        for_zones: Vec::new(),
    }
}

fn slice(
    service: &Service,
    v4: bool,
    ports: Vec<SlicePort>,
    endpoints: Vec<SliceEndpoint>,
) -> EndpointSlice {
    let mut hasher = DefaultHasher::new();
    (v4, &ports).hash(&mut hasher);
    let mut labels = BTreeMap::from([(SERVICE_NAME_LABEL.to_owned(), service.name.clone())]);
    if service.headless {
        labels.insert(HEADLESS_LABEL.into(), String::new());
    }
    EndpointSlice {
        namespace: service.namespace.clone(),
        name: format!("{}-{:08x}", service.name, hasher.finish() >> 32),
        labels,
        address_type: if v4 { "IPv4" } else { "IPv6" }.into(),
        endpoints,
        ports,
        ..EndpointSlice::default()
    }
}

#[cfg(test)]
mod tests {
    use mesh_model::{NamedPort, Port, Protocol};

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
            labels: BTreeMap::from([("app".into(), "web".into()), ("x".into(), "y".into())]),
            node: "n1".into(),
            ips: vec![
                format!("10.1.1.{last}").parse().unwrap(),
                format!("fd00:10:1:1::{last}").parse().unwrap(),
            ],
            ready: true,
            named_ports: vec![NamedPort {
                name: "http".into(),
                port: Port { protocol: Protocol::Tcp, number: port },
            }],
            ..Pod::default()
        }
    }

    fn summary(service: &Service, pods: &[Pod]) -> Vec<(String, Option<i32>, Vec<String>)> {
        let all = slices(service, pods.iter()).into_iter();
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
    fn one_slice_a_family_and_set_of_numbers() {
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
    fn who_is_selected() {
        let base = pod("a", 1, 8080);
        for (change, selected) in [
            (&(|_: &mut Pod| {}) as &dyn Fn(&mut Pod), true),
            (&|p| p.namespace = "other".into(), false),
            (&|p| p.labels.clear(), false),
            (&|p| p.finished = true, false),
            (&|p| p.ips.clear(), false),
            (&|p| p.ready = false, true),
        ] {
            let mut pod = base.clone();
            change(&mut pod);
            assert_eq!(!slices(&service(), [&pod].into_iter()).is_empty(), selected, "{pod:?}");
        }
        let mut bare = service();
        bare.selector.clear();
        assert!(slices(&bare, [&base].into_iter()).is_empty());
    }

    #[test]
    fn conditions() {
        let conditions = |ready, terminating, publish| {
            let mut service = service();
            service.publish_not_ready_addresses = publish;
            let pod = Pod { ready, terminating, ..pod("a", 1, 8080) };
            let endpoint = slices(&service, [&pod].into_iter()).remove(0).endpoints.remove(0);
            [endpoint.ready, endpoint.serving, endpoint.terminating].map(Option::unwrap)
        };
        // From the Kubernetes documentation, "EndpointSlices", conditions.
        assert_eq!(conditions(true, false, false), [true, true, false]);
        assert_eq!(conditions(false, false, false), [false, false, false]);
        assert_eq!(conditions(true, true, false), [false, true, true]);
        assert_eq!(conditions(false, true, false), [false, false, true]);
        assert_eq!(conditions(false, false, true), [true, true, false]);
        assert_eq!(conditions(false, true, true), [true, true, true]);
    }

    #[test]
    fn host_names_belong_to_their_service() {
        let mut pod = pod("a", 1, 8080);
        pod.hostname = Some("db-0".into());
        let hostname = |pod: &Pod| {
            slices(&service(), [pod].into_iter()).remove(0).endpoints.remove(0).hostname
        };
        assert_eq!(hostname(&pod), None);
        pod.subdomain = Some("web".into());
        assert_eq!(hostname(&pod), Some("db-0".into()));
    }
}
