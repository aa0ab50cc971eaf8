//! Label selectors.

use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::{Map, Value, json};

/// Keys, and the values that each may be asked for.
type Vocabulary = &'static [(&'static str, &'static [&'static str])];

const APP: (&str, &[&str]) = ("app", &["a", "b", "c"]);
const TIER: (&str, &[&str]) = ("tier", &["x", "y"]);
const CLUSTER: (&str, &[&str]) = ("io.cilium.k8s.policy.cluster", &["east", "west"]);

/// Of pods, in a NetworkPolicy.
pub(super) fn of_pods() -> impl Strategy<Value = Value> {
    selector(&[APP, APP, TIER, TIER, CLUSTER])
}

/// Of namespaces, in a NetworkPolicy.
pub(super) fn of_namespaces() -> impl Strategy<Value = Value> {
    selector(&[
        ("env", &["prod", "dev"]),
        ("env", &["prod", "dev"]),
        ("kubernetes.io/metadata.name", &["n1", "n2"]),
    ])
}

/// The subject of a CiliumNetworkPolicy: pods of its namespace.
pub(super) fn of_subjects() -> impl Strategy<Value = Value> {
    selector(&[APP, ("any:tier", &["x", "y"]), ("k8s:app", &["a", "b"])])
}

/// The subject of a CiliumClusterwideNetworkPolicy.
pub(super) fn of_wide_subjects() -> impl Strategy<Value = Value> {
    prop_oneof![
        6 => selector(&[
            APP,
            TIER,
            ("io.kubernetes.pod.namespace", &["n1", "n2"]),
            ("k8s:io.cilium.k8s.namespace.labels.env", &["prod"]),
        ]),
        1 => Just(json!({ "matchLabels": { "reserved:init": "" } })),
    ]
}

/// Other ends in Cilium's kinds, which may say where they are.
pub(super) fn of_endpoints() -> impl Strategy<Value = Value> {
    prop_oneof![
        8 => selector(&[
            APP,
            ("k8s:tier", &["x", "y"]),
            ("container:tier", &["x"]),
            CLUSTER,
            ("k8s:io.cilium.k8s.policy.cluster", &["east", "west"]),
            ("k8s:io.kubernetes.pod.namespace", &["n1", "n2", "n3"]),
            ("any:io.kubernetes.pod.namespace", &["n1", "n2"]),
            ("io.cilium.k8s.namespace.labels.env", &["prod", "dev"]),
            ("io.cilium.k8s.policy.serviceaccount", &["web", "default"]),
        ]),
        1 => select(vec![
            json!({ "matchLabels": { "reserved:host": "" } }),
            json!({ "matchLabels": { "reserved.remote-node": "" } }),
            json!({ "matchLabels": { "reserved:init": "" } }),
            json!({ "matchLabels": { "reserved:world": "" } }),
            json!({ "matchExpressions": [{ "key": "reserved:world-ipv4", "operator": "NotIn", "values": [""] }] }),
            json!({ "matchExpressions": [{ "key": "$kube-apiserver", "operator": "Exists" }] }),
            json!({ "matchExpressions": [{ "key": "reserved:host", "operator": "DoesNotExist" }] }),
        ]),
    ]
}

/// Few requirements, and often none, so that much is selected.
fn selector(vocabulary: Vocabulary) -> impl Strategy<Value = Value> {
    prop_oneof![2 => Just(json!({})), 3 => requirements(vocabulary)]
}

fn requirements(vocabulary: Vocabulary) -> impl Strategy<Value = Value> {
    let label = select(vocabulary).prop_flat_map(|(key, values)| (Just(key), select(values)));
    (vec(label, 0..2), vec(expression(vocabulary), 0..2)).prop_map(|(labels, expressions)| {
        let mut selector = Map::new();
        let labels: Map<String, Value> =
            labels.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect();
        if !labels.is_empty() {
            selector.insert("matchLabels".into(), labels.into());
        }
        if !expressions.is_empty() {
            selector.insert("matchExpressions".into(), expressions.into());
        }
        Value::Object(selector)
    })
}

fn expression(vocabulary: Vocabulary) -> impl Strategy<Value = Value> {
    let operator = select(vec!["In", "NotIn", "Exists", "DoesNotExist"]);
    (select(vocabulary), operator).prop_flat_map(|((key, values), operator)| {
        vec(select(values), 1..3).prop_map(move |values| match operator {
            "In" | "NotIn" => json!({ "key": key, "operator": operator, "values": values }),
            _ => json!({ "key": key, "operator": operator }),
        })
    })
}
