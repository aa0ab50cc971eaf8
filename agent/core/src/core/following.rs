//! Which clusters are followed, and which of them wait for their ID.

use std::time::Instant;

use mesh_follow::{PeerCommand, Refusal};
use mesh_model::ClusterName;

use super::Core;
use crate::input::{PeerSettings, RestoredCluster};

impl Core {
    /// A cluster is followed by a new follower.
    pub(super) fn follow(&mut self, name: &ClusterName, settings: PeerSettings, now: Instant) {
        let displaced = match *name == self.local {
            true => None,
            false => self.merge.set_peer(name, settings.claims.clone()),
        };
        let uuid = settings.uuid;
        let other_budget = self.peers.follow(name, settings);
        self.hold_displaced(displaced, name);
        self.look_at_silence(name);
        self.restore(name, uuid);
        if other_budget {
            // An operator has thought about it. Its follower is new, and lists in any case.
            self.quarantine.lift(name);
        }
        if let Some(hold) = self.quarantine.followed(name) {
            self.command(name, hold);
        }
        if *name != self.local {
            self.look_at_staleness(name, now);
        }
        self.choice.cluster_moved(name);
        self.clusters_moved();
    }

    /// A cluster is no longer followed: all that it reported is removed.
    pub(super) fn unfollow(&mut self, name: &ClusterName) {
        tracing::info!(peer = %name, "removed");
        self.merge.remove_peer(name);
        self.peers.unfollow(name);
        self.quarantine.lift(name);
        self.staleness.forget(name);
        self.probes.forget(name);
        self.wanted.orders.push(self.health.forget(name));
        self.forget_strangers();
        self.clusters_moved();
        self.release_held();
    }

    /// Forgets clusters that are no peers.
    pub(super) fn forget_strangers(&mut self) {
        let (local, peers) = (&self.local, &self.peers);
        let is_there = |name: &ClusterName| name == local || peers.is_followed(name);
        self.restored.retain(is_there);
        let names = peers.names().chain([local]);
        self.wanted.snapshots_of = Some(names.cloned().collect());
    }

    /// A peer had the id that another is granted: it waits for one of its own.
    fn hold_displaced(&mut self, displaced: Option<ClusterName>, by: &ClusterName) {
        let Some((displaced, id)) = displaced.zip(self.merge.granted_id(by)) else { return };
        tracing::warn!(peer = %displaced, %id, granted = %by, "its ID is granted to another cluster");
        let refusal = Refusal::IdInUse { id, other: by.clone() };
        self.hold(&displaced, refusal);
    }

    pub(super) fn hold(&mut self, name: &ClusterName, refusal: Refusal) {
        if self.peers.is_followed(name) {
            self.command(name, PeerCommand::Hold(refusal));
            self.peers.wait_for_id(name);
        }
    }

    /// An id may be free again: clusters that waited for it may have it.
    pub(super) fn release_held(&mut self) {
        for name in self.peers.stop_waiting() {
            // One in quarantine asks for the id when the quarantine is lifted.
            match self.quarantine.reason(&name) {
                None => self.command(&name, PeerCommand::Release),
                Some(_) => self.peers.wait_for_id(&name),
            }
        }
    }

    /// A cluster is followed from now on: until it is synced, its state is what it reported in the previous run.
    fn restore(&mut self, name: &ClusterName, expected: Option<uuid::Uuid>) {
        let Some(snapshot) = self.restored.take(name, expected) else { return };
        let RestoredCluster { id, uuid, records, known } = snapshot;
        let (count, addresses) = (records.len(), known.addresses.len());
        match self.merge.remember(name, id, records, known) {
            Ok(refused) => {
                tracing::info!(peer = %name, records = count, addresses, refused = refused.len(), "restored from the previous run");
                if let Some(last) = refused.last() {
                    let count = u64::try_from(refused.len()).unwrap_or(u64::MAX);
                    self.peers.refuse(name, count, last.to_string());
                }
                self.restored.used(name, uuid, count > 0);
            }
            Err(in_use) => tracing::warn!(peer = %name, %in_use, "a snapshot is not used"),
        }
    }
}
