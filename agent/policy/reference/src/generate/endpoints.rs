//! Pods, nodes, addresses outside, namespaces and services.

use proptest::{prelude::*, sample::select};
use serde_json::{Map, Value, json};

use super::{CLUSTERS, NAMESPACES};

/// All that flows can name, and the namespaces.
pub(super) fn all() -> impl Strategy<Value = Vec<Value>> {
    let each = || (0..2).flat_map(|cluster| (0..3).map(move |number| (cluster, number)));
    let namespaces: Vec<_> = each().map(|(cluster, n)| namespace(cluster, n)).collect();
    let pods: Vec<_> =
        each().flat_map(|(cluster, n)| (1..4).map(move |number| pod(cluster, n, number))).collect();
    (namespaces, pods).prop_map(|(namespaces, pods)| {
        let nodes = (0..2).flat_map(|cluster| (0..2).map(move |number| node(cluster, number)));
        namespaces.into_iter().chain(pods).chain(nodes).chain(outside()).collect()
    })
}

/// Labels of a namespace differ from world to world.
pub(super) fn namespace(cluster: usize, number: usize) -> impl Strategy<Value = Value> {
    select(vec![json!({ "env": "prod" }), json!({ "env": "dev" }), json!({})]).prop_map(
        move |labels| json!({ "kind": "namespace", "cluster": CLUSTERS[cluster], "name": NAMESPACES[number], "labels": labels }),
    )
}

/// A pod of a place. Where it is stays the same from world to world.
pub(super) fn pod(cluster: usize, namespace: usize, number: usize) -> impl Strategy<Value = Value> {
    let labels = (
        select(vec!["a", "b", "c"]),
        prop::option::of(select(vec!["x", "y"])),
        any::<bool>(),
        prop::bool::weighted(0.2),
    );
    let account = prop::option::of(Just("web"));
    let how = prop_oneof![12 => Just(""), 1 => Just("hostNetwork"), 1 => Just("identityLabels"), 1 => Just("init")];
    (labels, account, 0..4usize, any::<bool>(), how).prop_map(
        move |((app, tier, hash, claim), account, families, named, how)| {
            let mut labels = Map::new();
            labels.insert("app".into(), app.into());
            labels.extend(tier.map(|tier| ("tier".to_owned(), tier.into())));
            if hash {
                labels.insert("pod-template-hash".into(), "5d4f".into());
            }
            if claim {
                labels.insert("io.cilium.k8s.namespace.labels.env".into(), "prod".into());
            }
            let v4 = format!("10.{}.{namespace}.{number}", cluster + 1);
            let v6 = format!("fd00:{}::{namespace}:{number}", cluster + 1);
            let ips = match families {
                0 => json!([v6]),
                1 => json!([v4, v6]),
                _ => json!([v4]),
            };
            let mut pod = json!({
                "kind": "pod", "cluster": CLUSTERS[cluster], "namespace": NAMESPACES[namespace],
                "name": name(cluster, namespace, number), "node": format!("node{}", number % 2),
                "ips": ips, "labels": labels,
                "ports": [
                    { "name": "http", "containerPort": if named { 80 } else { 81 } },
                    { "name": "dns", "port": 53, "protocol": "UDP" },
                ],
            });
            if let Some(account) = account {
                pod["serviceAccount"] = account.into();
            }
            match how {
                "hostNetwork" => {
                    pod["hostNetwork"] = true.into();
                    pod["ips"] = node(cluster, number % 2)["ips"].clone();
                }
                "identityLabels" => {
                    pod["identityLabels"] = json!({
                        "k8s:app": app, "container:tier": "x",
                        // Claims that count for nothing.
                        "container:io.cilium.k8s.policy.serviceaccount": "web",
                        "unspec:io.cilium.k8s.namespace.labels.env": "prod",
                        "k8s:io.kubernetes.pod.namespace": NAMESPACES[namespace],
                        "k8s:io.cilium.k8s.policy.cluster": CLUSTERS[cluster],
                    });
                }
                "init" => pod["identityLabels"] = json!({ "reserved:init": "" }),
                _ => {}
            }
            pod
        },
    )
}

/// A pod's name, which no other pod has.
pub(super) fn name(cluster: usize, namespace: usize, number: usize) -> String {
    format!("p{number}-{}-{}", NAMESPACES[namespace], CLUSTERS[cluster])
}

fn node(cluster: usize, number: usize) -> Value {
    json!({
        "kind": "node", "cluster": CLUSTERS[cluster], "name": format!("node{number}"),
        "ips": [format!("172.31.{cluster}.{}", number + 1), format!("fd00:172::{cluster}:{}", number + 1)],
        "kubeAPIServer": cluster == 0 && number == 1,
    })
}

fn outside() -> [Value; 3] {
    [
        json!({ "kind": "external", "name": "bank", "ip": "203.0.113.7" }),
        json!({ "kind": "external", "name": "bank6", "ip": "2001:db8::7" }),
        json!({ "kind": "external", "name": "api", "ip": "203.0.113.99", "kubeAPIServerOf": CLUSTERS[1] }),
    ]
}

/// Services with a selector, and one with addresses of its own.
pub(super) fn services() -> Value {
    let service = |cluster: usize, namespace: &str, name: &str, selector: Value| {
        json!({ "cluster": CLUSTERS[cluster], "object": {
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "namespace": namespace, "name": name, "labels": { "of": name } },
            "spec": { "clusterIP": "10.200.0.1", "selector": selector, "ports": [{ "port": 80 }] },
        } })
    };
    let slice = json!({ "cluster": CLUSTERS[0], "object": {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "namespace": "n1", "name": "outside-1", "labels": { "kubernetes.io/service-name": "outside" } },
        "endpoints": [
            { "addresses": ["203.0.113.7"] },
            { "addresses": ["10.1.0.1"], "conditions": { "ready": true } },
            { "addresses": ["203.0.113.99"], "conditions": { "ready": false } },
        ],
        "ports": [{ "name": "", "port": 80, "protocol": "TCP" }],
    } });
    json!([
        service(0, "n1", "web", json!({ "app": "a" })),
        service(0, "n2", "web", json!({ "tier": "x" })),
        service(1, "n1", "web", json!({ "app": "b" })),
        service(0, "n1", "outside", json!({})),
        slice,
    ])
}

/// What flows name: pods mostly, then nodes by their addresses, since both clusters have nodes of one name.
pub(super) fn end() -> impl Strategy<Value = String> {
    let pod = (0..2usize, 0..3usize, 1..4usize);
    let word = |words: &[&str]| {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        select(words)
    };
    prop_oneof![
        20 => pod.prop_map(|(cluster, namespace, number)| name(cluster, namespace, number)),
        2 => (0..2usize, 0..3usize, 1..4usize).prop_map(|(cluster, n, number)| {
            format!("{}/{}/{}", CLUSTERS[cluster], NAMESPACES[n], name(cluster, n, number))
        }),
        1 => word(&["10.1.0.1", "10.2.1.2", "fd00:1::0:1"]),
        4 => word(&["172.31.0.1", "172.31.0.2", "172.31.1.1", "172.31.1.2", "fd00:172::0:1"]),
        3 => word(&["bank", "bank6", "api"]),
        // Unknown of east, of west, and nobody's.
        2 => word(&["10.1.9.9", "fd00:1::9:9", "10.2.9.9", "198.51.100.1"]),
    ]
}
