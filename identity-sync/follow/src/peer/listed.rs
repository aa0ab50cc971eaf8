//! When what was listed is all there is, and is told so.

use mesh_model::{RecordEvent, RecordKind};
use mesh_wire::Key;

use super::{PeerEvent, PeerFollower, ranges::CANARY};
use crate::{completeness::Listed, follower::RangeId, machine::KeyValue};

impl PeerFollower {
    /// The etcd at hand may be as far as what is known by now: then it is followed, and what it lists is complete.
    pub(super) fn caught_up(&mut self, was_older: bool) {
        if !self.replica.is_caught_up() {
            return;
        }
        if was_older {
            self.follow();
        }
        self.listed_all();
    }

    /// Looks again at what is listed: whether it is complete may be known by now.
    pub(super) fn listed_all(&mut self) {
        for range in self.completeness.ranges() {
            if let Some(revision) = self.follower.listed_at(range) {
                self.listed(range, revision);
            }
        }
    }

    pub(super) fn canary(&mut self, kv: &KeyValue) {
        let Ok(Key::Canary(_, Some((layout, prefix)))) = Key::parse(&kv.key) else { return };
        let was_told = self.completeness.is_local_told();
        let vouched = self.completeness.canary(layout, prefix, kv.mod_revision);
        if self.completeness.is_local_told() != was_told {
            self.follow();
        }
        for range in vouched {
            if let Some(revision) = self.follower.listed_at(range) {
                self.listed(range, revision);
            }
        }
    }

    /// A range was listed as of `revision`: what its prefixes' canaries vouch for is confirmed.
    pub(super) fn listed(&mut self, range: RangeId, revision: i64) {
        if self.accepted.is_none() {
            return;
        }
        match self.completeness.listed(range, revision, self.replica.is_caught_up()) {
            Listed::LookAtCanaries => self.follower.relist(CANARY),
            Listed::Again => self.follower.relist(range),
            Listed::Complete(kinds) => {
                let confirmed = |kind: &RecordKind| RecordEvent::Confirmed(*kind);
                self.events.extend(kinds.iter().map(confirmed).map(PeerEvent::Record));
                self.told_services(&kinds);
            }
        }
    }
}
