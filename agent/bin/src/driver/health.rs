//! Which clusters are cut, written where the programs read it.

use std::{collections::BTreeSet, time::Instant};

use mesh_balance::HealthChange;
use mesh_core::{Input, ReachabilityChange};
use mesh_model::{ClusterId, ClusterName};

use super::Driver;
use crate::prober::Order;

/// Clusters that are cut.
#[derive(Debug, Default)]
pub(crate) struct Cuts {
    names: BTreeSet<ClusterName>,
    /// Cut by the previous run; whose ids these are is not known yet.
    inherited: BTreeSet<ClusterId>,
}

impl Cuts {
    pub(crate) fn new(inherited: BTreeSet<ClusterId>) -> Self {
        Self { names: BTreeSet::new(), inherited }
    }
}

impl Driver {
    /// A node or cluster became reachable or unreachable, and others at the same time.
    pub(super) fn reachability(&mut self, first: HealthChange) {
        let more: Vec<HealthChange> = self.node.writers.prober.more().collect();
        for change in [first].into_iter().chain(more) {
            let change = match change {
                HealthChange::Node { cluster, node, address, alive } => {
                    match alive {
                        true => {
                            tracing::info!(peer = %cluster, node = %node, %address, "the node answers again")
                        }
                        false => {
                            tracing::warn!(peer = %cluster, node = %node, %address, "the node does not answer: its pods are used if there are no others")
                        }
                    }
                    ReachabilityChange::Node { cluster, node, address, alive }
                }
                HealthChange::Cluster { cluster, cut } => {
                    match cut {
                        false => tracing::info!(peer = %cluster, "the cluster answers again"),
                        true => {
                            tracing::warn!(peer = %cluster, "neither a node nor the etcd answers: the cluster is unreachable")
                        }
                    }
                    if cut {
                        self.cuts.names.insert(cluster.clone());
                    } else {
                        self.cuts.names.remove(&cluster);
                    }
                    // First the one write that leads all clients elsewhere.
                    if let Some(id) = self.node.core.merge().id_of(&cluster) {
                        self.node.lb.tables_mut().set_cut(id, cut);
                    }
                    ReachabilityChange::Cluster { cluster, reachable: !cut }
                }
            };
            self.node.core.handle(Input::Reachability(change), Instant::now());
        }
        self.carry_out(Instant::now());
    }

    /// Ids may be other clusters' than before: each has the state of the cluster that has it now.
    pub(super) fn write_cuts(&mut self, ids: &[(ClusterName, ClusterId)]) -> bool {
        let mut found = false;
        for id in std::mem::take(&mut self.cuts.inherited) {
            match ids.iter().find(|(_, other)| *other == id) {
                Some((cluster, _)) => {
                    found = true;
                    self.cuts.names.insert(cluster.clone());
                    self.node.writers.prober.order(Order::IsCut(cluster.clone()));
                    let cluster = cluster.clone();
                    let change = ReachabilityChange::Cluster { cluster, reachable: false };
                    self.node.core.handle(Input::Reachability(change), Instant::now());
                }
                None => {
                    self.cuts.inherited.insert(id);
                }
            }
        }
        let cut = ids.iter().filter(|(name, _)| self.cuts.names.contains(name));
        let cut: BTreeSet<ClusterId> = cut.map(|(_, id)| *id).collect();
        let written: BTreeSet<ClusterId> = self.node.lb.tables().cut().collect();
        for id in written.difference(&cut).filter(|id| !self.cuts.inherited.contains(*id)) {
            self.node.lb.tables_mut().set_cut(*id, false);
        }
        for id in cut.difference(&written) {
            self.node.lb.tables_mut().set_cut(*id, true);
        }
        found
    }
}
