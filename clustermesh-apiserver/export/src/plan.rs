//! What to write so that an etcd holds what it should.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use mesh_model::RecordKind;
use mesh_wire::Key;

use crate::exporter::Value;

/// What an etcd holds, as far as it is ours: each key with the fingerprint of its value.
pub type Actual = HashMap<String, u64>;

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Set a key.
    Put {
        /// The key.
        key: String,
        /// Its value.
        value: Value,
    },
    /// Remove a key.
    Delete {
        /// The key.
        key: String,
    },
}

/// A short form of a value, to tell whether it changed.
pub fn fingerprint(value: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// The writes that make `keys` in an etcd what `desired` says, and none for those that are so already. Removing waits
/// until `complete`: before that, what is not desired may only be not known yet.
///
/// First what others refer to, then what refers to it; and the removals the other way round.
pub fn plan(
    desired: &BTreeMap<String, Value>,
    actual: &Actual,
    keys: &BTreeSet<String>,
    complete: bool,
) -> Vec<Write> {
    let mut puts = Vec::new();
    let mut deletes = Vec::new();
    for key in keys {
        match desired.get(key) {
            Some(value) if actual.get(key) == Some(&fingerprint(value)) => {}
            Some(value) => puts.push(Write::Put { key: key.clone(), value: value.clone() }),
            None if complete && actual.contains_key(key) => {
                deletes.push(Write::Delete { key: key.clone() })
            }
            None => {}
        }
    }
    puts.sort_by_key(|write| rank(write.key()));
    deletes.sort_by_key(|write| std::cmp::Reverse(rank(write.key())));
    puts.into_iter().chain(deletes).collect()
}

const IDENTITY: u8 = 1;

/// The cluster's config, then identities, nodes, addresses, endpoint slices, services, namespaces, pods: a service is
/// never there without its backends.
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
            RecordKind::Pod => 7,
        },
        _ => 8,
    }
}

impl Write {
    /// The key.
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }

    /// Whether readers are to know of an earlier write before they meet this one: identities before all that has them. In
    /// one revision a reader with a watch for each prefix would get them in any order.
    pub fn follows(&self, earlier: &Self) -> bool {
        let is_identity = |write: &Self| rank(write.key()) == IDENTITY;
        is_identity(earlier) && !is_identity(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_in_the_right_order() {
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
        let desired: BTreeMap<_, _> =
            [&address, &identity, &service, &same].map(|k| (k.clone(), Value::from(*b"v"))).into();
        let actual: Actual = [
            (same.clone(), fingerprint(b"v")),
            (service.clone(), fingerprint(b"old")),
            (old_address.clone(), 0),
            (old_identity.clone(), 0),
        ]
        .into();
        let keys: BTreeSet<_> = desired.keys().chain(actual.keys()).cloned().collect();
        let order = |complete| -> Vec<String> {
            plan(&desired, &actual, &keys, complete)
                .iter()
                .map(|write| write.key().to_owned())
                .collect()
        };
        assert_eq!(order(false), [&identity, &address, &service].map(Clone::clone));
        assert_eq!(
            order(true),
            [&identity, &address, &service, &old_address, &old_identity].map(Clone::clone)
        );
        let writes = plan(&desired, &actual, &keys, true);
        let apart: Vec<bool> = writes.windows(2).map(|two| two[1].follows(&two[0])).collect();
        assert_eq!(apart, [true, false, false, false]);
    }
}
