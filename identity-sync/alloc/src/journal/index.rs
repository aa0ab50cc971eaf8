//! What the journal's lines add up to. No IO.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, SystemTime},
};

use mesh_model::{ClusterId, ClusterLimit, Identity, Labels};
use uuid::Uuid;

use super::entry::{Entry, State, nanos, unix_nano};
use crate::candidates::candidates;

/// All numbers, by number and by label set.
#[derive(Debug)]
pub(super) struct AllocationTable {
    cluster: ClusterId,
    limit: ClusterLimit,
    pub(super) uuid: Uuid,
    by_number: BTreeMap<Identity, Number>,
    /// The numbers that each label set has or had last: one, unless two journals were made one.
    by_labels: HashMap<Arc<Labels>, BTreeSet<Identity>>,
    /// Numbers that are not allocated, by the time that they were given back.
    resting: BTreeSet<(u64, Identity)>,
    pub(super) revision: u64,
    /// The content that the manifests had at that revision.
    pub(super) manifests: Option<String>,
    /// Numbers that changed since the last call of `take_changes`.
    changed: BTreeSet<Identity>,
    pub(super) lines: usize,
}

#[derive(Debug)]
struct Number {
    labels: Arc<Labels>,
    state: State,
    since: u64,
}

/// How long a number stays unallocated before another label set may have it: a reader that knew it as the former's has
/// forgotten it, or its cluster was unreachable for so long that nothing of it is used.
pub(super) const REST: Duration = Duration::from_secs(24 * 60 * 60);

impl AllocationTable {
    /// One with nothing in it.
    pub(super) fn new(cluster: ClusterId, limit: ClusterLimit) -> Self {
        Self {
            cluster,
            limit,
            uuid: Uuid::nil(),
            by_number: BTreeMap::new(),
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
                self.number(Identity::new(id), Labels::parse(&labels), state, unix_nano)?;
            }
        }
        Ok(())
    }

    fn number(
        &mut self,
        id: Identity,
        labels: Labels,
        state: State,
        since: u64,
    ) -> Result<(), String> {
        if !self.is_ours(id) {
            let cluster = self.cluster;
            return Err(format!(
                "identity {id} is not one of cluster {cluster}: was the cluster's id changed?"
            ));
        }
        if let Some(before) = self.by_number.get(&id) {
            if before.state != State::Deleted && *before.labels != labels {
                return Err(format!("identity {id} stands there for two label sets"));
            }
            self.forget(id);
        }
        let known = self.by_labels.get_key_value(&labels).map(|(known, _)| Arc::clone(known));
        let labels = known.unwrap_or_else(|| Arc::new(labels));
        self.by_labels.entry(Arc::clone(&labels)).or_default().insert(id);
        if state == State::Deleted {
            self.resting.insert((since, id));
        }
        self.by_number.insert(id, Number { labels, state, since });
        self.changed.insert(id);
        Ok(())
    }

    fn forget(&mut self, id: Identity) {
        let Some(Number { labels, since, .. }) = self.by_number.remove(&id) else { return };
        self.resting.remove(&(since, id));
        if let Some(ids) = self.by_labels.get_mut(&labels) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_labels.remove(&labels);
            }
        }
    }

    /// The number that a label set has; of two the lower one.
    pub(super) fn number_of(&self, labels: &Labels) -> Option<(Identity, State)> {
        self.numbers_of(labels).find(|(_, state)| *state != State::Deleted)
    }

    /// The number that it had, and that no other label set has had since.
    pub(super) fn former_number_of(&self, labels: &Labels) -> Option<Identity> {
        self.numbers_of(labels).next().map(|(id, _)| id)
    }

    fn numbers_of(&self, labels: &Labels) -> impl Iterator<Item = (Identity, State)> {
        let ids = self.by_labels.get(labels).into_iter().flatten();
        ids.filter_map(|id| Some((*id, self.by_number.get(id)?.state)))
    }

    /// Whether a number is one of the cluster's.
    pub(super) fn is_ours(&self, id: Identity) -> bool {
        self.limit.identities(self.cluster).contains(&id.get())
    }

    /// Whether a number is allocated, or was.
    pub(super) fn is_known(&self, id: Identity) -> bool {
        self.by_number.contains_key(&id)
    }

    /// The number that a label set without one may have.
    pub(super) fn free(&self, labels: &Labels, now: SystemTime) -> Option<Identity> {
        let range = self.limit.identities(self.cluster);
        let all = usize::try_from(range.end() - range.start() + 1).unwrap_or(usize::MAX);
        let rested = |since: u64| since.saturating_add(nanos(REST)) <= unix_nano(now);
        if self.by_number.len() >= all && !self.resting.first().is_some_and(|(t, _)| rested(*t)) {
            // Looking at each would not find one either, and many may ask.
            return None;
        }
        candidates(labels, self.cluster, self.limit).find(|id| match self.by_number.get(id) {
            None => true,
            Some(number) => number.state == State::Deleted && rested(number.since),
        })
    }

    /// How many numbers are allocated, and how many rest.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.by_number.len() - self.resting.len(), self.resting.len())
    }

    /// What collecting finds to do: marks for what is not in use, an end for what was marked for long enough, and
    /// neither for what is in use.
    pub(super) fn collect(
        &self,
        in_use: &impl Fn(Identity, &Labels) -> bool,
        wait: Duration,
        now: SystemTime,
    ) -> Vec<Entry> {
        let now = unix_nano(now);
        let next = |id: &Identity, number: &Number| {
            let over = number.since.saturating_add(nanos(wait)) <= now;
            let state = match (number.state, in_use(*id, &number.labels)) {
                (State::Used, true) | (State::Deleted, false) => return None,
                (State::Marked | State::Deleted, true) => State::Used,
                (State::Used, false) => State::Marked,
                (State::Marked, false) if over => State::Deleted,
                (State::Marked, false) => return None,
            };
            Some(identity(*id, &number.labels, state, now))
        };
        self.by_number.iter().filter_map(|(id, number)| next(id, number)).collect()
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
        let numbers = self.by_number.iter();
        let numbers = numbers.map(|(id, n)| identity(*id, &n.labels, n.state, n.since));
        [cluster, revision].into_iter().chain(numbers).collect()
    }

    /// How many lines are needed at most.
    pub(super) fn needed(&self) -> usize {
        self.by_number.len() + 2
    }

    /// Numbers that were allocated or released since the last call: those that are there, with their label sets.
    pub(super) fn take_changes(&mut self) -> Vec<(Identity, Option<Labels>)> {
        let published = |id: Identity| {
            let number = self.by_number.get(&id).filter(|n| n.state != State::Deleted);
            (id, number.map(|number| (*number.labels).clone()))
        };
        std::mem::take(&mut self.changed).into_iter().map(published).collect()
    }

    /// Takes the place of another reading of the journal: everything may have changed.
    pub(super) fn supersede(&mut self, before: &Self) {
        self.changed.extend(&before.changed);
        self.changed.extend(before.by_number.keys());
    }
}

/// A line about a number.
pub(super) fn identity(id: Identity, labels: &Labels, state: State, unix_nano: u64) -> Entry {
    Entry::Identity { id: id.get(), labels: labels.to_string(), state, unix_nano }
}
