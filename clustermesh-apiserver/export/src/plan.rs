//! Computes the writes that bring an etcd to the desired content.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use mesh_model::RecordKind;
use mesh_wire::Key;

use crate::exporter::Value;

/// The exported keys that an etcd has, each with the fingerprint of its value.
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

/// A hash of a value, to compare values. It may differ between builds.
pub fn fingerprint(value: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// The writes that bring `keys` in an etcd from `actual` to `desired`. Keys are only deleted if `complete`: before that, a
/// key may be missing in `desired` because its object is not known yet.
///
/// Records come before those that refer to them. Deletes come last, in the reverse order.
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

/// The order of writes: cluster config, identities, nodes, addresses, endpoint slices, services, namespaces, pods. So a
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
