//! Identities: published as long as they are allocated, which is longer than pods have them.

use std::collections::{BTreeMap, HashMap};

use mesh_model::{Identity, Labels, Record, RecordKey, object::ObjectKey};
use mesh_wire::{Key, Layout, encode};

use super::{Exporter, Value};

/// IDs, and who has them.
#[derive(Debug, Default)]
pub(super) struct Identities {
    /// Those that are allocated.
    labels: BTreeMap<Identity, Labels>,
    /// The identity that each pod has.
    of_pods: HashMap<ObjectKey, Identity>,
    /// How many pods have each, and what they asked for.
    used: HashMap<Identity, (usize, Labels)>,
    /// The ID that pods of a label set have.
    ids: HashMap<Labels, Identity>,
    /// Some pods have an ID that may not be theirs any more.
    disputed: bool,
}

impl Identities {
    /// A pod has an identity, or none.
    pub(super) fn set_use(&mut self, pod: &ObjectKey, identity: Option<(Identity, Labels)>) {
        let before = match &identity {
            Some((identity, _)) => self.of_pods.insert(pod.clone(), *identity),
            None => self.of_pods.remove(pod),
        };
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

    pub(super) fn take_disputed(&mut self) -> bool {
        std::mem::take(&mut self.disputed)
    }

    /// Takes note of what an ID is. One that pods have and that is another's now, or unallocated, and one that is
    /// lower than what its label set's pods have, is to be asked for again.
    fn set(&mut self, identity: Identity, labels: Option<Labels>) {
        let in_use = self.used.get(&identity).map(|(_, labels)| labels);
        self.disputed |= in_use.is_some_and(|in_use| labels.as_ref() != Some(in_use));
        let had = labels.as_ref().and_then(|labels| self.ids.get(labels));
        self.disputed |= had.is_some_and(|had| identity < *had);
        match labels {
            Some(labels) => self.labels.insert(identity, labels),
            None => self.labels.remove(&identity),
        };
    }
}

impl Exporter {
    /// An ID is a label set's, or no longer allocated.
    pub fn set_identity(&mut self, identity: Identity, labels: Option<Labels>) {
        self.identities.set(identity, labels);
        self.settle_identity(identity);
    }

    /// Whether a pod has an ID.
    pub fn uses(&self, identity: Identity) -> bool {
        self.identities.used.contains_key(&identity)
    }

    /// Whether pods have IDs that are to be asked for again ([`Exporter::retry`]).
    pub fn is_disputed(&self) -> bool {
        self.identities.disputed
    }

    /// A namespace takes part, or does so no more.
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

    /// Publishes an identity, if it is in use in a namespace that takes part.
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
        if self.owners.contains_key(&key) {
            // A Cilium's.
            return;
        }
        if self.desired.get(&key) == value.as_ref() {
            return;
        }
        match value {
            Some(value) => self.desired.insert(key.clone(), value),
            None => self.desired.remove(&key),
        };
        self.changed.insert(key);
    }
}
