//! Drained nodes and clusters.

use mesh_source::Drain;
use proptest::prelude::*;

use super::{services::slice, *};

const SLICE: &str = "endpointslices/v1/alpha/shop/web-1";

/// Two ready endpoints, on two nodes, and one that does not serve.
fn on_two_nodes(cluster: &mut Cluster) {
    cluster.apply(&node("172.31.7.1"));
    cluster.apply(&SERVICE.replace(
        "endpoints: [{addresses: [10.7.1.5]}]",
        "endpoints: [{addresses: [10.7.1.5], nodeName: n1, conditions: {ready: true}}, {addresses: [10.7.2.5], nodeName: n2}, {addresses: [10.7.1.6], nodeName: n1, conditions: {ready: false, serving: false}}]",
    ));
}

fn drain(cluster: &mut Cluster, on: bool, nodes: &[&str]) -> Vec<String> {
    let nodes = nodes.iter().map(|name| (*name).to_owned()).collect();
    cluster.exporter.set_drain(&Drain { cluster: on, nodes }, &mut cluster.counter);
    cluster.changed()
}

/// The last part of each endpoint's address, and its three conditions: `t`, `f`, or `-` if absent.
fn conditions(cluster: &Cluster) -> Vec<String> {
    let word = |condition| match condition {
        Some(true) => 't',
        Some(false) => 'f',
        None => '-',
    };
    let endpoints = slice(cluster, SLICE).unwrap().endpoints.into_iter();
    let exported = endpoints.map(|endpoint| {
        let conditions = [endpoint.ready, endpoint.serving, endpoint.terminating].map(word);
        format!("{} {}", endpoint.addresses[0], String::from_iter(conditions))
    });
    exported.collect()
}

fn backends(cluster: &Cluster) -> Vec<&'static str> {
    let service = cluster.value("services/v1/alpha/shop/web").unwrap();
    ["10.7.1.5", "10.7.1.6", "10.7.2.5"].into_iter().filter(|ip| service.contains(ip)).collect()
}

const AS_THEY_ARE: [&str; 3] = ["10.7.1.5 t--", "10.7.2.5 ---", "10.7.1.6 ff-"];

#[test]
fn drained_endpoints_are_terminating_in_slices_and_left_out_of_services() {
    let mut cluster = Cluster::new();
    on_two_nodes(&mut cluster);
    assert_eq!(conditions(&cluster), AS_THEY_ARE);
    assert_eq!(backends(&cluster), ["10.7.1.5", "10.7.2.5"]);

    let both = [SLICE, "services/v1/alpha/shop/web"];
    assert_eq!(drain(&mut cluster, false, &["n1"]), both);
    assert_eq!(conditions(&cluster), ["10.7.1.5 ftt", "10.7.2.5 ---", "10.7.1.6 fft"]);
    assert_eq!(backends(&cluster), ["10.7.2.5"]);
    let exported = cluster.local("endpointslices").join("");
    assert!(
        exported.contains(r#"["10.7.1.5"],"ready":false,"serving":true,"terminating":true"#),
        "local nodes get the same: {exported}"
    );
    assert!(drain(&mut cluster, false, &["n1"]).is_empty());

    assert_eq!(drain(&mut cluster, true, &["n1"]), both);
    assert_eq!(conditions(&cluster), ["10.7.1.5 ftt", "10.7.2.5 ftt", "10.7.1.6 fft"]);
    assert!(backends(&cluster).is_empty());
    // The third does not serve.
    assert_eq!(cluster.exporter.drain_state().endpoints, 2);
    let without = Drain { cluster: false, nodes: ["n2".to_owned()].into() };
    let what_if = cluster.exporter.drain_state_with(without);
    assert_eq!(
        (what_if.cluster, what_if.nodes[0].name.as_str(), what_if.endpoints),
        (false, "n2", 1)
    );
    assert_eq!(drain_values(&cluster), [r#"{"v":1,"cluster":true,"nodes":["n1"]}"#; 2]);

    // After the drain ends, the conditions are as before. During a drain, changes of endpoints are exported.
    assert_eq!(drain(&mut cluster, false, &["n1"]), both);
    assert_eq!(backends(&cluster), ["10.7.2.5"]);
    assert_eq!(drain(&mut cluster, false, &[]), both);
    assert_eq!(conditions(&cluster), AS_THEY_ARE);
    assert!(drain_values(&cluster).is_empty());
}

/// The exported keys about drains, for local nodes and for peers.
fn drain_values(cluster: &Cluster) -> Vec<String> {
    let keys = [mesh_wire::key::LOCAL_DRAIN, mesh_wire::key::DRAIN];
    let values = keys.into_iter().filter_map(|key| cluster.exporter.value(key));
    values.map(|value| String::from_utf8_lossy(&value).into_owned()).collect()
}

#[test]
fn a_node_is_drained_by_its_annotation_too() {
    let mut cluster = Cluster::new();
    on_two_nodes(&mut cluster);
    let annotated = |word: &str| {
        node("172.31.7.1").replace(
            "metadata: {name: n1}",
            &format!("metadata: {{name: n1, annotations: {{clustermesh.dev/drain: '{word}'}}}}"),
        )
    };
    assert_eq!(cluster.apply(&annotated("true")), [SLICE, "services/v1/alpha/shop/web"]);
    assert_eq!(backends(&cluster), ["10.7.2.5"]);
    // If both drain it, it stays drained until both end.
    drain(&mut cluster, false, &["n1", "n3"]);
    let state = cluster.exporter.drain_state();
    let node = |name: &str, by_file, by_annotation, known| DrainedNode {
        name: name.into(),
        by_file,
        by_annotation,
        known,
    };
    assert_eq!(state.nodes, [node("n1", true, true, true), node("n3", true, false, false)]);
    assert!(drain(&mut cluster, false, &[]).is_empty());
    assert_eq!(backends(&cluster), ["10.7.2.5"]);

    cluster.apply(&annotated("yes"));
    assert_eq!(conditions(&cluster), AS_THEY_ARE);
    let notes: Vec<String> = cluster.exporter.notes().values().flatten().cloned().collect();
    assert_eq!(notes, [r#"clustermesh.dev/drain: "yes" is neither true nor false"#]);
    cluster.apply(&annotated("true"));
    cluster.delete(Kind::Node, "", "n1");
    assert_eq!(conditions(&cluster), AS_THEY_ARE);
}

#[test]
fn new_endpoints_on_a_drained_node_are_terminating() {
    let mut cluster = Cluster::new();
    drain(&mut cluster, false, &["n1"]);
    on_two_nodes(&mut cluster);
    assert_eq!(conditions(&cluster)[0], "10.7.1.5 ftt");
    assert_eq!(backends(&cluster), ["10.7.2.5"]);
}

/// A slice with these endpoints: address, whether it is on node `n1`, whether it serves, and whether it is terminating.
fn slice_of(name: &str, endpoints: &[(u8, bool, bool, bool)]) -> String {
    let endpoint = |(last, on_n1, serving, terminating): &(u8, bool, bool, bool)| {
        let node = if *on_n1 { "n1" } else { "n2" };
        format!(
            "{{addresses: [10.7.1.{last}], nodeName: {node}, conditions: {{ready: {serving}, serving: {serving}, terminating: {terminating}}}}}"
        )
    };
    let endpoints: Vec<String> = endpoints.iter().map(endpoint).collect();
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}\naddressType: IPv4\nendpoints: [{}]\nports: [{{name: http, port: 8080}}]\n",
        endpoints.join(", ")
    )
}

#[test]
fn drained_endpoints_are_counted_by_changes() {
    let mut cluster = Cluster::new();
    for n in 0..100 {
        cluster.apply(&pod(&format!("p{n}"), &format!("10.7.1.{n}"), "web"));
        cluster.apply(&slice_of(&format!("s{n}"), &[(n, true, true, false)]));
    }
    // Two services share a pod's address, two pods share an address, and one address has no pod.
    cluster.apply(&slice_of("again", &[(0, true, true, false), (200, true, true, false)]));
    cluster.apply(&pod("q1", "10.7.1.1", "web"));
    assert_eq!(cluster.exporter.drain_state().endpoints, 0, "nothing is drained");
    assert!(cluster.exporter.leaving.is_none());
    drain(&mut cluster, true, &[]);
    assert_eq!(cluster.exporter.drain_state().endpoints, 101);

    let looks = |cluster: &Cluster| cluster.exporter.leaving.as_ref().unwrap().looks;
    let before = looks(&cluster);
    // The address belongs to another pod now: the number does not change.
    cluster.delete(Kind::Pod, "shop", "p1");
    assert_eq!(cluster.exporter.drain_state().endpoints, 101);
    cluster.apply(&slice_of("s2", &[(2, true, false, false)]));
    assert_eq!(cluster.exporter.drain_state().endpoints, 100, "it does not serve");
    // Its address stays, without a pod.
    cluster.delete(Kind::Pod, "shop", "p3");
    assert_eq!(cluster.exporter.drain_state().endpoints, 100);
    assert_eq!(looks(&cluster) - before, 4, "what was and what is, of 200 objects");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// After any changes, the number of drained endpoints equals that of a complete count.
    #[test]
    fn the_count_of_drained_endpoints_equals_a_complete_count(
        steps in prop::collection::vec((0_u8..6, 0_u8..4, 0_u8..4, any::<[bool; 3]>()), 1..40),
    ) {
        let mut cluster = Cluster::new();
        let mut file = Drain::default();
        for (what, name, address, [on_n1, serves, more]) in steps {
            match what {
                0 => drop(cluster.apply(&pod(&format!("p{name}"), &format!("10.7.1.{address}"), "web"))),
                1 => drop(cluster.delete(Kind::Pod, "shop", &format!("p{name}"))),
                2 => {
                    let one = (address, on_n1, serves, !serves && more);
                    let other = (address ^ 1, on_n1, true, false);
                    let endpoints = [one, other];
                    let endpoints = &endpoints[..if more { 2 } else { 1 }];
                    cluster.apply(&slice_of(&format!("s{name}"), endpoints));
                }
                3 => drop(cluster.delete(Kind::EndpointSlice, "shop", &format!("s{name}"))),
                4 => drop(cluster.apply(&node("172.31.7.1").replace(
                    "metadata: {name: n1}",
                    &format!("metadata: {{name: n1, annotations: {{clustermesh.dev/drain: '{on_n1}'}}}}"),
                ))),
                _ => {
                    let nodes = ["n1", "n2"].into_iter().take(usize::from(name) % 3);
                    file = Drain { cluster: on_n1 && more, nodes: nodes.map(str::to_owned).collect() };
                    cluster.exporter.set_drain(&file, &mut cluster.counter);
                }
            }
            prop_assert_eq!(cluster.exporter.drain_state(), cluster.exporter.drain_state_with(file.clone()));
        }
    }
}
