//! Every text has a limit: a record at the limit is accepted, and one that exceeds it by one is refused.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use mesh_model::{
    AddressKind, ClusterId, ClusterLimit, ClusterName, EndpointAddress, EndpointSlice,
    GlobalService, Identity, Label, Labels, NamedPort, Node, NodeAddress, Port, Protocol, Record,
    ServiceName, SliceEndpoint,
    node::FamilyPair,
    service::{SlicePort, Zone},
};
use mesh_wire::{Key, Layout, Peer, Role, decode, decode_counting, encode};

/// Kubernetes' limits, written by hand (kubernetes.io, "Object Names and IDs", "Labels and Selectors"; API reference,
/// Service and EndpointSlice).
const NAME: usize = 253;
const DNS_LABEL: usize = 63;
const LABEL_KEY: usize = 253 + 1 + 63;

fn alpha() -> Peer {
    Peer {
        name: ClusterName::new("alpha").unwrap(),
        role: Role::Remote,
        id: id(),
        limit: ClusterLimit::Max255,
        layout: Layout::State,
    }
}

fn id() -> ClusterId {
    ClusterId::new(7, ClusterLimit::Max255).unwrap()
}

/// Encodes a record, and decodes it again.
fn read(record: &Record) -> Result<Record, String> {
    let key = Key::of_record(Layout::State, &alpha().name, record.key()).to_string();
    let decoded = decode(&alpha(), key.as_bytes(), &encode(record));
    decoded.map(Option::unwrap).map_err(|rejected| rejected.to_string())
}

fn text(bytes: usize) -> String {
    "x".repeat(bytes)
}

fn map(key: usize, value: usize) -> BTreeMap<String, String> {
    [(text(key), text(value))].into()
}

fn node() -> Node {
    Node {
        name: "n1".into(),
        cluster: alpha().name,
        cluster_id: id(),
        addresses: Vec::new(),
        pod_cidrs: Vec::new(),
        health_ips: FamilyPair::default(),
        ingress_ips: FamilyPair::default(),
        source: String::new(),
        encryption_key: 0,
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        wireguard_public_key: String::new(),
        boot_id: String::new(),
    }
}

fn ranges(count: u32) -> Vec<ipnet::IpNet> {
    (0..count).map(|n| format!("10.7.{}.{}/28", n / 16, n % 16 * 16).parse().unwrap()).collect()
}

fn address() -> EndpointAddress {
    EndpointAddress {
        net: "10.7.0.1/32".parse().unwrap(),
        host: None,
        identity: Identity::new(458_753),
        encryption_key: 0,
        metadata: String::new(),
        namespace: String::new(),
        pod: String::new(),
        service_account: String::new(),
        named_ports: Vec::new(),
    }
}

fn port() -> Port {
    Port { protocol: Protocol::Tcp, number: 80 }
}

fn service() -> GlobalService {
    GlobalService {
        cluster: alpha().name,
        cluster_id: id(),
        name: ServiceName::new("shop", "web"),
        frontends: BTreeMap::new(),
        backends: BTreeMap::new(),
        hostnames: BTreeMap::new(),
        zones: BTreeMap::new(),
        labels: BTreeMap::new(),
        selector: BTreeMap::new(),
        include_external: true,
        shared: true,
    }
}

fn slice() -> EndpointSlice {
    EndpointSlice {
        cluster: "alpha".into(),
        cluster_id: id(),
        namespace: "shop".into(),
        name: "web-1".into(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        address_type: "IPv4".into(),
        endpoints: Vec::new(),
        ports: Vec::new(),
    }
}

fn identity(key: usize, value: usize) -> Record {
    let cluster = Label::kubernetes("io.cilium.k8s.policy.cluster", "alpha");
    let labels: Labels = [cluster, Label::kubernetes(text(key), text(value))].into_iter().collect();
    Record::Identity(Identity::new(458_753), labels)
}

fn on_node(change: impl Fn(&mut Node)) -> Record {
    let mut node = node();
    change(&mut node);
    Record::Node(Box::new(node))
}

fn on_address(change: impl Fn(&mut EndpointAddress)) -> Record {
    let mut address = address();
    change(&mut address);
    Record::Address(Box::new(address))
}

fn on_service(change: impl Fn(&mut GlobalService)) -> Record {
    let mut service = service();
    change(&mut service);
    Record::Service(Box::new(service))
}

fn on_slice(change: impl Fn(&mut EndpointSlice)) -> Record {
    let mut slice = slice();
    change(&mut slice);
    Record::EndpointSlice(Box::new(slice))
}

fn endpoint(change: impl Fn(&mut SliceEndpoint)) -> Record {
    on_slice(|slice| {
        let mut endpoint =
            SliceEndpoint { addresses: vec!["10.7.0.1".into()], ..SliceEndpoint::default() };
        change(&mut endpoint);
        slice.endpoints = vec![endpoint];
    })
}

/// A limit, the text of the error beyond it, and a function that makes a record with a given size.
type Row = (usize, &'static str, Box<dyn Fn(usize) -> Record>);

fn rows() -> Vec<Row> {
    fn row(most: usize, says: &'static str, record: impl Fn(usize) -> Record + 'static) -> Row {
        (most, says, Box::new(record))
    }
    let ip: std::net::IpAddr = "10.7.0.1".parse().unwrap();
    let zone = |zone: usize, hints: usize| Zone { zone: text(zone), for_zones: vec![text(hints)] };
    let named = |bytes: usize| BTreeMap::from([(text(bytes), port())]);
    let slice_port = |change: fn(&mut SlicePort, String)| {
        move |bytes: usize| {
            let mut port = SlicePort { number: Some(80), ..SlicePort::default() };
            change(&mut port, text(bytes));
            on_slice(|slice| slice.ports = vec![port.clone()])
        }
    };
    vec![
        row(NAME, "a name", |n| on_node(|node| node.source = text(n))),
        row(NAME, "a name", |n| on_node(|node| node.boot_id = text(n))),
        row(NAME, "a name", |n| on_node(|node| node.wireguard_public_key = text(n))),
        row(LABEL_KEY + 31, "a label's key", |n| on_node(|node| node.labels = map(n, 1))),
        row(DNS_LABEL, "a label's value", |n| on_node(|node| node.labels = map(1, n))),
        row(256 * 1024, "an annotation", |n| on_node(|node| node.annotations = map(1, n))),
        row(64, "ranges or addresses of a node", |n| {
            on_node(|node| node.pod_cidrs = ranges(n.try_into().unwrap()))
        }),
        row(64, "ranges or addresses of a node", move |n| {
            let address = NodeAddress { kind: AddressKind::Internal, ip };
            on_node(|node| node.addresses = vec![address; n])
        }),
        row(NAME, "a name", |n| on_address(|address| address.pod = text(n))),
        row(NAME, "a name", |n| on_address(|address| address.namespace = text(n))),
        row(NAME, "a name", |n| on_address(|address| address.service_account = text(n))),
        row(NAME, "a name", |n| on_address(|address| address.metadata = text(n))),
        row(DNS_LABEL, "a port's name", |n| {
            let named = NamedPort { name: text(n), port: port() };
            on_address(|address| address.named_ports = vec![named.clone()])
        }),
        row(DNS_LABEL, "a port's name", move |n| {
            on_service(|service| service.backends = [(ip, named(n))].into())
        }),
        row(DNS_LABEL, "a port's name", move |n| {
            on_service(|service| service.frontends = [(ip, named(n))].into())
        }),
        row(NAME, "a name", move |n| on_service(|s| s.hostnames = [(ip, text(n))].into())),
        row(DNS_LABEL, "a zone's name", move |n| {
            on_service(|service| service.zones = [(ip, zone(n, 1))].into())
        }),
        row(DNS_LABEL, "a zone's name", move |n| {
            on_service(|service| service.zones = [(ip, zone(1, n))].into())
        }),
        row(DNS_LABEL, "a label's value", |n| on_service(|service| service.labels = map(1, n))),
        row(DNS_LABEL, "a label's value", |n| on_service(|service| service.selector = map(1, n))),
        row(NAME, "a label's value", |n| identity(1, n)),
        row(LABEL_KEY + 31, "a label's key", |n| identity(n, 1)),
        row(DNS_LABEL, "a label's value", |n| on_slice(|slice| slice.labels = map(1, n))),
        row(NAME, "a name", |n| {
            let service = [("kubernetes.io/service-name".into(), text(n))];
            on_slice(|slice| slice.labels = service.clone().into())
        }),
        row(256 * 1024, "an annotation", |n| on_slice(|slice| slice.annotations = map(1, n))),
        row(NAME, "a name", |n| endpoint(|endpoint| endpoint.node = Some(text(n)))),
        row(NAME, "a name", |n| endpoint(|endpoint| endpoint.hostname = Some(text(n)))),
        row(DNS_LABEL, "a zone's name", |n| endpoint(|endpoint| endpoint.zone = Some(text(n)))),
        row(DNS_LABEL, "a zone's name", |n| endpoint(|e| e.for_zones = vec![text(n)])),
        row(100, "addresses or hints of an endpoint", |n| {
            endpoint(|endpoint| endpoint.addresses = vec!["10.7.0.1".into(); n])
        }),
        row(DNS_LABEL, "a port's name", slice_port(|port, text| port.name = Some(text))),
        row(NAME, "a word", slice_port(|port, text| port.protocol = Some(text))),
        row(LABEL_KEY + 31, "a label's key", slice_port(|p, text| p.app_protocol = Some(text))),
        row(1_000, "repeated fields", |n| {
            on_slice(|slice| slice.endpoints = vec![SliceEndpoint::default(); n])
        }),
        // 100 addresses for each endpoint and ten ports: a thousand backends for each endpoint.
        row(100, "backends in a slice", |n| {
            let addresses = vec!["10.7.0.1".to_owned(); 100];
            let endpoint = SliceEndpoint { addresses, ..SliceEndpoint::default() };
            on_slice(|slice| {
                slice.endpoints = vec![endpoint.clone(); n];
                slice.ports = vec![SlicePort::default(); 10];
            })
        }),
    ]
}

#[test]
fn records_are_accepted_up_to_the_limit() {
    for (most, says, record) in rows() {
        let longest = record(most);
        assert_eq!(read(&longest), Ok(longest), "{says}: {most}");
        let error = read(&record(most + 1)).unwrap_err();
        assert!(error.contains(says) && error.contains("more than"), "{says}: {error}");
        assert!(error.len() < 400, "{error}");
    }
}

/// Errors contain only excerpts of what a peer wrote.
#[test]
fn errors_about_long_values_are_short() {
    let long = text(1_000_000);
    for (key, value) in [
        (format!("cilium/state/nodes/v1/alpha/{long}"), "{}".to_owned()),
        ("cilium/state/nodes/v1/alpha/n1".into(), format!(r#"{{"Name":"{long}"}}"#)),
        ("cilium/state/nodes/v1/alpha/n1".into(), format!(r#"{{"Name":"n1","Cluster":"{long}"}}"#)),
        ("cilium/state/ip/v1/default/10.7.0.1".into(), format!(r#"{{"IP":"{}"}}"#, text(60_000))),
        ("cilium/state/ip/v1/default/10.7.0.1".into(), format!(r#"{{"ID":"{}"}}"#, text(60_000))),
    ] {
        let rejected = decode(&alpha(), key.as_bytes(), value.as_bytes()).unwrap_err();
        assert!(rejected.to_string().len() < 1_000, "{}", rejected.to_string().len());
    }
}

/// A compressed value counts with its decompressed size.
#[test]
fn compressed_values_count_decompressed() {
    let record = on_slice(|slice| slice.annotations = map(1, 100_000));
    let key = Key::of_record(Layout::State, &alpha().name, record.key()).to_string();
    let value = encode(&record);
    assert!(value.len() < 1_000);
    let decoded = decode_counting(&alpha(), key.as_bytes(), &value);
    assert!((100_000..101_000).contains(&decoded.bytes), "{}", decoded.bytes);
    let decoded = decode_counting(&alpha(), b"cilium/state/nodes/v1/alpha/n1", b"[]");
    assert!(decoded.record.is_err() && decoded.bytes == 2);
}
