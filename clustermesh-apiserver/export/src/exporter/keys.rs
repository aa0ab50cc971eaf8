//! Makes keys and values of records, and decides which object's value a key gets if several objects have it.

use std::{collections::BTreeMap, sync::Arc};

use mesh_model::{
    Identity, Labels, Record,
    object::{Kind, Object, ObjectKey, Pod},
};
use mesh_wire::{Key, Layout, encode};
use rayon::prelude::*;

use super::{
    Allocate, EtcdKey, Exporter, Made, Value,
    exported::{Stored, fingerprint},
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
                let known = self.objects.get_key_value(&key).map(|(key, _)| Arc::clone(key));
                let shared = known.unwrap_or_else(|| self.shared.key(key.clone()));
                self.shared.share(&shared, &mut object);
                self.objects.insert(shared, object)
            }
            None => self.objects.remove(&key),
        };
        if before.as_ref() != self.objects.get(&key) {
            self.changed_from(key, before.as_ref(), allocate);
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
            affected.extend(inside.map(|(key, _)| (**key).clone()));
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
                _ => {
                    let before = before.filter(|_| affected == key);
                    self.make_after(&self.shared_key(&affected), before, allocate);
                }
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
        self.make_after(&self.shared_key(&key), None, allocate);
    }

    /// The same for an object that was another before, if it was.
    fn make_after<A: Allocate>(
        &mut self,
        key: &Arc<ObjectKey>,
        before: Option<&Object>,
        allocate: &mut A,
    ) {
        let labels = self.labels_of(key);
        let identity = self.identity(key, labels, allocate);
        let encoded = self.encode(key, identity);
        self.set(key, before, encoded);
    }

    /// Makes the records of many objects. All cores do what needs no change of the exporter.
    pub(super) fn make_all<A: Allocate>(&mut self, keys: Vec<Arc<ObjectKey>>, allocate: &mut A) {
        if keys.len() < MANY {
            return keys.iter().for_each(|key| self.make_after(key, None, allocate));
        }
        let labels: Vec<_> = keys.par_iter().map(|key| self.labels_of(key)).collect();
        let with_labels = keys.iter().zip(labels);
        let identities: Vec<_> =
            with_labels.map(|(key, labels)| self.identity(key, labels, allocate)).collect();
        let with_identities = keys.par_iter().zip(identities);
        let encoded: Vec<_> =
            with_identities.map(|(key, identity)| self.encode(key, identity)).collect();
        keys.iter().zip(encoded).for_each(|(key, encoded)| self.set(key, None, encoded));
    }

    /// An object's key as its maps share it.
    pub(super) fn shared_key(&self, key: &ObjectKey) -> Arc<ObjectKey> {
        let known = self.objects.get_key_value(key).map(|(key, _)| key);
        let known = known.or_else(|| self.exported.object_key(key));
        known.map_or_else(|| Arc::new(key.clone()), Arc::clone)
    }

    /// The ID of a label set that an object needs one for, or why it has none.
    fn identity<A: Allocate>(
        &mut self,
        key: &Arc<ObjectKey>,
        labels: Option<Labels>,
        allocate: &mut A,
    ) -> Result<Option<(Identity, Labels)>, NotExported> {
        let Some(labels) = self.label_sets.set(key, labels) else { return Ok(None) };
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
        let values = records.iter().map(|record| self.value_of(record)).collect();
        Ok(Encoded { values, identity, notes })
    }

    fn value_of(&self, record: &Record) -> (String, Value) {
        let key = Key::of_record(Layout::State, &self.local.name, record.key());
        (key.to_string(), Value::from(encode(record)))
    }

    /// Replaces an object's keys and values. `before` is the object before it changed.
    fn set(
        &mut self,
        key: &Arc<ObjectKey>,
        before: Option<&Object>,
        encoded: Result<Encoded, NotExported>,
    ) {
        self.makes += 1;
        let (values, made_again) = match encoded {
            Ok(Encoded { values, identity, notes }) => {
                self.problems.remove(&**key);
                match notes.is_empty() {
                    true => self.notes.remove(&**key),
                    false => self.notes.insert((**key).clone(), notes),
                };
                let made_again = identity.is_some();
                self.identities.set_use(key, identity);
                (values, made_again)
            }
            Err(reason) => {
                match reason {
                    NotExported::Problem(problem) => {
                        drop(self.problems.insert((**key).clone(), problem))
                    }
                    NotExported::Waits => drop(self.problems.remove(&**key)),
                }
                (self.without_identity(key, before), false)
            }
        };
        for (etcd_key, value) in values.iter().filter(|(_, value)| value.len() > MAX_VALUE) {
            let note = format!(
                "{etcd_key} has {} bytes: an etcd accepts at most {MAX_VALUE}, unless its --max-request-bytes is larger",
                value.len()
            );
            self.notes.entry((**key).clone()).or_default().push(note);
        }
        let stored = values.into_iter().map(|(etcd_key, value)| {
            let stored = match made_again {
                true => Stored::OfPod(fingerprint(&value)),
                false => Stored::Kept(value),
            };
            (self.exported.shared(&etcd_key), stored)
        });
        let stored = stored.collect();
        self.exported.set(key, stored);
    }

    /// The keys and values of a pod whose label set has no ID: as they were. One that was not exported before is exported
    /// for its node, so that the node knows that it exists.
    fn without_identity(&self, key: &ObjectKey, before: Option<&Object>) -> Vec<(String, Value)> {
        let made = self.exported.of_object(key);
        let now = self.objects.get(key);
        if let (true, Some(Object::Pod(pod))) = (made.is_empty(), now) {
            let record = records::local_pod(pod, None);
            return record.iter().map(|record| self.value_of(record)).collect();
        }
        let value = |(etcd_key, stored): &(EtcdKey, Stored)| {
            let value = match (stored, before.or(now)) {
                (Stored::Kept(value), _) => value.clone(),
                (Stored::OfPod(_), Some(Object::Pod(pod))) => {
                    self.value_of_pod(key, pod, etcd_key)?
                }
                (Stored::OfPod(_), _) => return None,
            };
            Some((etcd_key.to_string(), value))
        };
        made.iter().filter_map(value).collect()
    }

    /// The value of a pod's key, for the identity that the pod was exported with last.
    fn value_of_pod(&self, key: &ObjectKey, pod: &Pod, etcd_key: &str) -> Option<Value> {
        let records = self.records_of_pod(pod, self.identities.of_pod(key)?);
        let mut values = records.iter().map(|record| self.value_of(record));
        values.find(|(found, _)| found == etcd_key).map(|(_, value)| value)
    }

    /// The value that the etcd should have; `None` if it should not have the key.
    pub fn value(&self, etcd_key: &str) -> Option<Value> {
        match self.exported.stored(etcd_key)? {
            Stored::Kept(value) => Some(value),
            Stored::OfPod(_) => {
                let owner = self.exported.owner(etcd_key)?;
                let Some(Object::Pod(pod)) = self.objects.get(owner) else { return None };
                self.value_of_pod(owner, pod, etcd_key)
            }
        }
    }

    /// The keys and values that the etcd should have.
    pub fn desired(&self) -> BTreeMap<EtcdKey, Value> {
        let keys: Vec<&EtcdKey> = self.keys().collect();
        let value = |key: &EtcdKey| Some((Arc::clone(key), self.value(key)?));
        keys.into_par_iter().filter_map(value).collect()
    }
}
