//! Makes keys and values of records, and decides which object's value a key gets if several objects have it.

use std::{collections::BTreeMap, sync::Arc};

use mesh_model::{
    Identity, Labels, Record,
    object::{Kind, Object, ObjectKey},
};
use mesh_wire::{Key, Layout, encode};
use rayon::prelude::*;

use super::{
    Allocate, EtcdKey, Exporter, Made, Value,
    exported::{Kept, KeptPod, Stored, fingerprint},
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
                if self.objects.get(&shared) == Some(&object) {
                    // What was made of it shares the one that is known.
                    return;
                }
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
        if key.kind.policy().is_some() {
            // They depend on nothing else, and nothing waits for them.
            let object = self.objects.get(&key);
            let affected = self.policies.change(&key, object, &self.config.filter);
            return affected.iter().for_each(|key| self.make_policy(key));
        }
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
        self.make_shared(&self.shared_key(&key), allocate);
    }

    fn make_shared<A: Allocate>(&mut self, key: &Arc<ObjectKey>, allocate: &mut A) {
        let labels = self.labels_of(key);
        let identity = self.identity(key, labels, allocate);
        let encoded = self.encode(key, identity);
        self.set(key, encoded);
    }

    /// Makes a policy's record, which needs no identity.
    pub(super) fn make_policy(&mut self, key: &ObjectKey) {
        let key = self.shared_key(key);
        let encoded = self.encode(&key, Ok(None));
        self.set(&key, encoded);
    }

    /// Makes the records of many objects. All cores do what needs no change of the exporter.
    pub(super) fn make_all<A: Allocate>(&mut self, keys: Vec<Arc<ObjectKey>>, allocate: &mut A) {
        if keys.len() < MANY {
            return keys.iter().for_each(|key| self.make_shared(key, allocate));
        }
        let labels: Vec<_> = keys.par_iter().map(|key| self.labels_of(key)).collect();
        let with_labels = keys.iter().zip(labels);
        let identities: Vec<_> =
            with_labels.map(|(key, labels)| self.identity(key, labels, allocate)).collect();
        let with_identities = keys.par_iter().zip(identities);
        let encoded: Vec<_> =
            with_identities.map(|(key, identity)| self.encode(key, identity)).collect();
        keys.iter().zip(encoded).for_each(|(key, encoded)| self.set(key, encoded));
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

    /// Replaces an object's keys and values.
    fn set(&mut self, key: &Arc<ObjectKey>, encoded: Result<Encoded, NotExported>) {
        self.makes += 1;
        let (values, identity, pod) = match encoded {
            Ok(Encoded { values, identity, notes }) => {
                self.problems.remove(&**key);
                match notes.is_empty() {
                    true => self.notes.remove(&**key),
                    false => self.notes.insert((**key).clone(), notes),
                };
                let pod = match self.objects.get(key) {
                    Some(Object::Pod(pod)) => Some(Arc::clone(pod)),
                    _ => None,
                };
                let id = identity.as_ref().map(|(id, _)| *id);
                self.identities.set_use(self.exported.identity(key), identity);
                (values, id, pod)
            }
            Err(reason) => {
                match reason {
                    NotExported::Problem(problem) => {
                        drop(self.problems.insert((**key).clone(), problem))
                    }
                    NotExported::Waits => drop(self.problems.remove(&**key)),
                }
                (self.without_identity(key), self.exported.identity(key), None)
            }
        };
        for (etcd_key, value) in values.iter().filter(|(_, value)| value.len() > MAX_VALUE) {
            let note = format!(
                "{etcd_key} has {} bytes: an etcd accepts at most {MAX_VALUE}, unless its --max-request-bytes is larger",
                value.len()
            );
            self.notes.entry((**key).clone()).or_default().push(note);
        }
        let kept = match (identity, pod) {
            (Some(identity), Some(pod)) => {
                let fingerprints = values.iter().map(|(_, value)| fingerprint(value)).collect();
                Some(Kept::Pod(KeptPod { pod, identity, fingerprints }))
            }
            _ if values.is_empty() && identity.is_none() => None,
            _ => {
                let values = values.into_iter().map(|(etcd_key, value)| (etcd_key.into(), value));
                Some(Kept::All { values: values.collect(), identity })
            }
        };
        self.exported.set(key, kept);
    }

    /// The keys and values of a pod whose label set has no ID: as they were. One that was not exported before is exported
    /// for its node, so that the node knows that it exists.
    fn without_identity(&self, key: &ObjectKey) -> Vec<(String, Value)> {
        match (self.exported.of_object(key), self.objects.get(key)) {
            (Some(Kept::Pod(KeptPod { pod, identity, fingerprints })), _) => {
                let records = self.records_of_pod(pod, *identity);
                let had = records.iter().take(fingerprints.len());
                had.map(|record| self.value_of(record)).collect()
            }
            (Some(Kept::All { values, .. }), _) if !values.is_empty() => {
                let value =
                    |(etcd_key, value): &(EtcdKey, Value)| (etcd_key.to_string(), value.clone());
                values.iter().map(value).collect()
            }
            (_, Some(Object::Pod(pod))) => {
                let record = records::local_pod(pod, None);
                record.iter().map(|record| self.value_of(record)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The value that the etcd should have; `None` if it should not have the key.
    pub fn value(&self, etcd_key: &str) -> Option<Value> {
        match self.exported.stored(etcd_key)? {
            Stored::Kept(value) => Some(value),
            Stored::OfPod(_) => {
                let Kept::Pod(KeptPod { pod, identity, .. }) =
                    self.exported.of_object(self.exported.owner(etcd_key)?)?
                else {
                    return None;
                };
                let records = self.records_of_pod(pod, *identity);
                let mut values = records.iter().map(|record| self.value_of(record));
                values.find(|(found, _)| found == etcd_key).map(|(_, value)| value)
            }
        }
    }

    /// The keys and values that the etcd should have.
    pub fn desired(&self) -> BTreeMap<EtcdKey, Value> {
        let keys: Vec<EtcdKey> = self.keys().collect();
        let value = |key: EtcdKey| {
            let value = self.value(&key)?;
            Some((key, value))
        };
        keys.into_par_iter().filter_map(value).collect()
    }
}
