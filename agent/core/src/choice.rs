//! The choice of backends: its inputs from clusters, nodes and services, and its changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_balance::{Balancer, ClusterState, ClusterView, Rules};
use mesh_merge::{Located, Merge};
use mesh_model::{
    ClusterId, ClusterName,
    lb::{Change, NodeHealth, ServiceDelta},
};

/// The balancer, and what it was last given.
#[derive(Debug)]
pub(crate) struct Choice {
    balancer: Balancer,
    /// Clusters by id, as the balancer has them.
    known: BTreeMap<ClusterId, ClusterView>,
    /// Clusters of which something may be other than the balancer has it.
    moved: BTreeSet<ClusterName>,
    /// So may the set of clusters.
    clusters_moved: bool,
    /// So may the nodes of all backends of a cluster.
    located: BTreeSet<ClusterId>,
    all_known: bool,
}

impl Choice {
    /// Knows nothing yet except the local cluster's name.
    pub(crate) fn new(rules: Rules, local: ClusterName) -> Self {
        Self {
            balancer: Balancer::new(rules, local),
            known: BTreeMap::new(),
            moved: BTreeSet::new(),
            clusters_moved: true,
            located: BTreeSet::new(),
            all_known: false,
        }
    }

    /// Something about a cluster that matters to the choice may be other than before.
    pub(crate) fn cluster_moved(&mut self, name: &ClusterName) {
        if !self.moved.contains(name) {
            self.moved.insert(name.clone());
        }
    }

    /// So may the IDs of clusters, or the set of clusters.
    pub(crate) fn clusters_moved(&mut self) {
        self.clusters_moved = true;
    }

    /// So may the nodes of a cluster's backends.
    pub(crate) fn located(
        &mut self,
        cluster: ClusterId,
        addresses: Located,
        merge: &Merge,
        changes: &mut Vec<Change>,
    ) {
        match addresses {
            Located::Any => drop(self.located.insert(cluster)),
            Located::One(address) => {
                let node_of = |address| merge.node_of(cluster, address);
                changes.extend(self.balancer.place_at(cluster, address, node_of));
            }
        }
    }

    /// Gives the balancer the clusters, before what they report of services: weights and tiers name clusters. A cluster
    /// that is synced now is so only after that, in [`Choice::clusters`].
    pub(crate) fn names(
        &mut self,
        merge: &Merge,
        view: impl Fn(&ClusterName) -> ClusterView,
        changes: &mut Vec<Change>,
    ) {
        if !self.clusters_moved {
            return;
        }
        for (name, id) in merge.clusters().filter(|(_, id)| *id != ClusterId::NONE) {
            if self.known.get(&id).is_none_or(|known| known.name != *name) {
                self.set(id, ClusterView { synced: false, ..view(name) }, changes);
                self.moved.insert(name.clone());
            }
        }
    }

    /// Gives the balancer the clusters, after what they reported. `all_known`: there are no others.
    pub(crate) fn clusters(
        &mut self,
        merge: &Merge,
        view: impl Fn(&ClusterName) -> ClusterView,
        all_known: bool,
        changes: &mut Vec<Change>,
    ) {
        for name in std::mem::take(&mut self.moved) {
            if let Some(id) = merge.id_of(&name) {
                self.set(id, view(&name), changes);
            }
        }
        if std::mem::take(&mut self.clusters_moved) {
            let ids: BTreeSet<ClusterId> = merge.clusters().map(|(_, id)| id).collect();
            let gone = self.balancer.clusters().filter(|id| !ids.contains(id));
            for id in gone.collect::<Vec<_>>() {
                self.known.remove(&id);
                changes.extend(self.balancer.set_cluster(id, None));
            }
        }
        if self.all_known != all_known {
            self.all_known = all_known;
            changes.extend(self.balancer.set_all_known(all_known));
        }
    }

    fn set(&mut self, id: ClusterId, view: ClusterView, changes: &mut Vec<Change>) {
        if self.known.get(&id) != Some(&view) {
            self.known.insert(id, view.clone());
            changes.extend(self.balancer.set_cluster(id, Some(view)));
        }
    }

    /// Where the clients of the local node are.
    pub(crate) fn zone(&mut self, zone: Option<&str>, changes: &mut Vec<Change>) {
        changes.extend(self.balancer.set_zone(zone));
    }

    /// Something is reported about a service.
    pub(crate) fn service(
        &mut self,
        delta: &ServiceDelta,
        merge: &Merge,
        changes: &mut Vec<Change>,
    ) {
        let node_of = |cluster, address| merge.node_of(cluster, address);
        changes.extend(self.balancer.apply(delta, node_of));
    }

    /// How a node is.
    pub(crate) fn node(
        &mut self,
        cluster: ClusterId,
        node: &str,
        health: NodeHealth,
        changes: &mut Vec<Change>,
    ) {
        changes.extend(self.balancer.set_node(cluster, node, health));
    }

    /// Backends whose cluster does not name their node are placed as soon as a record reports where their address is.
    pub(crate) fn place(&mut self, merge: &Merge, changes: &mut Vec<Change>) {
        for cluster in std::mem::take(&mut self.located) {
            changes.extend(self.balancer.place(cluster, |address| merge.node_of(cluster, address)));
        }
    }

    /// Whether other nodes own backends in use than when this was asked last.
    pub(crate) fn take_in_use_moved(&mut self) -> bool {
        self.balancer.take_in_use_moved()
    }

    /// The nodes that own backends in use, or would if they answered.
    pub(crate) fn nodes_in_use(&self) -> BTreeMap<ClusterName, BTreeSet<Arc<str>>> {
        let mut in_use: BTreeMap<ClusterName, BTreeSet<Arc<str>>> = BTreeMap::new();
        let mut last: Option<(ClusterId, &ClusterName)> = None;
        for (id, node) in self.balancer.nodes_in_use() {
            let name = match last {
                Some((known, name)) if known == id => Some(name),
                _ => self.known.get(&id).map(|view| &view.name),
            };
            let Some(name) = name else { continue };
            last = Some((id, name));
            match in_use.get_mut(name) {
                Some(nodes) => {
                    nodes.insert(Arc::clone(node));
                }
                None => {
                    in_use.insert(name.clone(), BTreeSet::from([Arc::clone(node)]));
                }
            }
        }
        in_use
    }

    pub(crate) fn balancer(&self) -> &Balancer {
        &self.balancer
    }
}

/// How a cluster is seen by the balancer.
pub(crate) fn state(stale: bool, drained: bool, unreachable: bool) -> ClusterState {
    match (stale, drained, unreachable) {
        (true, ..) => ClusterState::Stale,
        (false, true, _) => ClusterState::Drained,
        (false, false, true) => ClusterState::Cut,
        (false, false, false) => ClusterState::InUse,
    }
}
