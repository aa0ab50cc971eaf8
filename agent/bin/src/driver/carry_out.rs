//! Makes writers do what the core wants.

use std::{sync::Arc, time::Instant};

use mesh_core::{LocalState, Prune, Reported, Wanted};
use mesh_dataplane::BackendWithId;
use mesh_enforce::Change;
use mesh_health::{Ending, Scope};
use mesh_layout::{LOCAL_PLAIN_PASSES, LOCAL_UNSYNCED};
use mesh_model::lb::Backend;
use mesh_sockets::{Netns, Target};

use super::{Driver, TURN};
use mesh_node::Node;

/// Actions for when the tables have all the changes that were wanted before.
#[derive(Debug, Default)]
pub(super) struct AfterChanges {
    prune: Option<Prune>,
    /// The programs may take services of the local cluster for up to date.
    local_state: Option<LocalState>,
}

impl Driver {
    /// Has everything done that the core wants since the last time.
    pub(super) fn carry_out(&mut self, now: Instant) {
        let Wanted {
            changes,
            routes,
            addresses,
            ranges,
            identities,
            prune,
            backends,
            endings,
            commands,
            orders,
            unbalanced,
            attachments_changed,
            pods_changed,
            policies,
            local_state,
            snapshots,
            uuids,
            snapshots_of,
            remember,
            answers,
        } = self.node.core.take_wanted();
        self.enforce(Change { addresses, ranges, identities, policies, pods: pods_changed }, now);
        // First the way, then what leads there.
        routes.into_iter().for_each(|delta| self.node.writers.routes.apply(delta));
        self.node.lb.want(changes, TURN, Instant::now);
        if let Some(state) = local_state {
            self.after.local_state = Some(state);
            if state.unsure {
                self.write_local_state();
            }
        }
        self.after.prune = prune.or(self.after.prune.take());
        for (name, command) in commands {
            if let Some(follower) = self.node.followers.get_mut(&name) {
                follower.command(command);
            }
        }
        for order in orders {
            self.node.writers.health.order(order);
        }
        let sockets = &mut self.node.writers.sockets;
        for (backend, reported) in backends {
            match reported {
                Reported::Removed => sockets.removed(backend),
                Reported::Set => sockets.reported(backend),
            }
        }
        if attachments_changed {
            let namespaces = self.node.core.namespaces();
            let namespaces = namespaces
                .map(|netns| Netns { path: netns.path.clone(), inode: netns.inode })
                .collect();
            sockets.set_namespaces(namespaces);
        }
        endings.iter().for_each(|ending| self.end_sockets(ending, now));
        if let Some(unbalanced) = unbalanced
            && let Err(error) = self.node.lb.tables_mut().set_unbalanced(&unbalanced)
        {
            tracing::error!(%error, "the pods that opted out cannot be written to the kernel");
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
        for kept in remember {
            let _ = self.node.writers.remember.send(kept);
        }
        for (key, answer) in answers {
            for waiting in self.waiting.remove(&key).into_iter().flatten() {
                let _ = waiting.send(answer);
            }
        }
    }

    /// Has what changed of policies, and of what they are about, enforced.
    fn enforce(&mut self, change: Change, now: Instant) {
        let Node { core, policy: Some(policy), .. } = &mut self.node else { return };
        if !change.is_empty() {
            policy.enforcer.take(change, core.merge(), core.pods(), now);
            policy.attach(core);
        }
    }

    /// The tables have all that was wanted so far, as far as there is room.
    pub(super) fn after_changes(&mut self, now: Instant) {
        self.write_local_state();
        let prune = self.after.prune.take();
        let pruned = prune.is_some_and(|prune| self.prune(&prune, now));
        let Node { core, lb, writers, .. } = &mut self.node;
        let released = lb.tables_mut().take_released().into_iter().map(target);
        writers.sockets.end_removed(released, |backend| lb.tables().is_used(backend), now);
        if pruned {
            writers.sockets.pruned(&core.reported_backends(), now);
        }
    }

    fn write_local_state(&mut self) {
        let Some(state) = self.after.local_state.take() else { return };
        let unsure = if state.unsure { LOCAL_UNSYNCED } else { 0 };
        let plain_passes = if state.plain_passes { LOCAL_PLAIN_PASSES } else { 0 };
        self.node.lb.tables_mut().set_local_state(unsure | plain_passes);
    }

    /// Removes what the previous run left, as far as it may go. Whether anything did.
    fn prune(&mut self, prune: &Prune, now: Instant) -> bool {
        let may = Arc::new(prune.clone());
        self.node.writers.routes.may_prune(move |range| may.route(range));
        match self.node.lb.prune(|id| prune.backends(id), prune.frontends, now) {
            Ok(pruned) => pruned,
            Err(error) => {
                tracing::error!(%error, "frontends of the previous run cannot be removed");
                true
            }
        }
    }

    /// Nothing answers at a cluster or a node, and its sockets end; or something does again.
    fn end_sockets(&self, ending: &Ending, now: Instant) {
        let Node { core, lb, writers, .. } = &self.node;
        let (Ending::End { scope, .. } | Ending::Spare { scope }) = ending;
        let Some(id) = core.merge().id_of(scope.cluster()) else { return };
        let is_meant = |backend: &Backend| {
            backend.cluster == id
                && match scope {
                    Scope::Cluster(_) => true,
                    Scope::Node { node, address, .. } => {
                        backend.address.is_ipv4() == address.is_ipv4()
                            && core.merge().node_of(id, backend.address) == Some(node)
                    }
                }
        };
        match ending {
            Ending::Spare { .. } => writers.sockets.spare(is_meant),
            Ending::End { protocol, .. } => {
                let used = lb.tables().backends_in(id).map(target);
                writers.sockets.end_unreachable(*protocol, used, is_meant, now);
            }
        }
    }

    /// Exchanges the programs of another release, if the tables have what clusters report.
    pub(super) fn exchange_programs(&mut self, now: Instant) {
        if self.node.writers.programs.report().unready.is_none() {
            return;
        }
        let waits_for = self.node.core.upgrade_waits_for(now);
        let pending = (self.node.lb.status().pending > 0).then(|| "the tables to be filled".into());
        let waits_for = waits_for.or(pending);
        let unmade = || self.node.lb.failures().next().map(|(_, failure)| failure.to_string());
        let waits_for = waits_for.or_else(unmade);
        self.node.writers.programs.exchange(waits_for);
    }
}

fn target(BackendWithId { id, backend }: BackendWithId) -> Target {
    Target { id, backend }
}
