//! Ports and ICMP types of rules.

use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::{Value, json};

/// `ports` of a NetworkPolicy's rule.
pub(super) fn network_policy() -> impl Strategy<Value = Option<Value>> {
    let port = select(vec![
        json!({}),
        json!({ "protocol": "UDP" }),
        json!({ "protocol": "SCTP" }),
        json!({ "port": 80 }),
        json!({ "port": 443, "protocol": "TCP" }),
        json!({ "port": 53, "protocol": "UDP" }),
        json!({ "port": 80, "endPort": 443 }),
        json!({ "port": 81, "endPort": 81 }),
        json!({ "port": "http" }),
        json!({ "port": "dns", "protocol": "UDP" }),
        json!({ "port": "dns" }),
    ]);
    prop::option::of(vec(port, 0..4).prop_map(Value::from))
}

/// The part of a Cilium rule beside its peers: nothing, ports, or ICMP types.
pub(super) fn cilium() -> impl Strategy<Value = Option<(&'static str, Value)>> {
    prop_oneof![
        4 => Just(None),
        5 => vec(entry(), 0..4).prop_map(|entries| Some(("toPorts", entries.into()))),
        1 => vec(icmp(), 0..3).prop_map(|fields| Some(("icmps", json!([{ "fields": fields }])))),
    ]
}

fn entry() -> impl Strategy<Value = Value> {
    let port = select(vec![
        json!({ "port": "0" }),
        json!({ "port": "0", "protocol": "UDP" }),
        json!({ "port": "0", "protocol": "ANY" }),
        json!({ "port": "80", "protocol": "TCP" }),
        json!({ "port": "80" }),
        json!({ "port": "443", "protocol": "TCP" }),
        json!({ "port": "53", "protocol": "UDP" }),
        json!({ "port": "80", "endPort": 443, "protocol": "TCP" }),
        json!({ "port": "81", "endPort": 0 }),
        json!({ "port": "http" }),
        json!({ "port": "HTTP", "protocol": "TCP" }),
        json!({ "port": "dns", "protocol": "UDP" }),
        json!({ "port": "dns", "protocol": "ANY" }),
        json!({ "protocol": "VRRP" }),
    ]);
    prop_oneof![
        1 => Just(json!({ "ports": [] })),
        9 => vec(port, 1..4).prop_map(|ports| json!({ "ports": ports })),
        1 => Just(json!({})),
    ]
}

fn icmp() -> impl Strategy<Value = Value> {
    select(vec![
        json!({ "type": 8 }),
        json!({ "type": "3" }),
        json!({ "type": "EchoRequest" }),
        json!({ "family": "IPv4", "type": "DestinationUnreachable" }),
        json!({ "family": "IPv6", "type": 128 }),
        json!({ "family": "IPv6", "type": "EchoRequest" }),
    ])
}
