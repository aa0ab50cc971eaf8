//! The keys that an etcd should have: which object each is of, and what is kept of its value.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

use mesh_model::{
    ClusterName, Identity,
    object::{ObjectKey, Pod},
};
use mesh_wire::{Key, Layout};

use super::Value;
use crate::records;

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
    /// The fingerprint of a pod's value.
    OfPod(u64),
}

/// What is kept of an object's keys and values.
#[derive(Debug)]
pub(super) enum Kept {
    /// All of them, and the identity in those of a pod whose label set has no ID now.
    All { values: Box<[(EtcdKey, Value)]>, identity: Option<Identity> },
    /// Those of a pod with an identity are made again when they are needed: pods are most of a cluster's objects, and their
    /// keys and values would take more than all else that is known of them.
    Pod(KeptPod),
}

/// A pod as it was exported.
#[derive(Debug)]
pub(super) struct KeptPod {
    pub(super) pod: Arc<Pod>,
    pub(super) identity: Identity,
    /// The fingerprints of its values, in the order of its records. It may have fewer than [`records::pod_keys`] says.
    pub(super) fingerprints: Box<[u64]>,
}

/// The keys of objects, and those without an object.
#[derive(Debug)]
pub(super) struct Exported {
    cluster: ClusterName,
    made: HashMap<Arc<ObjectKey>, Kept>,
    /// The object whose value each key has: the first that came with it. Of a key there is its hash only, as the object
    /// has its text.
    owners: HashMap<u64, Arc<ObjectKey>>,
    /// The other objects that have a key with this hash, in the order of their arrival. Hardly any key has some.
    others: HashMap<u64, Vec<Arc<ObjectKey>>>,
    /// The hash of a key. Keys with equal hashes are told apart by their texts.
    hash: fn(&[u8]) -> u64,
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

// === impl Kept ===

impl Kept {
    fn keys(&self, cluster: &ClusterName) -> Vec<EtcdKey> {
        match self {
            Self::All { values, .. } => values.iter().map(|(key, _)| Arc::clone(key)).collect(),
            Self::Pod(pod) => pod.keys(cluster).map(|(key, _)| key.into()).collect(),
        }
    }

    fn value(&self, key: &str, cluster: &ClusterName) -> Option<Stored> {
        match self {
            Self::All { values, .. } => {
                let found = values.iter().find(|(found, _)| **found == *key);
                found.map(|(_, value)| Stored::Kept(value.clone()))
            }
            Self::Pod(pod) => {
                let found = pod.keys(cluster).find(|(found, _)| *found == *key);
                found.map(|(_, fingerprint)| Stored::OfPod(fingerprint))
            }
        }
    }
}

impl KeptPod {
    fn keys(&self, cluster: &ClusterName) -> impl Iterator<Item = (String, u64)> {
        let keys = records::pod_keys(&self.pod);
        let keys = keys.map(move |key| Key::of_record(Layout::State, cluster, key).to_string());
        keys.zip(self.fingerprints.iter().copied())
    }
}

// === impl Exported ===

impl Exported {
    pub(super) fn new(cluster: ClusterName) -> Self {
        Self {
            cluster,
            made: HashMap::new(),
            owners: HashMap::new(),
            others: HashMap::new(),
            hash: fingerprint,
            fixed: BTreeMap::new(),
            changed: BTreeSet::new(),
        }
    }

    /// Replaces the keys of an object; `None`: it has none.
    pub(super) fn set(&mut self, object: &Arc<ObjectKey>, now: Option<Kept>) {
        let keys = |kept: Option<&Kept>| kept.map(|kept| kept.keys(&self.cluster));
        let before = keys(self.made.get(object)).unwrap_or_default();
        let after = keys(now.as_ref()).unwrap_or_default();
        let was = before.iter().chain(&after);
        let was: BTreeMap<EtcdKey, Option<Stored>> =
            was.map(|key| (Arc::clone(key), self.stored(key))).collect();
        match now {
            Some(now) => self.made.insert(Arc::clone(object), now),
            None => self.made.remove(object),
        };
        let hash = |key: &EtcdKey| (self.hash)(key.as_bytes());
        let had: BTreeSet<u64> = before.iter().map(hash).collect();
        let has: BTreeSet<u64> = after.iter().map(hash).collect();
        had.difference(&has).for_each(|hash| self.disown(*hash, object));
        has.iter().for_each(|hash| self.own(*hash, object));
        for key in &after {
            self.fixed.remove(key);
        }
        let changed = was.into_iter().filter(|(key, was)| self.stored(key) != *was);
        let changed: Vec<EtcdKey> = changed.map(|(key, _)| key).collect();
        self.changed.extend(changed);
    }

    /// Sets or removes a key that is of no object. If an object has the key, that one's value stays.
    pub(super) fn set_fixed(&mut self, key: &str, value: Option<Value>) {
        if self.owner(key).is_some() || self.fixed.get(key) == value.as_ref() {
            return;
        }
        let known = self.fixed.get_key_value(key).map(|(key, _)| Arc::clone(key));
        let key = known.unwrap_or_else(|| key.into());
        match value {
            Some(value) => self.fixed.insert(Arc::clone(&key), value),
            None => self.fixed.remove(&key),
        };
        self.changed.insert(key);
    }

    /// What is kept of a key's value; `None` if the etcd should not have the key.
    pub(super) fn stored(&self, key: &str) -> Option<Stored> {
        let of_object = self.found(key).map(|(_, stored)| stored);
        of_object.or_else(|| self.fixed.get(key).cloned().map(Stored::Kept))
    }

    /// The object that a key is of.
    pub(super) fn owner(&self, key: &str) -> Option<&Arc<ObjectKey>> {
        self.found(key).map(|(owner, _)| owner)
    }

    /// What is kept of an object's keys, if it has some.
    pub(super) fn of_object(&self, object: &ObjectKey) -> Option<&Kept> {
        self.made.get(object)
    }

    /// The identity with which a pod was exported last.
    pub(super) fn identity(&self, pod: &ObjectKey) -> Option<Identity> {
        match self.made.get(pod)? {
            Kept::Pod(pod) => Some(pod.identity),
            Kept::All { identity, .. } => *identity,
        }
    }

    /// The key of an object as it is shared here, if the object has keys.
    pub(super) fn object_key(&self, object: &ObjectKey) -> Option<&Arc<ObjectKey>> {
        self.made.get_key_value(object).map(|(key, _)| key)
    }

    /// All keys, in any order.
    pub(super) fn keys(&self) -> impl Iterator<Item = EtcdKey> {
        let of_objects = self.made.iter().flat_map(move |(object, kept)| {
            let keys = kept.keys(&self.cluster).into_iter();
            keys.filter(move |key| self.others.is_empty() || self.owner(key) == Some(object))
        });
        of_objects.chain(self.fixed.keys().map(Arc::clone))
    }

    /// The number of keys.
    pub(super) fn len(&self) -> usize {
        self.owners.len() + self.fixed.len()
    }

    /// The keys whose value may have changed since the last call.
    pub(super) fn take_changed(&mut self) -> BTreeSet<EtcdKey> {
        std::mem::take(&mut self.changed)
    }

    /// The object whose value a key has, and what is kept of the value.
    fn found(&self, key: &str) -> Option<(&Arc<ObjectKey>, Stored)> {
        let hash = (self.hash)(key.as_bytes());
        let others = self.others.get(&hash).into_iter().flatten();
        let mut objects = self.owners.get(&hash).into_iter().chain(others);
        objects.find_map(|object| Some((object, self.made.get(object)?.value(key, &self.cluster)?)))
    }

    fn own(&mut self, hash: u64, object: &Arc<ObjectKey>) {
        let owner = self.owners.entry(hash).or_insert_with(|| Arc::clone(object));
        if owner != object {
            let others = self.others.entry(hash).or_default();
            if !others.contains(object) {
                others.push(Arc::clone(object));
            }
        }
    }

    fn disown(&mut self, hash: u64, object: &Arc<ObjectKey>) {
        if let Some(others) = self.others.get_mut(&hash) {
            match self.owners.get_mut(&hash) {
                Some(owner) if owner == object => *owner = others.remove(0),
                _ => others.retain(|other| other != object),
            }
            if others.is_empty() {
                self.others.remove(&hash);
            }
        } else {
            self.owners.remove(&hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use mesh_model::object::Kind;
    use proptest::prelude::*;

    use super::*;

    fn keys(exported: &Exported) -> BTreeMap<EtcdKey, (u64, Option<&ObjectKey>)> {
        let entry = |key: EtcdKey| {
            let stored = exported.stored(&key).unwrap().fingerprint();
            let owner = exported.owner(&key).map(|owner| &**owner);
            (key, (stored, owner))
        };
        exported.keys().map(entry).collect()
    }

    proptest! {
        /// Each key has the value of the first object that came with it and still has it. If all hashes are equal, it still
        /// has the value of an object that has it.
        #[test]
        fn keys_with_equal_hashes_are_told_apart(changes: Vec<(u8, Vec<(u8, u8)>)>) {
            let mut exported = Exported::new(ClusterName::new("alpha").unwrap());
            let mut colliding = Exported::new(ClusterName::new("alpha").unwrap());
            colliding.hash = |_| 7;
            let mut arrived = Vec::<(u8, ObjectKey, u8)>::new();
            for (object, values) in changes {
                let name = format!("o{}", object % 4).as_str().into();
                let object = ObjectKey { kind: Kind::Service, namespace: "shop".into(), name };
                let values: BTreeMap<u8, u8> =
                    values.into_iter().map(|(key, value)| (key % 6, value)).collect();
                arrived.retain(|(key, owner, _)| *owner != object || values.contains_key(key));
                for (key, value) in &values {
                    match arrived.iter_mut().find(|(k, owner, _)| k == key && *owner == object) {
                        Some((_, _, known)) => *known = *value,
                        None => arrived.push((*key, object.clone(), *value)),
                    }
                }
                let object = Arc::new(object);
                for exported in [&mut exported, &mut colliding] {
                    let kept = |(key, value): (&u8, &u8)| (format!("k{key}").into(), [*value].into());
                    let kept = Kept::All { values: values.iter().map(kept).collect(), identity: None };
                    exported.set(&object, (!values.is_empty()).then_some(kept));
                }
                let mut wanted = BTreeMap::new();
                for (key, owner, value) in &arrived {
                    let entry = (fingerprint(&[*value]), Some(owner));
                    wanted.entry(EtcdKey::from(format!("k{key}"))).or_insert(entry);
                }
                prop_assert_eq!(keys(&exported), wanted.clone());
                prop_assert_eq!(exported.len(), wanted.len());
                let colliding = keys(&colliding);
                prop_assert!(colliding.keys().eq(wanted.keys()));
                for (etcd_key, (stored, owner)) in colliding {
                    let has_it = |(key, object, value): &(u8, ObjectKey, u8)| {
                        *etcd_key == *format!("k{key}")
                            && Some(object) == owner
                            && fingerprint(&[*value]) == stored
                    };
                    prop_assert!(arrived.iter().any(has_it), "{}", etcd_key);
                }
            }
        }
    }
}
