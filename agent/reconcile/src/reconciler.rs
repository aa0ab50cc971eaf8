//! Changes by key go in, the next key to write comes out.

use std::time::{Duration, Instant};

use mesh_backoff::{Backoff, Policy};

use crate::{
    failure::Failure,
    order::{Arrival, Order, Verb},
    status::{AuditPass, Status, reasons},
};

mod audit;
mod store;
mod turn;

pub use audit::{Repair, Wanted};
use store::{Entry, State, Store};
pub use turn::{Apply, Left, Turn};

/// Pending and failing keys of one kind of state. Keys of a target are independent of each other except for their
/// [`Order`].
#[derive(Debug)]
pub struct Reconciler<K, V, O: Order<K> = Arrival> {
    settings: Settings,
    store: Store<K, V, O>,
    /// Back-off alone makes no key due before this: see [`Settings::retries_per_second`].
    next_retry: Option<Instant>,
    repairs: u64,
    pruned: u64,
    pass: audit::Pass,
    last_audit: Option<AuditPass>,
    last_error: Option<String>,
}

/// How failing keys are tried again.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The pauses of a key that fails.
    pub policy: Policy,
    /// How many keys a second are retried because their pause is over, so that many failing keys cost no more than a
    /// few. First attempts, changed keys, [`Reconciler::relevant`] and [`Reconciler::freed`] do not count. `None`: no
    /// bound.
    pub retries_per_second: Option<u32>,
    /// Makes the jitter of two agents differ.
    pub seed: u64,
}

/// The action on a key. Each is idempotent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action<V> {
    /// It exists, with this value.
    Set(V),
    /// It does not exist.
    Remove,
    /// It is removed with all its members, and then set again to this value.
    Recreate(V),
}

/// A key that is to be written now. Its [`Reconciler::done`] must follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job<K, V> {
    /// The key.
    pub key: K,
    /// The action.
    pub action: Action<V>,
}

/// The consequence of a completed write for its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The key is as wanted.
    Settled {
        /// An attempt at this value had failed before.
        recovered: bool,
    },
    /// Its wanted value changed during the write: it is due again.
    Changed,
    /// It is tried again after a pause.
    Failing {
        /// It did not fail before, or for another reason.
        new: bool,
    },
    /// The reconciler did not hand this key out, or its group was removed since.
    Unknown,
}

/// The consequence of a report of the kernel about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relevance {
    /// It is due now, and its pauses start again at the shortest.
    Reset,
    /// Its pauses were reset less than [`Reconciler::<(), ()>::RESET_PAUSE`] ago; it is due when that is over.
    TooSoon,
    /// It does not wait for anything.
    NotWaiting,
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self { policy: Policy::OBJECT, retries_per_second: None, seed: 0 }
    }
}

// === impl Action ===

impl<V> Action<V> {
    /// The wanted value.
    pub fn value(&self) -> Option<&V> {
        match self {
            Self::Set(value) | Self::Recreate(value) => Some(value),
            Self::Remove => None,
        }
    }

    /// The operation on the key.
    pub fn verb(&self) -> Verb {
        match self {
            Self::Set(_) | Self::Recreate(_) => Verb::Set,
            Self::Remove => Verb::Remove,
        }
    }
}

// === impl Reconciler ===

impl<K: Ord + Clone, V: PartialEq + Clone, O: Order<K>> Default for Reconciler<K, V, O> {
    fn default() -> Self {
        Self::new(Settings::default())
    }
}

impl<K, V, O: Order<K>> Reconciler<K, V, O> {
    /// [`Reconciler::relevant`] resets the pauses of a key at most this often, and a key that was repaired and is not
    /// as wanted again within this time is repaired after a pause.
    pub const RESET_PAUSE: Duration = Duration::from_secs(10);
}

impl<K: Ord + Clone, V: PartialEq + Clone, O: Order<K>> Reconciler<K, V, O> {
    /// Nothing is pending.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            store: Store::default(),
            next_retry: None,
            repairs: 0,
            pruned: 0,
            pass: audit::Pass::default(),
            last_audit: None,
            last_error: None,
        }
    }

    /// A key is to have a value, or not to exist. A pending key keeps its position and is written once; a failing one
    /// whose wanted value changes is due immediately.
    pub fn want(&mut self, key: K, value: Option<V>) {
        let whole = self.store.get(&key).is_some_and(|entry| entry.whole);
        let action = match value {
            Some(value) if whole => Action::Recreate(value),
            Some(value) => Action::Set(value),
            None => Action::Remove,
        };
        self.want_action(key, action, whole);
    }

    /// The head of a group is removed, and with it all keys of its group: pending changes of these are forgotten. If
    /// the head is wanted again before it was removed, it becomes [`Action::Recreate`].
    pub fn remove_group(&mut self, head: K) {
        for key in self.store.group_keys(&head) {
            if key != head {
                self.store.take(&key);
                self.store.leave_group(&key);
            }
        }
        self.want_action(head, Action::Remove, true);
    }

    fn want_action(&mut self, key: K, action: Action<V>, whole: bool) {
        let mut entry = match self.store.take(&key) {
            Some(Entry { state: State::Resting { until, seq }, rests: true, .. }) => {
                Entry::rest(action, until, seq)
            }
            None | Some(Entry { state: State::Resting { .. }, .. }) => {
                Entry::new(action, State::Due(self.store.ticket(&key)))
            }
            Some(mut entry) => {
                let same = entry.action == action;
                if !same {
                    (entry.action, entry.failure, entry.backoff) = (action, None, None);
                    entry.repair = false;
                }
                entry.state = match entry.state {
                    State::InFlight { changed, relevant } => {
                        State::InFlight { changed: changed || !same, relevant }
                    }
                    due @ State::Due(_) => due,
                    waits @ (State::Waiting { .. } | State::Parked) if same || entry.rests => waits,
                    State::Waiting { .. } | State::Parked | State::Resting { .. } => {
                        State::Due(self.store.ticket(&key))
                    }
                };
                entry
            }
        };
        entry.whole = whole;
        self.store.put(key, entry);
    }

    /// The next key to write, if one is due.
    pub fn next(&mut self, now: Instant) -> Option<Job<K, V>> {
        self.store.forget_rested(now);
        while let Some(at) = self.store.next_wait()
            && at <= now
            && self.take_retry(now)
        {
            self.store.wake_first();
        }
        self.store.take_due()
    }

    /// Whether one more key may be tried again, by the bound of retries a second.
    fn take_retry(&mut self, now: Instant) -> bool {
        let Some(rate) = self.settings.retries_per_second else { return true };
        if self.next_retry.is_some_and(|at| at > now) {
            return false;
        }
        // The unused part of the last second may be used now, for a caller that comes seldom.
        let used = self.next_retry.map(|at| at.max(now.checked_sub(SECOND).unwrap_or(now)));
        self.next_retry = Some(used.unwrap_or(now) + SECOND / rate.max(1));
        true
    }

    /// When [`Reconciler::next`] has a key, if nothing else happens; a time that is over where it has one now.
    pub fn due_at(&self, now: Instant) -> Option<Instant> {
        if self.store.has_due() {
            return Some(now);
        }
        let at = self.store.next_wait()?;
        Some(self.next_retry.map_or(at, |retry| at.max(retry)))
    }

    /// How the write of a key ended that [`Reconciler::next`] gave.
    pub fn done(&mut self, key: &K, result: Result<(), Failure>, now: Instant) -> Outcome {
        self.done_and_rest(key, result, Duration::ZERO, now)
    }

    /// The same for a target that is written seldom: a key that was written is not written again before it has rested that
    /// long, whatever is wanted meanwhile.
    pub fn done_and_rest(
        &mut self,
        key: &K,
        result: Result<(), Failure>,
        rest: Duration,
        now: Instant,
    ) -> Outcome {
        let Some(mut entry) = self.store.take(key) else { return Outcome::Unknown };
        let State::InFlight { changed, relevant } = entry.state else {
            self.store.put(key.clone(), entry);
            return Outcome::Unknown;
        };
        let outcome = match result {
            result if changed => {
                let rest = if result.is_ok() { rest } else { Duration::ZERO };
                entry.rests = !rest.is_zero();
                entry.state = match entry.rests {
                    true => State::Waiting { at: now + rest, seq: self.store.seq() },
                    false => State::Due(self.store.ticket(key)),
                };
                Outcome::Changed
            }
            Ok(()) => {
                let settled = Outcome::Settled { recovered: entry.failure.is_some() };
                (entry.failure, entry.whole, entry.last_reset) = (None, false, None);
                let remembered = if entry.repair { Self::RESET_PAUSE } else { Duration::ZERO };
                if rest.max(remembered).is_zero() {
                    self.store.leave_group(key);
                    return settled;
                }
                let until = now + rest.max(remembered);
                entry.state = State::Resting { until, seq: self.store.seq() };
                entry.rests = !rest.is_zero();
                settled
            }
            Err(failure) => {
                let new = entry.failure.as_ref() != Some(&failure);
                entry.failure = Some(failure);
                if relevant && entry.may_reset(now, Self::RESET_PAUSE) {
                    (entry.backoff, entry.last_reset) = (None, Some(now));
                }
                entry.state = self.wait(&mut entry.backoff, now);
                Outcome::Failing { new }
            }
        };
        self.store.put(key.clone(), entry);
        outcome
    }

    /// After the next pause.
    fn wait(&mut self, backoff: &mut Option<Backoff>, now: Instant) -> State {
        let seq = self.store.seq();
        let seed = self.settings.seed.wrapping_add(seq);
        let backoff = backoff.get_or_insert_with(|| Backoff::new(self.settings.policy, seed));
        State::Waiting { at: now + backoff.failed(), seq }
    }

    /// The kernel reported something that may let a failing key succeed. Reports that the target's own writes cause are
    /// not to be passed on.
    pub fn relevant(&mut self, key: &K, now: Instant) -> Relevance {
        if !self.store.get(key).is_some_and(Entry::may_hear) {
            return Relevance::NotWaiting;
        }
        let Some(mut entry) = self.store.take(key) else { return Relevance::NotWaiting };
        let relevance = match &mut entry.state {
            State::InFlight { relevant, .. } => {
                *relevant = true;
                Relevance::NotWaiting
            }
            State::Waiting { at, .. } => {
                let may = entry.last_reset.map_or(now, |last| last + Self::RESET_PAUSE);
                if may <= now {
                    (entry.backoff, entry.last_reset) = (None, Some(now));
                    entry.state = State::Due(self.store.ticket(key));
                    Relevance::Reset
                } else {
                    *at = may.min(*at);
                    Relevance::TooSoon
                }
            }
            State::Due(_) | State::Parked | State::Resting { .. } => Relevance::NotWaiting,
        };
        self.store.put(key.clone(), entry);
        relevance
    }

    /// This many entries of a pool are free again: as many keys that had no room are due, those first that wait
    /// longest. Returns how many there were.
    pub fn freed(&mut self, pool: &'static str, entries: usize) -> usize {
        let keys = self.store.without_room(pool, entries);
        keys.iter().for_each(|key| self.store.wake(key));
        keys.len()
    }

    /// Whether a key is as it was last written, as far as is known.
    pub fn is_settled(&self, key: &K) -> bool {
        self.store.get(key).is_none_or(|entry| matches!(entry.state, State::Resting { .. }))
    }

    /// Whether a key, and all others of its group, are as they were last written, as far as is known.
    pub fn is_group_settled(&self, key: &K) -> bool {
        self.store.group_is_settled(key)
    }

    /// Whether nothing is pending or failing.
    pub fn is_idle(&self) -> bool {
        self.store.is_empty()
    }

    /// Why a key could not be written.
    pub fn failure(&self, key: &K) -> Option<&Failure> {
        self.store.get(key)?.failure.as_ref()
    }

    /// All keys that could not be written, by their failure.
    pub fn failures(&self) -> impl Iterator<Item = (&K, &Failure)> {
        let failures = self.store.failures().iter();
        failures.flat_map(|(failure, keys)| keys.iter().map(move |key| (key, failure)))
    }

    /// Why the target could not be listed; `None`: it was.
    pub fn set_error(&mut self, error: Option<String>) {
        self.last_error = error;
    }

    /// Its state. `describe` names a key.
    pub fn status(&self, describe: impl Fn(&K) -> String) -> Status {
        let counts = self.store.counts();
        let (reasons, more_reasons) = reasons(self.store.failures(), describe);
        Status {
            pending: counts.pending,
            failing: counts.failing,
            deferred: counts.deferred,
            reasons,
            more_reasons,
            repairs: self.repairs,
            pruned: self.pruned,
            last_audit: self.last_audit,
            last_error: self.last_error.clone(),
        }
    }
}

const SECOND: Duration = Duration::from_secs(1);
