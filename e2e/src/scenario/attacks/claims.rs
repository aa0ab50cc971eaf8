//! Records outside the hostile cluster's grant.

use super::{
    Victims,
    row::{
        Expected::{self, Rejected},
        HOSTILE_IDENTITY, HOSTILE_POD, HOSTILE_RANGE, Row, row,
    },
    values::{HTTP, STATE, address_key, address_value, node_value, service_key, service_value},
};

/// Addresses of other clusters.
pub(super) fn not_granted(v: &Victims) -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, ip, expected) in [
        ("our pod's address", v.pods[0].as_str(), Rejected("address 10.1.")),
        ("another peer's pod's address", &v.pods[1], Rejected("address 10.2.")),
        ("our node's address", &v.nodes[0], Rejected(".1.1/32")),
        ("our service's address", &v.service, Rejected("address 10.101.")),
        ("loopback", "127.0.0.1", Rejected("address 127.0.0.1/32")),
        ("an address outside all grants", "192.0.2.1", Rejected("address 192.0.2.1/32")),
    ] {
        rows.push(row(name, &address_key(ip), &address_value(ip, HOSTILE_IDENTITY), expected));
    }
    let key = format!("{STATE}/nodes/v1/{}/n9", v.hostile);
    for (name, ip, range, expected) in [
        ("a node at our node's address", v.nodes[0].as_str(), HOSTILE_RANGE, Rejected(".1.1/32")),
        ("a node at another peer's node's", &v.nodes[1], HOSTILE_RANGE, Rejected(".2.1/32")),
        ("a node with our pods", &v.hostile_node, "10.1.1.0", Rejected("node n9: 10.1.1.0/24")),
        (
            "a node with another peer's pods",
            &v.hostile_node,
            "10.2.1.0",
            Rejected("node n9: 10.2.1.0/24"),
        ),
        (
            "a node with our services",
            &v.hostile_node,
            "10.101.0.0",
            Rejected("node n9: 10.101.0.0/24"),
        ),
    ] {
        rows.push(row(name, &key, &node_value("n9", &v.hostile, 3, ip, range), expected));
    }
    let everything =
        node_value("n9", &v.hostile, 3, &v.hostile_node, "0.0.0.0").replace("////AA==", "AAAAAA==");
    rows.push(row("a node with all ranges", &key, &everything, Rejected("node n9: 0.0.0.0/0")));
    for (name, ip, expected) in backends(v) {
        // Also with one of its own addresses: a record is accepted completely or not at all.
        let value = service_value(&v.hostile, 3, &[HOSTILE_POD, ip], HTTP);
        rows.push(row(name, &service_key(&v.hostile), &value, expected));
    }
    rows
}

/// Backends outside the hostile cluster's grant, and the expected reaction to a record with one.
pub(super) fn backends(v: &Victims) -> [(&'static str, &str, Expected); 6] {
    [
        ("a backend that is our pod", v.pods[0].as_str(), Rejected(": 10.1.")),
        ("a backend that is another peer's pod", &v.pods[1], Rejected(": 10.2.")),
        ("a backend that is our node", &v.nodes[0], Rejected(".1.1/32")),
        ("a backend on the client's own machine", "127.0.0.1", Rejected(": 127.0.0.1/32")),
        ("a backend that serves secrets", "169.254.169.254", Rejected(": 169.254.169.254/32")),
        ("a backend outside all grants", "192.0.2.1", Rejected(": 192.0.2.1/32")),
    ]
}
