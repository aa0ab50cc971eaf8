//! The name of a history: the keys of the head.

use std::collections::BTreeMap;

use super::range::RangeConfig;
use crate::{
    machine::KeyValue,
    status::{ConnectionPhase, Failure},
};

/// The head's keys, as of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    keys: BTreeMap<Vec<u8>, KeyName>,
}

/// The part of the history's name from a key of the head.
#[derive(Clone, Debug, PartialEq, Eq)]
struct KeyName {
    created: i64,
    value: Option<Vec<u8>>,
}

/// Keys that the head may have: a config, a name, and a canary for each prefix that any version knows.
pub(super) const MAX_KEYS: usize = 1_024;
/// Bytes of a value that names a history: ours is a UUID.
pub(super) const MAX_NAME: usize = 253;

// === impl Head ===

impl Head {
    /// A key has a value.
    pub(super) fn put(&mut self, range: &RangeConfig, kv: &KeyValue) -> Result<(), Failure> {
        let excess = |what: String| Err(Failure::new(ConnectionPhase::Config, what));
        if range.names_history && kv.value.len() > MAX_NAME {
            return excess(format!(
                "the name of the etcd's history has more than {MAX_NAME} bytes"
            ));
        }
        let value = range.names_history.then(|| kv.value.clone());
        self.keys.insert(kv.key.clone(), KeyName { created: kv.create_revision, value });
        if self.keys.len() > MAX_KEYS {
            return excess(format!("the cluster has more than {MAX_KEYS} canaries"));
        }
        Ok(())
    }

    /// A key is gone.
    pub(super) fn remove(&mut self, key: &[u8]) {
        self.keys.remove(key);
    }
}
