//! What goes into the choice of backends: what clusters say, how they are, and how their nodes are.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use mesh_decide::{ClusterState, ClusterView};
use mesh_model::{ClusterId, ClusterName, lb::ServiceDelta};

use super::Mesh;

impl Mesh {
    /// Something is said about a service.
    pub(super) fn service(&mut self, delta: &ServiceDelta, now: Instant) {
        let merge = &self.merge;
        let node_of = |cluster, address| merge.node_of(cluster, address);
        let changes = self.decider.apply(delta, node_of);
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
            let changes = self.decider.set_cluster(*id, Some(view));
            self.apply(changes, now);
        }
        let names: BTreeSet<&ClusterName> = known.values().collect();
        let all = self.peers_known && self.peers.keys().all(|name| names.contains(name));
        let changes = self.decider.set_all_known(all);
        self.apply(changes, now);
    }

    /// Lets go of clusters that are no more. After what they said.
    pub(super) fn forget_clusters(&mut self, now: Instant) {
        let known = self.known_ids();
        let gone: Vec<ClusterId> =
            self.decider.clusters().filter(|id| !known.contains(id)).collect();
        for id in gone {
            let changes = self.decider.set_cluster(id, None);
            self.apply(changes, now);
        }
    }

    /// Backends whose cluster does not name their node are placed as soon as something says where their address is.
    pub(super) fn place_backends(&mut self, now: Instant) {
        let merge = &self.merge;
        let changes = self.decider.place(|cluster, address| merge.node_of(cluster, address));
        self.apply(changes, now);
    }

    fn view_of(&self, name: &ClusterName) -> ClusterView {
        let sure = self.merge.has_told_services(name) && self.status(name).is_synced();
        ClusterView { name: name.clone(), state: ClusterState::InUse, sure }
    }
}
