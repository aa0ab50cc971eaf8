//! The pending and failing keys, indexed by key, by due time, by group and by reason.
//!
//! Every change of an entry is `take`, change, `put`: these two alone keep the indices consistent.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use mesh_backoff::Backoff;

use super::{Action, Job};
use crate::{
    failure::{Class, Failure},
    order::{Order, Verb},
    status::Counts,
};

/// What is known of a key that is not settled.
#[derive(Debug)]
pub(super) struct Entry<V> {
    pub(super) action: Action<V>,
    pub(super) state: State,
    /// The failure of the last attempt at this value.
    pub(super) failure: Option<Failure>,
    pub(super) backoff: Option<Backoff>,
    /// When its pauses were last reset by a report of the kernel.
    pub(super) last_reset: Option<Instant>,
    /// It is written because it was not as wanted.
    pub(super) repair: bool,
    /// Its removal takes its group along, and was not carried out yet.
    pub(super) whole: bool,
    /// It is not to be written before it has rested.
    pub(super) rests: bool,
}

/// Where a key is on its way.
#[derive(Clone, Copy, Debug)]
pub(super) enum State {
    Due(Ticket),
    /// It failed, or was written a moment ago, and is due at that time.
    Waiting {
        at: Instant,
        seq: u64,
    },
    /// Handed out; what happened since.
    InFlight {
        changed: bool,
        relevant: bool,
    },
    /// The head of its group cannot be set.
    Parked,
    /// Written, and remembered for a while: a repair, so that it is no endless fight, and what is written seldom.
    Resting {
        until: Instant,
        seq: u64,
    },
}

/// A place among what is due.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket {
    batch: u64,
    seq: u64,
}

#[derive(Debug)]
struct Group<K> {
    keys: BTreeSet<K>,
    /// The batch that keys join; the first key that is taken from it closes it.
    open: Option<u64>,
    /// The head cannot be set.
    blocked: bool,
}

#[derive(Debug)]
pub(super) struct Store<K, V, O: Order<K>> {
    entries: BTreeMap<K, Entry<V>>,
    due: BTreeMap<(u64, u8, u64), K>,
    waiting: BTreeMap<(Instant, u64), K>,
    resting: BTreeMap<(Instant, u64), K>,
    /// Those of the waiting keys that have no room.
    no_room: BTreeMap<(&'static str, u64), K>,
    failures: BTreeMap<Failure, BTreeSet<K>>,
    groups: BTreeMap<O::Group, Group<K>>,
    counts: Counts,
    seq: u64,
}

// === impl Entry ===

impl<V> Entry<V> {
    pub(super) fn new(action: Action<V>, state: State) -> Self {
        Self {
            action,
            state,
            failure: None,
            backoff: None,
            last_reset: None,
            repair: false,
            whole: false,
            rests: false,
        }
    }

    /// One that was written a moment ago, and is written again when it has rested.
    pub(super) fn rest(action: Action<V>, at: Instant, seq: u64) -> Self {
        Self { rests: true, ..Self::new(action, State::Waiting { at, seq }) }
    }

    /// Whether what the kernel reports can make a difference to it.
    pub(super) fn may_hear(&self) -> bool {
        !self.rests && matches!(self.state, State::Waiting { .. } | State::InFlight { .. })
    }

    pub(super) fn may_reset(&self, now: Instant, pause: Duration) -> bool {
        self.last_reset.is_none_or(|last| last + pause <= now)
    }

    fn blocks(&self) -> bool {
        self.failure.is_some() && self.action.verb() == Verb::Set
    }
}

// === impl Store ===

impl<K, V, O: Order<K>> Default for Store<K, V, O> {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            due: BTreeMap::new(),
            waiting: BTreeMap::new(),
            resting: BTreeMap::new(),
            no_room: BTreeMap::new(),
            failures: BTreeMap::new(),
            groups: BTreeMap::new(),
            counts: Counts::default(),
            seq: 0,
        }
    }
}

impl<K: Ord + Clone, V: Clone, O: Order<K>> Store<K, V, O> {
    pub(super) fn get(&self, key: &K) -> Option<&Entry<V>> {
        self.entries.get(key)
    }

    /// Takes an entry out of all indices but its group's.
    pub(super) fn take(&mut self, key: &K) -> Option<Entry<V>> {
        let entry = self.entries.remove(key)?;
        match entry.state {
            State::Due(ticket) => drop(self.due.remove(&slot::<K, V, O>(key, &entry, ticket))),
            State::Waiting { at, seq } => {
                self.waiting.remove(&(at, seq));
                if let Some(pool) = pool(&entry) {
                    self.no_room.remove(&(pool, seq));
                }
            }
            State::Resting { until, seq } => drop(self.resting.remove(&(until, seq))),
            State::InFlight { .. } | State::Parked => {}
        }
        if !matches!(entry.state, State::Resting { .. }) {
            *self.counts.of(entry.failure.as_ref()) -= 1;
        }
        if let Some(failure) = &entry.failure
            && let Some(keys) = self.failures.get_mut(failure)
        {
            keys.remove(key);
            if keys.is_empty() {
                self.failures.remove(failure);
            }
        }
        Some(entry)
    }

    /// Puts an entry in. One whose group is blocked is parked; a head blocks or releases its group.
    pub(super) fn put(&mut self, key: K, mut entry: Entry<V>) {
        let mut turned = None;
        if O::GROUPED {
            let group = self.group(&key);
            let blocks = entry.blocks();
            if O::is_head(&key) {
                turned = (group.blocked != blocks).then_some(blocks);
                group.blocked = blocks;
            } else if group.blocked && matches!(entry.state, State::Due(_)) {
                entry.state = State::Parked;
            }
            if !group.keys.contains(&key) {
                group.keys.insert(key.clone());
            }
        }
        match entry.state {
            State::Due(ticket) => {
                self.due.insert(slot::<K, V, O>(&key, &entry, ticket), key.clone());
            }
            State::Waiting { at, seq } => {
                self.waiting.insert((at, seq), key.clone());
                if let Some(pool) = pool(&entry) {
                    self.no_room.insert((pool, seq), key.clone());
                }
            }
            State::Resting { until, seq } => drop(self.resting.insert((until, seq), key.clone())),
            State::InFlight { .. } | State::Parked => {}
        }
        if !matches!(entry.state, State::Resting { .. }) {
            *self.counts.of(entry.failure.as_ref()) += 1;
        }
        if let Some(failure) = &entry.failure {
            self.failures.entry(failure.clone()).or_default().insert(key.clone());
        }
        let head = turned.is_some().then(|| key.clone());
        self.entries.insert(key, entry);
        if let Some((blocked, head)) = turned.zip(head) {
            self.turn_group(&head, blocked);
        }
    }

    /// The head's group waits for it, or need not any more.
    fn turn_group(&mut self, head: &K, blocked: bool) {
        for key in self.group_keys(head) {
            let waits = match self.entries.get(&key).map(|entry| entry.state) {
                Some(State::Due(_)) => blocked,
                // Keys that failed may have failed for lack of the head.
                Some(State::Parked | State::Waiting { .. }) => !blocked,
                Some(State::InFlight { .. } | State::Resting { .. }) | None => false,
            };
            if key != *head && waits {
                self.wake(&key);
            }
        }
    }

    /// The key, if there is one, is due.
    pub(super) fn wake(&mut self, key: &K) {
        let ticket = self.ticket(key);
        if let Some(mut entry) = self.take(key) {
            entry.state = State::Due(ticket);
            self.put(key.clone(), entry);
        }
    }

    /// The key whose pause is over first is due.
    pub(super) fn wake_first(&mut self) {
        if let Some(key) = self.waiting.first_key_value().map(|(_, key)| key.clone()) {
            self.wake(&key);
        }
    }

    /// When the first pause is over.
    pub(super) fn next_wait(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|((at, _), _)| *at)
    }

    pub(super) fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Hands out what is due first.
    pub(super) fn take_due(&mut self) -> Option<Job<K, V>> {
        let ((batch, ..), key) =
            self.due.first_key_value().map(|(slot, key)| (*slot, key.clone()))?;
        let mut entry = self.take(&key)?;
        if O::GROUPED {
            let open = &mut self.group(&key).open;
            *open = open.filter(|open| *open != batch);
        }
        (entry.state, entry.rests) = (State::InFlight { changed: false, relevant: false }, false);
        let action = entry.action.clone();
        self.put(key.clone(), entry);
        Some(Job { key, action })
    }

    /// Forgets repairs that held.
    pub(super) fn forget_rested(&mut self, now: Instant) {
        while let Some(first) = self.resting.first_entry()
            && first.key().0 <= now
        {
            let key = first.get().clone();
            self.take(&key);
            self.leave_group(&key);
        }
    }

    /// Keys without room in a pool, those first that wait longest.
    pub(super) fn without_room(&self, pool: &'static str, count: usize) -> Vec<K> {
        let keys = self.no_room.range((pool, 0)..=(pool, u64::MAX));
        keys.take(count).map(|(_, key)| key.clone()).collect()
    }

    pub(super) fn failures(&self) -> &BTreeMap<Failure, BTreeSet<K>> {
        &self.failures
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// A number that no other has.
    pub(super) fn seq(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    /// A place for a key among what is due: with its group if that has not begun, else behind everything.
    pub(super) fn ticket(&mut self, key: &K) -> Ticket {
        let seq = self.seq();
        let batch = if O::GROUPED { *self.group(key).open.get_or_insert(seq) } else { seq };
        Ticket { batch, seq }
    }

    pub(super) fn group_is_settled(&self, key: &K) -> bool {
        let group = self.groups.get(&O::group(key));
        group.is_none_or(|group| group.keys.iter().all(|key| self.is_resting(key)))
    }

    fn is_resting(&self, key: &K) -> bool {
        self.entries.get(key).is_none_or(|entry| matches!(entry.state, State::Resting { .. }))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The keys of a key's group that are not settled.
    pub(super) fn group_keys(&self, key: &K) -> Vec<K> {
        let group = self.groups.get(&O::group(key));
        group.map(|group| group.keys.iter().cloned().collect()).unwrap_or_default()
    }

    /// A key is settled: its group forgets it.
    pub(super) fn leave_group(&mut self, key: &K) {
        if !O::GROUPED {
            return;
        }
        let of = O::group(key);
        let Some(group) = self.groups.get_mut(&of) else { return };
        group.keys.remove(key);
        let released = O::is_head(key) && std::mem::take(&mut group.blocked);
        if group.keys.is_empty() {
            self.groups.remove(&of);
        } else if released {
            self.turn_group(key, false);
        }
    }

    fn group(&mut self, key: &K) -> &mut Group<K> {
        let new = || Group { keys: BTreeSet::new(), open: None, blocked: false };
        self.groups.entry(O::group(key)).or_insert_with(new)
    }
}

fn slot<K, V, O: Order<K>>(key: &K, entry: &Entry<V>, ticket: Ticket) -> (u64, u8, u64) {
    (ticket.batch, O::rank(key, entry.action.verb()), ticket.seq)
}

fn pool<V>(entry: &Entry<V>) -> Option<&'static str> {
    match entry.failure.as_ref()?.class() {
        Class::NoRoom(pool) => Some(pool),
        Class::Failed | Class::Deferred => None,
    }
}
