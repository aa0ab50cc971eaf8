//! Keys that were deleted in one revision with others, while nothing explains why: their values stay in use.

use std::collections::{BTreeMap, BTreeSet};

use mesh_model::RecordKind;

use crate::deletions::REMEMBERED;

/// Those of one peer.
#[derive(Debug, Default)]
pub(crate) struct Held {
    keys: BTreeMap<Vec<u8>, RecordKind>,
    /// Kinds with more of them than are remembered, and since when.
    more: BTreeMap<RecordKind, i64>,
}

// === impl Held ===

impl Held {
    /// A key of a kind is held since a revision.
    pub(crate) fn hold(&mut self, key: Vec<u8>, kind: RecordKind, revision: i64) {
        if self.keys.len() < REMEMBERED || self.keys.contains_key(&key) {
            self.keys.insert(key, kind);
        } else {
            self.hold_more(kind, revision);
        }
    }

    /// More keys of a kind, which are not counted.
    pub(crate) fn hold_more(&mut self, kind: RecordKind, revision: i64) {
        self.more.insert(kind, revision);
    }

    /// A key was put. Returns its kind if it had been held.
    pub(crate) fn put(&mut self, key: &[u8]) -> Option<RecordKind> {
        self.keys.remove(key)
    }

    /// Whether a key of a kind that was created in a revision may be one of those that are not remembered.
    pub(crate) fn may_have_had(&self, kind: RecordKind, created: i64) -> bool {
        self.more.get(&kind).is_some_and(|since| created > *since)
    }

    /// Whether some are held that are not remembered.
    pub(crate) fn has_more(&self) -> bool {
        !self.more.is_empty()
    }

    /// All of these kinds is known again.
    pub(crate) fn known(&mut self, kinds: &BTreeSet<RecordKind>) {
        if !self.is_empty() {
            self.keys.retain(|_, kind| !kinds.contains(kind));
            self.more.retain(|kind, _| !kinds.contains(kind));
        }
    }

    /// How many are remembered.
    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.more.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_and_no_more() {
        let mut held = Held::default();
        for n in 0..2 * REMEMBERED {
            held.hold(n.to_string().into(), RecordKind::Node, 5);
        }
        assert_eq!((held.len(), held.has_more()), (REMEMBERED, true));
        assert_eq!((held.put(b"7"), held.put(b"7")), (Some(RecordKind::Node), None));
        assert!(held.may_have_had(RecordKind::Node, 6) && !held.may_have_had(RecordKind::Node, 5));
        assert!(!held.may_have_had(RecordKind::Service, 6));
        held.known(&[RecordKind::Service].into());
        assert_eq!(held.len(), REMEMBERED - 1);
        held.known(&[RecordKind::Node].into());
        assert_eq!((held.len(), held.has_more()), (0, false));
    }
}
