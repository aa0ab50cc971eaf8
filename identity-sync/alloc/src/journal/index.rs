//! The state after all of the journal's lines. No IO.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, SystemTime},
};

use mesh_model::{ClusterId, ClusterLimit, Identity, Labels};
use uuid::Uuid;

use super::entry::{Entry, State, nanos, unix_nano};
use crate::candidates::candidates;

/// All IDs, by ID and by label set.
#[derive(Debug)]
pub(super) struct AllocationTable {
    pub(super) cluster: ClusterId,
    limit: ClusterLimit,
    pub(super) uuid: Uuid,
    by_id: BTreeMap<Identity, Allocation>,
    /// The IDs that each label set has or had last: one, unless two journals were made one.
    by_labels: HashMap<Arc<Labels>, BTreeSet<Identity>>,
    /// IDs that are not allocated, by the time that they were freed.
    resting: BTreeSet<(u64, Identity)>,
    pub(super) revision: u64,
    /// The content that the manifests had at that revision.
    pub(super) manifests: Option<String>,
    /// IDs that changed since the last call of `take_changes`.
    changed: BTreeSet<Identity>,
    pub(super) lines: usize,
}

#[derive(Debug)]
struct Allocation {
    labels: Arc<Labels>,
    state: State,
    since: u64,
}

/// How long an ID stays unallocated before another label set may have it: by then a reader that knew the former one has
/// forgotten it, or its cluster was unreachable for so long that none of its records are used.
pub(super) const REST: Duration = Duration::from_secs(24 * 60 * 60);

impl AllocationTable {
    /// One with nothing in it.
    pub(super) fn new(cluster: ClusterId, limit: ClusterLimit) -> Self {
        Self {
            cluster,
            limit,
            uuid: Uuid::nil(),
            by_id: BTreeMap::new(),
            by_labels: HashMap::new(),
            resting: BTreeSet::new(),
            revision: 0,
            manifests: None,
            changed: BTreeSet::new(),
            lines: 0,
        }
    }

    /// Takes the next line.
    pub(super) fn take(&mut self, entry: Entry) -> Result<(), String> {
        self.lines += 1;
        match entry {
            Entry::Cluster { uuid, .. } if self.lines == 1 => self.uuid = uuid,
            Entry::Cluster { .. } => return Err("a second cluster".into()),
            Entry::Identity { .. } | Entry::Revision { .. } if self.lines == 1 => {
                return Err("no cluster in the first line".into());
            }
            Entry::Revision { revision, manifests, .. } => {
                if revision >= self.revision {
                    (self.revision, self.manifests) = (revision, manifests);
                }
            }
            Entry::Identity { id, labels, state, unix_nano } => {
                self.apply_identity(Identity::new(id), Labels::parse(&labels), state, unix_nano)?;
            }
        }
        Ok(())
    }

    /// The cluster that an entry's identity is of, if that is another.
    pub(super) fn other_cluster(&self, entry: &Entry) -> Option<ClusterId> {
        let Entry::Identity { id, .. } = entry else { return None };
        let id = Identity::new(*id);
        if self.is_ours(id) { None } else { self.limit.cluster_of(id) }
    }

    fn apply_identity(
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

    fn forget(&mut self, id: Identity) {
        let Some(Allocation { labels, since, .. }) = self.by_id.remove(&id) else { return };
        self.resting.remove(&(since, id));
        if let Some(ids) = self.by_labels.get_mut(&labels) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_labels.remove(&labels);
            }
        }
    }

    /// The ID that a label set has; of two the lower one.
    pub(super) fn id_of(&self, labels: &Labels) -> Option<(Identity, State)> {
        self.ids_of(labels).find(|(_, state)| *state != State::Deleted)
    }

    /// The ID that it had, and that no other label set has had since.
    pub(super) fn last_id_of(&self, labels: &Labels) -> Option<Identity> {
        self.ids_of(labels).next().map(|(id, _)| id)
    }

    fn ids_of(&self, labels: &Labels) -> impl Iterator<Item = (Identity, State)> {
        let ids = self.by_labels.get(labels).into_iter().flatten();
        ids.filter_map(|id| Some((*id, self.by_id.get(id)?.state)))
    }

    /// Whether an ID is one of the cluster's.
    pub(super) fn is_ours(&self, id: Identity) -> bool {
        self.limit.identities(self.cluster).contains(&id.get())
    }

    /// Whether an ID is allocated, or was.
    pub(super) fn is_known(&self, id: Identity) -> bool {
        self.by_id.contains_key(&id)
    }

    /// The ID that a label set without one may have.
    pub(super) fn free(&self, labels: &Labels, now: SystemTime) -> Option<Identity> {
        let range = self.limit.identities(self.cluster);
        let all = usize::try_from(range.end() - range.start() + 1).unwrap_or(usize::MAX);
        let rested = |since: u64| since.saturating_add(nanos(REST)) <= unix_nano(now);
        if self.by_id.len() >= all && !self.resting.first().is_some_and(|(t, _)| rested(*t)) {
            // Looking at each would not find one either, and many may ask.
            return None;
        }
        candidates(labels, self.cluster, self.limit).find(|id| match self.by_id.get(id) {
            None => true,
            Some(allocation) => allocation.state == State::Deleted && rested(allocation.since),
        })
    }

    /// How many IDs are allocated, and how many rest.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.by_id.len() - self.resting.len(), self.resting.len())
    }

    /// The entries that collecting writes: marks for IDs that are not in use, the deletion of those that were marked
    /// for long enough, and neither for IDs in use.
    pub(super) fn collect(
        &self,
        in_use: &impl Fn(Identity, &Labels) -> bool,
        wait: Duration,
        now: SystemTime,
    ) -> Vec<Entry> {
        let now = unix_nano(now);
        let next = |id: &Identity, allocation: &Allocation| {
            let over = allocation.since.saturating_add(nanos(wait)) <= now;
            let state = match (allocation.state, in_use(*id, &allocation.labels)) {
                (State::Used, true) | (State::Deleted, false) => return None,
                (State::Marked | State::Deleted, true) => State::Used,
                (State::Used, false) => State::Marked,
                (State::Marked, false) if over => State::Deleted,
                (State::Marked, false) => return None,
            };
            Some(identity(*id, &allocation.labels, state, now))
        };
        self.by_id.iter().filter_map(|(id, allocation)| next(id, allocation)).collect()
    }

    /// Lines that add up to the same.
    pub(super) fn entries(&mut self, now: SystemTime) -> Vec<Entry> {
        let now = unix_nano(now);
        let rested = |(since, _): &&(u64, Identity)| since.saturating_add(nanos(REST)) <= now;
        let rested: Vec<Identity> =
            self.resting.iter().take_while(rested).map(|(_, id)| *id).collect();
        rested.into_iter().for_each(|id| self.forget(id));
        let cluster = Entry::Cluster { uuid: self.uuid, unix_nano: now };
        let (revision, manifests) = (self.revision, self.manifests.clone());
        let revision = Entry::Revision { revision, manifests, unix_nano: now };
        let identities = self.by_id.iter();
        let identities = identities.map(|(id, n)| identity(*id, &n.labels, n.state, n.since));
        [cluster, revision].into_iter().chain(identities).collect()
    }

    /// How many lines are needed at most.
    pub(super) fn needed(&self) -> usize {
        self.by_id.len() + 2
    }

    /// IDs that were allocated or freed since the last call: those that are allocated, with their label sets.
    pub(super) fn take_changes(&mut self) -> Vec<(Identity, Option<Labels>)> {
        let published = |id: Identity| {
            let allocation = self.by_id.get(&id).filter(|n| n.state != State::Deleted);
            (id, allocation.map(|allocation| (*allocation.labels).clone()))
        };
        std::mem::take(&mut self.changed).into_iter().map(published).collect()
    }

    /// Replaces another reading of the journal: everything may have changed.
    pub(super) fn supersede(&mut self, before: &Self) {
        self.changed.extend(&before.changed);
        self.changed.extend(before.by_id.keys());
    }
}

/// A line about an ID.
pub(super) fn identity(id: Identity, labels: &Labels, state: State, unix_nano: u64) -> Entry {
    Entry::Identity { id: id.get(), labels: labels.to_string(), state, unix_nano }
}
