//! When what was listed is all there is.
//!
//! A writer puts a canary beside each prefix when everything of it is there (`docs/wire.md`, "Canaries"). So a list is
//! complete if it is not older than the prefix's canary, and if the canary is still there as of the list: the lease that
//! took away what is missing would have taken the canary too.

use std::collections::{BTreeMap, BTreeSet};

use mesh_model::RecordKind;
use mesh_wire::{Layout, Prefix};

use crate::follower::RangeId;

/// What is known of a cluster's prefixes.
#[derive(Debug)]
pub(crate) struct Completeness {
    layout: Layout,
    /// The cluster writes canaries. Without them a list is complete.
    canaried: bool,
    kinds: Vec<KindState>,
    /// The revision that put each canary last.
    canaries: BTreeMap<(Layout, Prefix), i64>,
    /// The revision as of which they are known, on this connection.
    known_at: i64,
}

/// A kind of record that counts, and so the prefix that it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct KindState {
    kind: RecordKind,
    range: RangeId,
    /// The list since the last beginning was complete.
    confirmed: bool,
    /// A lease ran out in this revision: only a canary that was put after it vouches for a list.
    expired: Option<i64>,
}

/// What a list amounts to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Listed {
    /// The canaries are known as of an earlier revision only.
    LookAtCanaries,
    /// It is older than a canary.
    Again,
    /// These kinds are complete; the others of the range wait for their canaries.
    Complete(Vec<RecordKind>),
}

// === impl Completeness ===

impl Default for Completeness {
    fn default() -> Self {
        Self {
            layout: Layout::State,
            canaried: true,
            kinds: Vec::new(),
            canaries: BTreeMap::new(),
            known_at: 0,
        }
    }
}

impl Completeness {
    /// These kinds count. What is known of those that counted before stays.
    pub(crate) fn set_kinds(
        &mut self,
        layout: Layout,
        canaried: bool,
        kinds: Vec<(RecordKind, RangeId)>,
    ) {
        (self.layout, self.canaried) = (layout, canaried);
        let before = std::mem::take(&mut self.kinds);
        let of = |(kind, range): (RecordKind, RangeId)| {
            let same = before.iter().find(|state| (state.kind, state.range) == (kind, range));
            same.copied().unwrap_or(KindState { kind, range, confirmed: false, expired: None })
        };
        self.kinds = kinds.into_iter().map(of).collect();
    }

    /// Another connection stands.
    pub(crate) fn connected(&mut self) {
        self.known_at = 0;
    }

    /// It is of another history: nothing of it is complete, and nothing expired in it.
    pub(crate) fn new_history(&mut self) {
        for state in &mut self.kinds {
            (state.confirmed, state.expired) = (false, None);
        }
    }

    /// The canaries are listed from here on.
    pub(crate) fn begin_canaries(&mut self) {
        self.canaries.clear();
    }

    /// A canary was put. Returns the ranges for which it vouches.
    pub(crate) fn canary(
        &mut self,
        layout: Layout,
        prefix: Prefix,
        revision: i64,
    ) -> BTreeSet<RangeId> {
        self.canaries.insert((layout, prefix), revision);
        self.known_at = self.known_at.max(revision);
        let states = self.kinds.iter().filter(|state| Prefix::of(state.kind) == prefix);
        states.map(|state| state.range).collect()
    }

    /// Whether the cluster tells its own nodes what only they may know.
    pub(crate) fn is_local_told(&self) -> bool {
        self.canaries.contains_key(&(Layout::State, Prefix::Local))
    }

    /// The canaries were listed as of a revision.
    pub(crate) fn canaries_listed(&mut self, revision: i64) {
        self.known_at = revision;
    }

    /// A range is listed from here on. Returns the kinds in it.
    pub(crate) fn begin(&mut self, range: RangeId) -> Vec<RecordKind> {
        let states = self.kinds.iter_mut().filter(|state| state.range == range);
        let begun = states.map(|state| {
            state.confirmed = false;
            state.kind
        });
        begun.collect()
    }

    /// A range was listed as of a revision. `believed`: what the etcd does not have is not only not there yet.
    pub(crate) fn listed(&mut self, range: RangeId, revision: i64, believed: bool) -> Listed {
        let waiting = || self.kinds.iter().filter(|state| state.range == range && !state.confirmed);
        if self.canaried && waiting().next().is_some() {
            if self.known_at < revision {
                return Listed::LookAtCanaries;
            }
            if waiting().any(|state| self.canary_of(state.kind) > Some(revision)) {
                return Listed::Again;
            }
        }
        let vouched = |state: &&KindState| match self.canaried {
            true => self.canary_of(state.kind).is_some_and(|at| Some(at) > state.expired),
            false => state.expired.is_none(),
        };
        let complete: Vec<RecordKind> =
            waiting().filter(vouched).map(|state| state.kind).filter(|_| believed).collect();
        for state in self.kinds.iter_mut().filter(|state| complete.contains(&state.kind)) {
            (state.confirmed, state.expired) = (true, None);
        }
        Listed::Complete(complete)
    }

    /// The heartbeat was put. Returns the ranges to be listed for it.
    pub(crate) fn beat(&mut self, revision: i64) -> Vec<RangeId> {
        let canaried = self.canaried;
        let explained = |state: &&mut KindState| match state.expired {
            // That revision was meant, as is known only now.
            Some(expired) if expired == revision => true,
            // A writer without canaries is back when its heart beats.
            Some(expired) => !canaried && expired < revision,
            None => false,
        };
        let states = self.kinds.iter_mut().filter(explained);
        let ranges = states.map(|state| {
            state.expired = None;
            state.range
        });
        ranges.collect()
    }

    /// The kinds in ranges.
    pub(crate) fn kinds_in(&self, ranges: &BTreeSet<RangeId>) -> impl Iterator<Item = RecordKind> {
        let of = self.kinds.iter().filter(|state| ranges.contains(&state.range));
        of.map(|state| state.kind)
    }

    /// A lease ran out in a revision, and records of these kinds with it. Returns the ranges to be listed at once: their
    /// writer is back already.
    pub(crate) fn expired(&mut self, kinds: &BTreeSet<RecordKind>, revision: i64) -> Vec<RangeId> {
        let mut back = Vec::new();
        for state in self.kinds.iter_mut().filter(|state| kinds.contains(&state.kind)) {
            state.confirmed = false;
            state.expired = state.expired.max(Some(revision));
            let canary = self.canaries.get(&canary_key(self.layout, state.kind));
            if canary.copied() > state.expired {
                back.push(state.range);
            }
        }
        back
    }

    /// Whether a kind's canary is there, and was at a revision: one that was put later may have gone with it.
    pub(crate) fn is_vouched(&self, kind: RecordKind, revision: i64) -> bool {
        !self.canaried || self.canary_of(kind).is_some_and(|canary| canary < revision)
    }

    /// Whether the cluster writes canaries.
    pub(crate) fn is_canaried(&self) -> bool {
        self.canaried
    }

    /// Whether a kind counts.
    pub(crate) fn counts(&self, kind: RecordKind) -> bool {
        self.kinds.iter().any(|state| state.kind == kind)
    }

    /// Whether a kind counts and is complete.
    pub(crate) fn is_confirmed(&self, kind: RecordKind) -> bool {
        self.kinds.iter().any(|state| state.kind == kind && state.confirmed)
    }

    /// The ranges that count.
    pub(crate) fn ranges(&self) -> BTreeSet<RangeId> {
        self.kinds.iter().map(|state| state.range).collect()
    }

    /// The kinds that count, and whether each is complete.
    pub(crate) fn kinds(&self) -> impl Iterator<Item = (RecordKind, bool)> {
        self.kinds.iter().map(|state| (state.kind, state.confirmed))
    }

    fn canary_of(&self, kind: RecordKind) -> Option<i64> {
        self.canaries.get(&canary_key(self.layout, kind)).copied()
    }
}

/// The canary of a kind. What is local is in no cache.
fn canary_key(layout: Layout, kind: RecordKind) -> (Layout, Prefix) {
    match Prefix::of(kind) {
        Prefix::Local => (Layout::State, Prefix::Local),
        prefix => (layout, prefix),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: RangeId = RangeId(4);

    fn services(canaried: bool) -> Completeness {
        let mut completeness = Completeness::default();
        completeness.set_kinds(Layout::State, canaried, vec![(RecordKind::Service, RANGE)]);
        completeness
    }

    fn complete() -> Listed {
        Listed::Complete(vec![RecordKind::Service])
    }

    #[test]
    fn a_list_needs_a_canary_that_is_neither_younger_nor_gone() {
        let mut completeness = services(true);
        assert_eq!(completeness.listed(RANGE, 5, true), Listed::LookAtCanaries);
        completeness.canaries_listed(5);
        assert_eq!(completeness.listed(RANGE, 5, true), Listed::Complete(vec![]));
        let vouched = completeness.canary(Layout::State, Prefix::Services, 6);
        assert_eq!(vouched, BTreeSet::from([RANGE]));
        assert_eq!(completeness.listed(RANGE, 5, true), Listed::Again);
        assert_eq!(completeness.begin(RANGE), [RecordKind::Service]);
        assert_eq!(completeness.listed(RANGE, 6, false), Listed::Complete(vec![]), "not yet");
        assert_eq!(completeness.listed(RANGE, 6, true), complete());
        assert_eq!(completeness.listed(RANGE, 6, true), Listed::Complete(vec![]), "once");
        assert!(completeness.is_vouched(RecordKind::Service, 7));
        assert!(!completeness.is_vouched(RecordKind::Service, 6));
    }

    #[test]
    fn after_a_lease_ran_out_a_younger_canary() {
        let mut completeness = services(true);
        completeness.canary(Layout::State, Prefix::Services, 3);
        let kinds = BTreeSet::from([RecordKind::Service]);
        assert_eq!(completeness.expired(&kinds, 5), []);
        completeness.canaries_listed(8);
        assert_eq!(completeness.listed(RANGE, 8, true), Listed::Complete(vec![]));
        completeness.canary(Layout::State, Prefix::Services, 9);
        assert_eq!(completeness.listed(RANGE, 9, true), complete());
        // Its writer may be faster than the news.
        assert_eq!(completeness.expired(&kinds, 8), [RANGE]);
        // Or it meant it after all.
        assert_eq!((completeness.beat(7), completeness.beat(8)), (vec![], vec![RANGE]));
    }

    #[test]
    fn without_canaries_a_heartbeat() {
        let mut completeness = services(false);
        assert_eq!(completeness.listed(RANGE, 5, true), complete());
        completeness.expired(&BTreeSet::from([RecordKind::Service]), 6);
        assert_eq!(completeness.listed(RANGE, 7, true), Listed::Complete(vec![]));
        assert_eq!(completeness.beat(8), [RANGE]);
        completeness.begin(RANGE);
        assert_eq!(completeness.listed(RANGE, 8, true), complete());
    }
}
