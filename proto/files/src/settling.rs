//! Decides whether a file is completely written.
//!
//! Shells, `git checkout`, `scp` and `rsync --inplace` do not replace a file atomically: for a while it is empty, or has only
//! its first part. No system call tells how long. [`Settling`] has no IO and no clock: its inputs are stamps of files and the
//! events of a watch, and its output is the progress of each file.

use std::{
    collections::BTreeMap,
    fs::Metadata,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use crate::watch::Written;

/// Distinguishes two contents of a file without reading it. Two writes of the same length within one tick of the clock can
/// only be distinguished if the second one is atomic, because that changes the inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

/// How completely a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Progress {
    /// A writer may not have finished: the file may be empty or truncated.
    Writing,
    /// Its writer has closed it, so it is not truncated. It may still be empty, because some writers first empty a file and
    /// then open it again.
    Closed,
    /// It is complete: it was renamed into place, or has not changed for [`QUIET`], or for ten seconds if a watch saw a
    /// program write to it and not close it.
    Settled,
}

/// The time of a look at a file, by two clocks.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The monotonic clock.
    pub now: Instant,
    /// The clock of the files' modification times.
    pub wall: SystemTime,
}

/// The progress of each file of a folder.
#[derive(Debug, Default)]
pub struct Settling {
    files: BTreeMap<PathBuf, Seen>,
    /// What a watch noticed since the last look at each file.
    written: BTreeMap<PathBuf, Written>,
}

/// A file as it was at the last look.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// `None`: it does not exist.
    stamp: Option<Stamp>,
    /// When it was first seen with this stamp.
    since: Instant,
    progress: Progress,
    /// A watch saw a program write to it, and not close it since.
    is_open: bool,
}

/// A file that has not changed for so long counts as complete.
pub const QUIET: Duration = Duration::from_secs(1);
/// The same for a file that a program has open, as in `(sleep 2; kubectl get …) > all.yaml`.
const OPEN: Duration = Duration::from_secs(10);

// === impl Stamp ===

impl Stamp {
    /// The stamp of a file.
    pub fn of(metadata: &Metadata) -> Self {
        let (modified, length) = (metadata.modified().ok(), metadata.len());
        Self { modified, length, inode: metadata.ino() }
    }

    /// The file's length in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }
}

// === impl Moment ===

impl Moment {
    /// The current time.
    pub fn now() -> Self {
        Self { now: Instant::now(), wall: SystemTime::now() }
    }
}

// === impl Settling ===

impl Settling {
    /// Stores what a watch noticed, for the next look at each file.
    pub fn note(&mut self, written: impl IntoIterator<Item = (PathBuf, Written)>) {
        self.written.extend(written);
    }

    /// Looks at a file and returns its progress. `stamp` is `None` if it does not exist.
    pub fn look(&mut self, path: &Path, stamp: Option<Stamp>, at: Moment) -> Progress {
        let noticed = self.written.remove(path);
        let known = self.files.get(path);
        let is_open = match noticed {
            Some(Written::Partly) => true,
            Some(Written::Closed | Written::Renamed) => false,
            None => known.is_some_and(|seen| seen.is_open),
        };
        let before = known.filter(|seen| seen.stamp == stamp).copied();
        let before = before.map(|seen| Seen { is_open, ..seen });
        let old = stamp.and_then(|stamp| at.wall.duration_since(stamp.modified?).ok());
        let progress = match (before, noticed) {
            // Another file got this name. A writer that renames a file has completed it.
            (_, Some(Written::Renamed)) if stamp.is_some() => Progress::Settled,
            (Some(seen), _) if at.now >= seen.since + seen.quiet() => Progress::Settled,
            (Some(seen), Some(Written::Closed)) => seen.progress.max(Progress::Closed),
            (Some(seen), _) => seen.progress,
            (None, Some(Written::Closed)) if stamp.is_some() => Progress::Closed,
            // It is new to us but has not been written for a while, for example because it was moved here.
            (None, None) if old.is_some_and(|old| old >= QUIET) => Progress::Settled,
            (None, _) => Progress::Writing,
        };
        let since = before.map_or(at.now, |seen| seen.since);
        // A file that does not exist is not open.
        let is_open = is_open && stamp.is_some();
        self.files.insert(path.into(), Seen { stamp, since, progress, is_open });
        progress
    }

    /// Forgets all files but the known ones, and everything that a watch noticed.
    pub fn retain(&mut self, known: impl Fn(&Path) -> bool) {
        self.files.retain(|path, _| known(path));
        self.written.clear();
    }

    /// When to look again even if nothing changes, because a file may be settled then.
    pub fn next_look(&self) -> Option<Instant> {
        let unsettled = self.files.values().filter(|seen| seen.progress != Progress::Settled);
        unsettled.map(|seen| seen.since + seen.quiet()).min()
    }
}

// === impl Seen ===

impl Seen {
    /// How long it must be unchanged to be settled.
    fn quiet(&self) -> Duration {
        if self.is_open { OPEN } else { QUIET }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder {
        settling: Settling,
        start: Moment,
    }

    impl Folder {
        fn new() -> Self {
            Self { settling: Settling::default(), start: Moment::now() }
        }

        /// The stamp of a file that was written `at` milliseconds after the start.
        fn stamp(&self, at: u64, length: u64) -> Option<Stamp> {
            let modified = Some(self.start.wall + Duration::from_millis(at));
            Some(Stamp { modified, length, inode: 1 })
        }

        fn look(&mut self, stamp: Option<Stamp>, at: u64) -> Progress {
            let after = Duration::from_millis(at);
            let at = Moment { now: self.start.now + after, wall: self.start.wall + after };
            self.settling.look(Path::new("f"), stamp, at)
        }

        fn note(&mut self, written: Written) {
            self.settling.note([("f".into(), written)]);
        }

        fn next(&self) -> Option<u128> {
            let next = self.settling.next_look()?;
            Some(next.duration_since(self.start.now).as_millis())
        }
    }

    #[test]
    fn a_file_that_is_not_written_atomically_settles_after_a_second() {
        let mut folder = Folder::new();
        let [empty, half, all] = [(0, 0), (400, 50), (800, 100)].map(|(at, n)| folder.stamp(at, n));
        assert_eq!(folder.look(empty, 10), Progress::Writing);
        assert_eq!(folder.next(), Some(1_010));
        folder.note(Written::Partly);
        assert_eq!(folder.look(half, 410), Progress::Writing);
        folder.note(Written::Closed);
        assert_eq!(folder.look(all, 810), Progress::Closed);
        assert_eq!(folder.look(all, 1_809), Progress::Closed);
        assert_eq!(folder.next(), Some(1_810), "a second after it was seen like this");
        assert_eq!(folder.look(all, 1_810), Progress::Settled);
        assert_eq!(folder.next(), None);
        // Another writer, which keeps the file open.
        folder.note(Written::Partly);
        let next = folder.stamp(2_000, 0);
        assert_eq!(folder.look(next, 2_010), Progress::Writing);
        assert_eq!(folder.look(next, 5_000), Progress::Writing, "it is open");
        assert_eq!(folder.next(), Some(12_010));
        assert_eq!(folder.look(next, 12_010), Progress::Settled);
        // A writer that no watch reports.
        folder.note(Written::Closed);
        assert_eq!(folder.look(folder.stamp(13_000, 5), 13_000), Progress::Closed);
        assert_eq!(folder.look(folder.stamp(14_000, 0), 14_000), Progress::Writing);
        assert_eq!(folder.look(folder.stamp(14_000, 0), 15_000), Progress::Settled);
    }

    #[test]
    fn a_renamed_or_old_file_is_settled_at_once() {
        let mut folder = Folder::new();
        let new = folder.stamp(0, 10);
        assert_eq!(folder.look(new, 1_000), Progress::Settled, "written before the first look");
        let other = folder.stamp(2_000, 10);
        folder.note(Written::Renamed);
        assert_eq!(folder.look(other, 2_001), Progress::Settled);
        // A modification time in the future is treated like any other.
        let future = folder.stamp(900_000, 10);
        assert_eq!(folder.look(future, 3_000), Progress::Writing);
        assert_eq!(folder.look(future, 4_000), Progress::Settled);
        // A closed file is written again.
        folder.note(Written::Closed);
        folder.note(Written::Partly);
        assert_eq!(folder.look(folder.stamp(5_000, 3), 5_000), Progress::Writing);
    }

    #[test]
    fn a_removed_file_is_settled_after_a_second() {
        let mut folder = Folder::new();
        let file = folder.stamp(0, 10);
        folder.look(file, 1_000);
        assert_eq!(folder.look(None, 2_000), Progress::Writing);
        assert_eq!(folder.next(), Some(3_000));
        assert_eq!(folder.look(None, 3_000), Progress::Settled);
        // A rename was noticed, but the file is gone again.
        folder.note(Written::Renamed);
        assert_eq!(folder.look(None, 3_500), Progress::Settled);
        folder.settling.retain(|_| false);
        assert_eq!(folder.next(), None);
    }
}
