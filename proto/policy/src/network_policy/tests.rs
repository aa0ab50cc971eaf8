//! Expected values are written by hand from Kubernetes' documentation ("Network Policies", API reference of
//! `networking.k8s.io/v1`), unless a comment says otherwise.

use serde_json::{Value, json};

use crate::shown::{assert_refused, lines};

fn policy(spec: &Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "one", "namespace": "shop", "labels": {"a": "b"}},
        "spec": spec,
    })
}

#[track_caller]
fn assert_rule(spec: &Value, wanted: &[&str]) {
    assert_eq!(lines(&policy(spec)), wanted);
}

const ALL: &str = "subject k8s:io.kubernetes.pod.namespace=shop";

#[test]
fn directions() {
    // "By default Ingress will always be set and Egress will be set if the NetworkPolicy has any egress rules."
    assert_rule(&json!({"podSelector": {}}), &[ALL, "ingress default-deny"]);
    assert_rule(&json!({"podSelector": {}, "egress": []}), &[ALL, "ingress default-deny"]);
    assert_rule(
        &json!({"podSelector": {}, "egress": [{}]}),
        &[ALL, "ingress default-deny", "egress default-deny", "egress[0] allow any at any"],
    );
    // An empty list of types is defaulted as an absent one (`SetDefaults_NetworkPolicy` looks at its length).
    assert_rule(&json!({"podSelector": {}, "policyTypes": []}), &[ALL, "ingress default-deny"]);
    assert_rule(
        &json!({"podSelector": {}, "policyTypes": ["Egress"]}),
        &[ALL, "egress default-deny"],
    );
    assert_rule(
        &json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}),
        &[ALL, "ingress default-deny", "egress default-deny"],
    );
    // Rules of a direction that is not among the types are of no effect, but they are checked.
    assert_rule(
        &json!({"podSelector": {}, "policyTypes": ["Egress"], "ingress": [{}]}),
        &[ALL, "egress default-deny"],
    );
    assert_refused(
        &policy(&json!({"policyTypes": ["Egress"], "ingress": [{"form": []}]})),
        &["spec.ingress[0].form"],
    );
    assert_refused(
        &policy(&json!({"policyTypes": ["egress", 1]})),
        &["spec.policyTypes[0]", "spec.policyTypes[1]"],
    );
    // "If it is not specified, it defaults to an empty selector"; null is as absent.
    assert_rule(&json!({}), &[ALL, "ingress default-deny"]);
    assert_rule(&json!({"podSelector": null, "egress": null}), &[ALL, "ingress default-deny"]);
}

#[test]
fn a_subject_is_of_the_policys_namespace() {
    let selector = json!({
        "matchLabels": {"tier": "db", "app": "cart"},
        "matchExpressions": [
            {"key": "env", "operator": "In", "values": ["b", "a", "b"]},
            {"key": "old", "operator": "DoesNotExist"},
            {"key": "new", "operator": "Exists", "values": []},
            {"key": "x", "operator": "NotIn", "values": ["", "1"]},
        ],
    });
    assert_rule(
        &json!({"podSelector": selector}),
        &[
            "subject k8s:app=cart,k8s:env in (a,b),k8s:io.kubernetes.pod.namespace=shop,k8s:new,!k8s:old,k8s:tier=db,k8s:x notin (,1)",
            "ingress default-deny",
        ],
    );
    let mut object = policy(&json!({"podSelector": {}}));
    object["metadata"]["namespace"] = json!("");
    assert_eq!(lines(&object)[0], "subject k8s:io.kubernetes.pod.namespace=default");
    object["metadata"]["namespace"] = Value::Null;
    assert_eq!(lines(&object)[0], "subject k8s:io.kubernetes.pod.namespace=default");
}

#[test]
fn peers() {
    for (peer, wanted) in [
        // "Selects particular Pods in the same namespace as the NetworkPolicy."
        (
            json!({"podSelector": {"matchLabels": {"app": "a"}}}),
            "pods(k8s:app=a,k8s:io.kubernetes.pod.namespace=shop)",
        ),
        (json!({"podSelector": {}}), "pods(k8s:io.kubernetes.pod.namespace=shop)"),
        // "Selects particular namespaces for which all Pods should be allowed." The prefix: `docs/wire.md`, "Identities".
        (
            json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "x"}}}),
            "pods(k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=x)",
        ),
        // "An empty selector selects all namespaces"; pods only.
        (json!({"namespaceSelector": {}}), "pods(k8s:io.kubernetes.pod.namespace)"),
        (
            json!({"namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["a"]}]}}),
            "pods(k8s:io.cilium.k8s.namespace.labels.team notin (a),k8s:io.kubernetes.pod.namespace)",
        ),
        (
            json!({"namespaceSelector": {"matchLabels": {"team": "a"}}, "podSelector": {"matchLabels": {"app": "b"}}}),
            "pods(k8s:app=b,k8s:io.cilium.k8s.namespace.labels.team=a)",
        ),
        // Another cluster's, as in Cilium (`isPodSelectorSelectingCluster`).
        (
            json!({"namespaceSelector": {}, "podSelector": {"matchLabels": {"io.cilium.k8s.policy.cluster": "west"}}}),
            "pods(k8s:io.cilium.k8s.policy.cluster=west,k8s:io.kubernetes.pod.namespace)",
        ),
        (
            json!({"ipBlock": {"cidr": "10.1.2.3/8", "except": ["10.9.0.0/16", "10.1.0.0/16"]}}),
            "block(10.0.0.0/8-10.1.0.0/16-10.9.0.0/16)",
        ),
        (json!({"ipBlock": {"cidr": "2001:db8::/32"}}), "block(2001:db8::/32)"),
    ] {
        let rule = format!("allow {wanted} at any");
        assert_rule(
            &json!({"ingress": [{"from": [peer]}]}),
            &[ALL, "ingress default-deny", &format!("ingress[0] {rule}")],
        );
        assert_rule(
            &json!({"policyTypes": ["Egress"], "egress": [{}, {"to": [peer]}]}),
            &[
                ALL,
                "egress default-deny",
                "egress[0] allow any at any",
                &format!("egress[1] {rule}"),
            ],
        );
    }
    // "If this field is empty or missing, this rule matches all sources."
    for from in [json!([]), Value::Null] {
        assert_rule(
            &json!({"ingress": [{"from": from}]}),
            &[ALL, "ingress default-deny", "ingress[0] allow any at any"],
        );
    }
}

#[test]
fn ports() {
    for (port, wanted) in [
        // "If not specified, this field defaults to TCP"; "if not provided, this matches all port names and numbers".
        (json!({}), "Tcp/*"),
        (json!({"protocol": "SCTP"}), "Sctp/*"),
        (json!({"port": 80}), "Tcp/80"),
        (json!({"port": 80, "protocol": "UDP"}), "Udp/80"),
        (json!({"port": "http"}), "Tcp/http"),
        (json!({"port": "dns", "protocol": "UDP"}), "Udp/dns"),
        (json!({"port": 80, "endPort": 90}), "Tcp/80-90"),
        (json!({"port": 80, "endPort": 80}), "Tcp/80"),
        (json!({"port": 1, "endPort": 65535}), "Tcp/1-65535"),
    ] {
        assert_rule(
            &json!({"ingress": [{"ports": [port]}]}),
            &[ALL, "ingress default-deny", &format!("ingress[0] allow any at {wanted}")],
        );
    }
    // "If this field is empty or missing, this rule matches all ports."
    assert_rule(
        &json!({"ingress": [{"ports": []}]}),
        &[ALL, "ingress default-deny", "ingress[0] allow any at any"],
    );
}

#[test]
fn refused_ports() {
    // `ValidateNetworkPolicyPort` of Kubernetes.
    for (port, paths) in [
        (json!({"port": 0}), &["port"] as &[&str]),
        (json!({"port": 65536}), &["port"]),
        (json!({"port": -1}), &["port"]),
        (json!({"port": 80.5}), &["port"]),
        (json!({"port": "80"}), &["port"]),
        (json!({"port": "HTTP"}), &["port"]),
        (json!({"port": "a-name-of-16-chr"}), &["port"]),
        (json!({"port": ""}), &["port"]),
        (json!({"port": true}), &["port"]),
        (json!({"port": 80, "endPort": 79}), &["endPort"]),
        (json!({"port": 80, "endPort": 65536}), &["endPort"]),
        (json!({"port": "http", "endPort": 90}), &["endPort"]),
        (json!({"endPort": 90}), &["endPort"]),
        (json!({"protocol": "tcp"}), &["protocol"]),
        (json!({"protocol": "ICMP"}), &["protocol"]),
        (json!({"protocol": "ANY"}), &["protocol"]),
        // All of it is told.
        (json!({"prot": 1, "port": "X", "protocol": 6}), &["prot", "protocol", "port"]),
    ] {
        let object = policy(&json!({"ingress": [{"ports": [{}, port]}]}));
        let paths: Vec<String> =
            paths.iter().map(|path| format!("spec.ingress[0].ports[1].{path}")).collect();
        assert_refused(&object, &paths.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

#[test]
fn refused_peers() {
    // `ValidateNetworkPolicyPeer` and `ValidateIPBlock` of Kubernetes.
    for (peer, paths) in [
        (json!({}), &[""] as &[&str]),
        (json!({"podSelector": null}), &[""]),
        (Value::Null, &[""]),
        (json!({"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}), &[""]),
        (json!({"ipBlock": {}}), &[".ipBlock.cidr"]),
        (json!({"ipBlock": {"cidr": "10.0.0.1"}}), &[".ipBlock.cidr"]),
        (
            json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16", "10.0.0.0/8", "10.0.0.0/7", "::/0", "x", "10.1.0.0/16"]}}),
            &[
                ".ipBlock.except[0]",
                ".ipBlock.except[1]",
                ".ipBlock.except[2]",
                ".ipBlock.except[3]",
                ".ipBlock.except[4]",
            ],
        ),
        (json!({"podSelectors": {}}), &[".podSelectors", ""]),
        (json!({"podSelector": []}), &[".podSelector"]),
        (json!({"podSelector": {"app": "x"}}), &[".podSelector.app"]),
    ] {
        let object = policy(&json!({"egress": [{"to": [peer]}]}));
        let paths: Vec<String> =
            paths.iter().map(|path| format!("spec.egress[0].to[0]{path}")).collect();
        assert_refused(&object, &paths.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

#[test]
fn refused_objects() {
    let mut object = policy(&json!({"podSelector": {}, "ingres": []}));
    object["apiVersion"] = json!("networking.k8s.io/v1beta1");
    object["specs"] = json!([]);
    object["metadata"]["name"] = json!("Upper");
    assert_refused(&object, &["specs", "apiVersion", "metadata.name", "spec.ingres"]);

    let nameless = json!({"kind": "NetworkPolicy", "metadata": {"namespace": "-"}, "spec": []});
    assert_refused(&nameless, &["apiVersion", "metadata.name", "metadata.namespace", "spec"]);
    assert_refused(&json!({"kind": "NetworkPolicy"}), &["apiVersion", "metadata"]);
    assert_refused(
        &policy(&json!({"ingress": {}, "egress": [1], "podSelector": "app=x", "policyTypes": 1})),
        &["spec.podSelector", "spec.ingress", "spec.egress[0]", "spec.policyTypes"],
    );
    // Others' kinds of this name are not passed over in silence.
    let mut other = policy(&json!({"podSelector": {}}));
    other["apiVersion"] = json!("projectcalico.org/v3");
    assert_refused(&other, &["apiVersion"]);
}
