//! What lines of a batch may look like, and how they name ends: accepted, refused by name, never half.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use mesh_labels::LabelFilter;
use mesh_policy::Options;
use mesh_verdict::answer_line;
use serde_json::{Value, json};

fn answer(line: &str) -> Value {
    let answer = answer_line(line, Options::default(), &LabelFilter::new([]).unwrap());
    serde_json::to_value(answer).unwrap()
}

fn pod(namespace: &str, name: &str, ip: &str) -> Value {
    json!({ "kind": "pod", "namespace": namespace, "name": name, "ips": [ip], "labels": { "app": name } })
}

/// A line with two pods and one flow, some fields of which are others.
fn line(fields: Value) -> Value {
    let mut line = json!({
        "id": "x",
        "endpoints": [pod("shop", "web", "10.1.0.1"), pod("shop", "db", "10.1.0.2")],
        "flows": [{ "from": "web", "to": "db", "port": 80 }],
    });
    line.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    answer(&line.to_string())
}

/// `object|field` of all that is refused.
fn refused(answer: &Value) -> Vec<String> {
    assert_eq!(answer["flows"], Value::Null, "{answer}");
    let text = |one: &Value, field: &str| one[field].as_str().unwrap().to_owned();
    let refused = answer["refused"].as_array().unwrap();
    refused.iter().map(|one| [text(one, "object"), text(one, "field")].join("|")).collect()
}

fn deny(kind: &str, name: &str) -> Value {
    json!({ "object": {
        "apiVersion": "networking.k8s.io/v1", "kind": kind, "metadata": { "namespace": "shop", "name": name }, "spec": { "podSelector": {} },
    } })
}

#[test]
fn all_that_is_refused_of_a_line_is_named() {
    let cases = [
        (json!({ "polices": [] }), vec!["|polices"]),
        (json!({ "options": { "mode": "always" } }), vec!["options|mode"]),
        (json!({ "options": { "enforcementMode": "sometimes" } }), vec!["options|enforcementMode"]),
        (
            json!({ "options": { "defaultLocalCluster": "false" } }),
            vec!["options|defaultLocalCluster"],
        ),
        (json!({ "options": ["always"] }), vec!["options|"]),
        (
            json!({ "policies": [{ "objct": {} }, [], deny("NetworkPolicy", "p")] }),
            vec!["policies[0]|objct", "policies[1]|"],
        ),
        (
            json!({ "policies": [deny("NetPolicy", "p"), { "object": 1 }] }),
            vec!["NetPolicy shop/p|kind", "policies[1]|kind"],
        ),
        (
            json!({ "policies": [deny("NetworkPolicy", "p"), deny("NetworkPolicy", "p")] }),
            vec!["NetworkPolicy shop/p|metadata.name"],
        ),
        (
            json!({ "endpoints": [{ "kind": "pod", "name": "a", "ips": ["x"] }, { "name": "b" }, ["pod", "c"], { "kind": "Pod", "name": "d" }] }),
            vec!["endpoints[0]|ips[0]", "endpoints[1]|", "endpoints[2]|", "endpoints[3]|kind"],
        ),
        (
            json!({ "endpoints": [{ "kind": "pod", "name": "a", "ports": [["http", 80]] }] }),
            vec!["endpoints[0]|ports[0]"],
        ),
        (
            json!({ "flows": [{ "from": "web", "to": "db", "dport": 80 }, ["web", "db", "TCP", 80], { "from": "web", "to": "db", "icmpType": 256 }] }),
            vec!["flows[0]|dport", "flows[1]|", "flows[2]|icmpType"],
        ),
        (
            json!({ "flows": [{ "from": "web", "to": "x", "port": 1 }, { "from": "y", "to": "db", "port": 1 }, { "from": "web", "to": "db" }] }),
            vec!["flows[0]|to", "flows[1]|from", "flows[2]|port"],
        ),
        (
            json!({ "allPairs": { "ports": ["80/TCP", "http", "80/ICMP"] } }),
            vec!["allPairs|ports[1]", "allPairs|ports[2]"],
        ),
        (
            json!({ "services": [{ "object": { "apiVersion": "v1", "kind": "Service", "metadata": { "namespace": "shop", "name": "s" }, "spec": { "clusterIP": "x", "ports": [] } } }] }),
            vec!["Service shop/s|spec.clusterIP"],
        ),
    ];
    for (fields, wanted) in cases {
        let answer = line(fields.clone());
        assert_eq!(
            (refused(&answer), &answer["id"]),
            (wanted.into_iter().map(str::to_owned).collect(), &json!("x")),
            "{fields}: {answer}"
        );
    }
}

#[test]
fn whatever_a_line_is_it_is_answered() {
    for (line, id) in [
        ("", Value::Null),
        ("null", Value::Null),
        ("[1]", Value::Null),
        ("\"x\"", Value::Null),
        ("{\"id\":1,\"flows\":[", Value::Null),
        ("{\"id\":2,\"flows\":[],\"policies\":[],\"policies\":[]}", json!(2)),
        ("{\"id\":3,\"flows\":[]} {}", Value::Null),
        ("{\"id\":{\"a\":[4]},\"flows\":{}}", json!({ "a": [4] })),
    ] {
        let answer = answer(line);
        assert_eq!((refused(&answer).len(), &answer["id"]), (1, &id), "{line}: {answer}");
    }
}

#[test]
fn null_is_absent() {
    let absent = json!({
        "policies": null, "services": null, "allPairs": null, "options": null,
        "endpoints": [
            { "kind": "pod", "name": "web", "ips": ["10.1.0.1"], "cluster": "", "namespace": "", "labels": null, "ports": null, "identityLabels": null, "kubeAPIServer": null },
            { "kind": "pod", "name": "db", "ip": "10.1.0.2", "ips": null, "serviceAccount": "", "kubeAPIServerOf": null },
        ],
    });
    let answer = line(absent);
    assert_eq!(answer["flows"][0]["verdict"], "allowed", "{answer}");
    assert_eq!(answer.get("matrix"), None);
}

#[test]
fn ends_are_names_first_then_paths_then_addresses() {
    let of = |cluster: &str, mut pod: Value| {
        pod["cluster"] = cluster.into();
        pod
    };
    let endpoints = json!([
        of("a", pod("s", "w", "10.0.0.1")),
        of("b", pod("s", "w", "10.0.0.2")),
        of("b", pod("t", "only", "10.0.0.3")),
        of("a", pod("n", "n1", "10.0.0.4")),
        { "kind": "node", "cluster": "n", "name": "n1", "ip": "172.31.0.1" },
        { "kind": "node", "cluster": "b", "name": "n2", "ip": "172.31.0.2" },
        { "kind": "pod", "cluster": "b", "namespace": "s", "name": "proxy", "node": "n2", "ips": ["172.31.0.2"], "hostNetwork": true },
        { "kind": "external", "name": "b/s/w", "ip": "203.0.113.1" },
    ]);
    // What the source is, by the letters of egress: a pod's is judged, a node's and an address's is not.
    for (from, wanted) in [
        ("w", Err("several")),
        ("s/w", Err("a/s/w, b/s/w")),
        ("a/s/w", Ok("allowed")),
        ("b/s/w", Ok("not-enforced")),
        ("t/only", Ok("allowed")),
        ("only", Ok("allowed")),
        ("10.0.0.3", Ok("allowed")),
        ("::ffff:10.0.0.3", Ok("allowed")),
        ("n1", Err("several")),
        ("n/n1", Ok("allowed")),
        ("s/proxy", Ok("not-enforced")),
        ("b/s/proxy", Ok("not-enforced")),
        ("b/n2", Ok("not-enforced")),
        ("172.31.0.2", Ok("not-enforced")),
        ("198.51.100.7", Ok("not-enforced")),
        ("a/t/only", Err("is no endpoint")),
    ] {
        let answer = line(
            json!({ "endpoints": endpoints, "flows": [{ "from": from, "to": "only", "port": 1 }] }),
        );
        match wanted {
            Ok(egress) => assert_eq!(answer["flows"][0]["egress"], egress, "{from}: {answer}"),
            Err(reason) => assert!(
                answer["refused"][0]["reason"].as_str().unwrap().contains(reason),
                "{from}: {answer}"
            ),
        }
    }
}

#[test]
fn a_service_is_denied_where_one_backend_is() {
    let slice = json!({ "object": {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "namespace": "shop", "name": "s-1", "labels": { "kubernetes.io/service-name": "s" } },
        "endpoints": [{ "addresses": ["203.0.113.9"] }, { "addresses": ["10.1.0.2"] }, { "addresses": ["10.1.0.1"] }],
        "ports": [{ "name": "", "port": 8080, "protocol": "TCP" }],
    } });
    let service = json!({ "object": {
        "apiVersion": "v1", "kind": "Service", "metadata": { "namespace": "shop", "name": "s" },
        "spec": { "clusterIP": "10.96.0.1", "ports": [{ "port": 80, "protocol": "TCP" }] },
    } });
    let policy = json!({ "object": {
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": { "namespace": "shop", "name": "p" },
        "spec": { "podSelector": { "matchLabels": { "app": "db" } } },
    } });
    let egress = json!({ "object": {
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": { "namespace": "shop", "name": "q" },
        "spec": { "podSelector": { "matchLabels": { "app": "web" } }, "policyTypes": ["Egress"], "egress": [{ "to": [{ "podSelector": {} }] }] },
    } });
    let answer = line(json!({
        "services": [service, slice], "policies": [policy, egress], "flows": [{ "from": "web", "to": "10.96.0.1", "port": 80 }],
    }));
    let flow = &answer["flows"][0];
    // One backend is denied where it leaves, another where it arrives, and the third is the pod itself.
    assert_eq!(
        json!([flow["egress"], flow["ingress"], flow["verdict"]]),
        json!(["denied", "denied", "denied"]),
        "{answer}"
    );
    assert_eq!(
        json!([flow["decidedBy"]["egress"]["policies"], flow["decidedBy"]["ingress"]["policies"]]),
        json!([["NetworkPolicy shop/q"], ["NetworkPolicy shop/p"]])
    );
    assert!(
        flow["why"].as_str().unwrap().contains("shop/q")
            && flow["why"].as_str().unwrap().contains("shop/p")
    );
    assert_eq!(flow["note"], "service default/shop/s: 1 of 3 backends allowed, at port 8080");
    let backends: Vec<Value> = flow["backends"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| json!([one["backend"], one["verdict"]]))
        .collect();
    assert_eq!(
        Value::from(backends),
        json!([
            ["default/shop/web", "allowed"],
            ["default/shop/db", "denied"],
            ["203.0.113.9", "denied"]
        ])
    );
}

#[test]
fn an_address_among_services_is_one_or_an_error() {
    let service = |ip: &str| {
        json!({ "object": {
            "apiVersion": "v1", "kind": "Service", "metadata": { "namespace": "shop", "name": "s" },
            "spec": { "clusterIP": ip, "selector": { "app": "db" }, "ports": [{ "port": 80 }] },
        } })
    };
    let range = json!({ "object": {
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": { "name": "kubernetes" }, "spec": { "cidrs": ["198.51.100.0/24"] },
    } });
    let cases = [
        (vec![service("10.96.0.10")], "10.96.0.10", true),
        (vec![service("10.96.0.10")], "10.96.200.1", false),
        (vec![service("10.96.0.10")], "10.97.0.1", true),
        (vec![service("fd00:9::10")], "fd00:9::77", false),
        // Pods are near, so the range is narrower.
        (vec![service("10.1.128.10")], "10.1.128.11", false),
        (vec![service("10.1.128.10")], "10.1.99.11", true),
        // Public addresses are not guessed at, only given.
        (vec![service("198.51.100.10")], "198.51.100.11", true),
        (vec![service("198.51.100.10"), range], "198.51.100.11", false),
        (vec![], "10.96.0.10", true),
    ];
    for (services, to, is_answered) in cases {
        let answer = line(
            json!({ "services": services, "flows": [{ "from": "web", "to": to, "port": 80 }] }),
        );
        match is_answered {
            true => assert_eq!(answer["refused"], json!([]), "{to}: {answer}"),
            false => assert_eq!(refused(&answer), ["flows[0]|to"], "{to}: {answer}"),
        }
    }
}

#[test]
fn the_node_of_an_api_server_is_one_at_each_of_its_addresses() {
    let slice = json!({ "object": {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "namespace": "default", "name": "kubernetes", "labels": { "kubernetes.io/service-name": "kubernetes" } },
        "endpoints": [{ "addresses": ["172.31.0.1"] }], "ports": [{ "name": "https", "port": 6443, "protocol": "TCP" }],
    } });
    let policy = json!({ "object": {
        "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": { "namespace": "shop", "name": "api" },
        "spec": { "endpointSelector": {}, "egress": [{ "toEntities": ["kube-apiserver"] }] },
    } });
    let mut pods = vec![pod("shop", "web", "10.1.0.1")];
    // As `kubectl` prints them: pods, then nodes.
    pods.push(json!({ "kind": "pod", "namespace": "kube-system", "name": "api", "node": "n1", "ips": ["172.31.0.1"], "hostNetwork": true }));
    pods.push(json!({ "kind": "node", "name": "n1", "ips": ["172.31.0.1", "203.0.113.1"] }));
    let flows: Vec<Value> = ["172.31.0.1", "203.0.113.1", "kube-system/api", "n1", "203.0.113.2"]
        .map(|to| json!({ "from": "web", "to": to, "port": 6443 }))
        .to_vec();
    let answer = line(
        json!({ "services": [slice], "policies": [policy], "endpoints": pods, "flows": flows }),
    );
    let egress: Vec<&Value> =
        answer["flows"].as_array().unwrap().iter().map(|flow| &flow["egress"]).collect();
    assert_eq!(egress, ["allowed", "allowed", "allowed", "allowed", "denied"], "{answer}");
}
