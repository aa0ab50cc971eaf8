//! From what was decided to the kernel: tables, routes, and letting go of what a former life left there.

use std::{collections::BTreeSet, time::Instant};

use ipnet::IpNet;
use mesh_model::{
    ClusterId, ClusterName, RecordKind,
    lb::{Change, RouteDelta},
};

use super::Mesh;
use crate::own_cgroup::Bypass;

impl Mesh {
    /// Makes changes, in their order.
    pub(super) fn apply(&mut self, changes: impl IntoIterator<Item = Change>, now: Instant) {
        // Other nodes may be in use than before.
        if self.balancer.take_in_use_moved() {
            self.health.refresh();
        }
        for change in changes {
            match self.tables.apply(change, now) {
                Ok(()) => {
                    self.metrics.changes.inc();
                    self.failed.made(&change);
                }
                Err(error) => {
                    if self.failed.refused(change, &error) {
                        tracing::error!(?change, %error, "the kernel's tables do not take a change; trying again");
                    }
                }
            }
        }
    }

    /// Remembers how full the tables are, once everybody has told what goes into them.
    pub(super) fn observe_occupancy(&mut self, now: Instant) {
        if self.peers_known && self.peers.keys().all(|name| self.merge.has_told_services(name)) {
            self.forecast.observe(&self.tables.occupancy(), now);
        }
    }

    pub(super) fn route(&mut self, delta: RouteDelta) {
        let (RouteDelta::Added(route) | RouteDelta::Removed(route)) = &delta;
        let own = route.cluster == self.own;
        if own && (!self.own_routes || route.node == self.node) {
            return;
        }
        self.routes.apply(delta);
    }

    /// Lets go of what a former life left in the kernel, as far as the clusters that it is of have told everything.
    pub(super) fn prune(&mut self, now: Instant) {
        // Who was silent for too long is not waited for; but for the own cluster there is nobody else to ask.
        let spent = |name: &ClusterName| self.restored.is_spent() && *name != self.own;
        let told_nodes =
            |name: &ClusterName| self.merge.is_confirmed(name, RecordKind::Node) || spent(name);
        let told_services = |name: &ClusterName| self.merge.has_told_services(name) || spent(name);
        let services: BTreeSet<ClusterId> = self
            .merge
            .clusters()
            .filter(|(name, _)| told_services(name))
            .map(|(_, id)| id)
            .collect();
        let own_told = self.merge.has_told_services(&self.own);
        let all_services = self.peers_known && self.peers.keys().all(told_services);
        let all_nodes = self.peers_known && self.peers.keys().all(told_nodes);
        let known = self.known_ids();
        // A backend of a number that nobody has is of a peer that is gone, once all peers' numbers are known. And as long as
        // our own services are not, nothing says which of a peer's backends are theirs.
        let gone = |id| services.contains(&id) || (all_services && !known.contains(&id));
        let held = self.tables.inherited();
        self.tables.prune_backends(|id| own_told && gone(id), now);
        if own_told && let Err(error) = self.tables.prune_frontends(now) {
            tracing::error!(%error, "frontends of a former life cannot be removed");
        }
        self.sockets.pruned |= self.tables.inherited() != held;
        let told = self.peers.iter().filter(|(name, _)| told_nodes(name));
        let told: Vec<IpNet> = told
            .filter_map(|(_, handle)| handle.claims.as_ref())
            .flat_map(|c| c.pod_cidrs.clone())
            .collect();
        self.routes.prune(|range| all_nodes || told.iter().any(|granted| granted.contains(range)));
        self.routes_moved = true;
    }

    pub(super) fn known_ids(&self) -> BTreeSet<ClusterId> {
        self.merge.clusters().map(|(_, id)| id).collect()
    }

    pub(super) async fn carry_out_routes(&mut self) {
        let ops = self.routes.plan();
        for op in ops {
            let result = self.kernel_routes.execute(op).await.map_err(|error| error.to_string());
            if let Err(reason) = &result {
                tracing::warn!(?op, reason, "a route cannot be made");
            }
            self.routes.done(op, result);
        }
        let ranges: Vec<IpNet> = self.routes.ranges().into_iter().collect();
        self.masquerade_problem =
            self.masquerade.apply(&self.pod_cidrs, &ranges).await.err().map(|e| e.to_string());
        if let Some(problem) = &self.masquerade_problem {
            tracing::warn!(problem, "packets to other clusters may lose their source address");
        }
    }

    /// Whoever has joined the agent's cgroup since is balanced again.
    pub(super) fn audit_bypass(&mut self) {
        let bypass = Bypass::find();
        if bypass == self.bypass {
            return;
        }
        tracing::warn!(before = ?self.bypass, now = ?bypass, "the agent's own sockets");
        match self.programs.set_bypass(bypass.cgroup.as_slice()) {
            Ok(()) => self.bypass = bypass,
            Err(error) => tracing::warn!(%error, "the agent's own sockets"),
        }
    }

    pub(super) async fn audit_routes(&mut self) {
        match self.kernel_routes.list().await {
            Ok(found) => self.routes.observe(found),
            Err(error) => tracing::warn!(%error, "routes cannot be compared"),
        }
        self.carry_out_routes().await;
    }
}
