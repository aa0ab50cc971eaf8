//! Labels that pods of one workload share. Without sharing they would be half of what a pod takes.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use mesh_model::object::Object;

/// Each set of labels once.
#[derive(Debug, Default)]
pub(super) struct SharedLabels(HashSet<Arc<BTreeMap<String, String>>>);

impl SharedLabels {
    /// Replaces a pod's labels by equal ones that other pods have.
    pub(super) fn share(&mut self, object: &mut Object) {
        let Object::Pod(pod) = object else { return };
        match self.0.get(&pod.labels) {
            Some(shared) => pod.labels = Arc::clone(shared),
            None => drop(self.0.insert(Arc::clone(&pod.labels))),
        }
    }

    /// Forgets the labels of an object that is dropped, if no other pod has them.
    pub(super) fn forget(&mut self, object: Object) {
        let Object::Pod(pod) = object else { return };
        // One is in the set, one is the pod's.
        if Arc::strong_count(&pod.labels) <= 2 {
            self.0.remove(&pod.labels);
        }
    }
}
