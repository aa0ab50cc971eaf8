//! What others did to keys that are this writer's.
//!
//! No IO: events of a watch and the time go in; which keys to look at again, and when, comes out. A key that another writer
//! keeps changing is put right less and less often: two writers that fight must not do so at full speed.

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

/// What is known of others.
#[derive(Debug, Default)]
pub(crate) struct ForeignWrites {
    /// Revisions of our writes.
    own: BTreeSet<i64>,
    sightings: BTreeMap<String, Sighting>,
    /// Keys to be put right at once that there is no room to name.
    unnamed: BTreeSet<String>,
    /// When the next round of putting right may begin.
    next_round: Option<Instant>,
}

/// A key that another writer touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sighting {
    write: ForeignWrite,
    times: u32,
    last: Instant,
    /// When to look at it again; never, if it is put right or not ours to put right.
    due: Option<Instant>,
}

/// What another writer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ForeignWrite {
    /// Wrote a key that is not exported.
    Added,
    /// Wrote another value.
    Changed,
    /// Removed a key.
    Removed,
    /// Wrote where data of this cluster's is, but not as this cluster.
    Misplaced,
}

/// Whose a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyOwner {
    /// This cluster's: it should be what is exported, or not be there.
    Local,
    /// It is where only this cluster's data should be, in another's name.
    Misplaced,
    /// Not looked at.
    Other,
}

/// Own revisions that are remembered. An event that is older than all of them was waited for too long.
const REMEMBERED: usize = 65_536;
/// Keys that are named.
const NAMED: usize = 1_000;
/// Keys that a status lists.
const LISTED: usize = 10;
/// What has not been touched for so long is no news.
const NEWS: Duration = Duration::from_secs(600);
/// Between two rounds of putting right, so that what comes in a burst goes in one.
const ROUND: Duration = Duration::from_millis(100);
/// How long a key is left alone that was put right before, and the longest.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// So often is a fight.
const FIGHT: u32 = 3;
/// Where this cluster's data is, and what else is looked at beside it.
const STATE: &str = "cilium/state/";
const LOCAL: &str = "clustermesh/local/";

/// Whose a key is, in the etcd of `cluster`.
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
    /// A write of ours was made in a revision.
    pub(crate) fn wrote(&mut self, revision: i64) {
        self.own.insert(revision);
        while self.own.len() > REMEMBERED {
            self.own.pop_first();
        }
    }

    /// Takes an event. `actual` is what is known to be there; `markers` are keys of ours that are not exported. Returns what
    /// another writer did, if it was one.
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
        // What is no text is no cluster's key: it can be named, and that is all.
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
                Some(known) if *known == fingerprint(&kv.value) => return None,
                Some(_) => ForeignWrite::Changed,
                None if markers.contains(&text) => ForeignWrite::Changed,
                None => ForeignWrite::Added,
            },
            // What we removed meanwhile, too, is as it should be.
            (KeyOwner::Local, WatchEvent::Delete { .. }) => {
                if !actual.contains_key(&text) && !markers.contains(&text) {
                    return None;
                }
                ForeignWrite::Removed
            }
        };
        self.note(text, write, now);
        Some(write)
    }

    /// Another writer touched a key.
    pub(crate) fn note(&mut self, key: String, write: ForeignWrite, now: Instant) {
        let before = self.sightings.get(&key);
        if before.is_none() && self.sightings.len() >= NAMED {
            if write != ForeignWrite::Misplaced {
                self.unnamed.insert(key);
            }
            return;
        }
        let times = before.map_or(0, |sighting| sighting.times).saturating_add(1);
        // Once more before it was put right is no reason to wait longer.
        let due = before.and_then(|sighting| sighting.due).unwrap_or(now + pause(times));
        let due = (write != ForeignWrite::Misplaced).then_some(due);
        self.sightings.insert(key, Sighting { write, times, last: now, due });
    }

    /// When there is something to be put right.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let named = self.sightings.values().filter_map(|sighting| sighting.due).min();
        let at_once = (!self.unnamed.is_empty()).then_some(self.next_round).flatten();
        let due = match (named, self.unnamed.is_empty()) {
            (due, true) => due?,
            (due, false) => at_once.or(due).unwrap_or_else(Instant::now),
        };
        Some(self.next_round.map_or(due, |round| due.max(round)))
    }

    /// Takes the keys that are to be put right now, at most so many. What is left is due at once.
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

    /// What there is to report, in words.
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

    /// Forgets what is no news. What is not this cluster's stays as long as it is there. Where that leaves no room, what needs
    /// nothing done goes too.
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
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Added, Self::Changed, Self::Removed, Self::Misplaced];

    /// As metrics have it.
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
                    "{key}: another program wrote it, in a name that is not this cluster's; it is left alone"
                );
            }
            (ForeignWrite::Added, None) => "wrote it; removed",
            (ForeignWrite::Added, Some(_)) => "wrote it",
            (ForeignWrite::Changed, None) => "changed it; put right",
            (ForeignWrite::Changed, Some(_)) => "changed it",
            (ForeignWrite::Removed, None) => "removed it; put back",
            (ForeignWrite::Removed, Some(_)) => "removed it",
        };
        match self.times {
            0..FIGHT => format!("{key}: another program {did}"),
            times => format!(
                "{key}: another program {did}. That was {times} times: is there another writer? It is put right less and less often"
            ),
        }
    }
}

/// At once for the first time, and then later and later.
fn pause(times: u32) -> Duration {
    match times {
        0 | 1 => Duration::ZERO,
        more => AGAIN.0.saturating_mul(1 << (more - 2).min(16)).min(AGAIN.1),
    }
}

#[cfg(test)]
mod tests;
