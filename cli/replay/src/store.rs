//! A store with the semantics of etcd: earlier revisions can be read, and the changes since one reported, until they are
//! compacted.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Bound,
};

use prost::bytes::Bytes;

/// The keys of one cluster, with their history.
#[derive(Debug)]
pub struct Store {
    revision: i64,
    compacted: i64,
    keys: BTreeMap<Bytes, Vec<Version>>,
    log: VecDeque<Change>,
    /// How many changes were removed from the front of the log.
    dropped: u64,
}

/// A range of keys: one key, those from `start` up to `end` without it, or all from `start` on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    start: Bytes,
    end: Bound<Bytes>,
}

/// A key with its value and the revisions that etcd reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
    /// The revision that created it.
    pub create_revision: i64,
    /// The revision that wrote this value.
    pub mod_revision: i64,
    /// How often it was written since it was created, counted from 1.
    pub version: i64,
}

/// The result of a range request at a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The entries, ascending by key.
    pub entries: Vec<Entry>,
    /// Whether the limit excluded entries.
    pub more: bool,
    /// The number of keys in the range, regardless of the limit.
    pub count: i64,
}

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Sets a key.
    Put(Bytes, Bytes),
    /// Removes keys.
    Delete(Span),
}

/// The change of one key in a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The key was set.
    Put(Entry),
    /// The key was deleted.
    Delete {
        /// The key.
        key: Bytes,
        /// The revision that deleted it.
        revision: i64,
    },
}

/// A position in the log of all changes. Compaction does not change its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogPosition(u64);

/// Why a request is refused. The messages are etcd's (`rpctypes`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The requested revision is compacted.
    #[error("etcdserver: mvcc: required revision has been compacted")]
    Compacted,
    /// The requested revision does not exist yet.
    #[error("etcdserver: mvcc: required revision is a future revision")]
    Future,
    /// A transaction writes a key twice.
    #[error("etcdserver: duplicate key given in txn request")]
    Duplicate,
}

/// A value of a key; `None` if the key was deleted.
#[derive(Debug)]
struct Version {
    create_revision: i64,
    mod_revision: i64,
    version: i64,
    value: Option<Bytes>,
}

// === impl Store ===

impl Default for Store {
    /// An empty store, at revision 1 like a new etcd.
    fn default() -> Self {
        let (keys, log) = (BTreeMap::new(), VecDeque::new());
        Self { revision: 1, compacted: 0, keys, log, dropped: 0 }
    }
}

impl Store {
    /// The revision of the last write.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The last compacted revision; 0 if nothing was compacted yet.
    pub fn compacted(&self) -> i64 {
        self.compacted
    }

    /// The keys of a range at a revision, by default the last one. At most `limit` entries are returned.
    pub fn range(
        &self,
        span: &Span,
        revision: Option<i64>,
        limit: Option<usize>,
    ) -> Result<Page, StoreError> {
        let at = match revision {
            Some(at) if at > self.revision => return Err(StoreError::Future),
            Some(at) if at < self.compacted => return Err(StoreError::Compacted),
            other => other.unwrap_or(self.revision),
        };
        let mut page = Page { entries: Vec::new(), more: false, count: 0 };
        for (key, versions) in self.keys.range::<Bytes, _>(span.bounds()) {
            let then = versions.iter().rev().find(|version| version.mod_revision <= at);
            let Some(entry) = then.and_then(|version| version.entry(key)) else { continue };
            page.count += 1;
            match limit {
                Some(limit) if page.entries.len() >= limit => page.more = true,
                _ => page.entries.push(entry),
            }
        }
        Ok(page)
    }

    /// Makes all writes in one revision. Fails, and writes nothing, if a key is put twice, or is put and in a deleted range.
    /// Returns the number of keys that each write set or deleted. Writes that change nothing make no revision.
    pub fn write(&mut self, writes: &[Write]) -> Result<Vec<usize>, StoreError> {
        let mut put = BTreeSet::new();
        for write in writes {
            if let Write::Put(key, _) = write
                && !put.insert(key)
            {
                return Err(StoreError::Duplicate);
            }
        }
        let is_deleted = |key: &Bytes| {
            let spans = writes.iter().filter_map(|write| match write {
                Write::Delete(span) => Some(span),
                Write::Put(..) => None,
            });
            spans.into_iter().any(|span| span.contains(key))
        };
        if put.into_iter().any(is_deleted) {
            return Err(StoreError::Duplicate);
        }
        let revision = self.revision + 1;
        let before = self.end();
        let done = writes.iter().map(|write| match write {
            Write::Put(key, value) => {
                self.put(revision, key.clone(), value.clone());
                1
            }
            Write::Delete(span) => self.delete(revision, span),
        });
        let done = done.collect();
        if self.end() > before {
            self.revision = revision;
        }
        Ok(done)
    }

    /// Removes the history before a revision.
    pub fn compact(&mut self, revision: i64) -> Result<(), StoreError> {
        if revision > self.revision {
            return Err(StoreError::Future);
        }
        if revision <= self.compacted {
            return Err(StoreError::Compacted);
        }
        self.compacted = revision;
        self.keys.retain(|_, versions| {
            // The version at the revision stays, unless it is a deletion.
            let holds = versions.iter().rposition(|version| version.mod_revision <= revision);
            versions.drain(..holds.unwrap_or_default());
            let ended = |first: &Version| first.value.is_none() && first.mod_revision <= revision;
            if versions.first().is_some_and(ended) {
                versions.remove(0);
            }
            !versions.is_empty()
        });
        while self.log.front().is_some_and(|change| change.revision() < revision) {
            self.log.pop_front();
            self.dropped += 1;
        }
        Ok(())
    }

    /// The position before the first change of a revision, or the end of the log if the revision does not exist yet.
    pub fn position_of(&self, revision: i64) -> Result<LogPosition, StoreError> {
        if revision < self.compacted {
            return Err(StoreError::Compacted);
        }
        let before = self.log.partition_point(|change| change.revision() < revision);
        Ok(LogPosition(self.dropped + before as u64))
    }

    /// The position after the last change.
    pub fn end(&self) -> LogPosition {
        LogPosition(self.dropped + self.log.len() as u64)
    }

    /// The changes after a position, each with the position after it.
    pub fn changes(&self, from: LogPosition) -> impl Iterator<Item = (LogPosition, &Change)> {
        let skipped = from.0.saturating_sub(self.dropped);
        let changes = self.log.iter().skip(usize::try_from(skipped).unwrap_or(usize::MAX));
        (from.0.max(self.dropped) + 1..).map(LogPosition).zip(changes)
    }

    fn put(&mut self, revision: i64, key: Bytes, value: Bytes) {
        let versions = self.keys.entry(key.clone()).or_default();
        let (create_revision, version) = match versions.last() {
            Some(last) if last.value.is_some() => (last.create_revision, last.version + 1),
            _ => (revision, 1),
        };
        let value = Some(value);
        let version = Version { create_revision, mod_revision: revision, version, value };
        let entry = version.entry(&key);
        versions.push(version);
        self.log.extend(entry.map(Change::Put));
    }

    fn delete(&mut self, revision: i64, span: &Span) -> usize {
        let mut gone = Vec::new();
        for (key, versions) in self.keys.range_mut::<Bytes, _>(span.bounds()) {
            if versions.last().is_some_and(|last| last.value.is_some()) {
                let (create_revision, version) = (0, 0);
                versions.push(Version {
                    create_revision,
                    mod_revision: revision,
                    version,
                    value: None,
                });
                gone.push(key.clone());
            }
        }
        let count = gone.len();
        self.log.extend(gone.into_iter().map(|key| Change::Delete { key, revision }));
        count
    }
}

// === impl Span ===

impl Span {
    /// A range in the form of etcd's requests: an empty `end` means one key, a zero byte all keys from `start` on.
    pub fn new(start: Bytes, end: Bytes) -> Self {
        let end = match end.as_ref() {
            [] => Bound::Included(start.clone()),
            [0] => Bound::Unbounded,
            _ => Bound::Excluded(end),
        };
        Self { start, end }
    }

    /// Whether a key is in the range.
    pub fn contains(&self, key: &Bytes) -> bool {
        let before_end = match &self.end {
            Bound::Included(last) => key <= last,
            Bound::Excluded(end) => key < end,
            Bound::Unbounded => true,
        };
        self.start <= *key && before_end
    }

    /// The bounds for `BTreeMap::range`, which panics if the end is before the start.
    fn bounds(&self) -> (Bound<Bytes>, Bound<Bytes>) {
        let start = Bound::Included(self.start.clone());
        match &self.end {
            Bound::Excluded(end) if *end <= self.start => {
                (start, Bound::Excluded(self.start.clone()))
            }
            end => (start, end.clone()),
        }
    }
}

// === impl Change ===

impl Change {
    /// The revision of the change.
    pub fn revision(&self) -> i64 {
        match self {
            Self::Put(entry) => entry.mod_revision,
            Self::Delete { revision, .. } => *revision,
        }
    }

    /// The changed key.
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Delete { key, .. } => key,
        }
    }
}

// === impl Version ===

impl Version {
    fn entry(&self, key: &Bytes) -> Option<Entry> {
        let &Self { create_revision, mod_revision, version, .. } = self;
        let value = self.value.clone()?;
        Some(Entry { key: key.clone(), value, create_revision, mod_revision, version })
    }
}

#[cfg(test)]
mod tests;
