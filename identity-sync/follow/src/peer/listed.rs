//! When a list is complete, and is reported as that.

use mesh_model::{RecordEvent, RecordKind};
use mesh_wire::{Key, Layout, Prefix};

use super::{PeerEvent, PeerFollower};
use crate::{
    completeness::{Canary, Listed},
    follower::RangeId,
    machine::KeyValue,
};

impl PeerFollower {
    /// The present etcd may have caught up with what is known: then it is followed, and its lists are complete.
    pub(super) fn caught_up(&mut self, was_older: bool) {
        if !self.replica.is_caught_up() {
            return;
        }
        if was_older {
            self.follow();
        }
        self.listed_all();
    }

    /// Checks again whether lists are complete, which may be known now.
    pub(super) fn listed_all(&mut self) {
        for range in self.completeness.ranges() {
            if let Some(revision) = self.follower.listed_at(range) {
                self.listed(range, revision);
            }
        }
    }

    pub(super) fn canary(&mut self, kv: &KeyValue) {
        let Some((layout, prefix)) = prefix_of(&kv.key) else { return };
        let before = self.completeness.has_local();
        let canary = Canary { created: kv.create_revision, put: kv.mod_revision };
        let vouched = self.completeness.canary(layout, prefix, canary);
        if self.completeness.has_local() != before {
            self.follow();
        }
        for range in vouched {
            if let Some(revision) = self.follower.listed_at(range) {
                self.listed(range, revision);
            }
        }
    }

    pub(super) fn canary_gone(&mut self, key: &[u8], revision: i64) {
        if let Some((layout, prefix)) = prefix_of(key) {
            self.completeness.canary_gone(layout, prefix, revision);
        }
    }

    /// The canaries were looked up: these exist, and no others.
    pub(super) fn canaries_seen(&mut self, keys: &[KeyValue], revision: i64) {
        let of = |kv: &KeyValue| {
            let canary = Canary { created: kv.create_revision, put: kv.mod_revision };
            Some((prefix_of(&kv.key)?, canary))
        };
        let before = self.completeness.has_local();
        self.completeness.canaries_seen(keys.iter().filter_map(of).collect(), revision);
        if self.completeness.has_local() != before {
            self.follow();
        }
    }

    /// A range was listed as of `revision`: what its prefixes' canaries vouch for is confirmed.
    pub(super) fn listed(&mut self, range: RangeId, revision: i64) {
        if self.accepted.is_none() {
            return;
        }
        match self.completeness.listed(range, revision, self.replica.is_caught_up()) {
            Listed::LookAtCanaries => self.looks.want(),
            Listed::Again => self.follower.relist(range),
            Listed::Complete(kinds) => {
                let confirmed = |kind: &RecordKind| RecordEvent::Confirmed(*kind);
                self.events.extend(kinds.iter().map(confirmed).map(PeerEvent::Record));
                self.held.known(&kinds.iter().copied().collect());
                self.services_confirmed(&kinds);
            }
        }
    }
}

/// The prefix whose canary a key is, if this version knows it.
fn prefix_of(key: &[u8]) -> Option<(Layout, Prefix)> {
    match Key::parse(key) {
        Ok(Key::Canary(_, prefix)) => prefix,
        _ => None,
    }
}
