//! Keys with their revisions, as an etcd keeps them: what was at an earlier revision can be read, and what changed
//! since one can be reported, until it is compacted.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Bound,
};

use prost::bytes::Bytes;

/// A store of one cluster's keys.
#[derive(Debug)]
pub struct Store {
    revision: i64,
    compacted: i64,
    keys: BTreeMap<Bytes, Vec<Version>>,
    log: VecDeque<Change>,
    /// How many changes were dropped from the front of the log.
    dropped: u64,
}

/// Which keys: one, those from one up to and without another, or all from one on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    start: Bytes,
    end: Bound<Bytes>,
}

/// A key with its value and the revisions that etcd gives it.
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
    /// How many times it was written since it was created, from 1.
    pub version: i64,
}

/// Some keys as of a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// They, ascending.
    pub entries: Vec<Entry>,
    /// Whether the limit left some out.
    pub more: bool,
    /// How many there are without a limit.
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

/// What a revision did to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It has this value.
    Put(Entry),
    /// It is gone.
    Delete {
        /// The key.
        key: Bytes,
        /// The revision that removed it.
        revision: i64,
    },
}

/// Where a reader is in the order of all changes. Compaction does not move it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogPosition(u64);

/// Why a store refuses; the texts are etcd's (`rpctypes`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// What was there then is gone.
    #[error("etcdserver: mvcc: required revision has been compacted")]
    Compacted,
    /// That is yet to come.
    #[error("etcdserver: mvcc: required revision is a future revision")]
    Future,
    /// One transaction writes a key twice.
    #[error("etcdserver: duplicate key given in txn request")]
    Duplicate,
}

/// One value of a key; `None` where it was removed.
#[derive(Debug)]
struct Version {
    create_revision: i64,
    mod_revision: i64,
    version: i64,
    value: Option<Bytes>,
}

// === impl Store ===

impl Default for Store {
    /// An empty one, at revision 1 as a new etcd is.
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

    /// The revision that was compacted last; 0 before the first time.
    pub fn compacted(&self) -> i64 {
        self.compacted
    }

    /// Keys as of a revision, of the last one unless given; all of them unless there is a limit.
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

    /// Makes writes in one revision: all, or none if a key is there twice, or is put and in a span that is deleted.
    /// Returns how many keys each wrote or removed. Writes that change nothing take no revision.
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

    /// Forgets what was before a revision.
    pub fn compact(&mut self, revision: i64) -> Result<(), StoreError> {
        if revision > self.revision {
            return Err(StoreError::Future);
        }
        if revision <= self.compacted {
            return Err(StoreError::Compacted);
        }
        self.compacted = revision;
        self.keys.retain(|_, versions| {
            // The one that holds at the revision stays, unless it is the key's end.
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

    /// Where the changes of a revision begin, or would if they are yet to come.
    pub fn position_of(&self, revision: i64) -> Result<LogPosition, StoreError> {
        if revision < self.compacted {
            return Err(StoreError::Compacted);
        }
        let before = self.log.partition_point(|change| change.revision() < revision);
        Ok(LogPosition(self.dropped + before as u64))
    }

    /// Behind the last change.
    pub fn end(&self) -> LogPosition {
        LogPosition(self.dropped + self.log.len() as u64)
    }

    /// Changes from a position on, each with the position behind it.
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
    /// As etcd's requests say it: an empty end means one key, a single zero byte all keys from the first on.
    pub fn new(start: Bytes, end: Bytes) -> Self {
        let end = match end.as_ref() {
            [] => Bound::Included(start.clone()),
            [0] => Bound::Unbounded,
            _ => Bound::Excluded(end),
        };
        Self { start, end }
    }

    /// Whether a key is one of them.
    pub fn contains(&self, key: &Bytes) -> bool {
        let before_end = match &self.end {
            Bound::Included(last) => key <= last,
            Bound::Excluded(end) => key < end,
            Bound::Unbounded => true,
        };
        self.start <= *key && before_end
    }

    /// For a map, which refuses an end before its start.
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
    /// The revision that made it.
    pub fn revision(&self) -> i64 {
        match self {
            Self::Put(entry) => entry.mod_revision,
            Self::Delete { revision, .. } => *revision,
        }
    }

    /// The key that it is about.
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
