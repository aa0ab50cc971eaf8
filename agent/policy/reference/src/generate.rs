//! Generated worlds, flows and changes, as values in the forms of a batch.
//!
//! Two clusters, three namespaces with three pods each, nodes, addresses outside, services, and policies of all kinds.
//! There are few labels, ports and ranges, so that flows meet rules.

#![expect(
    clippy::indexing_slicing,
    reason = "what is generated has these fields; without one a test fails"
)]

use ipnet::IpNet;
use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::{Value, json};

mod changes;
mod endpoints;
mod policies;
mod ports;
mod selectors;

pub use changes::{apply, change};
pub use policies::policy;

const CLUSTERS: [&str; 2] = ["east", "west"];
const NAMESPACES: [&str; 3] = ["n1", "n2", "n3"];

/// The ranges of both clusters' pods. Some of their addresses are no pod's.
pub fn pod_ranges() -> Vec<(String, IpNet)> {
    let ranges = ["10.1.0.0/16", "fd00:1::/32", "10.2.0.0/16", "fd00:2::/32"];
    let ranges = ranges.iter().filter_map(|range| range.parse().ok());
    let clusters = CLUSTERS.iter().flat_map(|cluster| [*cluster; 2]).map(str::to_owned);
    clusters.zip(ranges).collect()
}

/// A line of a batch, without flows.
pub fn world() -> impl Strategy<Value = Value> {
    (endpoints::all(), vec(policy(), 0..20), options()).prop_map(|(endpoints, policies, options)| {
        let mut line = json!({
            "policies": [], "endpoints": endpoints, "services": endpoints::services(), "options": options,
        });
        // Of several with one name the last one stays.
        for policy in &policies {
            let step = json!({ "cluster": policy["cluster"], "apply": policy["object"] });
            apply(&mut line, &step);
        }
        line
    })
}

fn options() -> impl Strategy<Value = Value> {
    let mode = prop_oneof![12 => Just("default"), 2 => Just("always"), 1 => Just("never")];
    let localhost = select(vec!["always", "policy"]);
    let cidr = prop_oneof![2 => Just("network-policy"), 1 => Just("all"), 1 => Just("none")];
    (mode, prop::bool::weighted(0.7), localhost, cidr).prop_map(|(mode, local, localhost, cidr)| {
        json!({ "enforcementMode": mode, "defaultLocalCluster": local, "allowLocalhost": localhost, "cidrMatch": cidr })
    })
}

/// A flow. It may name a pod that a change has removed, or a port that the pod does not name: then it has no answer.
pub fn flow() -> impl Strategy<Value = Value> {
    let port = |ports: &[u16], protocol: &'static str| {
        let port = select(ports.to_vec());
        port.prop_map(move |port| json!({ "protocol": protocol, "port": port }))
    };
    let traffic = prop_oneof![
        6 => port(&[80, 80, 81, 443, 53], "TCP"),
        3 => port(&[80, 53], "UDP"),
        1 => port(&[80, 5000], "SCTP"),
        1 => select(vec!["http", "dns"]).prop_map(|name| json!({ "portName": name })),
        2 => select(vec![json!(8), json!(3), json!(128), json!("EchoRequest")])
            .prop_map(|kind| json!({ "protocol": "ICMP", "icmpType": kind })),
        1 => Just(json!({ "protocol": "ICMPv6", "icmpType": 128 })),
    ];
    (endpoints::end(), endpoints::end(), traffic).prop_map(|(from, to, traffic)| {
        let mut flow = traffic;
        flow["from"] = from.into();
        flow["to"] = to.into();
        flow
    })
}
