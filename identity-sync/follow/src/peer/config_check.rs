//! Whether a cluster's announced config is accepted.

use super::{
    PeerEvent, PeerFollower, Refusal,
    ranges::{BEAT, data_ranges},
};
use crate::status::{ConnectionPhase, Failure};
use mesh_model::ClusterConfig;
use mesh_wire::Layout;

impl PeerFollower {
    /// Decides on the announced config, or the lack of one.
    pub(super) fn judge(&mut self) {
        // An id that is no other peer's frees it.
        if let (Some(Refusal::IdInUse { id, .. }), Some(Ok(config))) = (&self.hold, &self.announced)
            && config.id != *id
        {
            self.hold = None;
        }
        let verdict = match (&self.hold, &self.announced) {
            (Some(refusal), _) => Err(refusal.clone()),
            (None, None) => Err(Refusal::Absent(self.config.name.clone())),
            (None, Some(Err(error))) => Err(Refusal::Unreadable(error.clone())),
            (None, Some(Ok(config))) => self.config.check(config).map(|()| config.clone()),
        };
        match verdict {
            Ok(config) => self.accept(config),
            Err(refusal) => {
                let failure = Failure::new(ConnectionPhase::Config, refusal.to_string());
                let status = self.follower.status_mut();
                if status.failure.as_ref() != Some(&failure) {
                    status.failure = Some(failure);
                    self.events.push(PeerEvent::Refused(refusal));
                }
                self.accepted = None;
                self.follower.follow(Vec::new());
            }
        }
    }

    pub(super) fn accept(&mut self, config: ClusterConfig) {
        let status = self.follower.status_mut();
        if status.failure.as_ref().is_some_and(|failure| failure.phase == ConnectionPhase::Config) {
            status.failure = None;
        }
        if self.accepted.as_ref() == Some(&config) {
            return;
        }
        let id_changed = self.accepted.as_ref().is_some_and(|before| before.id != config.id);
        self.accepted = Some(config.clone());
        status.config = Some(config.clone());
        self.events.push(PeerEvent::Config(config.clone()));

        self.stop_moving();
        self.follow();
        self.changed_form(self.announced_at);
        // It may be the form from before a change that is reverted.
        self.move_on();
        if id_changed {
            let ranges = self.completeness.ranges();
            ranges.into_iter().for_each(|range| self.follower.relist(range));
        }
    }

    /// Follows what an accepted config promises, and the local prefix if it exists; of an etcd that may be behind only
    /// its position.
    pub(super) fn follow(&mut self) {
        let Some(config) = &self.accepted else { return };
        let (local, forms) = (self.is_local(config), self.forms(config));
        let (mut ranges, kinds) = data_ranges(&self.config, Layout::of(config), local, &forms);
        self.completeness.set_kinds(Layout::of(config), config.synced_canaries, kinds);
        if self.replica.is_older() {
            ranges.retain(|range| range.id == BEAT);
        }
        self.follower.follow(ranges);
    }
}
