//! Finds writes of other programs to keys of this cluster.
//!
//! It has no IO: its inputs are watch events and the time, its output is which keys to examine and repair, and when. A key
//! that another program keeps changing is repaired less and less often, so that two writers do not compete at full speed.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use mesh_export::{Actual, fingerprint};
use mesh_follow::WatchEvent;
use mesh_model::ClusterName;
use mesh_wire::{
    Layout, Prefix,
    key::{CANARIES, CLUSTER_CONFIGS, DRAIN},
};

/// The writes of other programs.
#[derive(Debug, Default)]
pub(crate) struct ForeignWrites {
    /// The revisions of this writer's writes.
    own: BTreeSet<i64>,
    /// The writes of other programs, by key.
    sightings: BTreeMap<String, Sighting>,
    /// Keys to repair that do not fit into `sightings`.
    unnamed: BTreeSet<String>,
    /// When the next round of repairs may begin.
    next_round: Option<Instant>,
}

/// The writes of other programs to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sighting {
    write: ForeignWrite,
    times: u32,
    last: Instant,
    /// When to repair it; `None` if it is repaired, or must not be repaired.
    due: Option<Instant>,
}

/// What another program did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ForeignWrite {
    /// Wrote a key that is not exported.
    Added,
    /// Wrote another value.
    Changed,
    /// Removed a key.
    Removed,
    /// Wrote a key in this cluster's trees that has the name of another cluster.
    Misplaced,
}

/// The owner of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyOwner {
    /// This cluster: the key must have the exported value, or must not exist.
    Local,
    /// The key is in this cluster's trees, but has the name of another cluster.
    Misplaced,
    /// Another owner. The key is ignored.
    Other,
}

/// How many revisions of this writer's writes are remembered. Older events are ignored.
const REMEMBERED: usize = 65_536;
/// How many keys have a sighting.
const NAMED: usize = 1_000;
/// How many keys the status lists.
const LISTED: usize = 10;
/// How long a write is reported.
const NEWS: Duration = Duration::from_secs(600);
/// The pause between two rounds of repairs, so that a burst of writes is repaired in one round.
const ROUND: Duration = Duration::from_millis(100);
/// The pause before a key is repaired for the second time, and the longest pause.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// From this number of writes on, the status asks for another writer.
const FIGHT: u32 = 3;
/// The trees of this cluster's keys.
const STATE: &str = "cilium/state/";
const LOCAL: &str = "clustermesh/local/";

/// The owner of a key in the etcd of `cluster`.
pub(crate) fn owner_of(key: &str, cluster: &ClusterName) -> KeyOwner {
    let tree = |prefix: Prefix| prefix.of_cluster(Layout::State, cluster);
    let below = |parent: &str| key.strip_prefix(parent);
    let is_local = |name: &str| name == cluster.as_str();
    if key == DRAIN
        || below(LOCAL).is_some()
        || Prefix::ALL.into_iter().any(|prefix| below(&tree(prefix)).is_some())
        || below(CLUSTER_CONFIGS).is_some_and(is_local)
        || below(CANARIES).and_then(|rest| rest.split_once('/')).is_some_and(|(c, _)| is_local(c))
    {
        return KeyOwner::Local;
    }
    if below(STATE).is_some() { KeyOwner::Misplaced } else { KeyOwner::Other }
}

// === impl ForeignWrites ===

impl ForeignWrites {
    /// Remembers the revision of a write of this writer.
    pub(crate) fn wrote(&mut self, revision: i64) {
        self.own.insert(revision);
        while self.own.len() > REMEMBERED {
            self.own.pop_first();
        }
    }

    /// Handles an event. `actual` are the exported keys in the etcd; `markers` are this writer's other keys. Returns what
    /// another program did; `None` if the event is not a write of another program to a key of this cluster.
    pub(crate) fn see(
        &mut self,
        event: &WatchEvent,
        cluster: &ClusterName,
        actual: &Actual,
        markers: &BTreeSet<String>,
        now: Instant,
    ) -> Option<ForeignWrite> {
        let (key, revision) = match event {
            WatchEvent::Put(kv) => (&kv.key, kv.mod_revision),
            WatchEvent::Delete { key, mod_revision } => (key, *mod_revision),
        };
        let late = self.own.len() >= REMEMBERED && self.own.first() > Some(&revision);
        if late || self.own.contains(&revision) {
            return None;
        }
        // A key that is not UTF-8 does not belong to any cluster, so it is only reported.
        let text = String::from_utf8_lossy(key).into_owned();
        let owner = match std::str::from_utf8(key) {
            Ok(key) => owner_of(key, cluster),
            Err(_) if owner_of(&text, cluster) == KeyOwner::Other => KeyOwner::Other,
            Err(_) => KeyOwner::Misplaced,
        };
        let write = match (owner, event) {
            (KeyOwner::Other, _) => return None,
            (KeyOwner::Misplaced, WatchEvent::Put(_)) => ForeignWrite::Misplaced,
            (KeyOwner::Misplaced, WatchEvent::Delete { .. }) => {
                self.sightings.remove(&text);
                return None;
            }
            (KeyOwner::Local, WatchEvent::Put(kv)) => match actual.get(&text) {
                Some(known) if known == fingerprint(&kv.value) => return None,
                Some(_) => ForeignWrite::Changed,
                None if markers.contains(&text) => ForeignWrite::Changed,
                None => ForeignWrite::Added,
            },
            // It is correct if this writer has deleted the key meanwhile.
            (KeyOwner::Local, WatchEvent::Delete { .. }) => {
                if actual.get(&text).is_none() && !markers.contains(&text) {
                    return None;
                }
                ForeignWrite::Removed
            }
        };
        self.note(text, write, now);
        Some(write)
    }

    /// Stores that another program wrote to a key.
    pub(crate) fn note(&mut self, key: String, write: ForeignWrite, now: Instant) {
        let before = self.sightings.get(&key);
        if before.is_none() && self.sightings.len() >= NAMED {
            if write != ForeignWrite::Misplaced {
                self.unnamed.insert(key);
            }
            return;
        }
        let times = before.map_or(0, |sighting| sighting.times).saturating_add(1);
        // Another write before the repair does not delay it.
        let due = before.and_then(|sighting| sighting.due).unwrap_or(now + pause(times));
        let due = (write != ForeignWrite::Misplaced).then_some(due);
        self.sightings.insert(key, Sighting { write, times, last: now, due });
    }

    /// When the next repair is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let named = self.sightings.values().filter_map(|sighting| sighting.due).min();
        let at_once = (!self.unnamed.is_empty()).then_some(self.next_round).flatten();
        let due = match (named, self.unnamed.is_empty()) {
            (due, true) => due?,
            (due, false) => at_once.or(due).unwrap_or_else(Instant::now),
        };
        Some(self.next_round.map_or(due, |round| due.max(round)))
    }

    /// Takes the keys to repair now, at most `most`. The others stay due.
    pub(crate) fn take_due(&mut self, now: Instant, most: usize) -> BTreeSet<String> {
        let mut keys = BTreeSet::new();
        for (key, sighting) in &mut self.sightings {
            if keys.len() < most && sighting.due.is_some_and(|due| due <= now) {
                sighting.due = None;
                keys.insert(key.clone());
            }
        }
        while keys.len() < most
            && let Some(key) = self.unnamed.pop_first()
        {
            keys.insert(key);
        }
        self.next_round = Some(if keys.len() < most { now + ROUND } else { now });
        keys
    }

    /// Messages about the writes.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut newest: Vec<_> = self.sightings.iter().collect();
        newest.sort_by_key(|(_, sighting)| std::cmp::Reverse((sighting.times, sighting.last)));
        let mut problems: Vec<String> =
            newest.iter().take(LISTED).map(|(key, sighting)| sighting.describe(key)).collect();
        let more = (newest.len() + self.unnamed.len()).saturating_sub(LISTED);
        if more > 0 {
            problems
                .push(format!("another program wrote to {more} more keys in this cluster's etcd"));
        }
        problems
    }

    /// Forgets old writes. Misplaced keys stay as long as they exist. If that leaves no room, also forgets recent writes
    /// that are repaired.
    pub(crate) fn tidy(&mut self, now: Instant) {
        self.sightings.retain(|_, sighting| {
            sighting.write == ForeignWrite::Misplaced
                || sighting.due.is_some()
                || now.saturating_duration_since(sighting.last) < NEWS
        });
        if self.sightings.len() >= NAMED {
            self.sightings.retain(|_, sighting| {
                sighting.due.is_some() || sighting.write == ForeignWrite::Misplaced
            });
        }
    }
}

// === impl ForeignWrite ===

impl ForeignWrite {
    /// All kinds.
    pub(crate) const ALL: [Self; 4] = [Self::Added, Self::Changed, Self::Removed, Self::Misplaced];

    /// The label in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Changed => "changed",
            Self::Removed => "removed",
            Self::Misplaced => "elsewhere",
        }
    }
}

// === impl Sighting ===

impl Sighting {
    fn describe(&self, key: &str) -> String {
        let did = match (self.write, self.due) {
            (ForeignWrite::Misplaced, _) => {
                return format!(
                    "{key}: another program wrote it, with a name that is not this cluster's; it is left alone"
                );
            }
            (ForeignWrite::Added, None) => "wrote it; removed",
            (ForeignWrite::Added, Some(_)) => "wrote it",
            (ForeignWrite::Changed, None) => "changed it; repaired",
            (ForeignWrite::Changed, Some(_)) => "changed it",
            (ForeignWrite::Removed, None) => "removed it; restored",
            (ForeignWrite::Removed, Some(_)) => "removed it",
        };
        match self.times {
            0..FIGHT => format!("{key}: another program {did}"),
            times => format!(
                "{key}: another program {did}. This happened {times} times: is there another writer? The key is repaired less and less often"
            ),
        }
    }
}

/// The pause before a repair: none for the first time, then growing.
fn pause(times: u32) -> Duration {
    match times {
        0 | 1 => Duration::ZERO,
        more => AGAIN.0.saturating_mul(1 << (more - 2).min(16)).min(AGAIN.1),
    }
}

#[cfg(test)]
mod tests;
