//! Makes keys and values of records, and decides which object's value a key gets if several objects have it.

use mesh_model::{
    Record,
    object::{Kind, Object, ObjectKey},
};
use mesh_wire::{Key, Layout, encode};

use super::{
    Allocate, Exporter, Made, Value,
    namespaces::{Changed, namespace_of},
};
use crate::records;

/// The largest value that an etcd accepts, in bytes: its default of 1.5 MiB for a request, less the request's other fields.
const MAX_VALUE: usize = 1_536 * 1_024 - 1_024;

impl Exporter {
    /// Replaces or removes an object, and makes the records that depend on it.
    pub(super) fn change<A: Allocate>(
        &mut self,
        key: ObjectKey,
        object: Option<Object>,
        allocate: &mut A,
    ) {
        let before = match object {
            Some(object) => self.objects.insert(key.clone(), object),
            None => self.objects.remove(&key),
        };
        if before.as_ref() == self.objects.get(&key) {
            return;
        }
        let decides = self.namespaces.index(before.as_ref(), self.objects.get(&key));
        self.index_slice(&key, before.as_ref());
        self.count_leaving(&key, before.as_ref());
        let counted = self.cilium.counts_endpoints();
        self.cilium.index(before.as_ref(), self.objects.get(&key));
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
        let mut affected = self.affected_by(before.as_ref(), self.objects.get(&key));
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
        self.makes += 1;
        let labels = self.labels_of(&key);
        self.label_sets.set(&key, labels.as_ref());
        let records = match self.records(&key, labels, allocate) {
            Ok(Made { records, identity, mut notes }) => {
                self.problems.remove(&key);
                notes.extend(records.iter().filter_map(|record| self.granted.refused(record)));
                match notes.is_empty() {
                    true => self.notes.remove(&key),
                    false => self.notes.insert(key.clone(), notes),
                };
                self.identities.set_use(&key, identity);
                records
            }
            Err(problem) => {
                self.problems.insert(key.clone(), problem);
                match self.objects.get(&key) {
                    // It was not exported before, so export at least that the pod exists, for its node.
                    Some(Object::Pod(pod)) if !self.made.contains_key(&key) => {
                        records::local_pod(pod, None).into_iter().collect()
                    }
                    // The previous records stay.
                    _ => return,
                }
            }
        };
        let of = |record: &Record| {
            let of_record = Key::of_record(Layout::State, &self.local.name, record.key());
            (of_record.to_string(), Value::from(encode(record)))
        };
        let now: Vec<(String, Value)> = records.iter().map(of).collect();
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
            let owners = self.owners.entry(etcd_key.clone()).or_default();
            if !owners.contains(&key) {
                owners.push_back(key.clone());
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
        let owner = self.owners.get(&etcd_key).and_then(|owners| owners.front());
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
