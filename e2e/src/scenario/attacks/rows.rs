//! The attack table.
//!
//! The rows are ordered by the part that refuses them, because the status shows the last record of each part: first
//! malformed and contradictory records (wire), then records outside the grant (merge), then changes of the connection.

use mesh_model::{EndpointSlice, Record};
use mesh_wire::encode;

use super::{
    Victims,
    claims::{backends, not_granted},
    row::{
        Expected::{Nothing, Refused, Rejected},
        Form, HOSTILE_IDENTITY, HOSTILE_POD, HOSTILE_RANGE, POSITION, Row, row,
    },
    values::{
        HTTP, STATE, address_key, address_value, labels, node_value, service_key, service_value,
        slice, zstd_frame,
    },
};

/// The number of blocks in a frame of 40 kB that decompresses to 1.3 GB.
const BOMB: u32 = 10_000;

/// Keys that are always rejected, one for each watch. When they are rejected, everything written before has arrived.
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

/// The config of the hostile cluster that makes agents follow its services in a format. Its etcd has both formats, with
/// canaries.
pub(super) fn config_of(v: &Victims, form: Form) -> (String, String) {
    let (key, value) = config(v, 3);
    let mode =
        r#""maxConnectedClusters":255,"endpointSlicesExportMode":"services-and-endpointslices""#;
    match form {
        Form::Services => (key, value),
        Form::Slices => (key, value.replace(r#""maxConnectedClusters":255"#, mode)),
    }
}

pub(super) fn rows(v: &Victims, form: Form) -> Vec<Row> {
    let rows = match form {
        Form::Services => {
            vec![meaningless(v), too_large(v), contradictory(v), not_granted(v), ignored(v)]
        }
        Form::Slices => vec![slices(v), connection(v)],
    };
    rows.into_iter().flatten().collect()
}

/// Malformed keys and values.
fn meaningless(v: &Victims) -> Vec<Row> {
    let node = |name: &str| format!("{STATE}/nodes/v1/{}/{name}", v.hostile);
    let sound = node_value("n9", &v.hostile, 3, &v.hostile_node, HOSTILE_RANGE);
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    let deep = sound.replace("\"Labels\":null", &format!("\"Labels\":{{\"a\":{deep}}}"));
    let ports = |port: i64| {
        let ports = format!(r#"{{"http":{{"Protocol":"TCP","Port":{port}}}}}"#);
        service_value(&v.hostile, 3, &[HOSTILE_POD], &ports)
    };
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
    ]
}

/// Records that exceed the limits by one.
fn too_large(v: &Victims) -> Vec<Row> {
    let node = |name: &str| format!("{STATE}/nodes/v1/{}/{name}", v.hostile);
    let sound = |name: &str| node_value(name, &v.hostile, 3, &v.hostile_node, HOSTILE_RANGE);
    let ranges: Vec<String> =
        (0..64).map(|n| format!(r#"{{"IP":"10.3.{n}.0","Mask":"////AA=="}}"#)).collect();
    let ranges = format!(r#""IPv4SecondaryAllocCIDRs":[{}],"Labels":null"#, ranges.join(","));
    let long = "x".repeat(254);
    let port = format!(r#"{{"{}":{{"Protocol":"TCP","Port":80}}}}"#, &long[..64]);
    let identity = format!("{STATE}/identities/v1/id/{HOSTILE_IDENTITY}");
    let label = |bytes: usize| labels(&v.hostile) + "k8s:x=" + &"x".repeat(bytes) + ";";
    let kinds: Vec<String> = (0..17).map(|kind| format!(r#""kind-{kind}":"1""#)).collect();
    let kinds = kinds.join(",");
    let position = format!(r#"{{"v":1,"source":{{{kinds}}},"unixNano":1}}"#);
    vec![
        row(
            "a node with 65 ranges",
            &node("n9"),
            &sound("n9").replace(r#""Labels":null"#, &ranges),
            Rejected("ranges or addresses of a node"),
        ),
        row("a name of 254 bytes", &node(&long), &sound(&long), Rejected("/c/xxxxxxxx")),
        row(
            "a port's name of 64 bytes",
            &service_key(&v.hostile),
            &service_value(&v.hostile, 3, &[HOSTILE_POD], &port),
            Rejected("bytes in a port's name"),
        ),
        row("a label of 254 bytes", &identity, &label(254), Rejected("bytes in a label's value")),
        row("labels of 100 kB", &identity, &label(100_000), Rejected("bytes of labels")),
        row("a value of 1.4 MB", &identity, &label(1_400_000), Rejected("bytes of labels")),
        row("a position of 17 kinds", POSITION, &position, Rejected("kinds in a position")),
    ]
}

/// Names and IDs of other clusters.
fn contradictory(v: &Victims) -> Vec<Row> {
    let [ours, others] = &v.honest;
    let identity = |number: u32| format!("{STATE}/identities/v1/id/{number}");
    let own = identity(HOSTILE_IDENTITY);
    let node =
        |cluster: &str, id: u32| node_value("n9", cluster, id, &v.hostile_node, HOSTILE_RANGE);
    let key = format!("{STATE}/nodes/v1/{}/n9", v.hostile);
    let service = |cluster: &str, id: u32| service_value(cluster, id, &[HOSTILE_POD], HTTP);
    let says = |identity: u32| address_value(HOSTILE_POD, identity);
    // A pod that calls itself a host, what is outside the mesh, or part of another cluster's policy.
    let claims = ["reserved", "cidr", "cidrgroup", "fqdn", "node", "ingress"].map(|source| {
        let (name, label) = match source {
            "reserved" => ("a label of the source reserved", "reserved:host=;"),
            "cidr" => ("a label of the source cidr", "cidr:10.0.0.0/8=;"),
            "cidrgroup" => ("a label of the source cidrgroup", "cidrgroup:trusted=;"),
            "fqdn" => ("a label of the source fqdn", "fqdn:example.org=;"),
            "node" => ("a label of the source node", "node:role=control-plane;"),
            _ => ("a label of the source ingress", "ingress:x=;"),
        };
        row(name, &own, &(labels(&v.hostile) + label), Rejected("a peer may not give its pods"))
    });
    let mut rows = vec![
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
            "no cluster's name in an identity's labels",
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
        row(
            "a node with the local ID",
            &key,
            &node(&v.hostile, 1),
            Rejected("the cluster ID is 1"),
        ),
        row(
            "a service that says it is another peer's",
            &service_key(&v.hostile),
            &service(others, 2),
            Rejected("the cluster is b"),
        ),
        row(
            "a service with the local ID",
            &service_key(&v.hostile),
            &service(&v.hostile, 1),
            Rejected("the cluster ID is 1"),
        ),
        row(
            "a value under another address",
            &address_key("10.3.1.78"),
            &says(HOSTILE_IDENTITY),
            Rejected("10.3.1.78"),
        ),
    ];
    rows.extend(claims);
    rows
}

/// Endpoint slices: first those that the wire refuses, then those that the merge refuses.
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
    let mut zone = sound.clone();
    zone.endpoints.iter_mut().for_each(|endpoint| endpoint.zone = Some("z".repeat(64)));
    let mut rows = vec![
        written("no slice", key(&v.hostile), b"x".to_vec(), Rejected("zstd")),
        written(
            "a zstd bomb",
            key(&v.hostile),
            zstd_frame(BOMB),
            Rejected("bytes in a service or slice"),
        ),
        of("a zone of 64 bytes", zone, Rejected("bytes in a zone's name")),
        of("a slice of names", named, Rejected("addressType")),
        of("a slice with a name among addresses", host, Rejected("addresses")),
        of("a slice of another peer", slice("b", 2, &[HOSTILE_POD]), Rejected("the cluster is b")),
        of("a slice with the local ID", slice(&v.hostile, 1, &[]), Rejected("the cluster ID is 1")),
        written(
            "a slice under our name",
            key(ours),
            encode(&Record::EndpointSlice(Box::new(slice(ours, 1, &[HOSTILE_POD])))),
            Nothing,
        ),
        row(
            "what only local nodes read",
            "clustermesh/local/v1/services/default/echo",
            r#"{"v":1,"namespace":"default","name":"echo"}"#,
            Nothing,
        ),
    ];
    for (name, ip, expected) in backends(v) {
        // Also with one of its own addresses: a slice is accepted completely or not at all.
        rows.push(of(name, slice(&v.hostile, 3, &[HOSTILE_POD, ip]), expected));
    }
    rows
}

/// Keys that no cluster reads, or that only concern the cluster itself.
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
            writes: vec![(slice.into(), zstd_frame(BOMB))],
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

/// Keys of the connection.
fn connection(v: &Victims) -> Vec<Row> {
    let numbered = |name, id, reason| {
        let (key, value) = config(v, id);
        row(name, &key, &value, Refused(reason))
    };
    vec![
        row("a heartbeat from the future", "cilium/.heartbeat", "2999-01-01T00:00:00Z", Nothing),
        numbered("a config with no ID", 0, "has no ID"),
        numbered("a config with an ID beyond the limit", 256, "256"),
        numbered("a config with a negative ID", -1, "id"),
        row("a config that is none", &config(v, 3).0, "{", Refused("JSON")),
        // The grant has the cluster's ID, so every other ID is refused, even an unused one.
        numbered("a config with another ID", 77, "has the ID 77, not the 3"),
        numbered("a config with an honest cluster's ID", 1, "ID 1"),
        numbered("a config with the other honest cluster's ID", 2, "ID 2"),
    ]
}

fn config(v: &Victims, id: i64) -> (String, String) {
    let capabilities = r#"{"syncedCanaries":true,"maxConnectedClusters":255}"#;
    let value = format!(r#"{{"id":{id},"capabilities":{capabilities}}}"#);
    (format!("cilium/cluster-config/{}", v.hostile), value)
}
