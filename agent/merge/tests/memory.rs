//! The memory that a cluster's records are accounted for is what is really allocated for them: never less, and not many
//! times as much.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]
#![allow(unsafe_code, reason = "an allocator that counts")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    collections::BTreeMap,
    net::IpAddr,
};

use mesh_merge::{Claims, LocalRanges, Merge};
use mesh_model::{
    AddressKind, ClusterId, ClusterLimit, ClusterName, EndpointAddress, EndpointSlice,
    GlobalService, Identity, Labels, Node, NodeAddress, Port, Protocol, Record, RecordEvent,
    RecordKind, ServiceName, SliceEndpoint,
    node::FamilyPair,
    service::{SERVICE_NAME_LABEL, SlicePort, Zone},
};

/// Counts what a thread has allocated.
struct Counting;

thread_local! {
    static ALLOCATED: Cell<isize> = const { Cell::new(0) };
}

fn count(size: usize, sign: isize) {
    // A thread that ends frees what was its own after the counter is gone.
    let _ = ALLOCATED.try_with(|all| all.set(all.get() + sign * isize::try_from(size).unwrap()));
}

// SAFETY: it is the system's allocator; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(layout.size(), -1);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn name(text: &str) -> ClusterName {
    ClusterName::new(text).unwrap()
}

fn id() -> ClusterId {
    ClusterId::new(2, ClusterLimit::Max255).unwrap()
}

fn ip(n: u32) -> IpAddr {
    let [_, _, high, low] = n.to_be_bytes();
    IpAddr::from([10, 2 + u8::try_from(n >> 16).unwrap(), high, low])
}

/// A text as long as it may be, and unlike all others.
fn long(n: u32, bytes: usize) -> String {
    format!("{n:0>bytes$}")
}

fn node(n: u32, ranges: u32) -> Record {
    let range = |of: u32| format!("10.2.{}.{}/32", (n + of) / 200, (n + of) % 200);
    Record::Node(Box::new(Node {
        name: long(n, 253),
        cluster: name("b"),
        cluster_id: id(),
        addresses: vec![NodeAddress { kind: AddressKind::Internal, ip: ip(n) }],
        pod_cidrs: (0..ranges).map(|of| range(of).parse().unwrap()).collect(),
        health_ips: FamilyPair::default(),
        ingress_ips: FamilyPair::default(),
        source: String::new(),
        encryption_key: 0,
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        wireguard_public_key: String::new(),
        boot_id: String::new(),
    }))
}

fn address(n: u32, hosts: bool) -> Record {
    Record::Address(Box::new(EndpointAddress {
        net: ip(n).into(),
        host: hosts.then(|| ip(n)),
        identity: Identity::new(131_072 + n % 100),
        encryption_key: 0,
        metadata: String::new(),
        namespace: String::new(),
        pod: String::new(),
        service_account: String::new(),
        named_ports: Vec::new(),
    }))
}

fn identity(n: u32, bytes: usize) -> Record {
    Record::Identity(
        Identity::new(131_072 + n),
        Labels::parse(&format!("k8s:a={};", long(n, bytes))),
    )
}

fn service(n: u32, backends: u32, texts: bool) -> Record {
    let port = |text: String, number| (text, Port { protocol: Protocol::Tcp, number });
    let port_name = |of: u32| if texts { long(n * backends + of, 63) } else { "http".into() };
    let zone = |of: u32| Zone { zone: long(of, 63), for_zones: Vec::new() };
    Record::Service(Box::new(GlobalService {
        cluster: name("b"),
        cluster_id: id(),
        name: ServiceName::new(&long(n, 253), &long(n, 253)),
        frontends: BTreeMap::from([(ip(n), BTreeMap::from([port("http".into(), 80)]))]),
        backends: (0..backends)
            .map(|of| (ip(n + of), BTreeMap::from([port(port_name(of), 8080)])))
            .collect(),
        hostnames: BTreeMap::new(),
        zones: (0..backends).filter(|_| texts).map(|of| (ip(n + of), zone(n + of))).collect(),
        labels: BTreeMap::new(),
        selector: BTreeMap::new(),
        include_external: true,
        shared: true,
    }))
}

/// A slice, of a service of its own or of one that all have.
fn slice(n: u32, endpoints: u32, local: bool, texts: bool) -> Record {
    let text = |of: u32, bytes| texts.then(|| long(n * 1_000 + of, bytes));
    Record::EndpointSlice(Box::new(EndpointSlice {
        cluster: "b".into(),
        cluster_id: id(),
        namespace: long(if local { n } else { 0 }, 253),
        name: long(n, 253),
        labels: [(SERVICE_NAME_LABEL.into(), long(if local { n } else { 0 }, 253))].into(),
        annotations: BTreeMap::new(),
        address_type: "IPv4".into(),
        endpoints: (0..endpoints)
            .map(|of| SliceEndpoint {
                addresses: vec![ip(n + of).to_string()],
                node: text(of, 253),
                zone: text(of, 63),
                ..SliceEndpoint::default()
            })
            .collect(),
        ports: vec![SlicePort {
            name: text(0, 63),
            number: Some(80 + i32::try_from(n).unwrap()),
            ..SlicePort::default()
        }],
    }))
}

/// The same without a port: no client can connect to its endpoints.
fn without_ports(record: Record) -> Record {
    let Record::EndpointSlice(mut slice) = record else { panic!("a slice") };
    slice.ports.clear();
    Record::EndpointSlice(slice)
}

/// Records, and what they are to be called.
type Row = (&'static str, u32, Box<dyn Fn(u32) -> Record>);

fn rows() -> Vec<Row> {
    vec![
        ("nodes with a range each", 2_000, Box::new(|n| node(n, 1))),
        ("nodes with 64 ranges each", 500, Box::new(|n| node(n, 64))),
        ("addresses", 20_000, Box::new(|n| address(n, false))),
        ("addresses with a host each", 20_000, Box::new(|n| address(n, true))),
        ("identities", 5_000, Box::new(|n| identity(n, 20))),
        ("identities with long labels", 2_000, Box::new(|n| identity(n, 2_000))),
        ("services without backends", 3_000, Box::new(|n| service(n, 0, false))),
        ("services with a backend each", 3_000, Box::new(|n| service(n, 1, false))),
        ("services with many", 50, Box::new(|n| service(n, 500, false))),
        ("services with long texts", 50, Box::new(|n| service(n, 100, true))),
        ("slices without endpoints", 3_000, Box::new(|n| slice(n, 0, true, false))),
        ("slices with an endpoint each", 3_000, Box::new(|n| slice(n, 1, true, false))),
        ("slices with many", 100, Box::new(|n| slice(n, 500, true, false))),
        ("slices of one service", 50, Box::new(|n| slice(n, 100, false, false))),
        ("slices with long texts", 50, Box::new(|n| slice(n, 100, true, true))),
        ("slices without ports", 3_000, Box::new(|n| without_ports(slice(n, 1, true, false)))),
        ("many without ports", 50, Box::new(|n| without_ports(slice(n, 100, false, false)))),
    ]
}

#[test]
fn what_is_counted_is_what_is_allocated() {
    for (what, count, record) in rows() {
        let mut merge = Merge::new(name("a"), LocalRanges::default());
        let claims = Claims {
            pod_cidrs: vec!["10.0.0.0/8".parse().unwrap()],
            node_cidrs: vec!["10.0.0.0/8".parse().unwrap()],
            ..Claims::default()
        };
        merge.set_peer(&name("b"), Some(claims));
        merge.set_id(&name("b"), id()).unwrap();
        drop(merge.take_deltas());
        let records: Vec<Record> = (0..count).map(&record).collect();
        let kind = records[0].key().kind();
        let list = |merge: &mut Merge, records: Vec<Record>| {
            merge.apply(&name("b"), RecordEvent::Begin(kind)).unwrap();
            let before = ALLOCATED.get();
            for record in records {
                merge.apply(&name("b"), RecordEvent::Upsert(record)).unwrap();
                drop(merge.take_deltas());
            }
            before
        };
        let held = {
            let before = ALLOCATED.get();
            let copy = records.clone();
            let held = ALLOCATED.get() - before;
            drop(copy);
            held
        };
        let before = list(&mut merge, records.clone());
        // The copies were allocated before it began and are gone.
        let allocated = u64::try_from(ALLOCATED.get() - before + held).unwrap();
        let kept = merge.kept(&name("b"));
        assert_eq!(kept.keys, u64::from(count), "{what}");
        assert!(kept.bytes >= allocated, "{what}: {} counted, {allocated} allocated", kept.bytes);
        assert!(
            kept.bytes <= 4 * allocated,
            "{what}: {} counted, {allocated} allocated",
            kept.bytes
        );
        // Removed records no longer count, and are gone.
        merge.apply(&name("b"), RecordEvent::Begin(kind)).unwrap();
        merge.apply(&name("b"), RecordEvent::Confirmed(kind)).unwrap();
        drop(merge.take_deltas());
        assert_eq!(merge.kept(&name("b")).keys, 0, "{what}");
        let left = ALLOCATED.get() - before + held;
        assert!(u64::try_from(left).unwrap() <= allocated, "{what}: {left} left of {allocated}");
    }
    // All kinds that a peer has are among the rows.
    for kind in RecordKind::ALL {
        let local = matches!(
            kind,
            RecordKind::Namespace
                | RecordKind::Pod
                | RecordKind::LocalService
                | RecordKind::LocalEndpointSlice
                | RecordKind::Policy
        );
        let found = rows().iter().any(|(_, _, record)| record(0).key().kind() == kind);
        assert!(found || local, "{kind:?}");
    }
}
