//! Labels of identities, and selectors over them.

use serde_json::Value;

use crate::json::{items, pairs, text, texts};

pub(crate) const NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub(crate) const NAMESPACE_LABELS: &str = "io.cilium.k8s.namespace.labels.";
pub(crate) const CLUSTER: &str = "io.cilium.k8s.policy.cluster";
const ACCOUNT: &str = "io.cilium.k8s.policy.serviceaccount";

/// A label of an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) source: String,
    pub(crate) key: String,
    pub(crate) value: String,
}

/// What a selector asks of one label. All requirements of a selector must hold.
#[derive(Clone, Debug)]
pub(crate) struct Requirement {
    /// `None`: of any source.
    pub(crate) source: Option<String>,
    pub(crate) key: String,
    operator: String,
    values: Vec<String>,
}

/// How keys of selectors are written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keys {
    /// A pod's label in Kubernetes.
    Pods,
    /// A namespace's label in Kubernetes.
    Namespaces,
    /// `[source:]key`.
    Cilium,
}

// === impl Label ===

impl Label {
    pub(crate) fn new(source: &str, key: &str, value: &str) -> Self {
        Self { source: source.into(), key: key.into(), value: value.into() }
    }

    /// Of `source:key`.
    fn named(name: &str, value: &str) -> Self {
        let (source, key) = name.split_once(':').unwrap_or(("unspec", name));
        Self::new(source, key, value)
    }
}

// === impl Requirement ===

impl Requirement {
    pub(crate) fn equals(key: &str, value: &str) -> Self {
        Self { values: vec![value.into()], ..Self::kubernetes(key, "In") }
    }

    pub(crate) fn exists(key: &str) -> Self {
        Self::kubernetes(key, "Exists")
    }

    fn kubernetes(key: &str, operator: &str) -> Self {
        let operator = operator.to_owned();
        Self { source: Some("k8s".into()), key: key.into(), operator, values: Vec::new() }
    }

    /// Kubernetes documentation, "Labels and Selectors": `NotIn` holds without the label too.
    pub(crate) fn holds(&self, labels: &[Label]) -> bool {
        let is_meant = |label: &&Label| {
            label.key == self.key && self.source.as_ref().is_none_or(|one| *one == label.source)
        };
        let mut found = labels.iter().filter(is_meant);
        match self.operator.as_str() {
            "In" => found.any(|label| self.values.contains(&label.value)),
            "NotIn" => !found.any(|label| self.values.contains(&label.value)),
            "Exists" => found.next().is_some(),
            _ => found.next().is_none(),
        }
    }

    /// Whether it is about a reserved label.
    pub(crate) fn is_reserved(&self) -> bool {
        self.source.as_deref() == Some("reserved")
    }
}

/// The requirements of a selector (Kubernetes API reference, LabelSelector: `matchLabels` and `matchExpressions` together).
pub(crate) fn requirements(selector: &Value, keys: Keys) -> Vec<Requirement> {
    let labels = pairs(selector, "matchLabels")
        .map(|(written, value)| (written, "In", vec![value.to_owned()]));
    let expressions = items(selector, "matchExpressions").iter().map(|one| {
        (text(one, "key"), text(one, "operator"), texts(one, "values").map(str::to_owned).collect())
    });
    let all = labels.chain(expressions).map(|(written, operator, values)| {
        let (source, key) = key(written, keys);
        Requirement { source, key, operator: operator.to_owned(), values }
    });
    all.collect()
}

fn key(written: &str, keys: Keys) -> (Option<String>, String) {
    let of_kubernetes = |key: String| (Some("k8s".to_owned()), key);
    match keys {
        Keys::Pods => return of_kubernetes(written.to_owned()),
        // Cilium, pkg/k8s/network_policy.go: labels of namespaces have a prefix in identities.
        Keys::Namespaces => return of_kubernetes(format!("{NAMESPACE_LABELS}{written}")),
        Keys::Cilium => {}
    }
    // Cilium, pkg/labels/labels.go: `$host` and `reserved.host` are written for `reserved:host`; without a source any.
    let reserved = written.strip_prefix('$').or_else(|| written.strip_prefix("reserved."));
    let (source, key) = match reserved {
        Some(key) => ("reserved", key),
        None => written.split_once(':').unwrap_or(("any", written)),
    };
    match source {
        // What says where a pod is counts with the source k8s only.
        "any" if is_place(key) => of_kubernetes(key.to_owned()),
        "any" => (None, key.to_owned()),
        source => (Some(source.to_owned()), key.to_owned()),
    }
}

fn is_place(key: &str) -> bool {
    [NAMESPACE, CLUSTER, ACCOUNT].contains(&key) || key.starts_with(NAMESPACE_LABELS)
}

/// The labels of a pod's identity. `namespace`: the labels of its namespace.
pub(crate) fn identity(pod: &Value, cluster: &str, namespace: &[(String, String)]) -> Vec<Label> {
    match pod.get("identityLabels") {
        Some(Value::Array(list)) => {
            let texts = list.iter().filter_map(Value::as_str);
            let labels = texts.map(|text| text.split_once('=').unwrap_or((text, "")));
            return labels.map(|(name, value)| Label::named(name, value)).collect();
        }
        Some(_) => {
            let labels = pairs(pod, "identityLabels");
            return labels.map(|(name, value)| Label::named(name, value)).collect();
        }
        None => {}
    }
    let or_default = |field| match text(pod, field) {
        "" => "default",
        other => other,
    };
    // Cilium, pkg/k8s/utils (SanitizePodLabels): a pod's own labels do not say where it is.
    let own = pairs(pod, "labels").filter(|(key, _)| !is_place(key) && is_kept(key));
    let own = own.map(|(key, value)| Label::new("k8s", key, value));
    let of_namespace = namespace
        .iter()
        .map(|(key, value)| Label::new("k8s", &format!("{NAMESPACE_LABELS}{key}"), value));
    let of_namespace = of_namespace.filter(|label| is_kept(&label.key));
    let place = [
        (NAMESPACE, or_default("namespace")),
        (CLUSTER, cluster),
        (ACCOUNT, or_default("serviceAccount")),
    ];
    let place = place.map(|(key, value)| Label::new("k8s", key, value));
    own.chain(of_namespace).chain(place).collect()
}

/// Cilium documentation, "Limiting Identity-Relevant Labels", and pkg/labelsfilter/filter.go: a label stays if none of the
/// exclusions matches the beginning of its key, or if an inclusion matches more of it than the shortest of them.
fn is_kept(key: &str) -> bool {
    let matches = |prefix: &&str| key.starts_with(*prefix);
    let included = ["app.kubernetes.io", "io.cilium.k8s.namespace.labels"];
    let included = included.iter().filter(|one| matches(one)).map(|one| one.len()).max();
    let excluded = [
        "io.kubernetes",
        "kubernetes.io",
        "statefulset.kubernetes.io/pod-name",
        "apps.kubernetes.io/pod-index",
        "batch.kubernetes.io/job-completion-index",
        "batch.kubernetes.io/controller-uid",
        "controller-uid",
        "topology.kubernetes.io",
        "k8s.io",
        "pod-template-generation",
        "pod-template-hash",
        "controller-revision-hash",
        "etcd_node",
    ];
    let excluded = excluded.iter().filter(|one| matches(one)).map(|one| one.len());
    // These two have a `.*`.
    let annotation = key.starts_with("annotation").then_some(key.len());
    let beta = key.rfind("beta.kubernetes.io").map(|at| at + "beta.kubernetes.io".len());
    match excluded.chain(annotation).chain(beta).min() {
        Some(excluded) => included.unwrap_or(0) > excluded,
        None => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_filter() {
        for key in [
            "app",
            "k8s-app",
            "app.kubernetes.io/name",
            "team.example.org/a",
            "x-pod-template-hash",
        ] {
            assert!(is_kept(key), "{key}");
        }
        for key in [
            "pod-template-hash",
            "controller-uid",
            "batch.kubernetes.io/controller-uid",
            "topology.kubernetes.io/zone",
            "kubernetes.io/metadata.name",
            "failure-domain.beta.kubernetes.io/zone",
            "app.kubernetes.io/beta.kubernetes.io",
            "annotations",
        ] {
            assert!(!is_kept(key), "{key}");
        }
        assert!(is_kept("io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name"));
    }
}
