//! Labels of identities, and selectors over them.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{fields, items, text};

/// Labels: `source:key` to value.
pub(crate) type Labels = BTreeMap<String, String>;

pub(crate) const NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub(crate) const CLUSTER: &str = "io.cilium.k8s.policy.cluster";
pub(crate) const OF_NAMESPACE: &str = "io.cilium.k8s.namespace.labels.";
const ACCOUNT: &str = "io.cilium.k8s.policy.serviceaccount";

/// The labels of a pod's identity (Cilium, "Identity-Relevant Labels": only those are left out here that the generated
/// worlds have).
pub(crate) fn identity(pod: &Value, namespace: &BTreeMap<String, String>, cluster: &str) -> Labels {
    if let Some(given) = pod.get("identityLabels").and_then(Value::as_object) {
        let label = |(key, value): (&String, &Value)| {
            (key.clone(), value.as_str().unwrap_or_default().to_owned())
        };
        return given.iter().map(label).collect();
    }
    let mut labels = Labels::new();
    for (key, value) in fields(pod, "/labels") {
        if !key.starts_with("pod-template-hash") {
            labels.insert(format!("k8s:{key}"), value.as_str().unwrap_or_default().into());
        }
    }
    for (key, value) in namespace {
        labels.insert(format!("k8s:{OF_NAMESPACE}{key}"), value.clone());
    }
    let or_default = |field: &str| match text(pod, field) {
        "" => "default".to_owned(),
        other => other.to_owned(),
    };
    labels.insert(format!("k8s:{NAMESPACE}"), or_default("/namespace"));
    labels.insert(format!("k8s:{CLUSTER}"), cluster.into());
    labels.insert(format!("k8s:{ACCOUNT}"), or_default("/serviceAccount"));
    labels
}

/// All requirements of a label selector (Kubernetes, "Labels and Selectors"): key, operator, values. `prefix` is put
/// before each key that has no source.
pub(crate) fn requirements(selector: &Value, prefix: &str) -> Vec<(String, String, Vec<String>)> {
    let key = |key: &str| if key.contains(':') { key.to_owned() } else { format!("{prefix}{key}") };
    let mut all = Vec::new();
    for (name, value) in fields(selector, "/matchLabels") {
        all.push((key(name), "In".to_owned(), vec![value.as_str().unwrap_or_default().to_owned()]));
    }
    for expression in items(selector, "/matchExpressions") {
        let values = items(expression, "/values").iter().filter_map(Value::as_str);
        let values = values.map(str::to_owned).collect();
        all.push((key(text(expression, "/key")), text(expression, "/operator").into(), values));
    }
    all
}

/// Whether labels fulfil all requirements. `any:key` is a label of any source.
pub(crate) fn selects(requirements: &[(String, String, Vec<String>)], labels: &Labels) -> bool {
    requirements.iter().all(|(key, operator, values)| {
        let found: Vec<&String> = labels
            .iter()
            .filter(|(one, _)| match key.strip_prefix("any:") {
                Some(key) => one.split_once(':').is_some_and(|(_, one)| one == key),
                None => *one == key,
            })
            .map(|(_, value)| value)
            .collect();
        match operator.as_str() {
            "In" => found.iter().any(|value| values.contains(value)),
            "NotIn" => !found.iter().any(|value| values.contains(value)),
            "Exists" => !found.is_empty(),
            _ => found.is_empty(),
        }
    })
}
