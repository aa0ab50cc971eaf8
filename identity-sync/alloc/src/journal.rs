//! The memory of a cluster without Kubernetes: one JSON line an entry, appended and synced before its number is used.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use mesh_files::{Lock, LockError};
use mesh_model::{ClusterId, ClusterLimit, Identity, Labels};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::candidates::candidates;

/// The journal, open and locked: its owner is the only one who gives out numbers of this cluster.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    _lock: Lock,
    cluster: ClusterId,
    limit: ClusterLimit,
    uuid: Uuid,
    by_labels: HashMap<Labels, Identity>,
    by_number: HashMap<Identity, Labels>,
    /// Revisions of the source up to here are taken: a later life begins after it.
    revision: u64,
}

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another process has it.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// It cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line is not what was written.
    #[error("{}:{line}: {reason}. Restore the file from a backup; without it, removing it gives most label sets their numbers again, but not all", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
}

/// Why a label set has no number.
#[derive(Debug, thiserror::Error)]
pub enum AllocationError {
    /// All are in use.
    #[error(
        "all {0} identities of this cluster are in use: leave labels out of identities that no policy selects on"
    )]
    Exhausted(usize),
    /// It could not be remembered, so it is not given.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// One line.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    v: u32,
    crc32c: u32,
    #[serde(flatten)]
    entry: Entry,
}

/// What a line says. The checksum is that of its JSON.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, rename_all_fields = "camelCase", deny_unknown_fields)]
enum Entry {
    /// Which cluster this is. The first line.
    Cluster { uuid: Uuid, unix_nano: u64 },
    /// A label set has a number.
    Identity { id: u32, labels: String, state: State, unix_nano: u64 },
    /// The source's revisions up to this one may be in use.
    Revision { revision: u64, unix_nano: u64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum State {
    Used,
}

const VERSION: u32 = 1;
/// Revisions are taken so many at a time, so that a change costs no write to the disk.
const REVISIONS: u64 = 1 << 20;

impl Journal {
    /// Opens the journal of a cluster, and makes it, with a new UUID, where there is none. A last line that was cut off
    /// while it was written is dropped: nobody has used its number. Another process that has it may let go of it within
    /// `patience`, for which the thread blocks.
    pub fn open(
        path: &Path,
        cluster: ClusterId,
        limit: ClusterLimit,
        patience: Duration,
        now: SystemTime,
    ) -> Result<Self, JournalError> {
        let io = |source| JournalError::Io { path: path.into(), source };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(io)?;
        }
        // The lock is a file of its own: the journal itself may be replaced from a backup.
        let lock = Lock::wait(&path.with_extension("lock"), patience)?;
        let content = match fs::read(path) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(io(error)),
        };
        let (entries, whole) = parse(path, &content)?;
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(io)?;
        if whole < content.len() {
            tracing::warn!(path = %path.display(), bytes = content.len() - whole, "the journal's last line was cut off; dropped it");
            file.set_len(u64::try_from(whole).unwrap_or(u64::MAX)).map_err(io)?;
            file.sync_all().map_err(io)?;
        }
        let mut journal = Self {
            path: path.into(),
            file,
            _lock: lock,
            cluster,
            limit,
            uuid: Uuid::nil(),
            by_labels: HashMap::new(),
            by_number: HashMap::new(),
            revision: 0,
        };
        for (line, entry) in (1..).zip(entries) {
            journal.replay(line, entry)?;
        }
        if journal.uuid.is_nil() {
            let uuid = Uuid::new_v4();
            journal.append(Entry::Cluster { uuid, unix_nano: unix_nano(now) })?;
            journal.uuid = uuid;
        }
        Ok(journal)
    }

    /// The cluster's unchanging id.
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// The number of a label set: the one it always had, or one that nobody has, once that is remembered.
    pub fn identity(
        &mut self,
        labels: &Labels,
        now: SystemTime,
    ) -> Result<Identity, AllocationError> {
        if let Some(identity) = self.by_labels.get(labels) {
            return Ok(*identity);
        }
        let free =
            candidates(labels, self.cluster, self.limit).find(|n| !self.by_number.contains_key(n));
        let identity = free.ok_or(AllocationError::Exhausted(self.by_number.len()))?;
        let entry = Entry::Identity {
            id: identity.get(),
            labels: labels.to_string(),
            state: State::Used,
            unix_nano: unix_nano(now),
        };
        self.append(entry)?;
        self.by_labels.insert(labels.clone(), identity);
        self.by_number.insert(identity, labels.clone());
        Ok(identity)
    }

    /// The revision that a source which begins now counts from: later than any that a former life counted to. It may count
    /// to [`Journal::revisions_end`], and then needs more.
    pub fn take_revisions(&mut self, now: SystemTime) -> Result<u64, JournalError> {
        let from = self.revision;
        let revision = from.saturating_add(REVISIONS);
        self.append(Entry::Revision { revision, unix_nano: unix_nano(now) })?;
        self.revision = revision;
        Ok(from)
    }

    /// The last revision that is taken.
    pub fn revisions_end(&self) -> u64 {
        self.revision
    }

    /// How many numbers are given out.
    pub fn len(&self) -> usize {
        self.by_number.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.by_number.is_empty()
    }

    fn replay(&mut self, line: usize, entry: Entry) -> Result<(), JournalError> {
        let damaged =
            |reason: String| JournalError::Damaged { path: self.path.clone(), line, reason };
        match entry {
            Entry::Cluster { uuid, .. } if line == 1 => self.uuid = uuid,
            Entry::Cluster { .. } => return Err(damaged("a second cluster".into())),
            Entry::Identity { .. } | Entry::Revision { .. } if line == 1 => {
                return Err(damaged("no cluster in the first line".into()));
            }
            Entry::Revision { revision, .. } => self.revision = self.revision.max(revision),
            Entry::Identity { id, labels, state: State::Used, .. } => {
                if !self.limit.identities(self.cluster).contains(&id) {
                    let cluster = self.cluster;
                    return Err(damaged(format!(
                        "identity {id} is not one of cluster {cluster}: was the cluster's id changed?"
                    )));
                }
                let (identity, labels) = (Identity::new(id), Labels::parse(&labels));
                if self
                    .by_number
                    .insert(identity, labels.clone())
                    .is_some_and(|before| before != labels)
                {
                    return Err(damaged(format!("identity {id} stands there for two label sets")));
                }
                self.by_labels.insert(labels, identity);
            }
        }
        Ok(())
    }

    /// Writes an entry and waits until the disk has it. What was written in part is taken back.
    fn append(&mut self, entry: Entry) -> Result<(), JournalError> {
        let io = |source| JournalError::Io { path: self.path.clone(), source };
        let before = self.file.metadata().map_err(io)?.len();
        let line = Line { v: VERSION, crc32c: checksum(&entry), entry };
        let mut text = serde_json::to_vec(&line).map_err(|e| io(e.into()))?;
        text.push(b'\n');
        let written = self.file.write_all(&text).and_then(|()| self.file.sync_all());
        if written.is_err() {
            let _ = self.file.set_len(before);
        }
        written.map_err(io)
    }
}

/// The UUID in a journal, without locking it; `None` where there is no journal yet.
pub fn read_uuid(path: &Path) -> Result<Option<Uuid>, JournalError> {
    let content = match fs::read(path) {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(JournalError::Io { path: path.into(), source }),
    };
    match parse(path, &content)?.0.into_iter().next() {
        Some(Entry::Cluster { uuid, .. }) => Ok(Some(uuid)),
        _ => Ok(None),
    }
}

/// All entries, and how many bytes they take: less than all where the last line was cut off.
fn parse(path: &Path, content: &[u8]) -> Result<(Vec<Entry>, usize), JournalError> {
    let mut entries = Vec::new();
    let mut whole = 0;
    for (number, line) in (1..).zip(content.split_inclusive(|b| *b == b'\n')) {
        let Some(text) = line.strip_suffix(b"\n") else { break };
        let entry = parse_line(text).map_err(|reason| JournalError::Damaged {
            path: path.into(),
            line: number,
            reason,
        })?;
        entries.push(entry);
        whole += line.len();
    }
    Ok((entries, whole))
}

fn parse_line(text: &[u8]) -> Result<Entry, String> {
    let Line { v, crc32c, entry } = serde_json::from_slice(text).map_err(|e| e.to_string())?;
    if v != VERSION {
        return Err(format!("version {v} is not known"));
    }
    let found = checksum(&entry);
    if found == crc32c { Ok(entry) } else { Err(format!("checksum {found} instead of {crc32c}")) }
}

fn checksum(entry: &Entry) -> u32 {
    // Entries are numbers and text: writing them to memory cannot fail.
    serde_json::to_vec(entry).map_or(0, |json| crc32c::crc32c(&json))
}

fn unix_nano(now: SystemTime) -> u64 {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> Result<Journal, JournalError> {
        let limit = ClusterLimit::Max255;
        let cluster = ClusterId::new(7, limit).unwrap();
        Journal::open(path, cluster, limit, Duration::ZERO, SystemTime::now())
    }

    fn labels(app: &str) -> Labels {
        Labels::parse(&format!("k8s:app={app};"))
    }

    #[test]
    fn remembers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/identities.journal");
        assert_eq!(read_uuid(&path).unwrap(), None);
        let mut journal = open(&path).unwrap();
        assert!(matches!(open(&path), Err(JournalError::Lock(LockError::Held(_)))));
        let uuid = journal.uuid();
        let numbers: Vec<_> = ["a", "b", "a"]
            .map(|app| journal.identity(&labels(app), SystemTime::now()).unwrap())
            .into();
        assert_eq!(numbers[0], numbers[2]);
        assert_ne!(numbers[0], numbers[1]);
        drop(journal);

        let mut journal = open(&path).unwrap();
        assert_eq!((journal.uuid(), journal.len()), (uuid, 2));
        assert_eq!(read_uuid(&path).unwrap(), Some(uuid));
        assert_eq!(journal.identity(&labels("b"), SystemTime::now()).unwrap(), numbers[1]);
    }

    #[test]
    fn a_taken_number_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = open(&folder.path().join("journal")).unwrap();
        let first = candidates(&labels("a"), journal.cluster, journal.limit).next().unwrap();
        journal.by_number.insert(first, labels("other"));
        let got = journal.identity(&labels("a"), SystemTime::now()).unwrap();
        assert_eq!(got.get(), first.get() + 1);
    }

    #[test]
    fn a_cut_line_is_dropped_and_any_other_damage_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let mut journal = open(&path).unwrap();
        for app in ["a", "b", "c"] {
            journal.identity(&labels(app), SystemTime::now()).unwrap();
        }
        drop(journal);
        let whole = fs::read(&path).unwrap();

        fs::write(&path, &whole[..whole.len() - 5]).unwrap();
        assert_eq!(open(&path).unwrap().len(), 2);
        assert!(fs::read(&path).unwrap().ends_with(b"\n"));

        for (from, to, says) in [
            ("app=b", "app=x", "journal:3: checksum"),
            ("\"v\":1", "\"v\":2", "journal:1: version 2"),
            ("\"state\":\"used\"", "\"state\":3", "journal:2: "),
            ("{", "[", "journal:1: "),
        ] {
            let text = String::from_utf8(whole.clone()).unwrap().replacen(from, to, 1);
            fs::write(&path, text).unwrap();
            let error = open(&path).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        // Without its first line nobody knows whose it is.
        let rest = whole.iter().position(|b| *b == b'\n').unwrap() + 1;
        fs::write(&path, &whole[rest..]).unwrap();
        assert!(open(&path).unwrap_err().to_string().contains("no cluster in the first"));
    }
}
