//! What pods have in common. Without sharing it would be half of what a pod takes.

use std::{collections::HashSet, hash::Hash, sync::Arc};

use mesh_model::object::{Object, ObjectKey, PodTemplate};

/// Each text and each template once.
#[derive(Debug, Default)]
pub(super) struct Shared {
    texts: Pool<str>,
    templates: Pool<PodTemplate>,
}

/// Values that are the same in several objects.
#[derive(Debug)]
struct Pool<T: ?Sized> {
    values: HashSet<Arc<T>>,
    /// The number of values at which those that no object has are forgotten.
    limit: usize,
}

/// The smallest limit of a pool.
const FEW: usize = 64;

// === impl Shared ===

impl Shared {
    /// An object's key with a namespace that is shared.
    pub(super) fn key(&mut self, mut key: ObjectKey) -> Arc<ObjectKey> {
        self.texts.share(&mut key.namespace);
        Arc::new(key)
    }

    /// Replaces a pod's parts by equal ones of its key and of other pods.
    pub(super) fn share(&mut self, key: &ObjectKey, object: &mut Object) {
        let Object::Pod(pod) = object else { return };
        let pod = Arc::make_mut(pod);
        (pod.namespace, pod.name) = (Arc::clone(&key.namespace), Arc::clone(&key.name));
        self.texts.share(&mut pod.node);
        self.templates.share(&mut pod.template);
    }
}

// === impl Pool ===

impl<T: ?Sized + Eq + Hash> Pool<T> {
    fn share(&mut self, value: &mut Arc<T>) {
        if let Some(known) = self.values.get(value) {
            *value = Arc::clone(known);
            return;
        }
        if self.values.len() >= self.limit {
            self.values.retain(|value| Arc::strong_count(value) > 1);
            self.limit = FEW.max(2 * self.values.len());
        }
        self.values.insert(Arc::clone(value));
    }
}

impl<T: ?Sized> Default for Pool<T> {
    fn default() -> Self {
        Self { values: HashSet::new(), limit: FEW }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shared_and_those_without_an_object_are_forgotten() {
        let mut pool = Pool::<str>::default();
        let mut share = |text: &str| {
            let mut value = Arc::from(text);
            pool.share(&mut value);
            (value, pool.values.len())
        };
        let (first, _) = share("kept");
        for n in 0..10_000 {
            assert!(share(&n.to_string()).1 <= FEW);
        }
        assert!(Arc::ptr_eq(&first, &share("kept").0));
    }
}
