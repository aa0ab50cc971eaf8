//! Distinguishes a deletion that a writer intended from a lease that expired.
//!
//! A living writer removes one key in a revision, or puts its heartbeat into the revision in which it removes many. A
//! lease that expires removes all its keys in one revision, and means no more than that its writer was away for a while
//! (`docs/wire.md`, "Removal"). Which of the two a deletion is follows from the other changes of its revision, and
//! these come on other watches: so each deletion waits a moment for them, and a single one until the canaries, which
//! are removed with the lease, are known as of its revision.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use crate::follower::RangeId;

/// Deletions of which it is not known yet what they are.
#[derive(Debug, Default)]
pub(crate) struct Deletions {
    /// By revision.
    waiting: BTreeMap<i64, Waiting>,
    /// Revisions with a put of the heartbeat, the last ones: its watch may be ahead of the others.
    beats: BTreeSet<i64>,
    /// The first one waits for nothing but the canaries.
    waits_for_canaries: bool,
    /// How many keys wait.
    total: usize,
}

/// The deletions of one revision.
#[derive(Debug)]
struct Waiting {
    /// When everything of the revision must be there, from all watches.
    due: Instant,
    /// How many keys it removed, those that carry no record included.
    count: usize,
    /// Those that carry one.
    keys: Vec<(RangeId, Vec<u8>)>,
    /// Ranges with more of them than are remembered: only a list shows which.
    more: BTreeSet<RangeId>,
}

/// What deletions turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A writer intended them, and more in these ranges.
    Meant(Vec<(RangeId, Vec<u8>)>, BTreeSet<RangeId>),
    /// One key of a revision: intended, if the canaries existed then and still do.
    Single(i64, Vec<(RangeId, Vec<u8>)>),
    /// A lease may have run out in this revision: what these keys, and more in these ranges, held stays.
    Expired(i64, Vec<(RangeId, Vec<u8>)>, BTreeSet<RangeId>),
}

/// How long a deletion waits for the rest of its revision. Watches of one stream are served one after the other, within
/// milliseconds; additions do not wait.
const REST: Duration = Duration::from_millis(100);
/// Keys, revisions and heartbeats that are remembered of a peer. Beyond that only the range is known, which is then
/// listed.
pub(crate) const REMEMBERED: usize = 4_096;

// === impl Deletions ===

impl Deletions {
    /// A key was removed. `carries`: a record was in it.
    pub(crate) fn deleted(
        &mut self,
        now: Instant,
        range: RangeId,
        key: Vec<u8>,
        revision: i64,
        carries: bool,
    ) {
        let new = || Waiting { due: now + REST, count: 0, keys: Vec::new(), more: BTreeSet::new() };
        // Too many revisions at once: the last two are merged into one, which is then no single deletion, and so
        // decided on the safe side.
        let merged = match self.waiting.len() >= REMEMBERED && !self.waiting.contains_key(&revision)
        {
            true => self.waiting.pop_last().map(|(_, last)| last),
            false => None,
        };
        if let Some(last) = merged {
            self.waiting.insert(revision, last);
        }
        let waiting = self.waiting.entry(revision).or_insert_with(new);
        waiting.count += 1;
        if carries && self.total < REMEMBERED {
            waiting.keys.push((range, key));
            self.total += 1;
        } else if carries {
            waiting.more.insert(range);
        }
    }

    /// A key has a value: it was removed before, if at all.
    pub(crate) fn put(&mut self, key: &[u8]) {
        for waiting in self.waiting.values_mut() {
            waiting.keys.retain(|(_, removed)| removed != key);
        }
        self.total = self.waiting.values().map(|waiting| waiting.keys.len()).sum();
    }

    /// The heartbeat was put.
    pub(crate) fn beat(&mut self, revision: i64) {
        self.beats.insert(revision);
        if self.beats.len() > REMEMBERED {
            self.beats.pop_first();
        }
        if let Some(waiting) = self.waiting.get_mut(&revision) {
            // There is nothing more to wait for.
            waiting.count = 0;
        }
    }

    /// What is known now, in the order in which it happened. `known_at`: the revision of the last look-up of the
    /// canaries.
    pub(crate) fn due(&mut self, now: Instant, known_at: i64) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        self.waits_for_canaries = false;
        while let Some(first) = self.waiting.first_entry() {
            let meant = first.get().count == 0 || self.beats.contains(first.key());
            let single = first.get().count == 1 && !first.get().keys.is_empty();
            if !meant && first.get().due > now {
                break;
            }
            if !meant && single && *first.key() > known_at {
                self.waits_for_canaries = true;
                break;
            }
            let (revision, Waiting { count, keys, more, .. }) = first.remove_entry();
            self.total -= keys.len();
            match (meant, count) {
                _ if keys.is_empty() && more.is_empty() => {}
                (true, _) => verdicts.push(Verdict::Meant(keys, more)),
                (false, 1) if more.is_empty() => verdicts.push(Verdict::Single(revision, keys)),
                (false, _) => verdicts.push(Verdict::Expired(revision, keys, more)),
            }
        }
        verdicts
    }

    /// Whether the canaries must be looked up before there is more to know.
    pub(crate) fn waits_for_canaries(&self) -> bool {
        self.waits_for_canaries
    }

    /// When there is more to know, if time alone brings it.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let (_, first) = self.waiting.first_key_value()?;
        (!self.waits_for_canaries).then_some(first.due)
    }

    /// The connection is gone. Returns the ranges in which something was removed and is not explained, and the first
    /// revision of each: from there on all must come once more, or what was one of many would seem to be one.
    pub(crate) fn disconnected(&mut self) -> BTreeMap<RangeId, i64> {
        self.waits_for_canaries = false;
        self.total = 0;
        let mut first = BTreeMap::new();
        for (revision, Waiting { keys, more, .. }) in std::mem::take(&mut self.waiting) {
            for range in keys.into_iter().map(|(range, _)| range).chain(more) {
                first.entry(range).or_insert(revision);
            }
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: RangeId = RangeId(3);

    fn keys(names: &[&str]) -> Vec<(RangeId, Vec<u8>)> {
        names.iter().map(|name| (RANGE, name.as_bytes().to_vec())).collect()
    }

    fn delete(deletions: &mut Deletions, now: Instant, key: &str, revision: i64) {
        deletions.deleted(now, RANGE, key.into(), revision, true);
    }

    fn none() -> BTreeSet<RangeId> {
        BTreeSet::new()
    }

    #[test]
    fn of_more_than_is_remembered_only_the_range_is_known() {
        let (mut deletions, now) = (Deletions::default(), Instant::now());
        for n in 0..2 * REMEMBERED {
            delete(&mut deletions, now, &n.to_string(), 5);
        }
        let found = deletions.due(now + REST, 0);
        let [Verdict::Expired(5, keys, more)] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((keys.len(), more), (REMEMBERED, &[RANGE].into()));
        // The same with a heartbeat: none of it is forgotten.
        for n in 0..=REMEMBERED {
            delete(&mut deletions, now, &n.to_string(), 6);
        }
        deletions.beat(6);
        let found = deletions.due(now, 0);
        let [Verdict::Meant(keys, more)] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((keys.len(), more), (REMEMBERED, &[RANGE].into()));
        // One by one while the canaries are not known.
        for revision in 10..10 + 3 * i64::try_from(REMEMBERED).unwrap() {
            delete(&mut deletions, now, "a", revision);
        }
        assert_eq!((deletions.waiting.len(), deletions.total), (REMEMBERED, REMEMBERED));
        assert_eq!(deletions.due(now + REST, 9), []);
        assert!(deletions.waits_for_canaries());
        let last = deletions.due(now + REST, i64::MAX).pop();
        assert!(matches!(last, Some(Verdict::Expired(..))), "the last ones are held: {last:?}");
        assert_eq!((deletions.waiting.len(), deletions.total), (0, 0));
    }

    #[test]
    fn one_key_a_revision_is_meant() {
        let (mut deletions, now) = (Deletions::default(), Instant::now());
        delete(&mut deletions, now, "a", 5);
        delete(&mut deletions, now, "b", 6);
        assert_eq!(deletions.due(now, 9), []);
        assert_eq!(deletions.next_timeout(), Some(now + REST));
        assert!(!deletions.waits_for_canaries());
        assert_eq!(deletions.due(now + REST, 4), []);
        assert_eq!((deletions.waits_for_canaries(), deletions.next_timeout()), (true, None));
        assert_eq!(deletions.due(now + REST, 5), [Verdict::Single(5, keys(&["a"]))]);
        assert!(deletions.waits_for_canaries());
        assert_eq!(deletions.due(now + REST, 9), [Verdict::Single(6, keys(&["b"]))]);
        assert_eq!((deletions.next_timeout(), deletions.due(now + REST, 9)), (None, vec![]));
    }

    #[test]
    fn many_keys_in_one_revision_are_a_lease_that_ran_out() {
        let (mut deletions, now) = (Deletions::default(), Instant::now());
        delete(&mut deletions, now, "a", 5);
        delete(&mut deletions, now, "b", 5);
        assert_eq!(deletions.due(now + REST, 0), [Verdict::Expired(5, keys(&["a", "b"]), none())]);
        // A canary or a config that goes with it shows as much.
        delete(&mut deletions, now, "a", 7);
        deletions.deleted(now, RangeId(1), "canary".into(), 7, false);
        assert_eq!(deletions.due(now + REST, 0), [Verdict::Expired(7, keys(&["a"]), none())]);
    }

    #[test]
    fn unless_the_heartbeat_is_in_it() {
        let (mut deletions, now) = (Deletions::default(), Instant::now());
        delete(&mut deletions, now, "a", 5);
        delete(&mut deletions, now, "b", 5);
        deletions.beat(5);
        assert_eq!(deletions.due(now, 0), [Verdict::Meant(keys(&["a", "b"]), none())], "at once");
        deletions.beat(8);
        delete(&mut deletions, now, "a", 8);
        delete(&mut deletions, now, "b", 8);
        assert_eq!(
            deletions.due(now, 0),
            [Verdict::Meant(keys(&["a", "b"]), none())],
            "in either order"
        );
    }

    #[test]
    fn what_is_put_again_was_not_removed() {
        let (mut deletions, now) = (Deletions::default(), Instant::now());
        delete(&mut deletions, now, "a", 5);
        deletions.put(b"a");
        assert_eq!(deletions.due(now + REST, 0), []);
        assert!(!deletions.waits_for_canaries());
    }

    #[test]
    fn what_was_not_known_when_the_connection_broke_comes_once_more() {
        let (mut deletions, now) = (Deletions::default(), Instant::now());
        delete(&mut deletions, now, "a", 5);
        delete(&mut deletions, now, "b", 6);
        deletions.deleted(now, RangeId(1), "canary".into(), 4, false);
        assert_eq!(deletions.disconnected(), [(RANGE, 5)].into());
        assert_eq!((deletions.next_timeout(), deletions.due(now + REST, 9)), (None, vec![]));
        // The heartbeat that explains it may not.
        deletions.beat(7);
        assert_eq!(deletions.disconnected(), [].into());
        delete(&mut deletions, now, "a", 7);
        delete(&mut deletions, now, "b", 7);
        assert_eq!(deletions.due(now, 0), [Verdict::Meant(keys(&["a", "b"]), none())]);
    }
}
