//! Identities. They are published while they are allocated, which is longer than pods use them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use mesh_model::{Identity, Labels, Record, RecordKey, object::ObjectKey};
use mesh_wire::{Key, Layout, encode};

use super::{Exporter, Value};

/// Identity IDs, and the pods that have them.
#[derive(Debug, Default)]
pub(super) struct Identities {
    /// The labels of allocated IDs.
    labels: BTreeMap<Identity, Labels>,
    /// The number of pods that have each ID, and their labels.
    used: HashMap<Identity, (usize, Labels)>,
    /// The ID of the pods with a label set.
    ids: HashMap<Labels, Identity>,
    /// Whether some pods may have a wrong ID.
    disputed: bool,
    /// The pods that wait for an ID of their label set.
    pub(super) waiting: HashMap<Labels, BTreeSet<Arc<ObjectKey>>>,
    /// Pods whose label set got an ID.
    given: BTreeSet<Arc<ObjectKey>>,
}

impl Identities {
    /// Counts a pod's identity, or that it has none, in place of the one that it had before.
    pub(super) fn set_use(
        &mut self,
        before: Option<Identity>,
        identity: Option<(Identity, Labels)>,
    ) {
        if let Some((identity, labels)) = identity {
            // Most pods share their labels with others, so that a copy is seldom needed.
            if self.ids.get(&labels) != Some(&identity) {
                self.ids.insert(labels.clone(), identity);
            }
            self.used.entry(identity).or_insert((0, labels)).0 += 1;
        }
        let Some(before) = before else { return };
        if let Some((pods, labels)) = self.used.get_mut(&before) {
            *pods -= 1;
            if *pods == 0 {
                if self.ids.get(labels) == Some(&before) {
                    self.ids.remove(labels);
                }
                self.used.remove(&before);
            }
        }
    }

    /// A pod's label set has no ID yet.
    pub(super) fn wait(&mut self, pod: &Arc<ObjectKey>, labels: Labels) {
        self.waiting.entry(labels).or_default().insert(Arc::clone(pod));
    }

    pub(super) fn take_waiting(&mut self) -> Vec<Arc<ObjectKey>> {
        let waiting = std::mem::take(&mut self.waiting).into_values().flatten();
        waiting.chain(self.take_given()).collect()
    }

    pub(super) fn take_given(&mut self) -> Vec<Arc<ObjectKey>> {
        std::mem::take(&mut self.given).into_iter().collect()
    }

    pub(super) fn take_disputed(&mut self) -> bool {
        std::mem::take(&mut self.disputed)
    }

    /// Sets the labels of an ID; `None` if it is not allocated. Pods must look up their IDs again if an ID that they have
    /// belongs to other labels or is not allocated, or if their label set has a lower ID now.
    fn set(&mut self, identity: Identity, labels: Option<Labels>) {
        let in_use = self.used.get(&identity).map(|(_, labels)| labels);
        self.disputed |= in_use.is_some_and(|in_use| labels.as_ref() != Some(in_use));
        let had = labels.as_ref().and_then(|labels| self.ids.get(labels));
        self.disputed |= had.is_some_and(|had| identity < *had);
        let waiting = labels.as_ref().and_then(|labels| self.waiting.remove(labels));
        self.given.extend(waiting.into_iter().flatten());
        match labels {
            Some(labels) => self.labels.insert(identity, labels),
            None => self.labels.remove(&identity),
        };
    }
}

impl Exporter {
    /// Sets the labels of an ID; `None` if it is no longer allocated.
    pub fn set_identity(&mut self, identity: Identity, labels: Option<Labels>) {
        let labels = labels.map(|labels| self.label_sets.shared(labels));
        self.identities.set(identity, labels);
        self.settle_identity(identity);
    }

    /// Whether a pod has an ID.
    pub fn uses(&self, identity: Identity) -> bool {
        self.identities.used.contains_key(&identity)
    }

    /// Whether pods may have a wrong ID, so that all must look theirs up again ([`Exporter::reassign`]).
    pub fn is_disputed(&self) -> bool {
        self.identities.disputed
    }

    /// Whether pods that waited for an ID can have one now ([`Exporter::reassign`]).
    pub fn has_given(&self) -> bool {
        !self.identities.given.is_empty()
    }

    /// How many label sets wait for an ID.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.identities.waiting.len()
    }

    /// Updates the identities of a namespace, which may have become part of the mesh or left it.
    pub(super) fn settle_identities_of(&mut self, namespace: &str) {
        let all = self.identities.labels.iter();
        let inside = all.filter(|(_, labels)| labels.namespace() == Some(namespace));
        let inside: Vec<Identity> = inside.map(|(identity, _)| *identity).collect();
        inside.into_iter().for_each(|identity| self.settle_identity(identity));
    }

    pub(super) fn settle_all_identities(&mut self) {
        let all: Vec<Identity> = self.identities.labels.keys().copied().collect();
        all.into_iter().for_each(|identity| self.settle_identity(identity));
    }

    /// Publishes an identity if it is allocated and its namespace is part of the mesh; else removes it.
    fn settle_identity(&mut self, identity: Identity) {
        let takes_part = |labels: &&Labels| {
            self.is_open()
                && labels.cluster() == Some(self.local.name.as_str())
                && labels.namespace().is_some_and(|namespace| self.takes_part(namespace))
        };
        let labels = self.identities.labels.get(&identity).filter(takes_part);
        let value =
            labels.map(|labels| Value::from(encode(&Record::Identity(identity, labels.clone()))));
        let key = RecordKey::Identity(identity);
        let key = Key::of_record(Layout::State, &self.local.name, key).to_string();
        // If a CiliumIdentity has this key, its value stays.
        self.exported.set_fixed(&key, value);
    }
}
