//! Computes the writes that bring an etcd to the desired content.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher as _, RandomState},
};

use mesh_model::RecordKind;
use mesh_wire::Key;

use crate::exporter::{EtcdKey, Value};

/// The exported keys that an etcd has, each with the fingerprint of its value. Of a key it has a hash only, as the texts would
/// take more than all else. An attacker cannot foresee the hashes: each value of this type has its own.
#[derive(Clone, Debug, Default)]
pub struct Actual {
    fingerprints: HashMap<u64, u64>,
    hasher: RandomState,
}

/// The keys to write and to delete, in the order in which that must happen: all puts come before all deletes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Keys whose value differs. Records come before those that refer to them.
    pub puts: Vec<EtcdKey>,
    /// Keys that should not exist, in the reverse order.
    pub deletes: Vec<EtcdKey>,
}

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Set a key.
    Put {
        /// The key.
        key: EtcdKey,
        /// Its value.
        value: Value,
    },
    /// Remove a key.
    Delete {
        /// The key.
        key: EtcdKey,
    },
}

/// How to bring keys in an etcd from `actual` to `desired`: fingerprints of values, `None` for a key that should not exist.
/// Keys are only deleted if `complete`: before that, a key may not be desired because its object is not known yet.
pub fn plan(desired: &BTreeMap<EtcdKey, Option<u64>>, actual: &Actual, complete: bool) -> Plan {
    let mut plan = Plan::default();
    for (key, wanted) in desired {
        match wanted {
            Some(wanted) if actual.get(key) == Some(*wanted) => {}
            Some(_) => plan.puts.push(EtcdKey::clone(key)),
            None if complete && actual.get(key).is_some() => {
                plan.deletes.push(EtcdKey::clone(key));
            }
            None => {}
        }
    }
    plan.puts.sort_by_cached_key(|key| rank(key));
    plan.deletes.sort_by_cached_key(|key| std::cmp::Reverse(rank(key)));
    plan
}

const IDENTITY: u8 = 1;

/// The order of writes: cluster config, identities, nodes, addresses, endpoint slices, services, namespaces, policies, pods. So a
/// service never exists without its slices.
fn rank(key: &str) -> u8 {
    match Key::parse(key.as_bytes()) {
        Ok(Key::ClusterConfig(_)) => 0,
        Ok(Key::Record { record, .. }) => match record.kind() {
            RecordKind::Identity => IDENTITY,
            RecordKind::Node => 2,
            RecordKind::Address => 3,
            RecordKind::EndpointSlice | RecordKind::LocalEndpointSlice => 4,
            RecordKind::Service | RecordKind::LocalService => 5,
            RecordKind::Namespace => 6,
            // Before the pods that they may govern.
            RecordKind::Policy => 6,
            RecordKind::Pod => 7,
        },
        _ => 8,
    }
}

// === impl Actual ===

impl Actual {
    /// The fingerprint of a key's value; `None` if the etcd does not have the key.
    pub fn get(&self, key: &str) -> Option<u64> {
        self.fingerprints.get(&self.hash(key)).copied()
    }

    /// Sets the fingerprint of a key's value.
    pub fn insert(&mut self, key: &str, fingerprint: u64) {
        let hash = self.hash(key);
        self.fingerprints.insert(hash, fingerprint);
    }

    /// Removes a key.
    pub fn remove(&mut self, key: &str) {
        let hash = self.hash(key);
        self.fingerprints.remove(&hash);
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.fingerprints.len()
    }

    /// Whether it has no keys.
    pub fn is_empty(&self) -> bool {
        self.fingerprints.is_empty()
    }

    fn hash(&self, key: &str) -> u64 {
        self.hasher.hash_one(key)
    }
}

impl<'a> FromIterator<(&'a str, u64)> for Actual {
    fn from_iter<T: IntoIterator<Item = (&'a str, u64)>>(keys: T) -> Self {
        let mut actual = Self::default();
        keys.into_iter().for_each(|(key, fingerprint)| actual.insert(key, fingerprint));
        actual
    }
}

// === impl Write ===

impl Write {
    /// The key.
    pub fn key(&self) -> &EtcdKey {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }

    /// Whether this write must be in a later revision than `earlier`: identities come before the records that have them. A
    /// reader with a watch for each prefix receives the changes of one revision in any order.
    pub fn follows(&self, earlier: &Self) -> bool {
        let is_identity = |write: &Self| rank(write.key()) == IDENTITY;
        is_identity(earlier) && !is_identity(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_written_in_the_order_of_references() {
        let key = |k: &str| format!("cilium/state/{k}");
        let [identity, old_identity, address, old_address, service, same] = [
            "identities/v1/id/458752",
            "identities/v1/id/458753",
            "ip/v1/default/10.0.0.1",
            "ip/v1/default/10.0.0.2",
            "services/v1/a/shop/web",
            "nodes/v1/a/n1",
        ]
        .map(key);
        let mut desired: BTreeMap<EtcdKey, Option<u64>> =
            [&address, &identity, &service, &same].map(|k| (k.as_str().into(), Some(1))).into();
        let actual: Actual = [(&same, 1), (&service, 2), (&old_address, 0), (&old_identity, 0)]
            .map(|(key, value)| (key.as_str(), value))
            .into_iter()
            .collect();
        desired.extend([&old_address, &old_identity].map(|k| (k.as_str().into(), None)));
        let before = plan(&desired, &actual, false);
        assert!(before.puts.iter().map(|key| &**key).eq([&identity, &address, &service]));
        assert!(before.deletes.is_empty());
        let complete = plan(&desired, &actual, true);
        assert_eq!(complete.puts, before.puts);
        assert!(complete.deletes.iter().map(|key| &**key).eq([&old_address, &old_identity]));
        let writes = complete.puts.into_iter();
        let writes: Vec<Write> =
            writes.map(|key| Write::Put { key, value: Value::from(*b"v") }).collect();
        let apart: Vec<bool> = writes.windows(2).map(|two| two[1].follows(&two[0])).collect();
        assert_eq!(apart, [true, false]);
    }
}
