//! Which labels make an identity (`docs/wire.md`, "Label filter").
//!
//! Pods with equal labels share an identity, so every label that differs between two pods costs an identity. The filter
//! leaves out those that differ for no reason a policy cares about: controllers' hashes, ordinals, node details.

use mesh_model::{
    Label, Labels,
    identity::{CLUSTER_LABEL, NAMESPACE_LABEL, NAMESPACE_LABELS_PREFIX, SERVICE_ACCOUNT_LABEL},
    object::{Namespace, Pod},
};
use regex::Regex;

/// Decides label by label.
#[derive(Clone, Debug)]
pub struct LabelFilter {
    rules: Vec<Rule>,
    /// A user's rule includes something: what no rule includes is then left out.
    whitelist: bool,
}

/// One rule: `[!][source:]<regular expression>`, anchored at the beginning of the key.
#[derive(Clone, Debug)]
struct Rule {
    source: Option<String>,
    key: Regex,
    excludes: bool,
}

/// Why a rule is none.
#[derive(Debug, thiserror::Error)]
#[error("the label rule {rule:?}: {source}")]
pub struct InvalidRule {
    /// Its text.
    pub rule: String,
    /// The error in its expression.
    pub source: regex::Error,
}

/// The rules that hold whatever a user adds.
const DEFAULT_RULES: [&str; 18] = [
    "reserved:.*",
    r"io\.kubernetes\.pod\.namespace",
    r"io\.cilium\.k8s\.namespace\.labels",
    r"app\.kubernetes\.io",
    r"io\.cilium\.k8s\.policy\.cluster",
    r"!io\.kubernetes",
    r"!kubernetes\.io",
    r"!statefulset\.kubernetes\.io/pod-name",
    r"!apps\.kubernetes\.io/pod-index",
    r"!batch\.kubernetes\.io/job-completion-index",
    r"!(batch\.kubernetes\.io/)?controller-uid",
    // Kubernetes gives pods the labels of their nodes (KEP-4742).
    r"!topology\.kubernetes\.io",
    r"!.*beta\.kubernetes\.io",
    r"!k8s\.io",
    "!pod-template-generation",
    "!pod-template-hash",
    "!controller-revision-hash",
    "!(annotation.*|etcd_node)",
];

// === impl LabelFilter ===

impl LabelFilter {
    /// The default rules and a user's. One inclusive rule of the user's makes the filter a whitelist.
    pub fn new<'a>(rules: impl IntoIterator<Item = &'a str>) -> Result<Self, InvalidRule> {
        let mut all =
            DEFAULT_RULES.iter().map(|rule| Rule::parse(rule)).collect::<Result<Vec<_>, _>>()?;
        let own = rules.into_iter().map(Rule::parse).collect::<Result<Vec<_>, _>>()?;
        let whitelist = own.iter().any(|rule| !rule.excludes);
        all.extend(own);
        Ok(Self { rules: all, whitelist })
    }

    /// Keeps every label: for who reads what another filter has passed.
    pub fn everything() -> Self {
        Self { rules: Vec::new(), whitelist: false }
    }

    /// Whether a label is part of an identity: the longest inclusion against the shortest exclusion that matches.
    pub fn keeps(&self, source: &str, key: &str) -> bool {
        let included = self.matches(source, key, false).max().unwrap_or(0);
        let excluded = self.excluded(source, key);
        (!self.whitelist && excluded == 0) || included > excluded
    }

    /// Whether a further rule that includes exactly this label would keep it: no exclusion covers its whole key.
    pub fn could_keep(&self, source: &str, key: &str) -> bool {
        self.excluded(source, key) < key.len()
    }

    /// How much of a key the shortest exclusion matches.
    fn excluded(&self, source: &str, key: &str) -> usize {
        self.matches(source, key, true).min().unwrap_or(0)
    }

    /// How much of a key each rule of a kind matches.
    fn matches(&self, source: &str, key: &str, excludes: bool) -> impl Iterator<Item = usize> {
        let rules = self.rules.iter().filter(move |rule| rule.excludes == excludes);
        rules.filter_map(move |rule| rule.matched(source, key))
    }

    /// The labels of a pod's identity: its own, its namespace's, and where it runs.
    pub fn identity(&self, pod: &Pod, namespace: &Namespace, cluster: &str) -> Labels {
        // A label of the pod itself cannot set its namespace.
        let own = pod.template.labels.iter();
        let own = own.filter(|(key, _)| !key.starts_with(NAMESPACE_LABELS_PREFIX));
        let own = own.map(|(key, value)| Label::kubernetes(key, value));
        let of_namespace = namespace.labels.iter().map(|(key, value)| {
            Label::kubernetes(format!("{NAMESPACE_LABELS_PREFIX}{key}"), value)
        });
        let kept = own.chain(of_namespace).filter(|label| self.keeps(&label.source, &label.key));
        // Last, so that no pod can claim to be elsewhere by a label of its own.
        kept.chain([
            Label::kubernetes(NAMESPACE_LABEL, &*pod.namespace),
            Label::kubernetes(CLUSTER_LABEL, cluster),
            Label::kubernetes(SERVICE_ACCOUNT_LABEL, &*pod.template.service_account),
        ])
        .collect()
    }
}

// === impl Rule ===

impl Rule {
    fn parse(rule: &str) -> Result<Self, InvalidRule> {
        let (excludes, text) = match rule.strip_prefix('!') {
            Some(text) => (true, text),
            None => (false, rule),
        };
        let (source, key) = match text.split_once(':') {
            Some((source, key)) => (Some(source.to_owned()), key),
            None => (None, text),
        };
        let key = Regex::new(&format!("^(?:{key})"))
            .map_err(|source| InvalidRule { rule: rule.into(), source })?;
        Ok(Self { source, key, excludes })
    }

    /// How much of the key the rule matches, in bytes; `None` if it does not. A match of nothing counts as one byte, so
    /// that a rule that matches is never taken for one that does not.
    fn matched(&self, source: &str, key: &str) -> Option<usize> {
        if self.source.as_deref().is_some_and(|wanted| wanted != source) {
            return None;
        }
        self.key.find(key).map(|found| found.end().max(1))
    }
}

#[cfg(test)]
mod tests {
    use mesh_model::object::PodTemplate;

    use super::*;

    fn kept(rules: &[&str], keys: &[&str]) -> Vec<bool> {
        let filter = LabelFilter::new(rules.iter().copied()).unwrap();
        keys.iter().map(|key| filter.keeps("k8s", key)).collect()
    }

    #[test]
    fn defaults() {
        for (key, keeps) in [
            ("app", true),
            ("app.kubernetes.io/name", true),
            ("team.example.org/name", true),
            ("io.kubernetes.pod.namespace", true),
            ("io.kubernetes.pod.name", false),
            ("io.cilium.k8s.policy.cluster", true),
            ("io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name", true),
            ("kubernetes.io/hostname", false),
            ("statefulset.kubernetes.io/pod-name", false),
            ("apps.kubernetes.io/pod-index", false),
            ("batch.kubernetes.io/job-completion-index", false),
            ("batch.kubernetes.io/job-name", true),
            ("batch.kubernetes.io/controller-uid", false),
            ("controller-uid", false),
            ("topology.kubernetes.io/zone", false),
            ("failure-domain.beta.kubernetes.io/zone", false),
            ("k8s.io/x", false),
            ("pod-template-hash", false),
            ("pod-template-generation", false),
            ("controller-revision-hash", false),
            ("annotation.x", false),
            ("etcd_node", false),
        ] {
            assert_eq!(kept(&[], &[key]), [keeps], "{key}");
        }
        assert!(LabelFilter::new([]).unwrap().keeps("reserved", "host"));
    }

    #[test]
    fn a_users_rules() {
        let keys = ["app", "team", "version", "io.kubernetes.pod.namespace"];
        assert_eq!(kept(&["!version"], &keys), [true, true, false, true]);
        assert_eq!(kept(&["app", "k8s:team"], &keys), [true, true, false, true]);
        assert_eq!(kept(&["any:app"], &keys), [false, false, false, true]);
        // The longer inclusion wins over the shorter exclusion.
        assert_eq!(kept(&["!ver", "version"], &keys), [false, false, true, true]);
        assert!(
            LabelFilter::new(["!("]).unwrap_err().to_string().starts_with("the label rule \"!(\"")
        );
    }

    #[test]
    fn a_further_rule() {
        for (rules, key, keeps, could) in [
            (&[] as &[&str], "app", true, true),
            (&[], "kubernetes.io/hostname", false, true),
            (&[], "pod-template-hash", false, false),
            (&["app"], "team", false, true),
            (&["!team"], "team", false, false),
            (&["!te"], "team", false, true),
        ] {
            let filter = LabelFilter::new(rules.iter().copied()).unwrap();
            assert_eq!((filter.keeps("k8s", key), filter.could_keep("k8s", key)), (keeps, could));
            // A key as it is, not as an expression.
            let rule = key.replace('.', "\\.");
            let with = LabelFilter::new(rules.iter().copied().chain([&*rule])).unwrap();
            assert_eq!(with.keeps("k8s", key), could, "{rules:?} {key}");
        }
    }

    #[test]
    fn a_pods_identity() {
        let pairs = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let namespace = Namespace {
            name: "shop".into(),
            labels: pairs(&[("kubernetes.io/metadata.name", "shop")]),
            ..Namespace::default()
        };
        let pod = |service_account: &str| Pod {
            namespace: "shop".into(),
            template: PodTemplate {
                service_account: service_account.into(),
                labels: pairs(&[
                    ("app", "cart"),
                    ("pod-template-hash", "6d9f"),
                    ("io.cilium.k8s.policy.cluster", "beta"),
                    ("io.cilium.k8s.namespace.labels.team", "payments"),
                ]),
                ..PodTemplate::default()
            }
            .into(),
            ..Pod::default()
        };
        let labels = LabelFilter::new([]).unwrap().identity(&pod("default"), &namespace, "alpha");
        assert_eq!(
            labels.to_string(),
            "k8s:app=cart;k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=shop;k8s:io.cilium.k8s.policy.cluster=alpha;k8s:io.cilium.k8s.policy.serviceaccount=default;k8s:io.kubernetes.pod.namespace=shop;"
        );

        // A filter that names labels to keep drops no pod's account.
        let few = LabelFilter::new(["tier"]).unwrap();
        let of = |account: &str| few.identity(&pod(account), &namespace, "alpha").to_string();
        assert!(!of("default").contains("k8s:app=cart;"), "{}", of("default"));
        assert_ne!(of("default"), of("payments"));
    }
}
