//! Lines of a batch and their answers, each from a documented rule.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use mesh_labels::LabelFilter;
use mesh_policy::Options;
use mesh_verdict::{BatchAnswer, Side, answer_line};
use serde_json::{Value, json};

fn answer(line: &Value) -> BatchAnswer {
    answer_line(&line.to_string(), Options::default(), &LabelFilter::new([]).unwrap())
}

fn pod(cluster: &str, namespace: &str, name: &str, ip: &str, app: &str) -> Value {
    json!({
        "kind": "pod", "cluster": cluster, "namespace": namespace, "name": name, "node": format!("{cluster}-n1"),
        "ips": [ip], "labels": { "app": app },
        "ports": [{ "name": "http", "containerPort": 8080 }, { "name": "dns", "port": 53, "protocol": "UDP" }],
    })
}

fn endpoints() -> Vec<Value> {
    vec![
        json!({ "kind": "namespace", "cluster": "a", "name": "shop", "labels": { "team": "red" } }),
        json!({ "kind": "namespace", "cluster": "a", "name": "other", "labels": { "team": "blue" } }),
        pod("a", "shop", "web", "10.1.0.10", "web"),
        pod("a", "shop", "db", "10.1.0.11", "db"),
        pod("a", "other", "job", "10.1.0.12", "job"),
        pod("b", "shop", "web-b", "10.2.0.10", "web"),
        json!({ "kind": "node", "cluster": "a", "name": "a-n1", "ip": "172.31.0.1" }),
        json!({ "kind": "node", "cluster": "a", "name": "a-n2", "ip": "172.31.0.2", "kubeAPIServer": true }),
        json!({ "kind": "external", "name": "bank", "ip": "203.0.113.7" }),
    ]
}

fn network_policy(spec: Value) -> Value {
    json!({ "cluster": "a", "object": {
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "namespace": "shop", "name": "p" }, "spec": spec,
    } })
}

fn cilium(kind: &str, spec: Value) -> Value {
    json!({ "cluster": "a", "object": {
        "apiVersion": "cilium.io/v2", "kind": kind, "metadata": { "namespace": "shop", "name": "c" }, "spec": spec,
    } })
}

fn cnp(spec: Value) -> Value {
    cilium("CiliumNetworkPolicy", spec)
}

/// `from → to port`: egress and ingress as in the matrix.
fn letters(policies: &[Value], flows: &[(&str, &str, &str)]) -> Vec<String> {
    let flows: Vec<Value> = flows.iter().map(|(from, to, port)| flow(from, to, port)).collect();
    let line = json!({ "id": 1, "policies": policies, "endpoints": endpoints(), "flows": flows });
    let answer = answer(&line);
    assert_eq!(answer.refused, [], "{line}");
    let letter = |side| match side {
        Side::Allowed => 'A',
        Side::Denied => 'D',
        Side::NotEnforced => '-',
    };
    let flows = answer.flows.unwrap().unwrap();
    flows.iter().map(|one| String::from_iter([letter(one.egress), letter(one.ingress)])).collect()
}

fn flow(from: &str, to: &str, port: &str) -> Value {
    let (port, protocol) = port.split_once('/').unwrap();
    match (protocol, port.parse::<u16>()) {
        ("ICMP", Ok(kind)) => json!({ "from": from, "to": to, "icmpType": kind }),
        (_, Ok(port)) => json!({ "from": from, "to": to, "protocol": protocol, "port": port }),
        (_, Err(_)) => json!({ "from": from, "to": to, "protocol": protocol, "portName": port }),
    }
}

#[test]
fn without_policies_all_is_allowed_and_nobody_judges_what_is_no_pod() {
    let flows = [
        ("web", "db", "80/TCP"),
        ("bank", "web", "80/TCP"),
        ("web", "bank", "80/TCP"),
        ("a-n1", "a-n2", "1/UDP"),
    ];
    assert_eq!(letters(&[], &flows), ["AA", "-A", "A-", "--"]);
}

/// Kubernetes, "Network Policies", "Default deny all ingress traffic".
#[test]
fn default_deny() {
    let policy = network_policy(json!({ "podSelector": {} }));
    let flows = [
        ("web", "db", "80/TCP"),
        ("job", "db", "80/TCP"),
        ("db", "job", "80/TCP"),
        ("bank", "web", "80/TCP"),
        // The kubelet on the pod's own node; another node is another matter.
        ("a-n1", "web", "80/TCP"),
        ("a-n2", "web", "80/TCP"),
        ("web", "web", "80/TCP"),
        // The other cluster's policies are its own.
        ("job", "web-b", "80/TCP"),
    ];
    assert_eq!(letters(&[policy], &flows), ["AD", "AD", "AA", "-D", "-A", "-D", "AA", "AA"]);
}

/// Kubernetes, "Behavior of to and from selectors".
#[test]
fn peers_of_a_network_policy() {
    let from = |peers: Value| {
        network_policy(
            json!({ "podSelector": { "matchLabels": { "app": "db" } }, "ingress": [{ "from": peers }] }),
        )
    };
    let flows = [
        ("web", "db", "80/TCP"),
        ("job", "db", "80/TCP"),
        ("web-b", "db", "80/TCP"),
        ("bank", "db", "80/TCP"),
    ];
    let namespace = json!({ "matchLabels": { "team": "blue" } });
    let cases = [
        (json!([{ "podSelector": { "matchLabels": { "app": "web" } } }]), ["AA", "AD", "AD", "-D"]),
        (json!([{ "namespaceSelector": namespace }]), ["AD", "AA", "AD", "-D"]),
        (
            json!([{ "namespaceSelector": {}, "podSelector": { "matchLabels": { "app": "web" } } }]),
            ["AA", "AD", "AD", "-D"],
        ),
        (
            json!([{ "namespaceSelector": namespace, "podSelector": { "matchLabels": { "app": "web" } } }]),
            ["AD", "AD", "AD", "-D"],
        ),
        (json!([{ "namespaceSelector": {} }]), ["AA", "AA", "AD", "-D"]),
        (json!([{ "ipBlock": { "cidr": "203.0.113.0/24" } }]), ["AD", "AD", "AD", "-A"]),
        (
            json!([{ "ipBlock": { "cidr": "203.0.113.0/24", "except": ["203.0.113.0/28"] } }]),
            ["AD", "AD", "AD", "-D"],
        ),
        (json!([{ "ipBlock": { "cidr": "10.0.0.0/8" } }]), ["AA", "AA", "AA", "-D"]),
        (json!([]), ["AA", "AA", "AA", "-A"]),
    ];
    for (peers, wanted) in cases {
        assert_eq!(letters(&[from(peers.clone())], &flows), wanted, "{peers}");
    }
}

#[test]
fn other_clusters_are_named() {
    let to = |labels: Value| {
        cnp(
            json!({ "endpointSelector": {}, "egress": [{ "toEndpoints": [{ "matchLabels": labels }] }] }),
        )
    };
    let flows = [("web", "web-b", "80/TCP"), ("web", "db", "80/TCP")];
    assert_eq!(letters(&[to(json!({ "app": "web" }))], &flows), ["DA", "DA"]);
    let named = json!({ "app": "web", "io.cilium.k8s.policy.cluster": "b" });
    assert_eq!(letters(&[to(named)], &flows), ["AA", "DA"]);
}

#[test]
fn entities_and_denies() {
    let rule = |rules: Value| {
        let mut spec = json!({ "endpointSelector": {} });
        spec.as_object_mut().unwrap().extend(rules.as_object().unwrap().clone());
        cnp(spec)
    };
    let flows = [
        ("web", "bank", "443/TCP"),
        ("web", "a-n1", "443/TCP"),
        ("web", "a-n2", "443/TCP"),
        ("web", "job", "443/TCP"),
        ("web", "web-b", "443/TCP"),
        ("web", "198.51.100.1", "443/TCP"),
    ];
    let to = |entity: &str| rule(json!({ "egress": [{ "toEntities": [entity] }] }));
    let cases = [
        ("all", ["A-", "A-", "A-", "AA", "AA", "A-"]),
        ("world", ["A-", "D-", "D-", "DA", "DA", "A-"]),
        ("cluster", ["D-", "A-", "A-", "AA", "DA", "D-"]),
        ("cluster-mesh", ["D-", "A-", "A-", "AA", "AA", "D-"]),
        ("host", ["D-", "A-", "D-", "DA", "DA", "D-"]),
        ("remote-node", ["D-", "D-", "A-", "DA", "DA", "D-"]),
        ("kube-apiserver", ["D-", "D-", "A-", "DA", "DA", "D-"]),
        ("none", ["D-", "D-", "D-", "DA", "DA", "D-"]),
    ];
    for (entity, wanted) in cases {
        assert_eq!(letters(&[to(entity)], &flows), wanted, "{entity}");
    }
    // Cilium, "Deny Policies": a deny comes before every allow.
    let denied = rule(
        json!({ "egress": [{ "toEntities": ["all"] }], "egressDeny": [{ "toCIDR": ["203.0.113.0/24"] }] }),
    );
    assert_eq!(letters(&[denied], &flows), ["D-", "A-", "A-", "AA", "AA", "A-"]);
    // A CIDR of Cilium's kinds matches no pod.
    let range = rule(json!({ "egress": [{ "toCIDR": ["0.0.0.0/0"] }] }));
    assert_eq!(letters(&[range], &flows), ["A-", "D-", "D-", "DA", "DA", "A-"]);
}

#[test]
fn ports() {
    let flows = [
        ("web", "db", "80/TCP"),
        ("web", "db", "80/UDP"),
        ("web", "db", "8080/TCP"),
        ("web", "db", "http/TCP"),
        ("web", "db", "8/ICMP"),
        ("web", "db", "53/UDP"),
    ];
    let ports = |ports: Value| {
        network_policy(json!({ "podSelector": {}, "ingress": [{ "ports": ports }] }))
    };
    let cases = [
        (ports(json!([{ "port": 80 }])), ["AA", "AD", "AD", "AD", "AD", "AD"]),
        (ports(json!([{ "port": 80, "endPort": 9000 }])), ["AA", "AD", "AA", "AA", "AD", "AD"]),
        (ports(json!([{ "port": "http" }])), ["AD", "AD", "AA", "AA", "AD", "AD"]),
        (
            ports(json!([{ "port": "dns", "protocol": "UDP" }])),
            ["AD", "AD", "AD", "AD", "AD", "AA"],
        ),
        (ports(json!([{ "protocol": "UDP" }])), ["AD", "AA", "AD", "AD", "AD", "AA"]),
        (ports(json!([{}])), ["AA", "AD", "AA", "AA", "AD", "AD"]),
        (ports(json!([])), ["AA", "AA", "AA", "AA", "AA", "AA"]),
        (
            cnp(
                json!({ "endpointSelector": {}, "ingress": [{ "icmps": [{ "fields": [{ "type": 8 }] }] }] }),
            ),
            ["AD", "AD", "AD", "AD", "AA", "AD"],
        ),
        (
            cnp(
                json!({ "endpointSelector": {}, "ingress": [{ "toPorts": [{ "ports": [{ "port": "0", "protocol": "ANY" }] }] }] }),
            ),
            ["AA", "AA", "AA", "AA", "AD", "AA"],
        ),
        // A name in an egress rule is a port of the end that receives.
        (
            cnp(
                json!({ "endpointSelector": {}, "egress": [{ "toPorts": [{ "ports": [{ "port": "http" }] }] }] }),
            ),
            ["DA", "DA", "AA", "AA", "DA", "DA"],
        ),
    ];
    for (policy, wanted) in cases {
        assert_eq!(letters(std::slice::from_ref(&policy), &flows), wanted, "{policy}");
    }
}

#[test]
fn reasons() {
    let policies = [
        network_policy(
            json!({ "podSelector": {}, "ingress": [{ "from": [{ "podSelector": { "matchLabels": { "app": "db" } } }] }, { "ports": [{ "port": 80 }] }] }),
        ),
        cnp(json!({ "endpointSelector": {}, "ingressDeny": [{ "fromEntities": ["world"] }] })),
    ];
    let line = json!({
        "id": "x", "policies": policies, "endpoints": endpoints(),
        "flows": [flow("web", "db", "80/TCP"), flow("web", "db", "81/TCP"), flow("bank", "db", "80/TCP")],
    });
    let answer = serde_json::to_value(answer(&line)).unwrap();
    let decided = |index: usize| answer["flows"][index]["decidedBy"]["ingress"].clone();
    let default_allow = json!({ "kind": "default-allow", "policies": [], "rule": null });
    assert_eq!(answer["flows"][0]["decidedBy"]["egress"], default_allow);
    assert_eq!(answer["flows"][2]["decidedBy"]["egress"], Value::Null);
    assert_eq!(
        decided(0),
        json!({ "kind": "allow-rule", "policies": ["NetworkPolicy shop/p"], "rule": "ingress[1]" })
    );
    assert_eq!(
        decided(1),
        json!({ "kind": "default-deny", "policies": ["NetworkPolicy shop/p", "CiliumNetworkPolicy shop/c"], "rule": null })
    );
    assert_eq!(
        decided(2),
        json!({ "kind": "deny-rule", "policies": ["CiliumNetworkPolicy shop/c"], "rule": "ingressDeny[0]" })
    );
    assert_eq!(answer["flows"][2]["verdict"], "denied");
    assert_eq!(answer["id"], "x");
}

#[test]
fn what_is_refused_is_named_and_nothing_is_answered() {
    let flows = json!([flow("web", "db", "80/TCP")]);
    let line = |field: &str, value: Value| {
        let mut line = json!({ "id": 7, "endpoints": endpoints(), "flows": flows });
        line[field] = value;
        let answer = serde_json::to_value(answer(&line)).unwrap();
        assert_eq!((&answer["id"], &answer["flows"]), (&json!(7), &Value::Null), "{line}");
        let first = &answer["refused"][0];
        let text = |name: &str| first[name].as_str().unwrap().to_owned();
        (text("object"), text("field"), text("reason"))
    };
    let l7 = cnp(
        json!({ "endpointSelector": {}, "egress": [{ "toFQDNs": [{ "matchName": "example.com" }] }] }),
    );
    let (object, field, _) = line("policies", json!([l7]));
    assert_eq!(
        (object.as_str(), field.as_str()),
        ("CiliumNetworkPolicy shop/c", "spec.egress[0].toFQDNs")
    );
    let (_, _, reason) = line("policy", json!([]));
    assert!(reason.contains("policy"), "{reason}");
    let (object, _, reason) = line("options", json!({ "enforcement": "always" }));
    assert!(reason.contains("enforcement"), "{object} {reason}");
    let (object, field, reason) = line("flows", json!([flow("web", "nobody", "80/TCP")]));
    assert_eq!((object.as_str(), field.as_str()), ("flows[0]", "to"), "{reason}");
    let twice =
        json!([pod("a", "shop", "x", "10.1.0.1", "x"), pod("a", "other", "x", "10.1.0.2", "x")]);
    let answer = answer(&json!({ "endpoints": twice, "flows": [flow("x", "shop/x", "80/TCP")] }));
    assert!(answer.refused[0].reason.contains("a/other/x, a/shop/x"), "{:?}", answer.refused);
    let broken = answer_line("{", Options::default(), &LabelFilter::new([]).unwrap());
    assert_eq!((broken.id, broken.flows), (Value::Null, Some(None)));
}

#[test]
fn all_pairs() {
    let policy = network_policy(json!({ "podSelector": { "matchLabels": { "app": "db" } } }));
    let line = json!({
        "id": 1, "policies": [policy], "allPairs": { "ports": ["80/TCP", "icmp:8"] },
        "endpoints": [pod("a", "shop", "web", "10.1.0.10", "web"), pod("a", "shop", "db", "10.1.0.11", "db"), { "kind": "external", "name": "bank", "ip": "203.0.113.7" }],
    });
    let answer = serde_json::to_value(answer(&line)).unwrap();
    assert_eq!(
        answer,
        json!({ "id": 1, "refused": [], "matrix": {
        "web": { "web": ["AA", "AA"], "db": ["AD", "AD"], "bank": ["A-", "A-"] },
        "db": { "web": ["AA", "AA"], "db": ["AA", "AA"], "bank": ["A-", "A-"] },
        "bank": { "web": ["-A", "-A"], "db": ["-D", "-D"], "bank": ["--", "--"] },
    } })
    );
}

#[test]
fn a_service_is_answered_for_each_backend() {
    let service = json!({ "cluster": "a", "object": {
        "apiVersion": "v1", "kind": "Service", "metadata": { "namespace": "shop", "name": "web" },
        "spec": { "clusterIP": "10.101.0.5", "selector": { "app": "web" }, "ports": [{ "port": 80, "targetPort": "http" }] },
    } });
    let policy =
        network_policy(json!({ "podSelector": {}, "ingress": [{ "ports": [{ "port": 8080 }] }] }));
    let line = json!({
        "id": 1, "policies": [policy], "services": [service], "endpoints": endpoints(), "flows": [flow("job", "10.101.0.5", "80/TCP")],
    });
    let answer = serde_json::to_value(answer(&line)).unwrap();
    let flow = &answer["flows"][0];
    assert_eq!(
        (&flow["verdict"], &flow["backends"][0]["backend"]),
        (&json!("allowed"), &json!("a/shop/web"))
    );
    assert_eq!(
        (&flow["backends"][0]["port"], &flow["backends"].as_array().unwrap().len()),
        (&json!(8080), &1)
    );
}

#[test]
fn the_endpoints_of_the_api_server_are_found() {
    let slice = |address: &str| {
        json!({ "cluster": "a", "object": {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": { "namespace": "default", "name": "kubernetes", "labels": { "kubernetes.io/service-name": "kubernetes" } },
            "addressType": "IPv4", "endpoints": [{ "addresses": [address] }], "ports": [{ "port": 6443, "protocol": "TCP" }],
        } })
    };
    let policy =
        cnp(json!({ "endpointSelector": {}, "egress": [{ "toEntities": ["kube-apiserver"] }] }));
    for (address, to) in
        [("172.31.0.1", "a-n1"), ("203.0.113.7", "bank"), ("198.51.100.9", "198.51.100.9")]
    {
        let line = json!({
            "policies": [policy], "services": [slice(address)], "endpoints": endpoints(),
            "flows": [flow("web", to, "6443/TCP"), flow("web", "198.51.100.1", "6443/TCP")],
        });
        let flows = answer(&line).flows.unwrap().unwrap();
        assert_eq!([flows[0].egress, flows[1].egress], [Side::Allowed, Side::Denied], "{to}");
    }
}
