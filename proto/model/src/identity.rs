//! Security identities: the ID, its label set, and the text forms of both.

use std::{collections::BTreeMap, fmt, sync::Arc};

/// The ID of a security identity, unique in the mesh (24 bits, `docs/wire.md`, "Identities").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity(u32);

/// One label of an identity: `<source>:<key>=<value>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label {
    /// Where it comes from: `k8s`, `reserved`, `cidr`, `any`, `unspec`, …
    pub source: String,
    /// The key, without its source.
    pub key: String,
    /// The value, possibly empty.
    pub value: String,
}

/// A set of labels, at most one for each key, ordered by the bytes of the keys. So equal sets have equal text forms.
/// Copies share the labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels {
    by_key: Arc<BTreeMap<String, (String, String)>>,
}

/// The label that names the cluster of an identity. Readers refuse an identity without it.
pub const CLUSTER_LABEL: &str = "io.cilium.k8s.policy.cluster";
/// The label of a pod's service account.
pub const SERVICE_ACCOUNT_LABEL: &str = "io.cilium.k8s.policy.serviceaccount";
/// The label of a pod's namespace.
pub const NAMESPACE_LABEL: &str = "io.kubernetes.pod.namespace";
/// The prefix of the keys of labels that a pod gets from its namespace.
pub const NAMESPACE_LABELS_PREFIX: &str = "io.cilium.k8s.namespace.labels.";
/// The source of labels that come from Kubernetes.
pub const KUBERNETES_SOURCE: &str = "k8s";
const UNSPECIFIED_SOURCE: &str = "unspec";
const RESERVED_SOURCE: &str = "reserved";

// === impl Identity ===

impl Identity {
    /// The identity is not known yet.
    pub const UNKNOWN: Self = Self(0);
    /// The local node. In a record of another cluster it means a node of that cluster: [`Identity::REMOTE_NODE`].
    pub const HOST: Self = Self(1);
    /// Another node, of any cluster.
    pub const REMOTE_NODE: Self = Self(6);
    /// The reserved identities that an address of the local cluster may have by a record: unmanaged, health, init,
    /// another node, the API server, ingress. The others are of what is not in the mesh.
    pub const OF_RECORDS: [Self; 6] =
        [Self(3), Self(4), Self(5), Self::REMOTE_NODE, Self(7), Self(8)];
    /// IDs below are reserved: they have the same meaning in every cluster, and are never allocated.
    pub const FIRST_ALLOCATABLE: u32 = 256;

    /// The identity with an ID.
    pub const fn new(id: u32) -> Self {
        Self(id)
    }

    /// The ID.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Whether the ID is reserved, so not allocated by a cluster.
    pub const fn is_reserved(self) -> bool {
        self.0 < Self::FIRST_ALLOCATABLE
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// === impl Label ===

impl Label {
    /// A label of source `k8s`.
    pub fn kubernetes(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self { source: KUBERNETES_SOURCE.into(), key: key.into(), value: value.into() }
    }

    /// Parses `[<source>:]<key>[=<value>]`. Without a source, the source is `unspec`; `$key` and `reserved.key` have the
    /// source `reserved`.
    pub fn parse(text: &str) -> Self {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        Self::with_name(name, value)
    }

    /// A label from `[<source>:]<key>` and a value, as in the `security-labels` of a CiliumIdentity.
    pub fn with_name(name: &str, value: &str) -> Self {
        let (source, key) = if let Some(key) = name.strip_prefix('$') {
            (RESERVED_SOURCE, key)
        } else if let Some(key) = name.strip_prefix("reserved.") {
            (RESERVED_SOURCE, key)
        } else if let Some((source, key)) = name.split_once(':') {
            (source, key)
        } else {
            (UNSPECIFIED_SOURCE, name)
        };
        Self { source: source.into(), key: key.into(), value: value.into() }
    }
}

// === impl Labels ===

impl Labels {
    /// Adds a label. It replaces a label with the same key, unless only the present one has the source `k8s`.
    pub fn insert(&mut self, label: Label) {
        let Label { source, key, value } = label;
        match self.by_key.get(&key) {
            Some((present, _)) if present == KUBERNETES_SOURCE && source != KUBERNETES_SOURCE => {}
            _ => {
                Arc::make_mut(&mut self.by_key).insert(key, (source, value));
            }
        }
    }

    /// The value of the label with this source and key.
    pub fn get(&self, source: &str, key: &str) -> Option<&str> {
        self.by_key.get(key).filter(|(s, _)| s == source).map(|(_, value)| value.as_str())
    }

    /// The value of the label with this key, whatever its source.
    pub fn any(&self, key: &str) -> Option<&str> {
        self.by_key.get(key).map(|(_, value)| value.as_str())
    }

    /// The labels as `(source, key, value)`, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.by_key
            .iter()
            .map(|(key, (source, value))| (source.as_str(), key.as_str(), value.as_str()))
    }

    /// The number of labels.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether there is no label.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// Parses the text form that [`fmt::Display`] writes. It never fails.
    pub fn parse(text: &str) -> Self {
        text.split(';').filter(|part| !part.is_empty()).map(Label::parse).collect()
    }

    /// The cluster that the labels name.
    pub fn cluster(&self) -> Option<&str> {
        self.get(KUBERNETES_SOURCE, CLUSTER_LABEL)
    }

    /// The namespace that the labels name.
    pub fn namespace(&self) -> Option<&str> {
        self.get(KUBERNETES_SOURCE, NAMESPACE_LABEL)
    }
}

impl FromIterator<Label> for Labels {
    fn from_iter<I: IntoIterator<Item = Label>>(labels: I) -> Self {
        let mut all = Self::default();
        labels.into_iter().for_each(|label| all.insert(label));
        all
    }
}

impl fmt::Display for Labels {
    /// `<source>:<key>=<value>;` for each label in order, without a separator between them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.iter().try_for_each(|(source, key, value)| write!(f, "{source}:{key}={value};"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_form() {
        let text = "k8s:App=upper;k8s:a.example.org/x=v;k8s:app=cart;k8s:app-1=2;k8s:app.b=3;k8s:app2=1;k8s:empty=;k8s:zz=a=b;";
        assert_eq!(Labels::parse(text).to_string(), text);
        let odd = Labels::parse("cidr:10.0.0.0/8=;$host;nosource=val;reserved.health;;");
        assert_eq!(
            odd.to_string(),
            "cidr:10.0.0.0/8=;reserved:health=;reserved:host=;unspec:nosource=val;"
        );
    }

    #[test]
    fn kubernetes_wins_a_key() {
        let any = Label { source: "any".into(), key: "app".into(), value: "x".into() };
        let kubernetes = Label::kubernetes("app", "y");
        for labels in [[any.clone(), kubernetes.clone()], [kubernetes, any]] {
            assert_eq!(labels.into_iter().collect::<Labels>().to_string(), "k8s:app=y;");
        }
    }

    proptest! {
        #[test]
        fn parse_inverts_display(labels in prop::collection::btree_map("[a-zA-Z0-9./-]{1,12}", ("[a-z]{1,6}", "[^;]{0,12}"), 0..8)) {
            let labels: Labels = labels
                .into_iter()
                .filter(|(key, _)| !key.starts_with("reserved."))
                .map(|(key, (source, value))| Label { source, key, value })
                .collect();
            prop_assert_eq!(Labels::parse(&labels.to_string()), labels);
        }
    }
}
