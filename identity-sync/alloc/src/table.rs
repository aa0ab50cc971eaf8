//! Which label set has which ID. No IO: a journal's lines fill it, or an API server's objects.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use mesh_model::{ClusterId, ClusterLimit, Identity, Labels};
use serde::{Deserialize, Serialize};

use crate::candidates::candidates;

/// How an identity is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// A label set has it.
    Used,
    /// It was not in use when a replica checked; it is published all the same.
    Marked,
    /// It is not allocated, and rests before another label set may have it.
    Deleted,
}

/// All IDs, by ID and by label set.
#[derive(Debug)]
pub(crate) struct AllocationTable {
    pub(crate) cluster: ClusterId,
    limit: ClusterLimit,
    by_id: BTreeMap<Identity, Allocation>,
    /// The IDs that each label set has or had last: one, unless two journals were made one.
    by_labels: HashMap<Arc<Labels>, BTreeSet<Identity>>,
    /// IDs that are not allocated, by the time that they were freed.
    resting: BTreeSet<(u64, Identity)>,
    /// IDs that changed since the last call of `take_changes`.
    changed: BTreeSet<Identity>,
}

/// An ID that is allocated, or was.
#[derive(Clone, Debug)]
pub(crate) struct Allocation {
    pub(crate) labels: Arc<Labels>,
    pub(crate) state: State,
    /// Since when, in nanoseconds since 1970.
    pub(crate) since: u64,
}

/// A state that an ID is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Transition {
    pub(crate) id: Identity,
    pub(crate) labels: Arc<Labels>,
    pub(crate) state: State,
}

/// How long an ID stays unallocated before another label set may have it: by then a reader that knew the former one has
/// forgotten it, or its cluster was unreachable for so long that none of its records are used.
pub(crate) const REST: Duration = Duration::from_secs(24 * 60 * 60);

impl AllocationTable {
    /// One with nothing in it.
    pub(crate) fn new(cluster: ClusterId, limit: ClusterLimit) -> Self {
        Self {
            cluster,
            limit,
            by_id: BTreeMap::new(),
            by_labels: HashMap::new(),
            resting: BTreeSet::new(),
            changed: BTreeSet::new(),
        }
    }

    /// Takes a state of an ID.
    ///
    /// # Errors
    /// When it is not one of the cluster's, or is allocated to other labels.
    pub(crate) fn apply(
        &mut self,
        id: Identity,
        labels: Labels,
        state: State,
        since: u64,
    ) -> Result<(), String> {
        if !self.is_ours(id) {
            let cluster = self.cluster;
            return Err(format!("identity {id} is not one of cluster {cluster}"));
        }
        if let Some(before) = self.by_id.get(&id) {
            if before.state != State::Deleted && *before.labels != labels {
                return Err(format!("identity {id} is there for two label sets"));
            }
            self.forget(id);
        }
        let known = self.by_labels.get_key_value(&labels).map(|(known, _)| Arc::clone(known));
        let labels = known.unwrap_or_else(|| Arc::new(labels));
        self.by_labels.entry(Arc::clone(&labels)).or_default().insert(id);
        if state == State::Deleted {
            self.resting.insert((since, id));
        }
        self.by_id.insert(id, Allocation { labels, state, since });
        self.changed.insert(id);
        Ok(())
    }

    /// Removes an ID, as if it had never been allocated.
    pub(crate) fn forget(&mut self, id: Identity) {
        let Some(Allocation { labels, since, .. }) = self.by_id.remove(&id) else { return };
        self.resting.remove(&(since, id));
        self.changed.insert(id);
        if let Some(ids) = self.by_labels.get_mut(&labels) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_labels.remove(&labels);
            }
        }
    }

    /// The ID that a label set has; of two the lower one.
    pub(crate) fn id_of(&self, labels: &Labels) -> Option<(Identity, State)> {
        self.ids_of(labels).find(|(_, state)| *state != State::Deleted)
    }

    /// The ID that it had, and that no other label set has had since.
    pub(crate) fn last_id_of(&self, labels: &Labels) -> Option<Identity> {
        self.ids_of(labels).next().map(|(id, _)| id)
    }

    fn ids_of(&self, labels: &Labels) -> impl Iterator<Item = (Identity, State)> {
        let ids = self.by_labels.get(labels).into_iter().flatten();
        ids.filter_map(|id| Some((*id, self.by_id.get(id)?.state)))
    }

    /// Whether an ID is one of the cluster's.
    pub(crate) fn is_ours(&self, id: Identity) -> bool {
        self.limit.identities(self.cluster).contains(&id.get())
    }

    /// Whether an ID is allocated, or was.
    pub(crate) fn is_known(&self, id: Identity) -> bool {
        self.by_id.contains_key(&id)
    }

    /// The ID that a label set without one may have.
    pub(crate) fn free(&self, labels: &Labels, now: SystemTime) -> Option<Identity> {
        let any_rested = self.resting.first().is_some_and(|(since, _)| is_rested(*since, now));
        if self.is_full() && !any_rested {
            // Looking at each would not find one either, and many may ask.
            return None;
        }
        self.candidates(labels).find(|id| match self.by_id.get(id) {
            None => true,
            Some(allocation) => {
                allocation.state == State::Deleted && is_rested(allocation.since, now)
            }
        })
    }

    /// All IDs, in the order to try them for a label set.
    pub(crate) fn candidates(&self, labels: &Labels) -> impl Iterator<Item = Identity> + use<> {
        candidates(labels, self.cluster, self.limit)
    }

    /// Whether each ID of the cluster is allocated, or was.
    pub(crate) fn is_full(&self) -> bool {
        let range = self.limit.identities(self.cluster);
        let all = usize::try_from(range.end() - range.start() + 1).unwrap_or(usize::MAX);
        self.by_id.len() >= all
    }

    /// The cluster that an ID is of.
    pub(crate) fn cluster_of(&self, id: Identity) -> Option<ClusterId> {
        self.limit.cluster_of(id)
    }

    /// How many IDs are allocated, and how many rest.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.by_id.len() - self.resting.len(), self.resting.len())
    }

    /// What collecting changes: marks for IDs that are not in use, the end of those that were marked for long enough, and
    /// neither for IDs in use.
    pub(crate) fn collect(
        &self,
        in_use: &impl Fn(Identity, &Labels) -> bool,
        wait: Duration,
        now: SystemTime,
    ) -> Vec<Transition> {
        let now = unix_nano(now);
        let next = |(id, allocation): (&Identity, &Allocation)| {
            let over = allocation.since.saturating_add(nanos(wait)) <= now;
            let state = match (allocation.state, in_use(*id, &allocation.labels)) {
                (State::Used, true) | (State::Deleted, false) => return None,
                (State::Marked | State::Deleted, true) => State::Used,
                (State::Used, false) => State::Marked,
                (State::Marked, false) if over => State::Deleted,
                (State::Marked, false) => return None,
            };
            Some(Transition { id: *id, labels: Arc::clone(&allocation.labels), state })
        };
        self.by_id.iter().filter_map(next).collect()
    }

    /// The IDs whose rest is over.
    pub(crate) fn rested(&self, now: SystemTime) -> Vec<Identity> {
        let rested = |(since, _): &&(u64, Identity)| is_rested(*since, now);
        self.resting.iter().take_while(rested).map(|(_, id)| *id).collect()
    }

    /// All IDs that are allocated, or were.
    pub(crate) fn all(&self) -> impl Iterator<Item = (Identity, &Allocation)> {
        self.by_id.iter().map(|(id, allocation)| (*id, allocation))
    }

    /// An ID that is allocated, or was.
    pub(crate) fn get(&self, id: Identity) -> Option<&Allocation> {
        self.by_id.get(&id)
    }

    /// IDs that were allocated or freed since the last call: those that are allocated, with their label sets.
    pub(crate) fn take_changes(&mut self) -> Vec<(Identity, Option<Labels>)> {
        let published = |id: Identity| {
            let allocation = self.by_id.get(&id).filter(|n| n.state != State::Deleted);
            (id, allocation.map(|allocation| (*allocation.labels).clone()))
        };
        std::mem::take(&mut self.changed).into_iter().map(published).collect()
    }

    /// Replaces another reading of the journal: everything may have changed.
    pub(crate) fn supersede(&mut self, before: &Self) {
        self.changed.extend(&before.changed);
        self.changed.extend(before.by_id.keys());
    }
}

fn is_rested(since: u64, now: SystemTime) -> bool {
    since.saturating_add(nanos(REST)) <= unix_nano(now)
}

/// A time in nanoseconds since 1970.
pub(crate) fn unix_nano(time: SystemTime) -> u64 {
    nanos(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
