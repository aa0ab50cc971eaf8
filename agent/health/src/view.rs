//! The core's view of others' health, and of the nodes that are probed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use mesh_model::{ClusterName, lb::NodeHealth};

use crate::{
    order::Order,
    targets::{Target, targets},
    verdict::Verdict,
};

/// Verdicts by node and cluster, and the targets that were ordered.
#[derive(Debug)]
pub struct HealthView {
    local: ClusterName,
    /// The name of this node, which is not probed.
    node: String,
    ordered: BTreeMap<ClusterName, Vec<Target>>,
    /// Nodes that do not answer, by the addresses at which they do not.
    dead: BTreeMap<NodeKey, BTreeSet<IpAddr>>,
    unverified: BTreeSet<NodeKey>,
    cut: BTreeSet<ClusterName>,
}

/// The change by a verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ViewChange {
    /// A node is otherwise than before.
    Node {
        /// Its cluster.
        cluster: ClusterName,
        /// Its name.
        node: Arc<str>,
        /// How it is.
        health: NodeHealth,
    },
    /// A cluster is cut, or no longer.
    Cluster {
        /// The cluster.
        cluster: ClusterName,
        /// Whether it is cut.
        cut: bool,
    },
}

/// The nodes of a cluster.
#[derive(Clone, Copy, Debug)]
pub struct Nodes<I> {
    /// Each with its addresses.
    pub nodes: I,
    /// These are all that there are: a node that is not among them has no address.
    pub all: bool,
}

/// Cluster and node.
type NodeKey = (ClusterName, Arc<str>);

// === impl HealthView ===

impl HealthView {
    /// Knows nothing except this node of the local cluster.
    pub fn new(local: ClusterName, node: String) -> Self {
        Self {
            local,
            node,
            ordered: BTreeMap::new(),
            dead: BTreeMap::new(),
            unverified: BTreeSet::new(),
            cut: BTreeSet::new(),
        }
    }

    /// Takes a verdict. Returns what is otherwise by it than before.
    pub fn apply(&mut self, verdict: &Verdict) -> Option<ViewChange> {
        match verdict {
            Verdict::Node { cluster, node, address, alive, .. } => {
                let key = (cluster.clone(), Arc::clone(node));
                self.change_node(key, |view, key| match alive {
                    true => {
                        if let Some(addresses) = view.dead.get_mut(&key) {
                            addresses.remove(address);
                            if addresses.is_empty() {
                                view.dead.remove(&key);
                            }
                        }
                    }
                    false => drop(view.dead.entry(key).or_default().insert(*address)),
                })
            }
            Verdict::Unverified { cluster, node, unverified } => {
                let key = (cluster.clone(), Arc::clone(node));
                self.change_node(key, |view, key| match unverified {
                    true => drop(view.unverified.insert(key)),
                    false => drop(view.unverified.remove(&key)),
                })
            }
            Verdict::Cluster { cluster, cut, .. } => {
                let changed = match cut {
                    true => self.cut.insert(cluster.clone()),
                    false => self.cut.remove(cluster),
                };
                changed.then(|| ViewChange::Cluster { cluster: cluster.clone(), cut: *cut })
            }
            Verdict::Sockets(_) => None,
        }
    }

    /// Whether a cluster is cut.
    pub fn is_cut(&self, name: &ClusterName) -> bool {
        self.cut.contains(name)
    }

    /// How a node is. One that does not answer at one address is dead, although it may at another: half of its connections
    /// would fail.
    pub fn node(&self, cluster: &ClusterName, node: &Arc<str>) -> NodeHealth {
        self.health(&(cluster.clone(), Arc::clone(node)))
    }

    /// The nodes that are not simply alive: what the balancer must be given again where clusters have other IDs.
    pub fn unwell(&self) -> impl Iterator<Item = (&ClusterName, &Arc<str>, NodeHealth)> {
        let keys: BTreeSet<&NodeKey> = self.dead.keys().chain(&self.unverified).collect();
        keys.into_iter().map(|key| (&key.0, &key.1, self.health(key)))
    }

    /// The order by which the nodes of a cluster are probed, where that is another than before. `in_use` are those that own
    /// backends in use, or would if they were well.
    pub fn order<'a>(
        &mut self,
        cluster: &ClusterName,
        nodes: Nodes<impl Iterator<Item = (&'a str, &'a [IpAddr])>>,
        in_use: &BTreeSet<Arc<str>>,
    ) -> Option<Order> {
        let Nodes { nodes, all } = nodes;
        let is_local = *cluster == self.local;
        let nodes = nodes.filter(|(node, _)| !is_local || **node != *self.node);
        let mut in_use = in_use.clone();
        in_use.retain(|node| !is_local || **node != *self.node);
        // A node that is out of use because it does not answer must be probed, or it never comes back.
        let before = self.ordered.get(cluster).into_iter().flatten();
        let missed = before.filter(|target| target.in_use).filter(|target| {
            let key = (cluster.clone(), Arc::clone(&target.node));
            self.cut.contains(cluster) || self.dead.contains_key(&key)
        });
        in_use.extend(missed.map(|target| Arc::clone(&target.node)));
        let me = format!("{}/{}", self.local, self.node);
        let targets = targets(&me, cluster, nodes, all, &in_use);
        let same = self.ordered.get(cluster) == Some(&targets);
        if !same {
            self.ordered.insert(cluster.clone(), targets.clone());
        }
        (!same).then(|| Order::Probe(cluster.clone(), targets))
    }

    /// The order by which a cluster is no longer probed. Its former state ends with the verdicts that follow.
    pub fn forget(&mut self, cluster: &ClusterName) -> Order {
        self.ordered.remove(cluster);
        Order::Forget(cluster.clone())
    }

    fn health(&self, key: &NodeKey) -> NodeHealth {
        if self.dead.contains_key(key) {
            NodeHealth::Dead
        } else if self.unverified.contains(key) {
            NodeHealth::Unverified
        } else {
            NodeHealth::Alive
        }
    }

    fn change_node(
        &mut self,
        key: NodeKey,
        change: impl FnOnce(&mut Self, NodeKey),
    ) -> Option<ViewChange> {
        let before = self.health(&key);
        change(self, key.clone());
        let health = self.health(&key);
        let (cluster, node) = key;
        (before != health).then_some(ViewChange::Node { cluster, node, health })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(cluster: &str) -> ClusterName {
        ClusterName::new(cluster).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn view() -> HealthView {
        HealthView::new(name("a"), "n1".into())
    }

    fn node(address: &str, alive: bool) -> Verdict {
        let (cluster, node) = (name("b"), "n1".into());
        Verdict::Node { cluster, node, address: ip(address), alive, last_answer: None }
    }

    fn unverified(unverified: bool) -> Verdict {
        Verdict::Unverified { cluster: name("b"), node: "n1".into(), unverified }
    }

    fn cut(cut: bool) -> Verdict {
        Verdict::Cluster { cluster: name("b"), cut, last_answer: None }
    }

    /// The names of an order's targets; those that are in use with a star.
    fn targets(order: Option<Order>) -> Option<String> {
        let Order::Probe(_, targets) = order? else { panic!("another order") };
        let word = |t: Target| format!("{}{}", t.node, if t.in_use { "*" } else { "" });
        Some(targets.into_iter().map(word).collect::<Vec<_>>().join(" "))
    }

    fn order(view: &mut HealthView, cluster: &str, in_use: &[&str]) -> Option<String> {
        let address = [ip("172.31.0.1")];
        let nodes = ["n1", "n2", "n3", "n4", "n5"].map(|node| (node, &address[..]));
        let in_use = in_use.iter().map(|node| Arc::from(*node)).collect();
        let nodes = Nodes { nodes: nodes.into_iter(), all: true };
        targets(view.order(&name(cluster), nodes, &in_use))
    }

    #[test]
    fn a_node_is_as_bad_as_the_worst_that_is_known_of_it() {
        let mut view = view();
        let mut seen = Vec::new();
        for verdict in [
            unverified(true),
            node("172.31.2.1", false),
            node("fd00:172::2:1", false),
            unverified(false),
            node("172.31.2.1", true),
            node("fd00:172::2:1", true),
        ] {
            let change = view.apply(&verdict);
            seen.push(change.map(|change| match change {
                ViewChange::Node { health, .. } => health,
                ViewChange::Cluster { .. } => panic!("{change:?}"),
            }));
            let known = view.unwell().next().map(|(_, _, health)| health).unwrap_or_default();
            assert_eq!(known, view.node(&name("b"), &"n1".into()));
        }
        let (dead, alive) = (Some(NodeHealth::Dead), Some(NodeHealth::Alive));
        assert_eq!(seen, [Some(NodeHealth::Unverified), dead, None, None, None, alive]);
    }

    #[test]
    fn a_cluster_is_cut_once() {
        let mut view = view();
        let change = |cut| Some(ViewChange::Cluster { cluster: name("b"), cut });
        assert_eq!(view.apply(&cut(true)), change(true));
        assert_eq!(view.apply(&cut(true)), None);
        assert!(view.is_cut(&name("b")));
        assert_eq!(view.apply(&cut(false)), change(false));
        assert!(!view.is_cut(&name("b")));
    }

    #[test]
    fn what_is_out_of_use_because_it_does_not_answer_is_still_asked() {
        let mut view = view();
        assert_eq!(order(&mut view, "b", &["n1", "n2"]).unwrap(), "n1* n2*");
        assert_eq!(order(&mut view, "b", &["n1", "n2"]), None, "as before");
        view.apply(&node("172.31.2.1", false));
        assert_eq!(order(&mut view, "b", &["n2"]), None);
        view.apply(&cut(true));
        assert_eq!(order(&mut view, "b", &[]), None);
        view.apply(&cut(false));
        assert_eq!(order(&mut view, "b", &[]).unwrap(), "n1*", "it is dead");
        view.apply(&node("172.31.2.1", true));
        let others = order(&mut view, "b", &[]).unwrap();
        assert_eq!(others.split(' ').count(), 3, "{others}");
        assert!(!others.contains('*'));
        // Sorted in again when it is a peer again.
        view.apply(&node("172.31.2.1", true));
        assert!(matches!(view.forget(&name("b")), Order::Forget(_)));
        assert_eq!(order(&mut view, "b", &[]), Some(others));
    }

    #[test]
    fn this_node_is_not_asked() {
        let mut view = view();
        assert_eq!(order(&mut view, "a", &["n1", "n2", "gone"]).unwrap(), "gone* n2*");
        assert!(!order(&mut view, "a", &["n1"]).unwrap().contains("n1"));
    }
}
