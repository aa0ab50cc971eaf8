//! The record of a cluster without Kubernetes: one JSON line for each entry, appended and synced before its ID is used.
//!
//! All replicas of the cluster's apiserver share it. A replica that has something to decide locks it, reads what others
//! wrote since, decides, writes, and releases the lock (`docs/adr/0006-one-journal-for-all-replicas.md`). So if two
//! replicas want an ID for one label set, the second reads the ID that the first got.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use mesh_files::LockError;
use mesh_model::{ClusterId, ClusterLimit, Identity, Labels};
use uuid::Uuid;

use contents::{Contents, identity, line};
use entry::{Entry, parse};
use shared::{Locked, News, SharedFile};

use crate::table::{REST, State, unix_nano};

mod contents;
mod entry;
mod recognise;
mod shared;

pub use recognise::{Found, Lost};

/// The journal, open.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: SharedFile,
    contents: Contents,
    cluster: ClusterId,
    limit: ClusterLimit,
    /// It is known to be the one that allocated this cluster's IDs: it may allocate new ones.
    recognised: bool,
}

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another process has it, for too long.
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
    /// It existed and does not any more.
    #[error("{} is gone: restore it. Until then no new identity can be remembered, so none is allocated", path.display())]
    Gone {
        /// The file.
        path: PathBuf,
    },
    /// Another journal replaced it.
    #[error("{} is now the journal of cluster {found}, and was that of {expected}: restart the apiserver if that is meant", path.display())]
    Another {
        /// The file.
        path: PathBuf,
        /// The UUID in the file.
        found: Uuid,
        /// The expected UUID.
        expected: Uuid,
    },
    /// It is of another ID than the cluster's configured one.
    #[error("{}: the cluster's settings say `id: {said}`, and the journal is of `id: {found}`: set `id: {found}` again in cluster.yaml. To really give the cluster another ID, disconnect it, move the journal away and begin with an empty etcd", path.display())]
    OtherId {
        /// The file.
        path: PathBuf,
        /// The cluster ID in the file.
        found: ClusterId,
        /// The configured ID.
        said: ClusterId,
    },
    /// A line is not what was written.
    #[error("{}:{line}: {reason}. Restore the file from a backup; without one move it away and start the apiserver once with --adopt-identities, which takes the IDs that the etcd has", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
}

/// Why a label set has no ID.
#[derive(Debug, thiserror::Error)]
pub enum AllocationError {
    /// None is free.
    #[error(
        "no identity is free: {used} are in use and {resting} rest for up to {} hours before they can be allocated again. Leave labels out of identities that no policy selects on (--identity-label)",
        REST.as_secs() / 3600
    )]
    Exhausted {
        /// IDs that label sets have.
        used: usize,
        /// IDs that label sets had not long ago.
        resting: usize,
    },
    /// It is not known yet whether the journal is the one that gave the IDs there are.
    #[error("new identities wait until the journal was compared with the etcd")]
    NotRecognised,
    /// It could not be remembered, so it is not given.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// The result of collecting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// IDs that are not in use.
    pub marked: usize,
    /// IDs that are in use after all.
    pub cleared: usize,
    /// IDs that were freed.
    pub deleted: usize,
}

/// The revision of a content of the manifests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// It is the source at this revision.
    At(u64),
    /// Another replica has recorded another content meanwhile: only another scan shows which is later.
    Superseded,
}

/// A file of fewer lines is not worth rewriting.
const COMPACT_FROM: usize = 1_024;

// === impl Journal ===

impl Journal {
    /// Opens the journal of a cluster, and makes it, with a new UUID, where there is none. If another process has it
    /// locked, the thread blocks up to `patience`, here and whenever the journal is used.
    pub fn open(
        path: &Path,
        cluster: ClusterId,
        limit: ClusterLimit,
        patience: Duration,
        now: SystemTime,
    ) -> Result<Self, JournalError> {
        let file = SharedFile::open(path, patience)?;
        let contents = Contents::new(cluster, limit);
        let mut journal =
            Self { path: path.into(), file, contents, cluster, limit, recognised: false };
        journal.locked(|locked, contents| {
            if contents.uuid.is_nil() {
                let unix_nano = unix_nano(now);
                write(locked, contents, vec![Entry::Cluster { uuid: Uuid::new_v4(), unix_nano }])?;
            }
            Ok(())
        })?;
        Ok(journal)
    }

    /// The cluster's unchanging id.
    pub fn uuid(&self) -> Uuid {
        self.contents.uuid
    }

    /// The ID of a label set: the one it has, or had last, or a free one, once that is remembered.
    pub fn identity(
        &mut self,
        labels: &Labels,
        now: SystemTime,
    ) -> Result<Identity, AllocationError> {
        let refreshed = self.refresh();
        if let Some((identity, State::Used)) = self.contents.table.id_of(labels) {
            // A known ID is valid without the file too: no other label set gets that ID today.
            return Ok(identity);
        }
        refreshed?;
        let recognised = self.recognised;
        self.locked(|locked, contents| {
            let known = match contents.table.id_of(labels) {
                Some((id, State::Used)) => return Ok(Ok(id)),
                Some((id, _)) => Some(id),
                None => contents.table.last_id_of(labels),
            };
            let id = match known {
                Some(known) => known,
                None if !recognised => return Ok(Err(AllocationError::NotRecognised)),
                None => match contents.table.free(labels, now) {
                    Some(free) => free,
                    None => {
                        let (used, resting) = contents.table.counts();
                        return Ok(Err(AllocationError::Exhausted { used, resting }));
                    }
                },
            };
            let used = identity(id, labels, State::Used, unix_nano(now));
            write(locked, contents, vec![used])?;
            Ok(Ok(id))
        })?
    }

    /// Marks the IDs that are not in use, and frees those that were marked `wait` ago and that no replica has used
    /// since: each clears the marks of the IDs that it uses.
    pub fn collect(
        &mut self,
        in_use: impl Fn(Identity, &Labels) -> bool,
        wait: Duration,
        now: SystemTime,
    ) -> Result<Collected, JournalError> {
        self.refresh()?;
        if self.contents.table.collect(&in_use, wait, now).is_empty() {
            return Ok(Collected::default());
        }
        self.locked(|locked, contents| {
            let transitions = contents.table.collect(&in_use, wait, now);
            let unix_nano = unix_nano(now);
            let mut collected = Collected::default();
            for transition in &transitions {
                match transition.state {
                    State::Used => collected.cleared += 1,
                    State::Marked => collected.marked += 1,
                    State::Deleted => collected.deleted += 1,
                }
            }
            let lines = transitions.iter().map(|transition| line(transition, unix_nano));
            write(locked, contents, lines.collect())?;
            Ok(collected)
        })
    }

    /// Shortens the file if most of its lines are obsolete.
    pub fn compact(&mut self, now: SystemTime) -> Result<(), JournalError> {
        if self.contents.lines < COMPACT_FROM.max(2 * self.contents.needed()) {
            return Ok(());
        }
        self.rewrite(now)
    }

    /// Puts a file in the journal's place that has only what counts.
    fn rewrite(&mut self, now: SystemTime) -> Result<(), JournalError> {
        self.locked(|locked, contents| {
            let entries = contents.entries(now);
            locked.replace(&entries)?;
            contents.lines = entries.len();
            Ok(())
        })
    }

    /// The last revision of the manifests that a replica recorded. A scan of them that begins now is not older.
    pub fn revision(&mut self) -> Result<u64, JournalError> {
        self.refresh()?;
        Ok(self.contents.revision)
    }

    /// Records the content of the manifests in a scan that began when their revision was `since`, and returns the
    /// revision of that content: the last one, if it is the same content, else the next.
    pub fn record(
        &mut self,
        manifests: &str,
        since: u64,
        now: SystemTime,
    ) -> Result<Recorded, JournalError> {
        self.refresh()?;
        let is_last = |contents: &Contents| contents.manifests.as_deref() == Some(manifests);
        if is_last(&self.contents) {
            return Ok(Recorded::At(self.contents.revision));
        }
        self.locked(|locked, contents| {
            if is_last(contents) {
                return Ok(Recorded::At(contents.revision));
            }
            if contents.revision != since {
                return Ok(Recorded::Superseded);
            }
            let revision = since.saturating_add(1);
            let (manifests, unix_nano) = (Some(manifests.to_owned()), unix_nano(now));
            write(locked, contents, vec![Entry::Revision { revision, manifests, unix_nano }])?;
            Ok(Recorded::At(revision))
        })
    }

    /// The IDs that are to be published, or no longer, since the last call. Other replicas' decisions are among them.
    pub fn take_changes(&mut self) -> Vec<(Identity, Option<Labels>)> {
        self.contents.table.take_changes()
    }

    /// How many IDs are allocated.
    pub fn len(&self) -> usize {
        self.contents.table.counts().0
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it was compared with an etcd and gives new IDs.
    pub fn is_recognised(&self) -> bool {
        self.recognised
    }

    /// Reads what others wrote, if they did.
    pub fn refresh(&mut self) -> Result<(), JournalError> {
        if self.file.is_unchanged()? { Ok(()) } else { self.locked(|_, _| Ok(())) }
    }

    /// Does something while no other replica can, knowing what all others did.
    fn locked<T>(
        &mut self,
        decide: impl FnOnce(&mut Locked<'_>, &mut Contents) -> Result<T, JournalError>,
    ) -> Result<T, JournalError> {
        let Self { path, file, contents, cluster, limit, .. } = self;
        let mut locked = file.lock()?;
        let learned = match locked.read(contents.lines)? {
            News::Appended(entries) => take(path, contents, entries),
            News::Replaced(entries) => {
                let mut another = Contents::new(*cluster, *limit);
                take(path, &mut another, entries).and_then(|()| {
                    if another.uuid != contents.uuid && contents.table.counts() != (0, 0) {
                        let (found, expected) = (another.uuid, contents.uuid);
                        return Err(JournalError::Another { path: path.clone(), found, expected });
                    }
                    another.table.supersede(&contents.table);
                    *contents = another;
                    Ok(())
                })
            }
        };
        if learned.is_err() {
            locked.unread();
        }
        learned?;
        decide(&mut locked, contents)
    }
}

/// Takes what was read.
fn take(path: &Path, contents: &mut Contents, entries: Vec<Entry>) -> Result<(), JournalError> {
    for entry in entries {
        if let Some(found) = contents.other_cluster(&entry) {
            let said = contents.table.cluster;
            return Err(JournalError::OtherId { path: path.into(), found, said });
        }
        contents.take(entry).map_err(|reason| JournalError::Damaged {
            path: path.into(),
            line: contents.lines,
            reason,
        })?;
    }
    Ok(())
}

/// Remembers, then knows.
fn write(
    locked: &mut Locked<'_>,
    contents: &mut Contents,
    entries: Vec<Entry>,
) -> Result<(), JournalError> {
    locked.append(&entries)?;
    for entry in entries {
        // Made from what the table has, so that it takes it.
        if let Err(reason) = contents.take(entry) {
            tracing::error!(reason, "the journal has a line that contradicts it");
        }
    }
    Ok(())
}

/// The UUID in a journal, without locking it; `None` where there is no journal yet.
pub fn read_uuid(path: &Path) -> Result<Option<Uuid>, JournalError> {
    let content = match fs::read(path) {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(JournalError::Io { path: path.into(), source }),
    };
    match parse(path, 1, &content)?.0.into_iter().next() {
        Some(Entry::Cluster { uuid, .. }) => Ok(Some(uuid)),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests;
