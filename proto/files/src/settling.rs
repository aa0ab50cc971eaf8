//! Whether a file is as its writer wants it, or in the middle of being written.
//!
//! Shells, `git checkout`, `scp` and `rsync --inplace` write a file in its place: for a while a reader finds nothing in it,
//! or a part. No system call says how long. [`Settling`] has no IO and no clock: looks at files and what a watch noticed go
//! in, how far each file is comes out.

use std::{
    collections::BTreeMap,
    fs::Metadata,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use crate::watch::Written;

/// Tells two contents of a file apart without reading it. Files that are written within a clock's tick and keep their
/// length are distinguished by their inode, which an atomic write changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

/// How far a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Progress {
    /// Its writer may be in the middle of it: what is missing may follow, and its end may be cut off.
    Writing,
    /// Its writer closed it: nothing is cut off. What is missing may still follow, from a writer who empties it first.
    Closed,
    /// It was renamed into its place, or has not changed for [`QUIET`]; where a watch saw that a program writes it and
    /// has not closed it, for ten seconds: what is missing is meant to be.
    Settled,
}

/// When a look is taken.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// By the clock that never jumps.
    pub now: Instant,
    /// By the one that files are stamped with.
    pub wall: SystemTime,
}

/// How far each file of a folder is.
#[derive(Debug, Default)]
pub struct Settling {
    files: BTreeMap<PathBuf, Seen>,
    /// What a watch noticed that no look has met yet.
    written: BTreeMap<PathBuf, Written>,
}

/// A file as the last look found it.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// `None`: it is not there.
    stamp: Option<Stamp>,
    /// Since when it looks so.
    since: Instant,
    progress: Progress,
    /// A watch saw that a program writes it, and not that it was closed since.
    is_open: bool,
}

/// What has not changed for so long is as its writer wants it.
pub const QUIET: Duration = Duration::from_secs(1);
/// The same of what a program is known to have open: `(sleep 2; kubectl get …) > all.yaml`.
const OPEN: Duration = Duration::from_secs(10);

// === impl Stamp ===

impl Stamp {
    /// A file's stamp.
    pub fn of(metadata: &Metadata) -> Self {
        let (modified, length) = (metadata.modified().ok(), metadata.len());
        Self { modified, length, inode: metadata.ino() }
    }

    /// In bytes.
    pub fn length(&self) -> u64 {
        self.length
    }
}

// === impl Moment ===

impl Moment {
    /// This one.
    pub fn now() -> Self {
        Self { now: Instant::now(), wall: SystemTime::now() }
    }
}

// === impl Settling ===

impl Settling {
    /// Takes note of what a watch noticed, for the next look.
    pub fn note(&mut self, written: impl IntoIterator<Item = (PathBuf, Written)>) {
        self.written.extend(written);
    }

    /// Takes a look at a file, which has this stamp or is not there, and says how far it is.
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
            // Its name was given to another file, which is complete.
            (_, Some(Written::Renamed)) if stamp.is_some() => Progress::Settled,
            (Some(seen), _) if at.now >= seen.since + seen.quiet() => Progress::Settled,
            (Some(seen), Some(Written::Closed)) => seen.progress.max(Progress::Closed),
            (Some(seen), _) => seen.progress,
            (None, Some(Written::Closed)) if stamp.is_some() => Progress::Closed,
            // It was not written for so long: it was there before the first look, or it was moved here.
            (None, None) if old.is_some_and(|old| old >= QUIET) => Progress::Settled,
            (None, _) => Progress::Writing,
        };
        let since = before.map_or(at.now, |seen| seen.since);
        // What is not there is not being written.
        let is_open = is_open && stamp.is_some();
        self.files.insert(path.into(), Seen { stamp, since, progress, is_open });
        progress
    }

    /// Forgets all files but these. What was noticed of files that were not looked at is forgotten too.
    pub fn retain(&mut self, known: impl Fn(&Path) -> bool) {
        self.files.retain(|path, _| known(path));
        self.written.clear();
    }

    /// When another look says more, although nothing changes.
    pub fn next_look(&self) -> Option<Instant> {
        let unsettled = self.files.values().filter(|seen| seen.progress != Progress::Settled);
        unsettled.map(|seen| seen.since + seen.quiet()).min()
    }
}

// === impl Seen ===

impl Seen {
    /// How long it must not have changed.
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

        /// A stamp of a file that was written so many milliseconds after the start.
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
    fn a_file_that_is_written_in_its_place_settles_when_it_was_quiet() {
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
        // The next writer, who takes his time.
        folder.note(Written::Partly);
        let next = folder.stamp(2_000, 0);
        assert_eq!(folder.look(next, 2_010), Progress::Writing);
        assert_eq!(folder.look(next, 5_000), Progress::Writing, "it is open");
        assert_eq!(folder.next(), Some(12_010));
        assert_eq!(folder.look(next, 12_010), Progress::Settled);
        // One of whom no watch tells.
        folder.note(Written::Closed);
        assert_eq!(folder.look(folder.stamp(13_000, 5), 13_000), Progress::Closed);
        assert_eq!(folder.look(folder.stamp(14_000, 0), 14_000), Progress::Writing);
        assert_eq!(folder.look(folder.stamp(14_000, 0), 15_000), Progress::Settled);
    }

    #[test]
    fn what_is_renamed_or_old_is_settled_at_once() {
        let mut folder = Folder::new();
        let new = folder.stamp(0, 10);
        assert_eq!(folder.look(new, 1_000), Progress::Settled, "written before the first look");
        let other = folder.stamp(2_000, 10);
        folder.note(Written::Renamed);
        assert_eq!(folder.look(other, 2_001), Progress::Settled);
        // From the future, where clocks disagree: it is waited for like any other.
        let future = folder.stamp(900_000, 10);
        assert_eq!(folder.look(future, 3_000), Progress::Writing);
        assert_eq!(folder.look(future, 4_000), Progress::Settled);
        // A closed file that is written again is not closed.
        folder.note(Written::Closed);
        folder.note(Written::Partly);
        assert_eq!(folder.look(folder.stamp(5_000, 3), 5_000), Progress::Writing);
    }

    #[test]
    fn what_is_gone_is_looked_at_twice() {
        let mut folder = Folder::new();
        let file = folder.stamp(0, 10);
        folder.look(file, 1_000);
        assert_eq!(folder.look(None, 2_000), Progress::Writing);
        assert_eq!(folder.next(), Some(3_000));
        assert_eq!(folder.look(None, 3_000), Progress::Settled);
        // Back again, by a rename that was noticed before it was gone once more.
        folder.note(Written::Renamed);
        assert_eq!(folder.look(None, 3_500), Progress::Settled);
        folder.settling.retain(|_| false);
        assert_eq!(folder.next(), None);
    }
}
