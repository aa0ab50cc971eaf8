//! Who answers: whom to probe, and what follows when somebody does so no more.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use mesh_balance::{HealthChange, Target, targets};
use mesh_model::{ClusterId, ClusterName};

use super::Mesh;
use crate::{
    peers::Handle,
    prober::{Etcd, Order, Prober},
};

/// What is known of others' health.
#[derive(Debug)]
pub(crate) struct Health {
    pub(crate) prober: Prober,
    /// Whom the prober was told to ask.
    ordered: BTreeMap<ClusterName, Vec<Target>>,
    /// Whom to ask may be somebody else by now.
    stale: bool,
    refreshed: Instant,
    /// Nodes that do not answer, by the addresses at which they do not.
    dead: BTreeMap<(ClusterName, Arc<str>), BTreeSet<IpAddr>>,
    /// Clusters that are cut.
    cut: BTreeSet<ClusterName>,
    /// Cut by a former life; whose number that is, is not known yet.
    inherited: BTreeSet<ClusterId>,
}

/// How soon after another look at whom to probe there may be the next.
const REFRESH: Duration = Duration::from_millis(200);

impl Health {
    /// Nothing is known, beside what a former life cut.
    pub(crate) fn new(prober: Prober, inherited: BTreeSet<ClusterId>, now: Instant) -> Self {
        Self {
            prober,
            ordered: BTreeMap::new(),
            stale: true,
            refreshed: now.checked_sub(REFRESH).unwrap_or(now),
            dead: BTreeMap::new(),
            cut: BTreeSet::new(),
            inherited,
        }
    }

    /// Whom to probe may have changed.
    pub(super) fn refresh(&mut self) {
        self.stale = true;
    }

    /// When to look whom to probe.
    pub(super) fn due(&self) -> Option<Instant> {
        self.stale.then(|| self.refreshed + REFRESH)
    }

    /// A cluster is followed.
    pub(super) fn follow(&self, name: &ClusterName, handle: &Handle) {
        let Handle { commands, status, .. } = handle;
        let etcd = Etcd { commands: commands.clone(), status: status.clone() };
        self.prober.order(Order::Follow(name.clone(), etcd));
    }

    /// Whether a cluster is cut.
    pub(crate) fn is_cut(&self, name: &ClusterName) -> bool {
        self.cut.contains(name)
    }

    /// A node that does not answer at an address is dead, although it may at another: half of its connections would fail.
    fn set_address(
        &mut self,
        cluster: &ClusterName,
        node: &Arc<str>,
        address: IpAddr,
        alive: bool,
    ) -> bool {
        let key = (cluster.clone(), Arc::clone(node));
        let addresses = self.dead.entry(key.clone()).or_default();
        let was_alive = addresses.is_empty();
        match alive {
            true => addresses.remove(&address),
            false => addresses.insert(address),
        };
        let is_alive = addresses.is_empty();
        if is_alive {
            self.dead.remove(&key);
        }
        was_alive != is_alive
    }
}

impl Mesh {
    /// Tells the prober whom to ask, where that is somebody else than before.
    pub(super) fn refresh_targets(&mut self, now: Instant) {
        self.health.stale = false;
        self.health.refreshed = now;
        let in_use = self.nodes_in_use();
        let none = BTreeSet::new();
        let me = format!("{}/{}", self.own, self.node);
        for name in self.peers.keys() {
            let nodes = self.merge.nodes(name);
            let nodes = nodes.filter(|(node, _)| *name != self.own || *node != self.node);
            let mut in_use = in_use.get(name).unwrap_or(&none).clone();
            // What is out of use because it does not answer must be asked, or it never comes back.
            let before = self.health.ordered.get(name).into_iter().flatten();
            let missed = before.filter(|target| target.in_use).filter(|target| {
                let key = (name.clone(), Arc::clone(&target.node));
                self.health.cut.contains(name) || self.health.dead.contains_key(&key)
            });
            in_use.extend(missed.map(|target| Arc::clone(&target.node)));
            let targets = targets(&me, name, nodes, &in_use);
            if self.health.ordered.get(name) != Some(&targets) {
                self.health.ordered.insert(name.clone(), targets.clone());
                self.health.prober.order(Order::Probe(name.clone(), targets));
            }
        }
    }

    /// A cluster is no peer any more.
    pub(super) fn forget_health(&mut self, name: &ClusterName) {
        self.health.ordered.remove(name);
        self.health.prober.order(Order::Forget(name.clone()));
    }

    /// Somebody died or is back, and whoever did so at the same time.
    pub(super) async fn take_health(&mut self, first: HealthChange) {
        let more: Vec<HealthChange> = self.health.prober.more().collect();
        for change in [first].into_iter().chain(more) {
            self.health_change(change);
        }
        self.health.refresh();
        self.settle().await;
    }

    fn health_change(&mut self, change: HealthChange) {
        let now = Instant::now();
        match change {
            HealthChange::Node { cluster, node, address, alive } => {
                if alive {
                    tracing::info!(peer = %cluster, node = %node, %address, "the node answers again");
                } else {
                    tracing::warn!(peer = %cluster, node = %node, %address, "the node does not answer: its pods are used if there are no others");
                }
                if self.health.set_address(&cluster, &node, address, alive) {
                    self.sockets_of_node(&cluster, &node, alive, now);
                    self.node_is(&cluster, &node, alive, now);
                }
            }
            HealthChange::Cluster { cluster, cut: true } => {
                tracing::warn!(peer = %cluster, "neither a node nor the etcd answers: the cluster is cut");
                self.health.cut.insert(cluster.clone());
                // First the one write that leads everybody elsewhere.
                self.write_cut(&cluster, true);
                self.sockets_of_cluster(&cluster, true, now);
                self.cluster_is(&cluster, now);
            }
            HealthChange::Cluster { cluster, cut: false } => {
                tracing::info!(peer = %cluster, "the cluster answers again");
                self.health.cut.remove(&cluster);
                self.write_cut(&cluster, false);
                self.sockets_of_cluster(&cluster, false, now);
                self.cluster_is(&cluster, now);
            }
        }
    }

    fn write_cut(&mut self, cluster: &ClusterName, cut: bool) {
        if let Some(id) = self.merge.id_of(cluster) {
            self.tables.set_cut(id, cut);
        }
    }

    /// Numbers may be other clusters' than before: each has the state of the cluster that has it now.
    pub(super) fn renumber_health(&mut self, now: Instant) {
        let inherited = std::mem::take(&mut self.health.inherited);
        for id in inherited {
            match self.merge.clusters().find(|(_, other)| *other == id) {
                Some((name, _)) => {
                    self.health.cut.insert(name.clone());
                    self.health.prober.order(Order::IsCut(name.clone()));
                }
                // Whose number it was may be said yet.
                None => {
                    self.health.inherited.insert(id);
                }
            }
        }
        let cut: BTreeSet<ClusterId> = self
            .merge
            .clusters()
            .filter(|(name, id)| *id != ClusterId::NONE && self.health.cut.contains(*name))
            .map(|(_, id)| id)
            .collect();
        let written: BTreeSet<ClusterId> = self.tables.cut().collect();
        for id in written.difference(&cut).filter(|id| !self.health.inherited.contains(*id)) {
            self.tables.set_cut(*id, false);
        }
        for id in cut.difference(&written) {
            self.tables.set_cut(*id, true);
        }
        let dead: Vec<(ClusterName, Arc<str>)> = self.health.dead.keys().cloned().collect();
        dead.iter().for_each(|(cluster, node)| self.node_is(cluster, node, false, now));
        self.clusters_moved = true;
    }

    /// Of numbers that no cluster has nothing is cut, once all clusters are known.
    pub(super) fn forget_foreign_cuts(&mut self, now: Instant) {
        let known = self.known_ids();
        let all = self.peers.keys().all(|name| self.merge.id_of(name).is_some());
        if self.peers_known && all && !self.health.inherited.is_empty() {
            self.health.inherited.retain(|id| known.contains(id));
            self.renumber_health(now);
        }
    }
}
