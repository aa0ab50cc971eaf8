//! What follows from what was reported: what each writer is to do, in the order in which it should happen.

use std::time::Instant;

use mesh_balance::ClusterView;
use mesh_health::{HealthView, Nodes, Order};
use mesh_merge::{Delta, Merge};
use mesh_model::{
    ClusterId, ClusterName, RecordKind,
    lb::{RouteDelta, ServiceDelta},
};

use super::Core;
use crate::{
    choice,
    input::{Prune, Reported},
    peers::Peers,
    staleness::Staleness,
};

impl Core {
    /// Follows up on what was reported: what is wanted, in the order in which it should happen.
    pub(super) fn settle(&mut self, now: Instant) {
        self.update_names();
        self.choice.zone(self.merge.zone_of(&self.node), &mut self.wanted.changes);
        for delta in self.merge.take_deltas() {
            match delta {
                Delta::Service(delta) => self.service(&delta),
                Delta::Route(delta) => self.route(delta),
                Delta::Pod(pod) => self.pods.reported(&pod, &self.merge, &mut self.wanted),
                Delta::Policy(policy) => self.wanted.policies.push(policy),
                Delta::Located { id, addresses } => {
                    let changes = &mut self.wanted.changes;
                    self.choice.located(id, addresses, &self.merge, changes);
                }
                Delta::Address(delta) => self.wanted.addresses.push(delta),
                Delta::Range(delta) => self.wanted.ranges.push(delta),
                Delta::Identity { id, identity } => self.wanted.identities.push((id, identity)),
                Delta::Claims { id } => {
                    if let Some(name) = self.merge.name_of(id).cloned() {
                        self.snapshot_moved(&name);
                    }
                }
                Delta::Confirmed { cluster, kind, .. } => self.confirmed(&cluster, kind),
            }
        }
        self.update_clusters();
        self.choice.place(&self.merge, &mut self.wanted.changes);
        if self.choice.take_in_use_moved() {
            self.probes.in_use_changed();
        }
        if std::mem::take(&mut self.prune_moved) {
            self.wanted.prune = Some(self.prune());
        }
        if self.probes.next_timeout(now).is_some_and(|due| due <= now) {
            self.look_at_probes(now);
        }
        let synced = self.merge.has_listed_services(&self.local);
        if let Some(state) = self.readiness.update(synced, now) {
            self.wanted.local_state = Some(state);
        }
    }

    /// The balancer gets the clusters' names as they are now.
    pub(super) fn update_names(&mut self) {
        let Self { merge, peers, staleness, health, choice, wanted, .. } = self;
        let view = |name: &ClusterName| view(name, merge, peers, staleness, health);
        choice.names(merge, view, &mut wanted.changes);
    }

    fn update_clusters(&mut self) {
        let Self { merge, peers, staleness, health, choice, wanted, ids_moved, all_known, .. } =
            self;
        let view = |name: &ClusterName| view(name, merge, peers, staleness, health);
        let all = peers.are_complete() && peers.names().all(|name| merge.id_of(name).is_some());
        choice.clusters(merge, view, all, &mut wanted.changes);
        if std::mem::take(ids_moved) || *all_known != all {
            *all_known = all;
            let ids = merge.clusters().filter(|(_, id)| *id != ClusterId::NONE);
            let ids = ids.map(|(name, id)| (name.clone(), id)).collect();
            wanted.orders.push(Order::Clusters { ids, all });
        }
    }

    fn service(&mut self, delta: &ServiceDelta) {
        match delta {
            ServiceDelta::BackendSet { backend, .. } => {
                self.wanted.backends.push((*backend, Reported::Set));
            }
            ServiceDelta::BackendRemoved { backend, .. } => {
                self.wanted.backends.push((*backend, Reported::Removed));
            }
            ServiceDelta::ServiceSet { .. }
            | ServiceDelta::ServiceRemoved { .. }
            | ServiceDelta::FrontendAdded { .. }
            | ServiceDelta::FrontendRemoved { .. } => {}
        }
        self.choice.service(delta, &self.merge, &mut self.wanted.changes);
    }

    fn route(&mut self, delta: RouteDelta) {
        let (RouteDelta::Added(route) | RouteDelta::Removed(route)) = &delta;
        let local = route.cluster == self.local;
        if !local || (self.local_routes && route.node != self.node) {
            self.wanted.routes.push(delta);
        }
    }

    /// A cluster has reported all its records of a kind.
    fn confirmed(&mut self, name: &ClusterName, kind: RecordKind) {
        tracing::info!(peer = %name, %kind, "initial sync complete");
        let synced = self.merge.is_confirmed(name, RecordKind::Node)
            && self.merge.has_listed_services(name)
            && !self.merge.has_restored_addresses(name);
        if synced {
            self.restored.synced(name);
        }
        self.probes.nodes_changed(name);
        self.choice.cluster_moved(name);
        self.prune_moved |= is_restored(kind);
    }

    /// What of the previous run's state may go: what the clusters that it is of do not have, now that they are synced.
    fn prune(&self) -> Prune {
        // Clusters that were away for too long are not waited for; but for the local one there is no other source.
        let spent = |name: &ClusterName| self.restored.is_spent() && *name != self.local;
        let services = |name: &ClusterName| self.merge.has_listed_services(name) || spent(name);
        let nodes =
            |name: &ClusterName| self.merge.is_confirmed(name, RecordKind::Node) || spent(name);
        let complete = self.peers.are_complete();
        let synced = self.merge.clusters().filter(|(name, _)| services(name));
        let backends_of = synced.map(|(_, id)| id).collect();
        // A backend of an id that no cluster has is of a peer that is gone, once all peers' ids are known.
        let all_services = complete && self.peers.names().all(services);
        let known = || self.merge.clusters().map(|(_, id)| id).collect();
        let granted = self.peers.names().filter(|name| nodes(name));
        let granted = granted.filter_map(|name| self.peers.settings(name)?.claims.as_ref());
        Prune {
            // As long as the local services are not synced, nothing says which of a peer's backends are theirs.
            frontends: self.merge.has_listed_services(&self.local),
            backends_of,
            strangers: all_services.then(known),
            routes_in: granted.flat_map(|claims| claims.pod_cidrs.iter().copied()).collect(),
            all_routes: complete && self.peers.names().all(nodes),
        }
    }

    /// Finds the nodes that are worth probing, where these may have changed.
    fn look_at_probes(&mut self, now: Instant) {
        for (cluster, in_use) in self.probes.look(self.choice.nodes_in_use(), now) {
            let all = self.merge.is_confirmed(&cluster, RecordKind::Node);
            let nodes = Nodes { nodes: self.merge.nodes(&cluster), all };
            self.wanted.orders.extend(self.health.order(&cluster, nodes, &in_use));
        }
    }
}

/// Whether records of a kind are in the tables that a previous run left in the kernel.
fn is_restored(kind: RecordKind) -> bool {
    match kind {
        RecordKind::Node
        | RecordKind::Service
        | RecordKind::EndpointSlice
        | RecordKind::LocalService
        | RecordKind::LocalEndpointSlice => true,
        RecordKind::Identity
        | RecordKind::Address
        | RecordKind::Namespace
        | RecordKind::Pod
        | RecordKind::Policy => false,
    }
}

/// Whether records of a kind are in snapshots.
pub(super) fn is_in_snapshots(kind: RecordKind) -> bool {
    is_restored(kind) || matches!(kind, RecordKind::Identity | RecordKind::Address)
}

/// How a cluster is seen by the balancer.
fn view(
    name: &ClusterName,
    merge: &Merge,
    peers: &Peers,
    staleness: &Staleness,
    health: &HealthView,
) -> ClusterView {
    let synced = merge.has_listed_services(name) && peers.connection(name).synced;
    let drained = peers.is_drained(name);
    let state = choice::state(staleness.is_stale(name), drained, health.is_cut(name));
    ClusterView { name: name.clone(), state, synced }
}
