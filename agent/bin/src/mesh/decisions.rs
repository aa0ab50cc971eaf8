//! What goes into the choice of backends: what clusters say, how they are, and how their nodes are.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use mesh_balance::{ClusterState, ClusterView};
use mesh_model::{ClusterId, ClusterName, lb::ServiceDelta};

use super::Mesh;

impl Mesh {
    /// Something is said about a service.
    pub(super) fn service(&mut self, delta: &ServiceDelta, now: Instant) {
        let merge = &self.merge;
        let node_of = |cluster, address| merge.node_of(cluster, address);
        let changes = self.balancer.apply(delta, node_of);
        self.apply(changes, now);
    }

    /// Looks how clusters are. Before what they say is taken: weights and tiers name them.
    pub(super) fn look_at_clusters(&mut self, now: Instant) {
        let known: BTreeMap<ClusterId, ClusterName> = self
            .merge
            .clusters()
            .filter(|(_, id)| *id != ClusterId::NONE)
            .map(|(name, id)| (id, name.clone()))
            .collect();
        for (id, name) in &known {
            let view = self.view_of(name);
            let changes = self.balancer.set_cluster(*id, Some(view));
            self.apply(changes, now);
        }
        let names: BTreeSet<&ClusterName> = known.values().collect();
        let all = self.peers_known && self.peers.keys().all(|name| names.contains(name));
        let changes = self.balancer.set_all_known(all);
        self.apply(changes, now);
    }

    /// Lets go of clusters that are no more. After what they said.
    pub(super) fn forget_clusters(&mut self, now: Instant) {
        let known = self.known_ids();
        let gone: Vec<ClusterId> =
            self.balancer.clusters().filter(|id| !known.contains(id)).collect();
        for id in gone {
            let changes = self.balancer.set_cluster(id, None);
            self.apply(changes, now);
        }
    }

    /// Backends whose cluster does not name their node are placed as soon as something says where their address is.
    pub(super) fn place_backends(&mut self, now: Instant) {
        let merge = &self.merge;
        let changes = self.balancer.place(|cluster, address| merge.node_of(cluster, address));
        self.apply(changes, now);
    }

    /// A cluster is otherwise than before.
    pub(super) fn cluster_is(&mut self, name: &ClusterName, now: Instant) {
        if let Some(id) = self.merge.id_of(name) {
            let changes = self.balancer.set_cluster(id, Some(self.view_of(name)));
            self.apply(changes, now);
        }
    }

    /// A node answers, or does so no more.
    pub(super) fn node_is(&mut self, cluster: &ClusterName, node: &str, alive: bool, now: Instant) {
        if let Some(id) = self.merge.id_of(cluster) {
            let changes = self.balancer.set_node(id, node, alive);
            self.apply(changes, now);
        }
    }

    /// The nodes that own backends in use, or would if they answered.
    pub(super) fn nodes_in_use(&self) -> BTreeMap<ClusterName, BTreeSet<Arc<str>>> {
        let names: BTreeMap<ClusterId, &ClusterName> =
            self.merge.clusters().map(|(name, id)| (id, name)).collect();
        let mut in_use: BTreeMap<ClusterName, BTreeSet<Arc<str>>> = BTreeMap::new();
        for (id, node) in self.balancer.nodes_in_use() {
            if let Some(name) = names.get(&id) {
                in_use.entry((*name).clone()).or_default().insert(Arc::clone(node));
            }
        }
        in_use
    }

    fn view_of(&self, name: &ClusterName) -> ClusterView {
        let sure = self.merge.has_told_services(name) && self.status(name).is_synced();
        let state = if self.staleness.is_stale(name) {
            ClusterState::Stale
        } else if self.health.is_cut(name) {
            ClusterState::Cut
        } else {
            ClusterState::InUse
        };
        ClusterView { name: name.clone(), state, sure }
    }
}
