//! When a list is complete.
//!
//! A writer puts a canary for each prefix when everything of it is there (`docs/wire.md`, "Canaries"). A list at a
//! revision is complete if the prefix's canary was there at that revision: looked up at or after it, it was created at
//! or before it. It does not matter that it was put again later, so a list under a busy writer is complete too.
//!
//! Where many keys were deleted in one revision and nothing explains it, a lease may have expired. What it deleted
//! counts as existing until the writer confirms the deletion ([`UnexplainedDeletion`]).

use std::collections::{BTreeMap, BTreeSet};

use mesh_model::RecordKind;
use mesh_wire::{Layout, Prefix};

use crate::{
    follower::RangeId,
    unexplained_deletion::{ConfirmedBy, UnexplainedDeletion},
};

/// The state of a cluster's prefixes.
#[derive(Debug)]
pub(crate) struct Completeness {
    layout: Layout,
    /// The cluster writes canaries. Without them a list is complete.
    canaried: bool,
    kinds: Vec<KindState>,
    canaries: BTreeMap<(Layout, Prefix), Canary>,
    /// The revision as of which they are known, on this connection.
    known_at: i64,
}

/// An existing canary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Canary {
    /// The revision that created it.
    pub(crate) created: i64,
    /// The revision that put it last.
    pub(crate) put: i64,
}

/// A kind of record that counts, and so the prefix that it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct KindState {
    kind: RecordKind,
    range: RangeId,
    /// The list since the last beginning was complete.
    confirmed: bool,
    unexplained: Option<UnexplainedDeletion>,
}

/// The result of a list.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Listed {
    /// The canaries are known as of an earlier revision only.
    LookAtCanaries,
    /// It is older than what confirms it: a canary's creation, or the first put of one after an unexplained deletion.
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
    /// These kinds count. The state of kinds that counted before stays.
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
            same.copied().unwrap_or(KindState { kind, range, confirmed: false, unexplained: None })
        };
        self.kinds = kinds.into_iter().map(of).collect();
    }

    /// There is another connection.
    pub(crate) fn connected(&mut self) {
        self.known_at = 0;
    }

    /// It is of another history: nothing of it is complete, and nothing expired in it.
    pub(crate) fn new_history(&mut self) {
        for state in &mut self.kinds {
            (state.confirmed, state.unexplained) = (false, None);
        }
    }

    /// The canaries are listed from here on.
    pub(crate) fn begin_canaries(&mut self) {
        (self.canaries, self.known_at) = (BTreeMap::new(), 0);
    }

    /// The canaries were listed as of a revision.
    pub(crate) fn canaries_listed(&mut self, revision: i64) {
        self.known_at = revision;
    }

    /// The canaries were looked up as of a revision: these, and no others, exist.
    pub(crate) fn canaries_seen(
        &mut self,
        canaries: BTreeMap<(Layout, Prefix), Canary>,
        revision: i64,
    ) {
        if revision < self.known_at {
            return;
        }
        for ((layout, prefix), canary) in &canaries {
            self.vouch(*layout, *prefix, canary.put);
        }
        (self.canaries, self.known_at) = (canaries, revision);
    }

    /// A canary was put. Returns the ranges for which it vouches.
    pub(crate) fn canary(
        &mut self,
        layout: Layout,
        prefix: Prefix,
        canary: Canary,
    ) -> BTreeSet<RangeId> {
        // An event that comes late adds nothing to an earlier look-up.
        if canary.put > self.known_at {
            self.canaries.insert((layout, prefix), canary);
        }
        self.vouch(layout, prefix, canary.put);
        let states = self.kinds.iter().filter(|state| Prefix::of(state.kind) == prefix);
        states.map(|state| state.range).collect()
    }

    /// A canary was removed.
    pub(crate) fn canary_gone(&mut self, layout: Layout, prefix: Prefix, revision: i64) {
        let known = self.canaries.get(&(layout, prefix));
        if known.is_some_and(|canary| canary.put < revision) {
            self.canaries.remove(&(layout, prefix));
        }
    }

    fn vouch(&mut self, layout: Layout, prefix: Prefix, put: i64) {
        for state in &mut self.kinds {
            if canary_key(self.layout, state.kind) == (layout, prefix)
                && let Some(deletion) = &mut state.unexplained
            {
                deletion.canary(put);
            }
        }
    }

    /// The revision as of which the canaries are known; any, where there are none.
    pub(crate) fn known_at(&self) -> i64 {
        if self.canaried { self.known_at } else { i64::MAX }
    }

    /// Whether the cluster exports to its nodes what only they may know.
    pub(crate) fn has_local(&self) -> bool {
        self.canaries.contains_key(&(Layout::State, Prefix::Local))
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

    /// A range was listed as of a revision. `caught_up`: keys that the etcd lacks are deleted, and not only missing so
    /// far.
    pub(crate) fn listed(&mut self, range: RangeId, revision: i64, caught_up: bool) -> Listed {
        let waiting = || self.kinds.iter().filter(|state| state.range == range && !state.confirmed);
        if waiting().next().is_some() {
            if self.known_at() < revision {
                return Listed::LookAtCanaries;
            }
            let older = |state: &KindState| {
                self.canary_of(state.kind).is_some_and(|canary| canary.created > revision)
                    || state.unexplained.is_some_and(|deletion| deletion.vouched > Some(revision))
            };
            if self.canaried && waiting().any(older) {
                return Listed::Again;
            }
        }
        let vouched = |state: &&KindState| match (state.unexplained, self.canaried) {
            (deletion, true) => {
                self.canary_of(state.kind).is_some()
                    && deletion.is_none_or(|deletion| deletion.vouched.is_some())
            }
            (deletion, false) => deletion.is_none(),
        };
        let complete: Vec<RecordKind> =
            waiting().filter(vouched).map(|state| state.kind).filter(|_| caught_up).collect();
        for state in self.kinds.iter_mut().filter(|state| complete.contains(&state.kind)) {
            (state.confirmed, state.unexplained) = (true, None);
        }
        Listed::Complete(complete)
    }

    /// The heartbeat was put. Returns the ranges to be listed for it.
    pub(crate) fn beat(&mut self, revision: i64) -> BTreeSet<RangeId> {
        let ended = |state: &mut KindState| {
            let ended = state.unexplained.as_mut().is_some_and(|deletion| deletion.beat(revision));
            ended.then(|| {
                state.unexplained = None;
                state.range
            })
        };
        self.kinds.iter_mut().filter_map(ended).collect()
    }

    /// Something that had gone with a lease came back: its writer is at it.
    pub(crate) fn put_anew(&mut self, kind: RecordKind, revision: i64) {
        let states = self.kinds.iter_mut().filter(|state| state.kind == kind);
        states.filter_map(|state| state.unexplained.as_mut()).for_each(|s| s.put_anew(revision));
    }

    /// The kinds in ranges.
    pub(crate) fn kinds_in(&self, ranges: &BTreeSet<RangeId>) -> impl Iterator<Item = RecordKind> {
        let of = self.kinds.iter().filter(|state| ranges.contains(&state.range));
        of.map(|state| state.kind)
    }

    /// A lease may have run out in a revision, and records of these kinds with it. Returns the ranges to be listed at
    /// once: their writer is back already.
    pub(crate) fn expired(
        &mut self,
        kinds: &BTreeSet<RecordKind>,
        revision: i64,
    ) -> BTreeSet<RangeId> {
        self.hold_deletion(kinds, revision, UnexplainedDeletion::beats_from(revision, true));
        let states = self.kinds.iter_mut().filter(|state| kinds.contains(&state.kind));
        let back = states.filter_map(|state| {
            state.confirmed = false;
            state.unexplained?.vouched.map(|_| state.range)
        });
        back.collect()
    }

    /// Changes of these ranges up to a revision were missed.
    pub(crate) fn unseen(&mut self, ranges: &BTreeSet<RangeId>, revision: i64) {
        let kinds = self.kinds_in(ranges).collect();
        self.hold_deletion(&kinds, revision, UnexplainedDeletion::beats_from(revision, false));
    }

    /// The ranges of kinds.
    pub(crate) fn ranges_of(&self, kinds: &[RecordKind]) -> BTreeSet<RangeId> {
        let of = self.kinds.iter().filter(|state| kinds.contains(&state.kind));
        of.map(|state| state.range).collect()
    }

    /// Only a canary that is put after a revision vouches for these kinds.
    pub(crate) fn wait_for_canary(&mut self, kinds: &[RecordKind], revision: i64) {
        self.hold_deletion(&kinds.iter().copied().collect(), revision, ConfirmedBy::CanaryOnly);
    }

    fn hold_deletion(
        &mut self,
        kinds: &BTreeSet<RecordKind>,
        revision: i64,
        confirmed_by: ConfirmedBy,
    ) {
        for index in 0..self.kinds.len() {
            let Some(state) = self.kinds.get(index).filter(|s| kinds.contains(&s.kind)) else {
                continue;
            };
            if state.unexplained.is_some_and(|deletion| deletion.since >= revision) {
                continue;
            }
            let waits = state
                .unexplained
                .is_some_and(|before| before.confirmed_by == ConfirmedBy::CanaryOnly);
            let mut deletion = UnexplainedDeletion::new(
                revision,
                if waits { ConfirmedBy::CanaryOnly } else { confirmed_by },
            );
            let known = state.unexplained.and_then(|before| before.vouched);
            let put = self.canary_of(state.kind).map(|canary| canary.put);
            known.into_iter().chain(put).for_each(|put| deletion.canary(put));
            if let Some(state) = self.kinds.get_mut(index) {
                state.unexplained = Some(deletion);
            }
        }
    }

    /// Whether a kind's canary exists, and did at a revision: one that was created later may have been deleted with it.
    /// The canaries must be known as of that revision.
    pub(crate) fn is_vouched(&self, kind: RecordKind, revision: i64) -> bool {
        !self.canaried || self.canary_of(kind).is_some_and(|canary| canary.created < revision)
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

    fn canary_of(&self, kind: RecordKind) -> Option<Canary> {
        self.canaries.get(&canary_key(self.layout, kind)).copied()
    }
}

/// The canary of a kind. The local prefix is in no cache.
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
    const KEY: (Layout, Prefix) = (Layout::State, Prefix::Services);

    fn services(canaried: bool) -> Completeness {
        let mut completeness = Completeness::default();
        completeness.set_kinds(Layout::State, canaried, vec![(RecordKind::Service, RANGE)]);
        completeness
    }

    fn complete() -> Listed {
        Listed::Complete(vec![RecordKind::Service])
    }

    fn put(completeness: &mut Completeness, created: i64, put: i64) {
        let ranges = completeness.canary(KEY.0, KEY.1, Canary { created, put });
        assert_eq!(ranges, BTreeSet::from([RANGE]));
    }

    fn expire(completeness: &mut Completeness, revision: i64) -> BTreeSet<RangeId> {
        completeness.expired(&BTreeSet::from([RecordKind::Service]), revision)
    }

    #[test]
    fn a_list_needs_a_canary_that_was_there_then() {
        let mut completeness = services(true);
        assert_eq!(completeness.listed(RANGE, 5, true), Listed::LookAtCanaries);
        completeness.canaries_listed(5);
        assert_eq!(completeness.listed(RANGE, 5, true), Listed::Complete(vec![]));
        put(&mut completeness, 6, 6);
        assert_eq!(completeness.listed(RANGE, 5, true), Listed::Again);
        assert_eq!(completeness.begin(RANGE), [RecordKind::Service]);
        assert_eq!(completeness.listed(RANGE, 7, true), Listed::LookAtCanaries);
        completeness.canaries_seen([(KEY, Canary { created: 6, put: 6 })].into(), 7);
        assert_eq!(completeness.listed(RANGE, 7, false), Listed::Complete(vec![]), "not yet");
        assert_eq!(completeness.listed(RANGE, 7, true), complete());
        assert_eq!(completeness.listed(RANGE, 7, true), Listed::Complete(vec![]), "once");
        assert!(completeness.is_vouched(RecordKind::Service, 7));
        assert!(!completeness.is_vouched(RecordKind::Service, 6));
    }

    #[test]
    fn canaries_that_are_listed_again_are_known_again() {
        let mut completeness = services(true);
        for revision in [9, 10] {
            completeness.begin_canaries();
            put(&mut completeness, 3, 8);
            completeness.canaries_listed(revision);
            assert!(completeness.is_vouched(RecordKind::Service, 9), "{revision}");
        }
    }

    #[test]
    fn a_canary_that_is_put_again_and_again_spoils_no_list() {
        let mut completeness = services(true);
        completeness.canaries_seen([(KEY, Canary { created: 3, put: 99 })].into(), 100);
        assert_eq!(completeness.listed(RANGE, 50, true), complete());
        // What a look has seen is not undone by events from before it.
        completeness.canaries_seen(BTreeMap::new(), 110);
        put(&mut completeness, 3, 105);
        completeness.begin(RANGE);
        assert_eq!(completeness.listed(RANGE, 108, true), Listed::Complete(vec![]));
        put(&mut completeness, 112, 112);
        completeness.canary_gone(KEY.0, KEY.1, 111);
        assert!(completeness.is_vouched(RecordKind::Service, 120));
        completeness.canary_gone(KEY.0, KEY.1, 113);
        assert!(!completeness.is_vouched(RecordKind::Service, 120));
    }

    #[test]
    fn after_an_unexplained_deletion_a_canary_that_was_put_after_it() {
        let mut completeness = services(true);
        put(&mut completeness, 3, 3);
        assert_eq!(expire(&mut completeness, 5), BTreeSet::new());
        completeness.canaries_listed(8);
        assert_eq!(completeness.listed(RANGE, 8, true), Listed::Complete(vec![]));
        put(&mut completeness, 3, 9);
        assert_eq!(
            completeness.listed(RANGE, 8, true),
            Listed::Again,
            "that one may lack something"
        );
        // It is put faster than any reader lists: the first put counts.
        for revision in 10..20 {
            put(&mut completeness, 3, revision);
        }
        completeness.canaries_seen([(KEY, Canary { created: 3, put: 30 })].into(), 30);
        assert_eq!(completeness.listed(RANGE, 9, true), complete());
        // The writer may be faster than the news.
        assert_eq!(expire(&mut completeness, 28), BTreeSet::from([RANGE]));
        assert_eq!(completeness.listed(RANGE, 29, true), Listed::Again);
        assert_eq!(completeness.listed(RANGE, 30, true), complete());
        // Or the writer intended it after all.
        assert_eq!(expire(&mut completeness, 40), BTreeSet::new());
        assert_eq!(completeness.beat(39), BTreeSet::new());
        assert_eq!(completeness.beat(40), BTreeSet::from([RANGE]));
    }

    #[test]
    fn or_six_heartbeats_without_anything_put_anew() {
        for canaried in [true, false] {
            let mut completeness = services(canaried);
            put(&mut completeness, 3, 3);
            completeness.canaries_listed(100);
            assert_eq!(completeness.listed(RANGE, 5, true), complete());
            expire(&mut completeness, 6);
            assert_eq!(completeness.listed(RANGE, 7, true), Listed::Complete(vec![]));
            for revision in [8, 9, 10, 11, 11, 11, 12] {
                assert_eq!(completeness.beat(revision), BTreeSet::new(), "{revision}");
            }
            completeness.put_anew(RecordKind::Service, 13);
            for revision in [13, 14, 15, 16, 17, 18] {
                assert_eq!(completeness.beat(revision), BTreeSet::new(), "{revision}");
            }
            assert_eq!(completeness.beat(19), BTreeSet::from([RANGE]));
            completeness.begin(RANGE);
            assert_eq!(completeness.listed(RANGE, 19, true), complete());
        }
    }

    #[test]
    fn a_mode_that_begins_waits_for_its_canary_alone() {
        let mut completeness = services(true);
        put(&mut completeness, 3, 3);
        completeness.wait_for_canary(&[RecordKind::Service], 5);
        (6..60).for_each(|revision| assert_eq!(completeness.beat(revision), BTreeSet::new()));
        completeness.canaries_listed(60);
        assert_eq!(completeness.listed(RANGE, 60, true), Listed::Complete(vec![]));
    }
}
