//! Compares what is really there with what is wanted.

use std::time::Instant;

use super::{Action, Entry, Reconciler, State};
use crate::{failure::Failure, order::Order, status::AuditPass};

/// The caller's wanted state, so that the reconciler need not keep it.
pub trait Wanted<K, V> {
    /// The wanted value of a key; `None` if it should not exist.
    fn wanted(&self, key: &K) -> Option<V>;

    /// Whether an existing key that is not wanted may be removed: what it belongs to was listed in this run.
    fn may_prune(&self, key: &K) -> bool;
}

/// The consequence of a deviation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// The key is to be written.
    Queued,
    /// The key was repaired less than [`Reconciler::<(), ()>::RESET_PAUSE`] ago: it is written after a pause.
    Again,
    /// It is pending or failing anyway.
    Known,
}

/// A comparison that goes on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pass {
    checked: u64,
    repaired: u64,
    pruned: u64,
}

// === impl Reconciler ===

impl<K: Ord + Clone, V: PartialEq + Clone, O: Order<K>> Reconciler<K, V, O> {
    /// Compares a slice of the keys: each with the value that is really there. Pending and failing keys are skipped,
    /// and keys that may not be pruned are left. The caller makes sure that all wanted keys and all existing keys come
    /// up in one slice or another. Returns how many keys are to be written because of it.
    pub fn audit(
        &mut self,
        wanted: &impl Wanted<K, V>,
        found: impl IntoIterator<Item = (K, Option<V>)>,
        now: Instant,
    ) -> usize {
        let mut queued = 0;
        for (key, actual) in found {
            self.pass.checked += 1;
            let value = match (wanted.wanted(&key), actual) {
                (Some(value), Some(actual)) if value == actual => continue,
                (Some(value), _) => Some(value),
                (None, Some(_)) if wanted.may_prune(&key) => None,
                (None, _) => continue,
            };
            if self.repair(key, value, now) != Repair::Known {
                queued += 1;
            }
        }
        queued
    }

    /// All keys were compared.
    pub fn audit_done(&mut self, now: Instant) -> AuditPass {
        let pass = std::mem::take(&mut self.pass);
        let (checked, repaired, pruned) = (pass.checked, pass.repaired, pass.pruned);
        let pass = AuditPass { at: now, checked, repaired, pruned };
        self.last_audit = Some(pass);
        pass
    }

    /// A key is not as it was written: by an audit, or because the kernel reported that another program changed it. It is
    /// counted, as a repair if it is wanted and as pruned if not.
    pub fn repair(&mut self, key: K, value: Option<V>, now: Instant) -> Repair {
        self.store.forget_rested(now);
        if !self.is_settled(&key) {
            return Repair::Known;
        }
        let counters = match value {
            Some(_) => (&mut self.repairs, &mut self.pass.repaired),
            None => (&mut self.pruned, &mut self.pass.pruned),
        };
        *counters.0 += 1;
        *counters.1 += 1;
        let action = value.map_or(Action::Remove, Action::Set);
        let (entry, repair) = match self.store.take(&key) {
            None => {
                let due = State::Due(self.store.ticket(&key));
                (Entry::new(action, due), Repair::Queued)
            }
            Some(Entry { state: State::Resting { until: at, seq }, repair: false, .. }) => {
                (Entry::rest(action, at, seq), Repair::Again)
            }
            Some(mut entry) => {
                entry.failure = Some(Failure::failed(AGAIN));
                entry.action = action;
                entry.state = self.wait(&mut entry.backoff, now);
                (entry, Repair::Again)
            }
        };
        self.store.put(key, Entry { repair: true, ..entry });
        repair
    }
}

/// Why a key waits that was repaired a moment ago.
const AGAIN: &str = "another program changes it again and again";
