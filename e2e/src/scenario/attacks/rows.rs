//! The attack table.
//!
//! Ordered by who refuses, because status names the last record of each: first what means nothing or contradicts itself
//! (the wire), then what the grant does not cover (the merge), then what would change the connection.

use std::collections::BTreeMap;

use mesh_model::{
    ClusterId, EndpointSlice, Record, SliceEndpoint,
    service::{SERVICE_NAME_LABEL, SlicePort},
};
use mesh_wire::encode;

use super::Victims;

/// One attack.
pub(super) struct Row {
    pub(super) name: &'static str,
    /// Keys with their values.
    pub(super) writes: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) expected: Expected,
}

/// What an agent says to it.
#[derive(Clone, Copy)]
pub(super) enum Expected {
    /// One record more is rejected, and the last of them names this.
    Rejected(&'static str),
    /// The peer is refused as a whole, with this reason.
    Refused(&'static str),
    /// It means nothing, and does nothing.
    Nothing,
}

/// How the hostile cluster tells its services.
#[derive(Clone, Copy)]
pub(super) enum Form {
    Services,
    Slices,
}

use Expected::{Nothing, Refused, Rejected};

const CONFIGS: &[u8] = b"cilium/cluster-config/";
const STATE: &str = "cilium/state";
/// An identity of the hostile cluster, the third: 3 × 65,536 and more.
const HOSTILE_IDENTITY: u32 = 200_000;
/// A pod that the hostile cluster might have.
const HOSTILE_POD: &str = "10.3.1.77";
const HOSTILE_NODE: &str = "172.31.3.9";
const HOSTILE_RANGE: &str = "10.3.9.0";

/// Keys that are rejected wherever they arrive, one for each watch: what was written before them has arrived too.
pub(super) fn markers(hostile: &str, form: Form) -> [(Vec<u8>, Vec<u8>); 2] {
    let services = match form {
        Form::Services => "services/v1",
        Form::Slices => "endpointslices/v1",
    };
    ["nodes/v1", services].map(|tree| {
        let key = format!("{STATE}/{tree}/{hostile}/../marker");
        (key.into(), b"x".to_vec())
    })
}

/// The config of the hostile cluster that has its services followed in a form. Its etcd has both, with their canaries.
pub(super) fn config_of(v: &Victims, form: Form) -> (String, String) {
    let (key, value) = config(v, 3);
    let mode =
        r#""maxConnectedClusters":255,"endpointSlicesExportMode":"services-and-endpointslices""#;
    match form {
        Form::Services => (key, value),
        Form::Slices => (key, value.replace(r#""maxConnectedClusters":255"#, mode)),
    }
}

impl Row {
    pub(super) fn changes_config(&self) -> bool {
        self.writes.iter().any(|(key, _)| key.starts_with(CONFIGS))
    }
}

/// Keys of the connection itself: they are put right or left, not deleted. That would be silence, and no lie.
pub(super) fn is_kept(key: &[u8]) -> bool {
    key.starts_with(CONFIGS)
        || key.starts_with(b"cilium/synced/")
        || key.starts_with(b"cilium/.heartbeat")
}

pub(super) fn rows(v: &Victims, form: Form) -> Vec<Row> {
    let rows = match form {
        Form::Services => vec![meaningless(v), contradictory(v), not_granted(v), ignored(v)],
        Form::Slices => vec![slices(v), connection(v)],
    };
    rows.into_iter().flatten().collect()
}

/// Keys and values that are none.
fn meaningless(v: &Victims) -> Vec<Row> {
    let node = |name: &str| format!("{STATE}/nodes/v1/{}/{name}", v.hostile);
    let sound = node_value("n9", &v.hostile, 3, HOSTILE_NODE, HOSTILE_RANGE);
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    let deep = sound.replace("\"Labels\":null", &format!("\"Labels\":{{\"a\":{deep}}}"));
    let ports = |port: i64| {
        let ports = format!(r#"{{"http":{{"Protocol":"TCP","Port":{port}}}}}"#);
        service_value(&v.hostile, 3, &[HOSTILE_POD], &ports)
    };
    let identity = format!("{STATE}/identities/v1/id/{HOSTILE_IDENTITY}");
    let long = |bytes: usize| labels(&v.hostile) + "k8s:x=" + &"x".repeat(bytes) + ";";
    vec![
        row("a key that climbs", &node(".."), &sound, Rejected("/..")),
        row("a key with more steps", &node("../../a/n1"), &sound, Rejected("../../a/n1")),
        row("<nil> for an address", &address_key("<nil>"), "{}", Rejected("<nil>")),
        row("NUL in a key", &node("n\0"), &sound, Rejected("nodes/v1/")),
        Row {
            name: "a key that is not UTF-8",
            writes: vec![([node("n").as_bytes(), b"\xff\xfe"].concat(), sound.clone().into())],
            expected: Rejected("not UTF-8"),
        },
        row("a value that is not JSON", &node("n9"), "\u{0}\u{1}", Rejected("JSON")),
        row("deep JSON", &node("n9"), &deep, Rejected("JSON")),
        row("a negative port", &service_key(&v.hostile), &ports(-1), Rejected("Port")),
        row("a huge port", &service_key(&v.hostile), &ports(4_295_032_832), Rejected("Port")),
        row("labels of 100 kB", &identity, &long(100_000), Rejected("bytes of labels")),
        row("a value of 1.4 MB", &identity, &long(1_400_000), Rejected("bytes of labels")),
    ]
}

/// Others' names and numbers.
fn contradictory(v: &Victims) -> Vec<Row> {
    let [ours, others] = &v.honest;
    let identity = |number: u32| format!("{STATE}/identities/v1/id/{number}");
    let own = identity(HOSTILE_IDENTITY);
    let node = |cluster: &str, id: u32| node_value("n9", cluster, id, HOSTILE_NODE, HOSTILE_RANGE);
    let key = format!("{STATE}/nodes/v1/{}/n9", v.hostile);
    let service = |cluster: &str, id: u32| service_value(cluster, id, &[HOSTILE_POD], HTTP);
    let says = |identity: u32| address_value(HOSTILE_POD, identity);
    vec![
        row(
            "a reserved identity",
            &identity(1),
            &labels(&v.hostile),
            Rejected("the identity is 1,"),
        ),
        row(
            "an identity of ours",
            &identity(65_800),
            &labels(ours),
            Rejected("the identity is 65800,"),
        ),
        row(
            "another peer's identity",
            &identity(131_500),
            &labels(others),
            Rejected("the identity is 131500,"),
        ),
        row(
            "an identity beyond all clusters",
            &identity(16_777_300),
            &labels(&v.hostile),
            Rejected("the identity is 16777300,"),
        ),
        row(
            "our name in an identity's labels",
            &own,
            &labels(ours),
            Rejected("the cluster label is a"),
        ),
        row(
            "nobody's name in an identity's labels",
            &own,
            "k8s:app=echo;",
            Rejected("the cluster label is absent"),
        ),
        row(
            "an address with our identity",
            &address_key(HOSTILE_POD),
            &says(65_800),
            Rejected("the identity is 65800,"),
        ),
        row(
            "a node under our name",
            &format!("{STATE}/nodes/v1/{ours}/n1"),
            &node(ours, 1),
            Rejected("the cluster in the key is a"),
        ),
        row(
            "a node under another peer's name",
            &format!("{STATE}/nodes/v1/{others}/n1"),
            &node(others, 2),
            Rejected("the cluster in the key is b"),
        ),
        row("a node that says it is ours", &key, &node(ours, 1), Rejected("the cluster is a")),
        row("a node with our number", &key, &node(&v.hostile, 1), Rejected("the cluster id is 1")),
        row(
            "a service that says it is another peer's",
            &service_key(&v.hostile),
            &service(others, 2),
            Rejected("the cluster is b"),
        ),
        row(
            "a service with our number",
            &service_key(&v.hostile),
            &service(&v.hostile, 1),
            Rejected("the cluster id is 1"),
        ),
        row(
            "a value under another address",
            &address_key("10.3.1.78"),
            &says(HOSTILE_IDENTITY),
            Rejected("10.3.1.78"),
        ),
    ]
}

/// Others' addresses.
fn not_granted(v: &Victims) -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, ip, expected) in [
        ("our pod's address", v.pods[0].as_str(), Rejected("address 10.1.")),
        ("another peer's pod's address", &v.pods[1], Rejected("address 10.2.")),
        ("our node's address", &v.nodes[0], Rejected("address 172.31.1.1/32")),
        ("our service's address", &v.service, Rejected("address 10.101.")),
        ("loopback", "127.0.0.1", Rejected("address 127.0.0.1/32")),
        ("nobody's address", "192.0.2.1", Rejected("address 192.0.2.1/32")),
    ] {
        rows.push(row(name, &address_key(ip), &address_value(ip, HOSTILE_IDENTITY), expected));
    }
    let key = format!("{STATE}/nodes/v1/{}/n9", v.hostile);
    for (name, ip, range, expected) in [
        (
            "a node at our node's address",
            v.nodes[0].as_str(),
            HOSTILE_RANGE,
            Rejected("node n9: 172.31.1.1/32"),
        ),
        (
            "a node at another peer's node's",
            &v.nodes[1],
            HOSTILE_RANGE,
            Rejected("node n9: 172.31.2.1/32"),
        ),
        ("a node with our pods", HOSTILE_NODE, "10.1.1.0", Rejected("node n9: 10.1.1.0/24")),
        (
            "a node with another peer's pods",
            HOSTILE_NODE,
            "10.2.1.0",
            Rejected("node n9: 10.2.1.0/24"),
        ),
        (
            "a node with our services",
            HOSTILE_NODE,
            "10.101.0.0",
            Rejected("node n9: 10.101.0.0/24"),
        ),
    ] {
        rows.push(row(name, &key, &node_value("n9", &v.hostile, 3, ip, range), expected));
    }
    let everything =
        node_value("n9", &v.hostile, 3, HOSTILE_NODE, "0.0.0.0").replace("////AA==", "AAAAAA==");
    rows.push(row("a node with all there is", &key, &everything, Rejected("node n9: 0.0.0.0/0")));
    for (name, ip, expected) in backends(v) {
        // One of its own beside it: a record is taken as a whole or not at all.
        let value = service_value(&v.hostile, 3, &[HOSTILE_POD, ip], HTTP);
        rows.push(row(name, &service_key(&v.hostile), &value, expected));
    }
    rows
}

/// Backends that are not the hostile cluster's, and what is said to a record that has them.
fn backends(v: &Victims) -> [(&'static str, &str, Expected); 6] {
    [
        ("a backend that is our pod", v.pods[0].as_str(), Rejected(": 10.1.")),
        ("a backend that is another peer's pod", &v.pods[1], Rejected(": 10.2.")),
        ("a backend that is our node", &v.nodes[0], Rejected(": 172.31.1.1/32")),
        ("a backend on the client's own machine", "127.0.0.1", Rejected(": 127.0.0.1/32")),
        ("a backend that tells secrets", "169.254.169.254", Rejected(": 169.254.169.254/32")),
        ("a backend that is nobody's", "192.0.2.1", Rejected(": 192.0.2.1/32")),
    ]
}

/// Endpoint slices: first what the wire refuses, then what the merge does.
fn slices(v: &Victims) -> Vec<Row> {
    let [ours, _] = &v.honest;
    let key = |cluster: &str| format!("{STATE}/endpointslices/v1/{cluster}/default/echo-1");
    let written = |name, key: String, value, expected| {
        let writes = vec![(key.into_bytes(), value)];
        Row { name, writes, expected }
    };
    let sound = slice(&v.hostile, 3, &[HOSTILE_POD]);
    let of = |name, slice: EndpointSlice, expected| {
        let value = encode(&Record::EndpointSlice(Box::new(slice)));
        written(name, key(&v.hostile), value, expected)
    };
    let named = EndpointSlice { address_type: "FQDN".into(), ..sound.clone() };
    let mut host = slice(&v.hostile, 3, &["host.example"]);
    host.address_type = "IPv4".into();
    let mut rows = vec![
        written("no slice", key(&v.hostile), b"x".to_vec(), Rejected("zstd")),
        written(
            "a zstd bomb",
            key(&v.hostile),
            zstd_bomb(),
            Rejected("bytes in a service or slice"),
        ),
        of("a slice of names", named, Rejected("addressType")),
        of("a slice with a name among addresses", host, Rejected("addresses")),
        of("a slice of another peer", slice("b", 2, &[HOSTILE_POD]), Rejected("the cluster is b")),
        of("a slice with our number", slice(&v.hostile, 1, &[]), Rejected("the cluster id is 1")),
        written(
            "a slice under our name",
            key(ours),
            encode(&Record::EndpointSlice(Box::new(slice(ours, 1, &[HOSTILE_POD])))),
            Nothing,
        ),
        row(
            "what only our own nodes are told",
            "clustermesh/local/v1/services/default/echo",
            r#"{"v":1,"namespace":"default","name":"echo"}"#,
            Nothing,
        ),
    ];
    for (name, ip, expected) in backends(v) {
        // One of its own beside it: a slice is taken as a whole or not at all.
        rows.push(of(name, slice(&v.hostile, 3, &[HOSTILE_POD, ip]), expected));
    }
    rows
}

/// What nobody reads, or only means something to its own cluster.
fn ignored(v: &Victims) -> Vec<Row> {
    let [ours, _] = &v.honest;
    let taken = service_value(&v.hostile, 3, &[], HTTP)
        .replace(r#""frontends":{}"#, &format!(r#""frontends":{{"{}":{HTTP}}}"#, v.service));
    let ours_key = format!("{STATE}/services/v1/{ours}/default/echo");
    let slice = format!("{STATE}/endpointslices/v1/{}/default/echo-1", v.hostile);
    let cached = format!("cilium/cache/ip/v1/{ours}/{}", v.pods[0]);
    vec![
        row("our service's address as its frontend", &service_key(&v.hostile), &taken, Nothing),
        row(
            "a service under our name",
            &ours_key,
            &service_value(ours, 1, &[HOSTILE_POD], HTTP),
            Nothing,
        ),
        row("our pod in its cache", &cached, &address_value(&v.pods[0], HOSTILE_IDENTITY), Nothing),
        Row {
            name: "a zstd bomb in a tree that is not followed",
            writes: vec![(slice.into(), zstd_bomb())],
            expected: Nothing,
        },
        row("our canary", &format!("cilium/synced/{ours}/{STATE}/nodes/v1"), "x", Nothing),
        row(
            "a canary from the future",
            &format!("cilium/synced/{}/{STATE}/nodes/v1", v.hostile),
            "2999-01-01T00:00:00Z",
            Nothing,
        ),
    ]
}

/// What the connection hangs on.
fn connection(v: &Victims) -> Vec<Row> {
    let numbered = |name, id, reason| {
        let (key, value) = config(v, id);
        row(name, &key, &value, Refused(reason))
    };
    vec![
        row("a heartbeat from the future", "cilium/.heartbeat", "2999-01-01T00:00:00Z", Nothing),
        numbered("a config with no number", 0, "has no id"),
        numbered("a config with a number beyond the limit", 256, "256"),
        numbered("a config with a negative number", -1, "id"),
        row("a config that is none", &config(v, 3).0, "{", Refused("JSON")),
        // Its grant has its number: no other is its own business, not even one that is free.
        numbered("a config with another number", 77, "has the id 77, not the 3"),
        numbered("a config with an honest cluster's number", 1, "id 1"),
        numbered("a config with the other honest cluster's number", 2, "id 2"),
    ]
}

fn config(v: &Victims, id: i64) -> (String, String) {
    let capabilities = r#"{"syncedCanaries":true,"maxConnectedClusters":255}"#;
    let value = format!(r#"{{"id":{id},"capabilities":{capabilities}}}"#);
    (format!("cilium/cluster-config/{}", v.hostile), value)
}

fn row(name: &'static str, key: &str, value: &str, expected: Expected) -> Row {
    Row { name, writes: vec![(key.into(), value.into())], expected }
}

const HTTP: &str = r#"{"http":{"Protocol":"TCP","Port":8080}}"#;

fn address_key(ip: &str) -> String {
    format!("{STATE}/ip/v1/default/{ip}")
}

fn service_key(cluster: &str) -> String {
    format!("{STATE}/services/v1/{cluster}/default/echo")
}

fn labels(cluster: &str) -> String {
    format!(
        "k8s:app=echo;k8s:io.cilium.k8s.policy.cluster={cluster};k8s:io.kubernetes.pod.namespace=default;"
    )
}

fn address_value(ip: &str, identity: u32) -> String {
    format!(
        r#"{{"IP":"{ip}","Mask":null,"HostIP":"172.31.3.1","ID":{identity},"Key":0,"Metadata":""}}"#
    )
}

fn node_value(name: &str, cluster: &str, id: u32, ip: &str, range: &str) -> String {
    format!(
        r#"{{"Name":"{name}","Cluster":"{cluster}","IPAddresses":[{{"Type":"InternalIP","IP":"{ip}"}}],"IPv4AllocCIDR":{{"IP":"{range}","Mask":"////AA=="}},"ClusterID":{id},"Source":"custom-resource","Labels":null}}"#
    )
}

fn service_value(cluster: &str, id: u32, backends: &[&str], ports: &str) -> String {
    let backends: Vec<String> = backends.iter().map(|ip| format!(r#""{ip}":{ports}"#)).collect();
    format!(
        r#"{{"cluster":"{cluster}","namespace":"default","name":"echo","frontends":{{}},"backends":{{{}}},"labels":{{}},"selector":{{}},"includeExternal":true,"shared":true,"clusterID":{id}}}"#,
        backends.join(",")
    )
}

fn slice(cluster: &str, id: u32, addresses: &[&str]) -> EndpointSlice {
    let endpoint =
        |ip: &&str| SliceEndpoint { addresses: vec![ip.to_string()], ..SliceEndpoint::default() };
    EndpointSlice {
        cluster: cluster.into(),
        cluster_id: ClusterId::from_wire(id).expect("an id"),
        namespace: "default".into(),
        name: "echo-1".into(),
        labels: [(SERVICE_NAME_LABEL.into(), "echo".into())].into(),
        annotations: BTreeMap::new(),
        address_type: "IPv4".into(),
        endpoints: addresses.iter().map(endpoint).collect(),
        ports: vec![SlicePort {
            name: Some("http".into()),
            protocol: Some("TCP".into()),
            number: Some(8080),
            app_protocol: None,
        }],
    }
}

/// A frame of 40 kB that becomes 1.3 GB: blocks of one byte, each to be repeated 131,071 times (RFC 8878).
fn zstd_bomb() -> Vec<u8> {
    // The magic number, no checksum or size, and a window of 128 kB.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x38];
    for block in 1..=10_000_u32 {
        let last = u32::from(block == 10_000);
        let header = last | 1 << 1 | 131_071 << 3;
        frame.extend(&header.to_le_bytes()[..3]);
        frame.push(0);
    }
    frame
}
