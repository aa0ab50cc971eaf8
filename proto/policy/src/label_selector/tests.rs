//! Expected values are written by hand from `ValidateLabelSelector` of Kubernetes and from Cilium's documentation of label
//! sources.

use mesh_labels::LabelFilter;
use serde_json::{Value, json};

use crate::{
    path::Path,
    shown::{assert_refused, lines, lines_with},
};

fn network_policy(selector: &Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "one", "namespace": "shop"},
        "spec": {"podSelector": selector},
    })
}

fn clusterwide(selector: &Value) -> Value {
    json!({
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumClusterwideNetworkPolicy",
        "metadata": {"name": "one"},
        "spec": {"endpointSelector": selector, "ingress": [{}]},
    })
}

fn requirement(key: &str, operator: &str, values: &Value) -> Value {
    json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]})
}

#[test]
fn sources() {
    for (key, wanted) in [
        ("app", "app"),
        ("any:app", "app"),
        (":app", "app"),
        ("k8s:app", "k8s:app"),
        ("container:app", "container:app"),
        ("unspec:app", "unspec:app"),
        ("k8s:example.org/Name_1", "k8s:example.org/Name_1"),
        // Only a colon ends a source.
        ("k8s.app", "k8s.app"),
        // What says where a pod is has the source k8s only.
        ("io.kubernetes.pod.namespace", "k8s:io.kubernetes.pod.namespace"),
        ("any:io.cilium.k8s.policy.cluster", "k8s:io.cilium.k8s.policy.cluster"),
        ("io.cilium.k8s.policy.serviceaccount", "k8s:io.cilium.k8s.policy.serviceaccount"),
        (
            "io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name",
            "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name",
        ),
        ("reserved:init", "reserved:init"),
        ("reserved.health", "reserved:health"),
        ("$host", "reserved:host"),
    ] {
        let object = clusterwide(&requirement(key, "Exists", &Value::Null));
        assert_eq!(lines(&object)[0], format!("subject {wanted}"), "{key}");
    }
    for key in [
        "",
        "k8s:",
        "a b",
        "app=web",
        "-app",
        "/app",
        "Example.org/app",
        "example.org/",
        "k8s:k8s:app",
        "cidr:10.0.0.0",
        "fqdn:a",
        "node:a",
        "other:app",
        "reserved:all",
        "reserved:example",
        "$",
        "container:io.kubernetes.pod.namespace",
        "unspec:io.cilium.k8s.policy.cluster",
        "container:io.cilium.k8s.namespace.labels.team",
        &"a".repeat(64),
    ] {
        let object = clusterwide(&requirement(key, "Exists", &Value::Null));
        assert_refused(&object, &["spec.endpointSelector.matchExpressions[0].key"]);
        let object = clusterwide(&json!({"matchLabels": {key: ""}}));
        let spec = Path::ROOT.field("spec");
        let selector = spec.field("endpointSelector");
        let labels = selector.field("matchLabels");
        assert_refused(&object, &[&labels.key(key).to_string()]);
    }
    // Kubernetes has no sources.
    let object = network_policy(&json!({"matchLabels": {"k8s:app": "web"}}));
    assert_refused(&object, &["spec.podSelector.matchLabels[k8s:app]"]);
}

#[test]
fn expressions() {
    for (expression, fields) in [
        (json!({"key": "a", "operator": "In"}), &["values"] as &[&str]),
        (json!({"key": "a", "operator": "NotIn", "values": []}), &["values"]),
        (json!({"key": "a", "operator": "Exists", "values": ["x"]}), &["values"]),
        (json!({"key": "a", "operator": "DoesNotExist", "values": [""]}), &["values"]),
        (json!({"key": "a", "operator": "in", "values": ["x"]}), &["operator"]),
        (json!({"key": "a", "operator": "Gt", "values": ["1"]}), &["operator"]),
        (json!({"key": "a"}), &["operator"]),
        (json!({"operator": "Exists"}), &["key"]),
        (json!({"key": 1, "operator": "Exists"}), &["key"]),
        (
            json!({"key": "a", "operator": "In", "values": ["-", 1, "ok"]}),
            &["values[0]", "values[1]"],
        ),
        (json!({"key": "a", "operator": "In", "values": "x"}), &["values"]),
        (json!({"key": "a", "operator": "In", "value": ["x"]}), &["value", "values"]),
        (json!({}), &["key", "operator"]),
    ] {
        let object = network_policy(&json!({"matchExpressions": [expression]}));
        let paths: Vec<String> = fields
            .iter()
            .map(|field| format!("spec.podSelector.matchExpressions[0].{field}"))
            .collect();
        assert_refused(&object, &paths.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let object = network_policy(&json!({"matchExpressions": ["x"], "matchLabels": []}));
    assert_refused(
        &object,
        &["spec.podSelector.matchLabels", "spec.podSelector.matchExpressions[0]"],
    );
}

#[test]
fn values() {
    for value in [
        json!("-"),
        json!("a b"),
        json!("a."),
        json!(1),
        json!(true),
        Value::Null,
        json!("a".repeat(64)),
    ] {
        let object = network_policy(&json!({"matchLabels": {"app": value}}));
        assert_refused(&object, &["spec.podSelector.matchLabels[app]"]);
    }
    for value in ["", "a", "A_1.b-c", &"a".repeat(63)] {
        let object = network_policy(&json!({"matchLabels": {"app": value}}));
        assert!(lines(&object)[0].starts_with(&format!("subject k8s:app={value},")));
    }
}

#[test]
fn labels_that_are_left_out() {
    let reason = |rules: &[&str], object: &Value| {
        let filter = LabelFilter::new(rules.iter().copied()).unwrap();
        let lines = lines_with(object, &filter);
        match lines.as_slice() {
            [line] => line.strip_prefix("refused spec.podSelector.matchLabels").map(str::to_owned),
            _ => None,
        }
    };
    let of = |key: &str| network_policy(&json!({"matchLabels": {key: "x"}}));

    // It is known by default that no pod is selected by its hash, and no rule keeps that.
    let hash = reason(&[], &of("pod-template-hash")).unwrap();
    assert!(hash.starts_with("[pod-template-hash]: the label \"pod-template-hash\""), "{hash}");
    assert!(hash.ends_with("select by another one"), "{hash}");

    // A rule that is longer than the exclusion keeps it.
    let host = reason(&[], &of("kubernetes.io/hostname")).unwrap();
    assert!(host.contains("--identity-label='kubernetes\\.io/hostname'"), "{host}");
    assert_eq!(reason(&["kubernetes\\.io/hostname"], &of("kubernetes.io/hostname")), None);

    // The user's own rules leave out what they do not name.
    let team = reason(&["app"], &of("team")).unwrap();
    assert!(team.contains("keeps it with --identity-label='team'"), "{team}");
    assert_eq!(reason(&["app", "team"], &of("team")), None);

    // Where a pod is, is always part of its identity.
    for key in [
        "io.kubernetes.pod.namespace",
        "io.cilium.k8s.policy.cluster",
        "io.cilium.k8s.policy.serviceaccount",
    ] {
        assert_eq!(reason(&["app"], &of(key)), None, "{key}");
    }
    // The same for Cilium's kinds, without and with a source.
    for key in ["pod-template-hash", "k8s:pod-template-hash", "any:pod-template-hash"] {
        let object = clusterwide(&json!({"matchLabels": {key: "x"}}));
        assert_refused(&object, &[&format!("spec.endpointSelector.matchLabels[{key}]")]);
    }
    // Labels of namespaces are judged by their whole key.
    let namespaces = json!({"namespaceSelector": {"matchLabels": {"team": "a"}}});
    let mut object = network_policy(&json!({}));
    object["spec"]["ingress"] = json!([{"from": [namespaces]}]);
    assert_eq!(lines(&object).len(), 3);
    let rule = r"!io\.cilium\.k8s\.namespace\.labels\.team";
    let lines = lines_with(&object, &LabelFilter::new([rule]).unwrap());
    let [line] = lines.as_slice() else { panic!("{lines:#?}") };
    let field = "spec.ingress[0].from[0].namespaceSelector.matchLabels[team]";
    assert!(line.starts_with(&format!("refused {field}: ")), "{line}");
}
