//! What others did to keys that are this writer's own.
//!
//! No IO: events of a watch and the time go in; which keys to look at again, and when, comes out. A key that somebody
//! else keeps changing is put right less and less often: two writers that fight must not do so at full speed.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use mesh_export::{Actual, fingerprint};
use mesh_follow::WatchEvent;
use mesh_model::ClusterName;
use mesh_wire::{
    Layout, Prefix,
    key::{CANARIES, CLUSTER_CONFIGS},
};

/// What is known of others.
#[derive(Debug, Default)]
pub(crate) struct ForeignWrites {
    /// Revisions of own writes.
    own: BTreeSet<i64>,
    sightings: BTreeMap<String, Sighting>,
    /// Keys to be put right that there is no room to tell of, and when.
    unnamed: BTreeMap<String, Instant>,
    /// When keys were put right last.
    repaired: Option<Instant>,
}

/// A key that somebody else touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sighting {
    deed: ForeignWrite,
    times: u32,
    last: Instant,
    /// When to look at it again; never, if it is put right or not ours to put right.
    due: Option<Instant>,
}

/// What somebody else did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ForeignWrite {
    /// Wrote a key that nobody exports.
    Added,
    /// Wrote another value.
    Changed,
    /// Removed a key.
    Removed,
    /// Wrote where data of this cluster's is, but not as this cluster.
    Elsewhere,
}

/// KeyOwner a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyOwner {
    /// This writer's: it should be what is exported, or not be there.
    Ours,
    /// It stands where only this cluster's data should be, in somebody else's name.
    Elsewhere,
    /// Not looked at.
    ForeignWrites,
}

/// Own revisions that are remembered. An event that is older than all of them was waited for too long.
const REMEMBERED: usize = 65_536;
/// Keys that are told of by name.
const NAMED: usize = 1_000;
/// Keys that a status lists.
const LISTED: usize = 10;
/// What nobody touched for so long is no news.
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

/// KeyOwner a key is, in the etcd of `own`.
pub(crate) fn whose(key: &str, own: &ClusterName) -> KeyOwner {
    let tree = |prefix: Prefix| prefix.of_cluster(Layout::State, own);
    let below = |parent: &str| key.strip_prefix(parent);
    let is_own = |name: &str| name == own.as_str();
    if below(LOCAL).is_some()
        || Prefix::ALL.into_iter().any(|prefix| below(&tree(prefix)).is_some())
        || below(CLUSTER_CONFIGS).is_some_and(is_own)
        || below(CANARIES).and_then(|rest| rest.split_once('/')).is_some_and(|(c, _)| is_own(c))
    {
        return KeyOwner::Ours;
    }
    if below(STATE).is_some() { KeyOwner::Elsewhere } else { KeyOwner::ForeignWrites }
}

impl ForeignWrites {
    /// A write of ours was made in a revision.
    pub(crate) fn wrote(&mut self, revision: i64) {
        self.own.insert(revision);
        while self.own.len() > REMEMBERED {
            self.own.pop_first();
        }
    }

    /// Takes an event. `actual` is what is known to be there; `marks` are keys of ours that are not exported. Returns what
    /// somebody else did, if it was somebody else.
    pub(crate) fn see(
        &mut self,
        event: &WatchEvent,
        own: &ClusterName,
        actual: &Actual,
        marks: &BTreeSet<String>,
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
        // What is no text is nobody's key: it can be told of, and that is all.
        let text = String::from_utf8_lossy(key).into_owned();
        let whose = match std::str::from_utf8(key) {
            Ok(key) => whose(key, own),
            Err(_) if whose(&text, own) == KeyOwner::ForeignWrites => KeyOwner::ForeignWrites,
            Err(_) => KeyOwner::Elsewhere,
        };
        let deed = match (whose, event) {
            (KeyOwner::ForeignWrites, _) => return None,
            (KeyOwner::Elsewhere, WatchEvent::Put(_)) => ForeignWrite::Elsewhere,
            (KeyOwner::Elsewhere, WatchEvent::Delete { .. }) => {
                self.sightings.remove(&text);
                return None;
            }
            (KeyOwner::Ours, WatchEvent::Put(kv)) => match actual.get(&text) {
                Some(known) if *known == fingerprint(&kv.value) => return None,
                Some(_) => ForeignWrite::Changed,
                None if marks.contains(&text) => ForeignWrite::Changed,
                None => ForeignWrite::Added,
            },
            // What we removed meanwhile, too, is as it should be.
            (KeyOwner::Ours, WatchEvent::Delete { .. }) => {
                if !actual.contains_key(&text) && !marks.contains(&text) {
                    return None;
                }
                ForeignWrite::Removed
            }
        };
        self.note(text, deed, now);
        Some(deed)
    }

    /// Somebody else touched a key.
    pub(crate) fn note(&mut self, key: String, deed: ForeignWrite, now: Instant) {
        self.tidy(now);
        let before = self.sightings.get(&key);
        let times = before.map_or(0, |sighting| sighting.times).saturating_add(1);
        // Once more before it was put right is no reason to wait longer.
        let due = before.and_then(|sighting| sighting.due).unwrap_or(now + pause(times));
        let due = (deed != ForeignWrite::Elsewhere).then_some(due);
        if before.is_none() && self.sightings.len() >= NAMED && !self.make_room() {
            self.unnamed.extend(due.map(|due| (key, due)));
            return;
        }
        self.sightings.insert(key, Sighting { deed, times, last: now, due });
    }

    /// When there is something to be put right.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let named = self.sightings.values().filter_map(|sighting| sighting.due);
        let due = named.chain(self.unnamed.values().copied()).min()?;
        Some(self.repaired.map_or(due, |repaired| due.max(repaired + ROUND)))
    }

    /// Takes the keys that are to be put right now.
    pub(crate) fn take_due(&mut self, now: Instant) -> BTreeSet<String> {
        let mut keys: BTreeSet<String> = std::mem::take(&mut self.unnamed).into_keys().collect();
        for (key, sighting) in &mut self.sightings {
            if sighting.due.is_some_and(|due| due <= now) {
                sighting.due = None;
                keys.insert(key.clone());
            }
        }
        self.repaired = Some(now);
        keys
    }

    /// What there is to tell, in words.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut newest: Vec<_> = self.sightings.iter().collect();
        newest.sort_by_key(|(_, sighting)| std::cmp::Reverse((sighting.times, sighting.last)));
        let mut told: Vec<String> =
            newest.iter().take(LISTED).map(|(key, sighting)| sighting.tell(key)).collect();
        let more = (newest.len() + self.unnamed.len()).saturating_sub(LISTED);
        if more > 0 {
            told.push(format!("somebody else wrote to {more} more keys in this cluster's etcd"));
        }
        told
    }

    /// Forgets what is no news. What is not this cluster's stays as long as it is there.
    pub(crate) fn tidy(&mut self, now: Instant) {
        self.sightings.retain(|_, sighting| {
            sighting.deed == ForeignWrite::Elsewhere
                || sighting.due.is_some()
                || now.saturating_duration_since(sighting.last) < NEWS
        });
    }

    /// Lets the oldest go that needs nothing done.
    fn make_room(&mut self) -> bool {
        let idle = self.sightings.iter().filter(|(_, sighting)| sighting.due.is_none());
        let oldest = idle.min_by_key(|(_, sighting)| sighting.last).map(|(key, _)| key.clone());
        oldest.is_some_and(|key| self.sightings.remove(&key).is_some())
    }
}

impl ForeignWrite {
    /// As metrics have it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Changed => "changed",
            Self::Removed => "removed",
            Self::Elsewhere => "elsewhere",
        }
    }
}

impl Sighting {
    fn tell(&self, key: &str) -> String {
        let did = match (self.deed, self.due) {
            (ForeignWrite::Elsewhere, _) => {
                return format!(
                    "{key}: somebody else wrote it, in a name that is not this cluster's; it is left alone"
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
            0..FIGHT => format!("{key}: somebody else {did}"),
            times => format!(
                "{key}: somebody else {did}. That was {times} times: is there another writer? It is put right less and less often"
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
