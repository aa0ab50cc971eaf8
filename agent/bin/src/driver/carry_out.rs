//! Having writers do what the core wants.

use std::time::Instant;

use mesh_core::{Prune, Wanted};
use mesh_follow::PeerCommand;
use mesh_layout::{OWN_PLAIN_PASSES, OWN_UNSURE};
use mesh_model::{ClusterName, lb::Change};

use super::Driver;
use crate::attachments::Remember;

impl Driver {
    /// Has everything done that the core wants since the last time.
    pub(super) fn carry_out(&mut self, now: Instant) {
        let Wanted {
            changes,
            routes,
            prune,
            removed_backends,
            reachability,
            commands,
            cluster_ids,
            probes,
            unprobed,
            unbalanced,
            attachments_changed,
            local_state,
            snapshots,
            uuids,
            snapshots_of,
            remember,
            answers,
        } = self.node.core.take_wanted();
        self.apply(changes, now);
        if let Some(state) = local_state {
            let unsure = if state.unsure { OWN_UNSURE } else { 0 };
            let plain_passes = if state.plain_passes { OWN_PLAIN_PASSES } else { 0 };
            self.node.tables.set_own_state(unsure | plain_passes);
        }
        for (name, command) in commands {
            self.command(name, command);
        }
        for name in unprobed {
            self.node.writers.prober.forget(&name);
        }
        let found_cut = cluster_ids.is_some_and(|ids| self.write_cuts(&ids));
        for nodes in probes {
            self.node.writers.prober.probe(&self.node.core, nodes);
        }
        let pruned = prune.is_some_and(|prune| self.prune(&prune, now));
        self.node.writers.routes.send(routes);
        let sockets = &mut self.node.writers.sockets;
        if attachments_changed {
            sockets.set_namespaces(self.node.core.pods());
        }
        for change in reachability {
            sockets.reachability(
                &change,
                &self.node.core,
                &self.node.tables,
                &self.node.writers.prober,
                now,
            );
        }
        sockets.removed(removed_backends, &mut self.node.tables, now);
        if pruned {
            sockets.pruned(&self.node.core, now);
        }
        if let Some(unbalanced) = unbalanced
            && let Err(error) = self.node.tables.set_unbalanced(&unbalanced)
        {
            tracing::error!(%error, "pods' sockets cannot be left alone");
        }
        for (name, uuid) in uuids {
            self.node.writers.snapshots.is_now(&name, uuid, now);
        }
        for name in snapshots {
            self.node.writers.snapshots.changed(&name, now);
        }
        if let Some(names) = snapshots_of {
            self.node.writers.snapshots.retain(&names);
        }
        for (attachment, identity) in remember {
            let _ = self.node.writers.remember.send(Remember { attachment, identity });
        }
        for (key, answer) in answers {
            for waiting in self.waiting.remove(&key).into_iter().flatten() {
                let _ = waiting.send(answer);
            }
        }
        if found_cut {
            self.carry_out(now);
        }
    }

    /// Makes changes of the tables, in their order.
    pub(super) fn apply(&mut self, changes: impl IntoIterator<Item = Change>, now: Instant) {
        for change in changes {
            match self.node.tables.apply(change, now) {
                Ok(()) => {
                    self.metrics.changes.inc();
                    self.node.failed.made(&change);
                }
                Err(error) => {
                    if self.node.failed.refused(change, &error) {
                        tracing::error!(?change, %error, "the kernel's tables do not take a change; trying again");
                    }
                }
            }
        }
    }

    /// Removes what the previous run left, as far as it may go. Whether anything did.
    fn prune(&mut self, prune: &Prune, now: Instant) -> bool {
        let before = self.node.tables.inherited();
        self.node.tables.prune_backends(|id| prune.backends(id), now);
        if prune.frontends
            && let Err(error) = self.node.tables.prune_frontends(now)
        {
            tracing::error!(%error, "frontends of the previous run cannot be removed");
        }
        self.node.writers.routes.prune(prune.clone());
        self.node.tables.inherited() != before
    }

    fn command(&mut self, name: ClusterName, command: PeerCommand) {
        let Some(follower) = self.node.followers.get(&name) else { return };
        match follower.commands.try_send(command.clone()) {
            Ok(()) => {
                self.undelivered.remove(&name);
            }
            Err(_) => {
                self.undelivered.insert(name, command);
            }
        }
    }

    /// Tells followers what they had no room for.
    pub(super) fn deliver(&mut self) {
        for (name, command) in std::mem::take(&mut self.undelivered) {
            self.command(name, command);
        }
    }

    /// Exchanges the programs of another release, if the tables have what clusters report.
    pub(super) fn exchange_programs(&mut self, now: Instant) {
        if !self.node.writers.programs.are_former() {
            return;
        }
        let waits_for = self.node.core.upgrade_waits_for(now);
        let waits_for = waits_for.or_else(|| self.node.failed.reason().map(str::to_owned));
        self.node.writers.programs.exchange(waits_for);
    }
}
