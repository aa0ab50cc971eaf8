//! Which nodes and clusters do not answer, as the probes have it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use mesh_model::ClusterName;

use crate::input::ReachabilityChange;

/// What does not answer.
#[derive(Debug, Default)]
pub(crate) struct Reachability {
    /// Nodes, by the addresses at which they do not.
    dead: BTreeMap<ClusterName, BTreeMap<Arc<str>, BTreeSet<IpAddr>>>,
    /// Clusters of which nothing answers.
    unreachable: BTreeSet<ClusterName>,
}

impl Reachability {
    /// Takes note. Whether a node, or a cluster, as a whole is other than before: a node that does not answer at one of its
    /// addresses is dead although it may answer at another, since half of its connections would fail.
    pub(crate) fn change(&mut self, change: &ReachabilityChange) -> bool {
        match change {
            ReachabilityChange::Cluster { cluster, reachable: true } => {
                self.unreachable.remove(cluster)
            }
            ReachabilityChange::Cluster { cluster, reachable: false } => {
                self.unreachable.insert(cluster.clone())
            }
            ReachabilityChange::Node { cluster, node, address, alive } => {
                let nodes = self.dead.entry(cluster.clone()).or_default();
                let addresses = nodes.entry(Arc::clone(node)).or_default();
                let was_alive = addresses.is_empty();
                match alive {
                    true => addresses.remove(address),
                    false => addresses.insert(*address),
                };
                let is_alive = addresses.is_empty();
                if is_alive {
                    nodes.remove(node);
                }
                if nodes.is_empty() {
                    self.dead.remove(cluster);
                }
                was_alive != is_alive
            }
        }
    }

    /// A cluster is no longer followed.
    pub(crate) fn forget(&mut self, cluster: &ClusterName) {
        self.dead.remove(cluster);
        self.unreachable.remove(cluster);
    }

    pub(crate) fn is_unreachable(&self, cluster: &ClusterName) -> bool {
        self.unreachable.contains(cluster)
    }

    pub(crate) fn is_dead(&self, cluster: &ClusterName, node: &str) -> bool {
        self.dead.get(cluster).is_some_and(|nodes| nodes.contains_key(node))
    }

    /// The dead nodes of a cluster.
    pub(crate) fn dead(&self, cluster: &ClusterName) -> impl Iterator<Item = &Arc<str>> {
        self.dead.get(cluster).into_iter().flat_map(BTreeMap::keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_dead_at_its_first_dead_address_until_the_last_answers() {
        let b = ClusterName::new("b").unwrap();
        let node = |last: u8, alive| ReachabilityChange::Node {
            cluster: b.clone(),
            node: "n1".into(),
            address: [172, 31, 0, last].into(),
            alive,
        };
        let mut reachability = Reachability::default();
        assert!(!reachability.change(&node(1, true)));
        assert!(reachability.change(&node(1, false)));
        assert!(!reachability.change(&node(2, false)));
        assert!(!reachability.change(&node(1, true)));
        assert!(reachability.is_dead(&b, "n1"));
        assert!(reachability.change(&node(2, true)));
        assert_eq!((reachability.is_dead(&b, "n1"), reachability.dead(&b).count()), (false, 0));
        let cluster = |reachable| ReachabilityChange::Cluster { cluster: b.clone(), reachable };
        assert!(reachability.change(&cluster(false)) && !reachability.change(&cluster(false)));
        assert!(reachability.is_unreachable(&b));
        assert!(reachability.change(&cluster(true)) && !reachability.change(&cluster(true)));
    }
}
