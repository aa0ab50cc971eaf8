//! The outcome of deletions, and waiting for a writer.

use std::{collections::BTreeSet, time::Instant};

use mesh_model::{RecordEvent, RecordKey, RecordKind};

use super::{PeerEvent, PeerFollower, ranges::CANARY};
use crate::{
    deletions::Verdict,
    follower::RangeId,
    status::{ConnectionPhase, Failure},
};

impl PeerFollower {
    /// Takes the outcome of deletions.
    pub(super) fn decide(&mut self, now: Instant) {
        for verdict in self.deletions.due(now, self.completeness.known_at()) {
            match verdict {
                Verdict::Meant(keys, more) => {
                    self.remove(&keys);
                    more.into_iter().for_each(|range| self.follower.relist(range));
                }
                Verdict::Single(at, keys) if self.is_vouched(at, &keys) => self.remove(&keys),
                Verdict::Single(revision, keys) => self.expire(revision, keys, &BTreeSet::new()),
                Verdict::Expired(revision, keys, more) => self.expire(revision, keys, &more),
            }
        }
        if self.deletions.waits_for_canaries() {
            self.looks.want();
        }
        if self.looks.is_due(now) {
            self.follower.look(CANARY);
        }
        if self.replica.wait_is_over(now) {
            self.caught_up(true);
        }
        if self.unseen_at().is_some_and(|at| at <= now) {
            self.replica.leave();
            let reason = "its writer no longer puts its position: trying another replica";
            self.follower.give_up(now, Failure::new(ConnectionPhase::Synced, reason));
        }
    }

    /// When to try another replica, if there is one.
    pub(super) fn unseen_at(&self) -> Option<Instant> {
        self.replica.unseen_at().filter(|_| self.config.endpoints > 1)
    }

    /// Whether the canaries of the keys' prefixes exist, and did at a revision.
    pub(super) fn is_vouched(&self, revision: i64, keys: &[(RangeId, Vec<u8>)]) -> bool {
        let kind = |(_, key): &(RangeId, Vec<u8>)| self.removed(key).map(|record| record.kind());
        keys.iter().filter_map(kind).all(|kind| self.completeness.is_vouched(kind, revision))
    }

    pub(super) fn remove(&mut self, keys: &[(RangeId, Vec<u8>)]) {
        let records: Vec<RecordKey> =
            keys.iter().filter_map(|(_, key)| self.removed(key)).collect();
        let removed = |record| PeerEvent::Record(RecordEvent::Remove(record));
        self.events.extend(records.into_iter().map(removed));
    }

    /// A lease may have run out: what its keys held stays until the writer shows what it means.
    pub(super) fn expire(
        &mut self,
        revision: i64,
        keys: Vec<(RangeId, Vec<u8>)>,
        more: &BTreeSet<RangeId>,
    ) {
        let mut kinds: BTreeSet<RecordKind> = self.completeness.kinds_in(more).collect();
        kinds.iter().for_each(|kind| self.held.hold_more(*kind, revision));
        for (_, key) in keys {
            if let Some(record) = self.removed(&key) {
                kinds.insert(record.kind());
                self.held.hold(key, record.kind(), revision);
                // Who has an address matters beyond this cluster: another one may claim it meanwhile.
                if matches!(record.kind(), RecordKind::Address | RecordKind::Node) {
                    self.events.push(PeerEvent::Record(RecordEvent::Doubt(record)));
                }
            }
        }
        for range in self.completeness.expired(&kinds, revision) {
            self.follower.relist(range);
        }
    }
}
