//! The label sets for which pods need an identity ID.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use mesh_model::{
    Labels,
    object::{Object, ObjectKey, Pod},
};

use super::Exporter;

/// The label set of each pod, and the pods of each label set.
#[derive(Debug, Default)]
pub(super) struct LabelSets {
    of_pods: HashMap<Arc<ObjectKey>, Labels>,
    pods: HashMap<Labels, BTreeSet<Arc<ObjectKey>>>,
}

// === impl LabelSets ===

impl LabelSets {
    /// Sets the label set of a pod; `None` if it needs no ID. Returns it as pods share it.
    pub(super) fn set(&mut self, pod: &Arc<ObjectKey>, labels: Option<Labels>) -> Option<Labels> {
        let known = self.of_pods.get(pod);
        if known == labels.as_ref() {
            return known.cloned();
        }
        if let Some(before) = self.of_pods.remove(pod)
            && let Some(pods) = self.pods.get_mut(&before)
        {
            pods.remove(pod);
            if pods.is_empty() {
                self.pods.remove(&before);
            }
        }
        let labels = self.shared(labels?);
        self.pods.entry(labels.clone()).or_default().insert(Arc::clone(pod));
        self.of_pods.insert(Arc::clone(pod), labels.clone());
        Some(labels)
    }

    /// A label set as pods share it, if they have it.
    pub(super) fn shared(&self, labels: Labels) -> Labels {
        self.pods.get_key_value(&labels).map(|(shared, _)| shared.clone()).unwrap_or(labels)
    }

    /// The pods with this label set.
    pub(super) fn pods_with(&self, labels: &Labels) -> impl Iterator<Item = ObjectKey> {
        self.pods.get(labels).into_iter().flatten().map(|pod| (**pod).clone())
    }
}

// === impl Exporter ===

impl Exporter {
    /// The label set for which an object needs an ID: that of a pod whose identity Cilium does not report.
    pub(super) fn labels_of(&self, key: &ObjectKey) -> Option<Labels> {
        let Some(Object::Pod(pod)) = self.objects.get(key) else { return None };
        let needs_one =
            self.has_identity(pod) && self.cilium.identity_of(&pod.namespace, &pod.name).is_none();
        let namespace = needs_one.then(|| self.namespace(&pod.namespace))?;
        Some(self.config.filter.identity(pod, &namespace, self.local.name.as_str()))
    }

    /// Whether a pod needs an identity: it is scheduled to a node, or is exported to other clusters.
    pub(super) fn has_identity(&self, pod: &Pod) -> bool {
        let exported = !pod.ips.is_empty() && self.takes_part(&pod.namespace);
        self.is_open() && !pod.host_network && !pod.finished && (!pod.node.is_empty() || exported)
    }
}
