//! A follower's events, and their effect.

use mesh_follow::{PeerEvent, Refusal};
use mesh_model::{ClusterConfig, ClusterName, RecordEvent, RecordKind};

use super::{Core, settle::is_in_snapshots};

impl Core {
    pub(super) fn event(&mut self, name: &ClusterName, event: PeerEvent) {
        match event {
            PeerEvent::Connected => tracing::info!(peer = %name, "connected"),
            PeerEvent::Disconnected => {
                tracing::warn!(peer = %name, "disconnected; its last state stays in use")
            }
            PeerEvent::Refused(Refusal::OverBudget(reason)) => self.put_in_quarantine(name, reason),
            PeerEvent::Refused(refusal) => tracing::warn!(peer = %name, %refusal, "refused"),
            PeerEvent::Rejected(reason) => {
                tracing::warn!(peer = %name, reason, "a record was rejected");
                // Counted where it was rejected; the last reason is that of either kind.
                self.peers.refuse_record(name, None, &reason);
                self.peers.refuse(name, 0, reason);
            }
            // On its way when its follower was asked to hold.
            PeerEvent::Config(_) | PeerEvent::Record(_)
                if self.quarantine.reason(name).is_some() => {}
            PeerEvent::Config(config) => self.config(name, &config),
            PeerEvent::Record(record) => self.record(name, record),
        }
    }

    /// A cluster's config was accepted by its follower.
    fn config(&mut self, name: &ClusterName, config: &ClusterConfig) {
        tracing::info!(peer = %name, id = %config.id, "accepted");
        self.wanted.uuids.push((name.clone(), config.uuid));
        if self.restored.is_another(name, config.uuid) {
            tracing::warn!(peer = %name, "it is another cluster than before");
            self.merge.expire(name);
        }
        let before = self.merge.id_of(name);
        match self.merge.set_id(name, config.id) {
            Ok(()) if before == Some(config.id) => self.choice.cluster_moved(name),
            Ok(()) => {
                self.clusters_moved();
                self.update_names();
                self.id_changed(name);
                self.release_held();
            }
            Err(in_use) => {
                let refusal = Refusal::IdInUse { id: in_use.id, other: in_use.other };
                self.hold(name, refusal);
            }
        }
    }

    /// A cluster has another ID: the health of its nodes is reported under that ID.
    fn id_changed(&mut self, name: &ClusterName) {
        let Some(id) = self.merge.id_of(name) else { return };
        for (_, node, health) in self.health.unwell().filter(|(cluster, ..)| *cluster == name) {
            self.choice.node(id, node, health, &mut self.wanted.changes);
        }
    }

    fn record(&mut self, name: &ClusterName, event: RecordEvent) {
        self.look_at_kind(name, &event);
        self.peers.reported(name, &event);
        if let Err(refused) = self.merge.apply(name, event) {
            tracing::warn!(peer = %name, %refused, "a record was refused");
            let reason = refused.to_string();
            self.peers.refuse_record(name, Some(refused.key), &reason);
            self.peers.refuse(name, 1, reason);
        }
        self.check_budget(name);
    }

    /// How a record's kind affects probes and the snapshot on disk.
    fn look_at_kind(&mut self, name: &ClusterName, event: &RecordEvent) {
        let kind = match event {
            RecordEvent::Upsert(record) => record.key().kind(),
            RecordEvent::Remove(key) => key.kind(),
            RecordEvent::Confirmed(kind) | RecordEvent::Without(kind) => *kind,
            RecordEvent::Begin(_) | RecordEvent::Keep(_) | RecordEvent::Doubt(_) => return,
        };
        if kind == RecordKind::Node {
            self.probes.nodes_changed(name);
        }
        if is_in_snapshots(kind) {
            self.snapshot_moved(name);
        }
    }

    /// What is kept of a cluster for the next run is something else.
    pub(super) fn snapshot_moved(&mut self, name: &ClusterName) {
        if !self.wanted.snapshots.contains(name) {
            self.wanted.snapshots.insert(name.clone());
        }
    }

    fn check_budget(&mut self, name: &ClusterName) {
        let Some(budget) = self.peers.budget(name) else { return };
        let usage = self.merge.kept(name);
        if let Some(excess) = budget.check(usage.keys, usage.bytes) {
            self.put_in_quarantine(name, excess.to_string());
        }
    }

    fn put_in_quarantine(&mut self, name: &ClusterName, reason: String) {
        if let Some(hold) = self.quarantine.put(name, reason)
            && self.peers.is_followed(name)
        {
            self.command(name, hold);
        }
        self.look_at_silence(name);
    }
}
