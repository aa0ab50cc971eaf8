use std::collections::BTreeMap;

use mesh_model::{
    AddressKind, Affinity, EndpointSlice, GlobalService, Identity, KnownAddress, LocalService,
    Node, NodeAddress, Port, Protocol, ServiceName, ServiceTraffic, SliceEndpoint,
    identity::CLUSTER_LABEL,
    node::FamilyPair,
    service::{SERVICE_NAME_LABEL, SlicePort},
};

use super::*;

fn name(text: &str) -> ClusterName {
    ClusterName::new(text).unwrap()
}

fn snapshot() -> Snapshot {
    let id = ClusterId::new(2, ClusterLimit::Max255).unwrap();
    let node = Node {
        name: "n1".into(),
        cluster: name("b"),
        cluster_id: id,
        addresses: vec![
            NodeAddress { kind: AddressKind::Internal, ip: "172.31.2.1".parse().unwrap() },
            NodeAddress { kind: AddressKind::Internal, ip: "fd00:172::201".parse().unwrap() },
        ],
        pod_cidrs: vec!["10.2.1.0/24".parse().unwrap(), "fd00:10:2:1::/64".parse().unwrap()],
        health_ips: FamilyPair::default(),
        ingress_ips: FamilyPair::default(),
        source: String::new(),
        encryption_key: 0,
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        wireguard_public_key: String::new(),
        boot_id: String::new(),
    };
    let ports = BTreeMap::from([("web".into(), Port { number: 8080, protocol: Protocol::Tcp })]);
    let service = GlobalService {
        cluster: name("b"),
        cluster_id: id,
        name: ServiceName::new("shop", "web"),
        frontends: BTreeMap::from([("10.102.0.1".parse().unwrap(), ports.clone())]),
        backends: BTreeMap::from([("10.2.1.5".parse().unwrap(), ports)]),
        hostnames: BTreeMap::new(),
        zones: BTreeMap::new(),
        labels: BTreeMap::new(),
        selector: BTreeMap::new(),
        include_external: true,
        shared: true,
    };
    Snapshot {
        cluster: name("b"),
        id,
        uuid: Some(Uuid::from_u128(7)),
        records: vec![Record::Node(Box::new(node)), Record::Service(Box::new(service))],
        known: known(),
    }
}

fn known() -> KnownIdentities {
    let labels = |app: &str| format!("k8s:app={app};k8s:{CLUSTER_LABEL}=b;").into();
    let address = |net: &str, identity, host: &str| KnownAddress {
        net: net.parse().unwrap(),
        identity: Identity::new(identity),
        host: host.parse().ok(),
    };
    KnownIdentities {
        identities: vec![
            (Identity::new(131_073), labels("web")),
            (Identity::new(131_074), labels("\"\\é")),
        ],
        addresses: vec![
            address("10.2.1.5/32", 131_073, "172.31.2.1"),
            address("fd00:10:2:1::5/128", 131_073, "172.31.2.1"),
            address("10.2.2.0/24", 131_074, "172.31.2.2"),
            address("172.31.2.1/32", 6, ""),
        ],
        second: vec!["10.2.1.5".parse().unwrap()],
    }
}

fn read(file: &[u8]) -> Result<Loaded, SnapshotError> {
    Snapshot::decode(&name("b"), Role::Remote, ClusterLimit::Max255, Part::All, file)
}

fn slice() -> EndpointSlice {
    EndpointSlice {
        cluster: "b".into(),
        cluster_id: snapshot().id,
        namespace: "shop".into(),
        name: "web-1".into(),
        labels: BTreeMap::from([(SERVICE_NAME_LABEL.into(), "web".into())]),
        annotations: BTreeMap::new(),
        address_type: "IPv4".into(),
        endpoints: vec![SliceEndpoint {
            addresses: vec!["10.2.1.5".into()],
            ready: Some(false),
            serving: Some(true),
            terminating: Some(true),
            node: Some("n1".into()),
            zone: Some("east-1".into()),
            ..SliceEndpoint::default()
        }],
        ports: vec![SlicePort {
            name: Some("web".into()),
            protocol: Some("TCP".into()),
            number: Some(8080),
            app_protocol: None,
        }],
    }
}

fn local() -> LocalService {
    let port = Port { number: 80, protocol: Protocol::Tcp };
    LocalService {
        name: ServiceName::new("shop", "web"),
        cluster_ips: vec!["10.102.0.1".parse().unwrap()],
        ports: BTreeMap::from([("web".into(), port)]),
        traffic: ServiceTraffic {
            global: true,
            affinity: Affinity::Local,
            session_affinity: Some(60),
            internal_traffic_local: true,
            topology_hints: true,
            ..ServiceTraffic::default()
        },
        shared: false,
        publish_not_ready_addresses: true,
        foreign_proxy: true,
        outside_addresses: true,
    }
}

#[test]
fn what_is_written_comes_back() {
    let file = snapshot().encode();
    assert_eq!(read(&file).unwrap(), Loaded { snapshot: snapshot(), rejected: None });
}

/// Slices are no text, and what local nodes get is kept of the local cluster alone.
#[test]
fn slices_and_the_local_clusters_services_come_back() {
    let of_a_peer =
        Snapshot { records: vec![Record::EndpointSlice(Box::new(slice()))], ..snapshot() };
    let file = of_a_peer.encode();
    assert!(String::from_utf8_lossy(&file).contains("value_b64"));
    assert_eq!(read(&file).unwrap(), Loaded { snapshot: of_a_peer, rejected: None });

    let own = Snapshot {
        records: vec![
            Record::LocalEndpointSlice(Box::new(slice())),
            Record::LocalService(Box::new(local())),
        ],
        ..snapshot()
    };
    let file = own.encode();
    let limit = ClusterLimit::Max255;
    let read_as = |role| Snapshot::decode(&name("b"), role, limit, Part::All, &file).unwrap();
    assert_eq!(read_as(Role::Local), Loaded { snapshot: own, rejected: None });
    let Loaded { snapshot, rejected } = read_as(Role::Remote);
    assert_eq!((snapshot.records.len(), rejected.unwrap().0), (0, 2));
}

/// Where the kernel knows better, only what it does not have is looked at.
#[test]
fn identities_are_read_alone() {
    let limit = ClusterLimit::Max255;
    let file = Snapshot { records: vec![Record::EndpointSlice(Box::new(slice()))], ..snapshot() };
    let file = file.encode();
    let read = Snapshot::decode(&name("b"), Role::Remote, limit, Part::Identities, &file).unwrap();
    let expected = Snapshot { records: Vec::new(), ..snapshot() };
    assert_eq!(read, Loaded { snapshot: expected, rejected: None });
}

/// Files of releases that kept no identities, and those of this one for releases that do not know these.
#[test]
fn files_of_other_releases_are_read() {
    let node = r#"{"key":"cilium/state/nodes/v1/b/n1","value":"{\"Name\":\"n1\",\"Cluster\":\"b\",\"ClusterID\":2}"}"#;
    for head in [r#"{"cluster":"b","id":2}"#, r#"{"cluster":"b","id":2,"later":[[1]]}"#] {
        let Loaded { snapshot, rejected } =
            read(&header::seal(format!("{head}\n{node}").as_bytes())).unwrap();
        assert_eq!((snapshot.records.len(), snapshot.known), (1, KnownIdentities::default()));
        assert_eq!(rejected, None);
    }
}

/// A file is as much to be believed as its cluster was.
#[test]
fn identities_and_addresses_are_checked() {
    let file = header::seal(
        br#"{"cluster":"b","id":2,"identities":[[131073,"k8s:app=web;"],[65537,"k8s:io.cilium.k8s.policy.cluster=b;"],[131074,"k8s:io.cilium.k8s.policy.cluster=b;reserved:host=;"],[131075,"k8s:io.cilium.k8s.policy.cluster=b;"]],"hosts":["172.31.2.1"],"addresses":[["10.2.1.1",65537,1],["10.2.1.2",65537,0],["nowhere",131075,0],["::ffff:10.2.1.3",131075,2],["10.2.1.4",1,1]]}"#,
    );
    let Loaded { snapshot, rejected } = read(&file).unwrap();
    let identities = snapshot.known.identities.iter().map(|(id, _)| id.get());
    assert_eq!(identities.collect::<Vec<_>>(), [131_075]);
    let addresses = snapshot.known.addresses.iter();
    let addresses = addresses.map(|known| (known.net.to_string(), known.host.is_some()));
    assert_eq!(
        addresses.collect::<Vec<_>>(),
        [("10.2.1.3/32".to_owned(), false), ("10.2.1.4/32".to_owned(), true)]
    );
    assert_eq!(rejected.unwrap().0, 6);
}

/// Whatever part of it was not written, and whatever byte is another one: it is seen.
#[test]
fn no_damaged_snapshot_is_read() {
    let file = snapshot().encode();
    for end in 0..file.len() {
        assert!(read(&file[..end]).is_err(), "the first {end} bytes");
    }
    for at in 0..file.len() {
        let mut damaged = file.clone();
        damaged[at] ^= 0x10;
        // The seal's own spelling may change without its meaning.
        if let Ok(loaded) = read(&damaged) {
            assert_eq!(loaded.snapshot, snapshot(), "byte {at}");
        }
    }
}

#[test]
fn what_is_wrong_has_a_name() {
    let whole = |content: &str| header::seal(content.as_bytes());
    for (file, says) in [
        (b"".to_vec(), "does not begin"),
        (b"endpoints: []\n".to_vec(), "does not begin"),
        (b"{\"v\":2,\"else\":1}\nwhatever".to_vec(), "version 2"),
        (b"{\"v\":1,\"bytes\":9,\"crc32c\":0}\nfour".to_vec(), "4 of 9 bytes"),
        (b"{\"v\":1,\"bytes\":4,\"crc32c\":0}\nfour".to_vec(), "checksum"),
        (whole(""), "names no cluster"),
        (whole("[]"), "JSON"),
        (whole(r#"{"cluster":"c","id":2}"#), "of cluster c"),
        (
            whole(&format!(r#"{{"cluster":"{}","id":2}}"#, "c".repeat(65))),
            format!("of cluster {}…", "c".repeat(64)).as_str(),
        ),
        (whole(r#"{"cluster":"b","id":0}"#), "0 is not a cluster ID"),
        (whole(r#"{"cluster":"b","id":300}"#), "300 is not a cluster ID"),
        (whole("{\"cluster\":\"b\",\"id\":2}\n{}"), "JSON"),
    ] {
        let error = read(&file).unwrap_err().to_string();
        assert!(error.contains(says), "{error}, not {says}");
    }
}

#[test]
fn a_record_is_its_own_trouble() {
    let file = header::seal(
        br#"{"cluster":"b","id":2}
{"key":"cilium/state/nodes/v1/c/n1","value":"{}"}
{"key":"cilium/state/services/v1/b/shop/web","value":"{}"}
{"key":"cilium/state/endpointslices/v1/b/shop/web-1","value_b64":"*"}
{"key":"something/else","value":""}"#,
    );
    let Loaded { snapshot, rejected } = read(&file).unwrap();
    assert_eq!((snapshot.records.len(), snapshot.uuid), (0, None));
    let (count, last) = rejected.unwrap();
    assert_eq!(count, 3);
    let says = "cilium/state/endpointslices/v1/b/shop/web-1: base64: ";
    assert!(last.starts_with(says), "{last}");
}

/// As a fuzz target: files as they are, and whole files with any content.
fn survive(input: &[u8]) {
    let _ = read(input);
    let _ = read(&header::seal(input));
    let _ = crate::decode_addresses(input);
    let _ = crate::decode_addresses(&header::seal(input));
}

#[test]
fn files_survive() {
    let records = vec![
        Record::EndpointSlice(Box::new(slice())),
        Record::LocalEndpointSlice(Box::new(slice())),
        Record::LocalService(Box::new(local())),
    ];
    let file = Snapshot { records: [snapshot().records, records].concat(), ..snapshot() }.encode();
    let content = header::open(&file).unwrap().to_vec();
    mesh_wire_fuzz::run(vec![file, content, br#"{"a":["10.0.0.1"]}"#.to_vec()], survive);
}
