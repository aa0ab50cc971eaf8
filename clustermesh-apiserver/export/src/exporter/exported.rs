//! The keys that an etcd should have: which object each is of, and what is kept of its value.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

use mesh_model::object::ObjectKey;

use super::Value;

/// A key in an etcd. Copies share the text.
pub type EtcdKey = Arc<str>;

/// A hash of a value, to compare values. It may differ between builds.
pub fn fingerprint(value: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// What is kept of a value.
#[derive(Clone, Debug)]
pub(super) enum Stored {
    /// The value.
    Kept(Value),
    /// The fingerprint of a pod's value, which is made again when it is written: pods are most of a cluster's objects,
    /// and their values would take more than all else that is known of them.
    OfPod(u64),
}

/// The keys of objects, and those without an object.
#[derive(Debug, Default)]
pub(super) struct Exported {
    /// The keys of each object.
    made: HashMap<Arc<ObjectKey>, Box<[(EtcdKey, Stored)]>>,
    /// The object whose value each key has: the first that came with it.
    owners: HashMap<EtcdKey, Arc<ObjectKey>>,
    /// The other objects that have a key, in the order of their arrival. Hardly any key has some.
    others: HashMap<EtcdKey, Vec<Arc<ObjectKey>>>,
    /// The keys that no object has.
    fixed: BTreeMap<EtcdKey, Value>,
    changed: BTreeSet<EtcdKey>,
}

// === impl Stored ===

impl Stored {
    pub(super) fn fingerprint(&self) -> u64 {
        match self {
            Self::Kept(value) => fingerprint(value),
            Self::OfPod(fingerprint) => *fingerprint,
        }
    }
}

impl PartialEq for Stored {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Kept(one), Self::Kept(other)) => one == other,
            (one, other) => one.fingerprint() == other.fingerprint(),
        }
    }
}

// === impl Exported ===

impl Exported {
    /// Replaces the keys of an object.
    pub(super) fn set(&mut self, object: &Arc<ObjectKey>, now: Vec<(EtcdKey, Stored)>) {
        let before = self.made.remove(object).unwrap_or_default();
        let keys = before.iter().chain(&now).map(|(key, _)| key);
        // What was removed from `made` above is the value of those keys that are this object's.
        let was = |key: &EtcdKey| match self.owners.get(key) {
            Some(owner) if owner == object => value_in(&before, key).cloned(),
            _ => self.stored(key),
        };
        let was: BTreeMap<EtcdKey, Option<Stored>> =
            keys.map(|key| (Arc::clone(key), was(key))).collect();
        for (key, _) in before.iter().filter(|(key, _)| value_in(&now, key).is_none()) {
            self.disown(key, object);
        }
        for (key, _) in &now {
            self.own(key, object);
        }
        if !now.is_empty() {
            self.made.insert(Arc::clone(object), now.into());
        }
        let changed = was.into_iter().filter(|(key, was)| self.stored(key) != *was);
        let changed: Vec<EtcdKey> = changed.map(|(key, _)| key).collect();
        self.changed.extend(changed);
    }

    /// Sets or removes a key that is of no object. If an object has the key, that one's value stays.
    pub(super) fn set_fixed(&mut self, key: &str, value: Option<Value>) {
        if self.owners.contains_key(key) || self.fixed.get(key) == value.as_ref() {
            return;
        }
        let key = self.shared(key);
        match value {
            Some(value) => self.fixed.insert(Arc::clone(&key), value),
            None => self.fixed.remove(&key),
        };
        self.changed.insert(key);
    }

    /// What is kept of a key's value; `None` if the etcd should not have the key.
    pub(super) fn stored(&self, key: &str) -> Option<Stored> {
        match self.owners.get(key) {
            Some(owner) => value_in(self.made.get(owner)?, key).cloned(),
            None => self.fixed.get(key).cloned().map(Stored::Kept),
        }
    }

    /// The object that a key is of.
    pub(super) fn owner(&self, key: &str) -> Option<&Arc<ObjectKey>> {
        self.owners.get(key)
    }

    /// The keys of an object; none if it has none.
    pub(super) fn of_object(&self, object: &ObjectKey) -> &[(EtcdKey, Stored)] {
        self.made.get(object).map(|made| &**made).unwrap_or_default()
    }

    /// The key of an object as it is shared here, if the object has keys.
    pub(super) fn object_key(&self, object: &ObjectKey) -> Option<&Arc<ObjectKey>> {
        self.made.get_key_value(object).map(|(key, _)| key)
    }

    /// A key with the text that is shared already, if it is.
    pub(super) fn shared(&self, key: &str) -> EtcdKey {
        let known = self.owners.get_key_value(key).map(|(key, _)| key);
        let known = known.or_else(|| self.fixed.get_key_value(key).map(|(key, _)| key));
        known.map_or_else(|| key.into(), Arc::clone)
    }

    /// All keys, in any order.
    pub(super) fn keys(&self) -> impl Iterator<Item = &EtcdKey> {
        self.owners.keys().chain(self.fixed.keys())
    }

    /// The number of keys.
    pub(super) fn len(&self) -> usize {
        self.owners.len() + self.fixed.len()
    }

    /// The keys whose value may have changed since the last call.
    pub(super) fn take_changed(&mut self) -> BTreeSet<EtcdKey> {
        std::mem::take(&mut self.changed)
    }

    fn own(&mut self, key: &EtcdKey, object: &Arc<ObjectKey>) {
        self.fixed.remove(key);
        let owner = self.owners.entry(Arc::clone(key)).or_insert_with(|| Arc::clone(object));
        if owner != object {
            let others = self.others.entry(Arc::clone(key)).or_default();
            if !others.contains(object) {
                others.push(Arc::clone(object));
            }
        }
    }

    fn disown(&mut self, key: &EtcdKey, object: &Arc<ObjectKey>) {
        if let Some(others) = self.others.get_mut(key) {
            match self.owners.get_mut(key) {
                Some(owner) if owner == object => *owner = others.remove(0),
                _ => others.retain(|other| other != object),
            }
            if others.is_empty() {
                self.others.remove(key);
            }
        } else {
            self.owners.remove(key);
        }
    }
}

fn value_in<'a>(made: &'a [(EtcdKey, Stored)], key: &str) -> Option<&'a Stored> {
    made.iter().find(|(found, _)| **found == *key).map(|(_, stored)| stored)
}
