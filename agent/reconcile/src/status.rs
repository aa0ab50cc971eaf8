//! What a reconciler reports about itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use crate::failure::{Class, Failure};

/// The state of a reconciler: the one form for all writers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Keys that are to be written and have not failed.
    pub pending: usize,
    /// Keys whose last attempt failed.
    pub failing: usize,
    /// Keys that are not possible as things are, which is no failure.
    pub deferred: usize,
    /// Why keys fail or are deferred: the first few reasons.
    pub reasons: Vec<Reason>,
    /// How many more reasons there are.
    pub more_reasons: usize,
    /// Keys that were wanted and written, and then were not as wanted: since the start.
    pub repairs: u64,
    /// Keys that were not wanted and that were removed: since the start.
    pub pruned: u64,
    /// The last complete comparison.
    pub last_audit: Option<AuditPass>,
    /// Why the last list of the target failed, if it did.
    pub last_error: Option<String>,
}

/// Keys that fail alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The failure they share.
    pub failure: Failure,
    /// How many there are.
    pub count: usize,
    /// One of them, as text.
    pub example: String,
}

/// A complete comparison of what is there with what is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditPass {
    /// When it ended.
    pub at: Instant,
    /// Keys that were compared.
    pub checked: u64,
    /// Keys that were not as wanted.
    pub repaired: u64,
    /// Keys that were not wanted.
    pub pruned: u64,
}

/// How many of each category there are.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) pending: usize,
    pub(crate) failing: usize,
    pub(crate) deferred: usize,
}

// === impl Status ===

impl Status {
    /// How many reasons are given.
    pub const REASONS: usize = 8;

    /// Whether all that is wanted exists, as far as possible.
    pub fn is_settled(&self) -> bool {
        self.pending == 0 && self.failing == 0
    }
}

// === impl Counts ===

impl Counts {
    /// The counter that a key with such a failure is counted in.
    pub(crate) fn of(&mut self, failure: Option<&Failure>) -> &mut usize {
        match failure.map(Failure::class) {
            None => &mut self.pending,
            Some(Class::Failed | Class::NoRoom(_)) => &mut self.failing,
            Some(Class::Deferred) => &mut self.deferred,
        }
    }
}

/// The first few reasons, and the number of the others.
pub(crate) fn reasons<K: Ord>(
    failures: &BTreeMap<Failure, BTreeSet<K>>,
    describe: impl Fn(&K) -> String,
) -> (Vec<Reason>, usize) {
    let reason = |(failure, keys): (&Failure, &BTreeSet<K>)| Reason {
        failure: failure.clone(),
        count: keys.len(),
        example: keys.first().map(&describe).unwrap_or_default(),
    };
    let first = failures.iter().take(Status::REASONS).map(reason).collect();
    (first, failures.len().saturating_sub(Status::REASONS))
}
