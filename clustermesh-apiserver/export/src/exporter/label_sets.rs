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
    of_pods: HashMap<ObjectKey, Arc<Labels>>,
    pods: HashMap<Arc<Labels>, BTreeSet<ObjectKey>>,
}

// === impl LabelSets ===

impl LabelSets {
    /// Sets the label set of a pod; `None` if it needs no ID.
    pub(super) fn set(&mut self, pod: &ObjectKey, labels: Option<&Labels>) {
        if self.of_pods.get(pod).map(|labels| &**labels) == labels {
            return;
        }
        if let Some(before) = self.of_pods.remove(pod)
            && let Some(pods) = self.pods.get_mut(&before)
        {
            pods.remove(pod);
            if pods.is_empty() {
                self.pods.remove(&before);
            }
        }
        if let Some(labels) = labels {
            let shared = self.pods.get_key_value(labels).map(|(shared, _)| shared.clone());
            let shared = shared.unwrap_or_else(|| Arc::new(labels.clone()));
            self.pods.entry(shared.clone()).or_default().insert(pod.clone());
            self.of_pods.insert(pod.clone(), shared);
        }
    }

    /// The pods with this label set.
    pub(super) fn pods_with(&self, labels: &Labels) -> impl Iterator<Item = ObjectKey> {
        self.pods.get(labels).into_iter().flatten().cloned()
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
