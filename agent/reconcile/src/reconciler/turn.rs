//! The driver of a target that is written in the caller's own loop.

use std::time::{Duration, Instant};

use super::{Action, Reconciler};
use crate::{failure::Failure, order::Order};

/// A target whose writes are done when they return: mapped tables, or a map's elements.
pub trait Apply<K, V> {
    /// Makes one key what it should be.
    ///
    /// # Errors
    /// Why it is not; its former state is unchanged then.
    fn apply(&mut self, key: &K, action: Action<&V>, now: Instant) -> Result<(), Failure>;
}

/// The result of one turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Keys that were written.
    pub applied: usize,
    /// Keys that failed.
    pub failed: usize,
    /// What is left.
    pub left: Left,
}

/// What is left after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// Nothing is due, or ever will be as things are.
    Nothing,
    /// The first failing key is due at that time.
    Later(Instant),
    /// The time was over before the work: call again.
    Due,
}

// === impl Action ===

impl<V> Action<V> {
    /// The same by reference.
    pub fn as_ref(&self) -> Action<&V> {
        match self {
            Self::Set(value) => Action::Set(value),
            Self::Remove => Action::Remove,
            Self::Recreate(value) => Action::Recreate(value),
        }
    }
}

// === impl Reconciler ===

impl<K: Ord + Clone, V: PartialEq + Clone, O: Order<K>> Reconciler<K, V, O> {
    /// Writes what is due until nothing is, or the budget is spent by the clock. The first key is written whatever the
    /// budget, so that each turn gets ahead.
    pub fn run_for(
        &mut self,
        budget: Duration,
        mut clock: impl FnMut() -> Instant,
        target: &mut impl Apply<K, V>,
    ) -> Turn {
        let mut now = clock();
        let end = now + budget;
        let (mut applied, mut failed) = (0, 0);
        while let Some(job) = self.next(now) {
            let result = target.apply(&job.key, job.action.as_ref(), now);
            *if result.is_ok() { &mut applied } else { &mut failed } += 1;
            now = clock();
            self.done(&job.key, result, now);
            if now >= end {
                break;
            }
        }
        let left = match self.due_at(now) {
            None => Left::Nothing,
            Some(at) if at <= now => Left::Due,
            Some(at) => Left::Later(at),
        };
        Turn { applied, failed, left }
    }
}
