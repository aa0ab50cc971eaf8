//! The contents of an etcd at each revision.

use std::collections::{BTreeMap, BTreeSet};

use super::Event;

/// The contents of an etcd at each revision from a first one on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReferenceModel {
    /// The first revision.
    first: i64,
    /// The last known revision.
    last: i64,
    /// The contents at the first revision.
    begin: BTreeMap<Vec<u8>, Stored>,
    /// The contents at the last revision.
    end: BTreeMap<Vec<u8>, Stored>,
    changes: BTreeMap<i64, BTreeMap<Vec<u8>, Change>>,
}

/// A key's value and revisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its value.
    pub value: Vec<u8>,
    /// The revision that created it.
    pub created: i64,
    /// The revision that wrote the value.
    pub modified: i64,
    /// How often the key was written since it was created.
    pub version: i64,
}

/// The value before a change, as an event reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreviousValue {
    /// The value.
    pub value: Vec<u8>,
    /// The revision that wrote it.
    pub modified: i64,
}

/// A key before and after a revision that changed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) before: Option<Stored>,
    pub(super) after: Option<Stored>,
}

// === impl ReferenceModel ===

impl ReferenceModel {
    /// Starts with the contents at a revision.
    pub fn new(revision: i64, keys: BTreeMap<Vec<u8>, Stored>) -> Self {
        let end = keys.clone();
        Self { first: revision, last: revision, begin: keys, end, changes: BTreeMap::new() }
    }

    /// Adds the contents at the next revision.
    pub fn next(&mut self, keys: BTreeMap<Vec<u8>, Stored>) {
        self.last += 1;
        let all: BTreeSet<&Vec<u8>> = self.end.keys().chain(keys.keys()).collect();
        let changed = all.into_iter().filter_map(|key| {
            let (before, after) = (self.end.get(key).cloned(), keys.get(key).cloned());
            (before != after).then(|| (key.clone(), Change { before, after }))
        });
        let changed: BTreeMap<Vec<u8>, Change> = changed.collect();
        if !changed.is_empty() {
            self.changes.insert(self.last, changed);
        }
        self.end = keys;
    }

    /// Adds an event of a watch of all keys, for where not every revision can be read.
    pub fn apply(&mut self, event: &Event) {
        let before = self.end.get(&event.key).cloned();
        let after = event.value.clone().map(|value| Stored {
            value,
            created: before.as_ref().map_or(event.revision, |before| before.created),
            modified: event.revision,
            version: before.as_ref().map_or(1, |before| before.version + 1),
        });
        match &after {
            Some(stored) => self.end.insert(event.key.clone(), stored.clone()),
            None => self.end.remove(&event.key),
        };
        let changes = self.changes.entry(event.revision).or_default();
        changes.insert(event.key.clone(), Change { before, after });
        self.last = self.last.max(event.revision);
    }

    /// The last known revision.
    pub fn last(&self) -> i64 {
        self.last
    }

    /// The contents at the last revision.
    pub fn end(&self) -> &BTreeMap<Vec<u8>, Stored> {
        &self.end
    }

    /// The contents at a revision.
    pub fn at(&self, revision: i64) -> BTreeMap<Vec<u8>, Stored> {
        let mut keys = self.begin.clone();
        for (key, change) in self.changes.range(..=revision).flat_map(|(_, changes)| changes) {
            match &change.after {
                Some(stored) => keys.insert(key.clone(), stored.clone()),
                None => keys.remove(key),
            };
        }
        keys
    }

    /// Whether the changes of a revision are known.
    pub(super) fn covers(&self, revision: i64) -> bool {
        self.first < revision && revision <= self.last
    }

    pub(super) fn change(&self, revision: i64, key: &[u8]) -> Option<&Change> {
        self.changes.get(&revision)?.get(key)
    }

    /// The keys that a revision changed.
    pub(super) fn keys(&self, revision: i64) -> impl Iterator<Item = &[u8]> {
        self.changes.get(&revision).into_iter().flatten().map(|(key, _)| key.as_slice())
    }

    /// The revisions from `from` on that changed a key for which `asked` is true.
    pub(super) fn revisions(
        &self,
        from: i64,
        asked: impl Fn(&[u8]) -> bool,
    ) -> impl Iterator<Item = i64> {
        let changed = self.changes.range(from.max(self.first)..);
        let of = move |changes: &BTreeMap<Vec<u8>, Change>| changes.keys().any(|key| asked(key));
        changed.filter(move |(_, changes)| of(changes)).map(|(revision, _)| *revision)
    }
}

// === impl Stored ===

impl Stored {
    pub(super) fn before(&self) -> PreviousValue {
        PreviousValue { value: self.value.clone(), modified: self.modified }
    }
}
