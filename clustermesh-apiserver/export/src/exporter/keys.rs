//! Makes keys and values of records, and decides which object's value a key gets if several objects have it.

use mesh_model::{
    Identity, Labels, Record,
    object::{Kind, Object, ObjectKey},
};
use mesh_wire::{Key, Layout, encode};
use rayon::prelude::*;

use super::{
    Allocate, Exporter, Made, Value,
    namespaces::{Changed, namespace_of},
};
use crate::records;

/// The largest value that an etcd accepts, in bytes: its default of 1.5 MiB for a request, less the request's other fields.
const MAX_VALUE: usize = 1_536 * 1_024 - 1_024;
/// From this number of objects on, all cores make their records.
const MANY: usize = 64;

/// What an object has in an etcd.
struct Encoded {
    values: Vec<(String, Value)>,
    /// The identity that it has.
    identity: Option<(Identity, Labels)>,
    /// What is wrong with it that did not keep it from being exported, each a sentence.
    notes: Vec<String>,
}

/// Why an object is not exported as it is now.
enum NotExported {
    /// Its label set will have an ID.
    Waits,
    /// It cannot have one.
    Problem(String),
}

impl Exporter {
    /// Replaces or removes an object, and makes the records that depend on it.
    pub(super) fn change<A: Allocate>(
        &mut self,
        key: ObjectKey,
        object: Option<Object>,
        allocate: &mut A,
    ) {
        let before = match object {
            Some(mut object) => {
                self.shared_labels.share(&mut object);
                self.objects.insert(key.clone(), object)
            }
            None => self.objects.remove(&key),
        };
        if before.as_ref() != self.objects.get(&key) {
            self.changed_from(key, before.as_ref(), allocate);
        }
        if let Some(before) = before {
            self.shared_labels.forget(before);
        }
    }

    /// Makes the records that depend on an object that was another before.
    fn changed_from<A: Allocate>(
        &mut self,
        key: ObjectKey,
        before: Option<&Object>,
        allocate: &mut A,
    ) {
        let decides = self.namespaces.index(before, self.objects.get(&key));
        self.index_slice(&key, before);
        self.count_leaving(&key, before);
        let counted = self.cilium.counts_endpoints();
        self.cilium.index(before, self.objects.get(&key));
        let counts = self.cilium.counts_endpoints();
        let is_node = matches!(key.kind, Kind::Node | Kind::CiliumNode);
        let drains = is_node && self.settle_drained(&key.name);
        if drains {
            self.drain_changed();
        }
        if !self.is_open() {
            // No records are made until all Namespaces are known.
            return;
        }
        let mut affected = self.affected_by(before, self.objects.get(&key));
        affected.insert(key.clone());
        if decides == Changed::All {
            let inside = self.objects.iter().filter(|(_, object)| namespace_of(object).is_some());
            affected.extend(inside.map(|(key, _)| key.clone()));
        }
        if counted != counts {
            affected.extend(self.with_endpoints());
        }
        if drains {
            affected.extend(self.with_endpoints_on(&key.name));
        }
        for affected in affected {
            match &mut self.deferred {
                // A service's record contains all its slices, so make it once, after the batch.
                Some(deferred) if affected.kind == Kind::Service => {
                    deferred.insert(affected);
                }
                _ => self.make(affected, allocate),
            }
        }
        match decides {
            Changed::All => self.settle_all_identities(),
            Changed::One if key.kind == Kind::Namespace => self.settle_identities_of(&key.name),
            Changed::One => {}
        }
    }

    /// Makes an object's records, and updates the keys that differ.
    pub(super) fn make<A: Allocate>(&mut self, key: ObjectKey, allocate: &mut A) {
        let labels = self.labels_of(&key);
        let identity = self.identity(&key, labels, allocate);
        let encoded = self.encode(&key, identity);
        self.set(key, encoded);
    }

    /// Makes the records of many objects. All cores do what needs no change of the exporter.
    pub(super) fn make_all<A: Allocate>(&mut self, keys: Vec<ObjectKey>, allocate: &mut A) {
        if keys.len() < MANY {
            return keys.into_iter().for_each(|key| self.make(key, allocate));
        }
        let labels: Vec<_> = keys.par_iter().map(|key| self.labels_of(key)).collect();
        let with_labels = keys.iter().zip(labels);
        let identities: Vec<_> =
            with_labels.map(|(key, labels)| self.identity(key, labels, allocate)).collect();
        let with_identities = keys.par_iter().zip(identities);
        let encoded: Vec<_> =
            with_identities.map(|(key, identity)| self.encode(key, identity)).collect();
        keys.into_iter().zip(encoded).for_each(|(key, encoded)| self.set(key, encoded));
    }

    /// The ID of a label set that an object needs one for, or why it has none.
    fn identity<A: Allocate>(
        &mut self,
        key: &ObjectKey,
        labels: Option<Labels>,
        allocate: &mut A,
    ) -> Result<Option<(Identity, Labels)>, NotExported> {
        self.label_sets.set(key, labels.as_ref());
        let Some(labels) = labels else { return Ok(None) };
        let allocated = match self.cilium.id_of(&labels) {
            Some(identity) => Some(identity),
            None => allocate
                .identity(&labels)
                .map_err(|error| NotExported::Problem(error.to_string()))?,
        };
        match allocated {
            Some(identity) => Ok(Some((identity, labels))),
            None => {
                self.identities.wait(key, labels);
                Err(NotExported::Waits)
            }
        }
    }

    /// An object's keys and values, or why it has none.
    fn encode(
        &self,
        key: &ObjectKey,
        identity: Result<Option<(Identity, Labels)>, NotExported>,
    ) -> Result<Encoded, NotExported> {
        let Made { records, identity, mut notes } = self.records(key, identity?);
        notes.extend(records.iter().filter_map(|record| self.granted.refused(record)));
        let values = records.iter().map(|record| self.value(record)).collect();
        Ok(Encoded { values, identity, notes })
    }

    fn value(&self, record: &Record) -> (String, Value) {
        let key = Key::of_record(Layout::State, &self.local.name, record.key());
        (key.to_string(), Value::from(encode(record)))
    }

    /// Replaces an object's keys and values.
    fn set(&mut self, key: ObjectKey, encoded: Result<Encoded, NotExported>) {
        self.makes += 1;
        let now = match encoded {
            Ok(Encoded { values, identity, notes }) => {
                self.problems.remove(&key);
                match notes.is_empty() {
                    true => self.notes.remove(&key),
                    false => self.notes.insert(key.clone(), notes),
                };
                self.identities.set_use(&key, identity);
                values
            }
            Err(reason) => {
                match reason {
                    NotExported::Problem(problem) => {
                        drop(self.problems.insert(key.clone(), problem))
                    }
                    NotExported::Waits => drop(self.problems.remove(&key)),
                }
                match self.objects.get(&key) {
                    // It was not exported before, so export at least that the pod exists, for its node.
                    Some(Object::Pod(pod)) if !self.made.contains_key(&key) => {
                        let record = records::local_pod(pod, None);
                        record.iter().map(|record| self.value(record)).collect()
                    }
                    // The previous records stay.
                    _ => return,
                }
            }
        };
        for (etcd_key, value) in now.iter().filter(|(_, value)| value.len() > MAX_VALUE) {
            let note = format!(
                "{etcd_key} has {} bytes: an etcd accepts at most {MAX_VALUE}, unless its --max-request-bytes is larger",
                value.len()
            );
            self.notes.entry(key.clone()).or_default().push(note);
        }
        let before = match now.is_empty() {
            true => self.made.remove(&key),
            false => self.made.insert(key.clone(), now.clone()),
        };
        for (etcd_key, _) in before.into_iter().flatten() {
            if !now.iter().any(|(kept, _)| *kept == etcd_key) {
                self.disown(&etcd_key, &key);
            }
        }
        for (etcd_key, _) in now {
            // Nearly always there is one.
            let owners = self.owners.entry(etcd_key.clone()).or_insert_with(|| vec![key.clone()]);
            if !owners.contains(&key) {
                owners.push(key.clone());
            }
            self.settle(etcd_key);
        }
    }

    fn disown(&mut self, etcd_key: &str, owner: &ObjectKey) {
        if let Some(owners) = self.owners.get_mut(etcd_key) {
            owners.retain(|other| other != owner);
            if owners.is_empty() {
                self.owners.remove(etcd_key);
            }
        }
        self.settle(etcd_key.into());
    }

    /// Sets a key to the value of its first owner, or removes it if it has none.
    fn settle(&mut self, etcd_key: String) {
        let owner = self.owners.get(&etcd_key).and_then(|owners| owners.first());
        let made = owner.and_then(|owner| self.made.get(owner));
        let value = made.and_then(|made| made.iter().find(|(key, _)| *key == etcd_key));
        let changed = match value {
            Some((_, value)) if self.desired.get(&etcd_key) == Some(value) => false,
            Some((_, value)) => {
                self.desired.insert(etcd_key.clone(), value.clone());
                true
            }
            None => self.desired.remove(&etcd_key).is_some(),
        };
        if changed {
            self.changed.insert(etcd_key);
        }
    }
}
