//! What an etcd held, revision by revision.

use std::collections::{BTreeMap, BTreeSet};

use super::Event;

/// What an etcd held at each revision from one on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReferenceModel {
    /// The revision that it begins with.
    first: i64,
    /// The last one that is known.
    last: i64,
    /// What was there at the first.
    begin: BTreeMap<Vec<u8>, Stored>,
    /// What is there at the last.
    end: BTreeMap<Vec<u8>, Stored>,
    changes: BTreeMap<i64, BTreeMap<Vec<u8>, Change>>,
}

/// What a key has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its value.
    pub value: Vec<u8>,
    /// The revision that created it.
    pub created: i64,
    /// The revision that wrote the value.
    pub modified: i64,
    /// How often it was written since it was created.
    pub version: i64,
}

/// What an event says was there before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreviousValue {
    /// The value.
    pub value: Vec<u8>,
    /// The revision that wrote it.
    pub modified: i64,
}

/// What became of a key in a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) before: Option<Stored>,
    pub(super) after: Option<Stored>,
}

// === impl ReferenceModel ===

impl ReferenceModel {
    /// Begins with what is there at a revision.
    pub fn new(revision: i64, keys: BTreeMap<Vec<u8>, Stored>) -> Self {
        let end = keys.clone();
        Self { first: revision, last: revision, begin: keys, end, changes: BTreeMap::new() }
    }

    /// Goes on with what is there at the next revision.
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

    /// Goes on with what a watch of everything reported, where each revision cannot be read.
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

    /// The last revision that is known.
    pub fn last(&self) -> i64 {
        self.last
    }

    /// What is there at the last revision.
    pub fn end(&self) -> &BTreeMap<Vec<u8>, Stored> {
        &self.end
    }

    /// What was there at a revision.
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

    /// Whether what happened in a revision is known.
    pub(super) fn covers(&self, revision: i64) -> bool {
        self.first < revision && revision <= self.last
    }

    pub(super) fn change(&self, revision: i64, key: &[u8]) -> Option<&Change> {
        self.changes.get(&revision)?.get(key)
    }

    /// The keys that changed in a revision.
    pub(super) fn keys(&self, revision: i64) -> impl Iterator<Item = &[u8]> {
        self.changes.get(&revision).into_iter().flatten().map(|(key, _)| key.as_slice())
    }

    /// The revisions from one on in which a key changed that `asked` is true of.
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
