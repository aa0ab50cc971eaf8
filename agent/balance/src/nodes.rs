//! Nodes: their health, and the backends on them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use mesh_model::{ClusterId, ServiceName, lb::NodeHealth};

/// All nodes that own backends, or are not simply alive.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    all: BTreeMap<ClusterId, HashMap<Arc<str>, Node>>,
    /// The nodes to probe may differ from those at the last [`Nodes::take_moved`].
    moved: bool,
}

#[derive(Debug, Default)]
struct Node {
    health: NodeHealth,
    /// Places of its backends in pools that are in use.
    in_use: usize,
    /// The services whose backends it has, and how many entries of pools.
    services: HashMap<Arc<ServiceName>, usize>,
}

impl Nodes {
    /// The name of the node of backends whose node is not known. It is always alive.
    pub(crate) const UNKNOWN: &str = "";

    pub(crate) fn health(&self, cluster: ClusterId, node: &str) -> NodeHealth {
        self.get(cluster, node).map(|node| node.health).unwrap_or_default()
    }

    /// Takes note of how a node is; returns whether that is new.
    pub(crate) fn set_health(
        &mut self,
        cluster: ClusterId,
        node: &str,
        health: NodeHealth,
    ) -> bool {
        if node == Self::UNKNOWN || self.health(cluster, node) == health {
            return false;
        }
        self.change(cluster, node, |node| node.health = health);
        self.tidy(cluster, node);
        true
    }

    /// A backend of a service has one place more on a node.
    pub(crate) fn add(&mut self, cluster: ClusterId, node: &str, service: &Arc<ServiceName>) {
        self.change(cluster, node, |node| {
            *node.services.entry(Arc::clone(service)).or_default() += 1;
        });
    }

    /// A backend of a service has one place less on a node.
    pub(crate) fn remove(&mut self, cluster: ClusterId, node: &str, service: &ServiceName) {
        if self.get(cluster, node).is_none() {
            return;
        }
        self.change(cluster, node, |node| {
            if let Some(places) = node.services.get_mut(service) {
                *places = places.saturating_sub(1);
                if *places == 0 {
                    node.services.remove(service);
                }
            }
        });
        self.tidy(cluster, node);
    }

    pub(crate) fn used(&mut self, cluster: ClusterId, node: &str) {
        self.change(cluster, node, |node| node.in_use += 1);
    }

    pub(crate) fn unused(&mut self, cluster: ClusterId, node: &str) {
        if self.get(cluster, node).is_some() {
            self.change(cluster, node, |node| node.in_use = node.in_use.saturating_sub(1));
        }
    }

    /// Whether [`Nodes::in_use`] are others, or were meanwhile, since this was asked last.
    pub(crate) fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// The nodes of a cluster that are not simply alive.
    pub(crate) fn unwell(&self, cluster: ClusterId) -> Vec<Arc<str>> {
        let nodes = self.all.get(&cluster).into_iter().flatten();
        nodes.filter(|(_, node)| !node.is_alive()).map(|(name, _)| Arc::clone(name)).collect()
    }

    /// The services that have a backend on a node.
    pub(crate) fn services(&self, cluster: ClusterId, node: &str) -> Vec<Arc<ServiceName>> {
        let services = self.get(cluster, node).into_iter().flat_map(|node| node.services.keys());
        services.cloned().collect()
    }

    /// The services that have a backend in a cluster.
    pub(crate) fn services_of(&self, cluster: ClusterId) -> Vec<Arc<ServiceName>> {
        let nodes = self.all.get(&cluster).into_iter().flat_map(HashMap::values);
        let mut services: Vec<_> = nodes.flat_map(|node| node.services.keys()).cloned().collect();
        services.sort_unstable();
        services.dedup();
        services
    }

    /// The nodes with backends in use, and those with backends that would be if they were well.
    pub(crate) fn in_use(&self) -> impl Iterator<Item = (ClusterId, &Arc<str>)> {
        self.all.iter().flat_map(|(cluster, nodes)| {
            let used = nodes
                .iter()
                .filter(|(name, node)| name.as_ref() != Self::UNKNOWN && node.is_worth_a_look());
            used.map(|(name, _)| (*cluster, name))
        })
    }

    fn get(&self, cluster: ClusterId, node: &str) -> Option<&Node> {
        self.all.get(&cluster)?.get(node)
    }

    /// Makes a change, and records what follows for [`Nodes::in_use`].
    fn change(&mut self, cluster: ClusterId, node: &str, change: impl FnOnce(&mut Node)) {
        let entry = self.entry(cluster, node);
        let before = entry.is_worth_a_look();
        change(entry);
        self.moved |= entry.is_worth_a_look() != before;
    }

    fn entry(&mut self, cluster: ClusterId, node: &str) -> &mut Node {
        let nodes = self.all.entry(cluster).or_default();
        let name = nodes.get_key_value(node).map(|(name, _)| Arc::clone(name));
        nodes.entry(name.unwrap_or_else(|| node.into())).or_default()
    }

    /// Forgets a node that is alive and owns nothing.
    fn tidy(&mut self, cluster: ClusterId, node: &str) {
        let Some(nodes) = self.all.get_mut(&cluster) else { return };
        if nodes.get(node).is_some_and(|node| node.is_alive() && node.services.is_empty()) {
            self.moved |= nodes.remove(node).is_some_and(|node| node.is_worth_a_look());
        }
        if nodes.is_empty() {
            self.all.remove(&cluster);
        }
    }
}

impl Node {
    fn is_alive(&self) -> bool {
        self.health == NodeHealth::Alive
    }

    /// It has backends in use, or would have if it were well.
    fn is_worth_a_look(&self) -> bool {
        self.in_use > 0 || (!self.is_alive() && !self.services.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use mesh_model::ClusterLimit;

    use super::*;

    #[test]
    fn only_a_node_that_comes_or_goes_is_a_reason_to_look_again() {
        let b = ClusterId::new(2, ClusterLimit::Max255).unwrap();
        let service = Arc::new(ServiceName::new("shop", "web"));
        let mut nodes = Nodes::default();
        let mut moved = |change: &dyn Fn(&mut Nodes)| {
            change(&mut nodes);
            let in_use: Vec<String> = nodes.in_use().map(|(_, name)| name.to_string()).collect();
            (nodes.take_moved(), in_use.join(" "))
        };
        for (change, expected) in [
            (&(|n: &mut Nodes| n.add(b, "n1", &service)) as &dyn Fn(&mut Nodes), (false, "")),
            (&|n| n.used(b, "n1"), (true, "n1")),
            (&|n| n.used(b, "n1"), (false, "n1")),
            (&|n| n.unused(b, "n1"), (false, "n1")),
            // Once it is dead nothing of it is used, and it is asked all the same.
            (&|n| assert!(n.set_health(b, "n1", NodeHealth::Dead)), (false, "n1")),
            (&|n| n.unused(b, "n1"), (false, "n1")),
            (&|n| assert!(n.set_health(b, "n1", NodeHealth::Alive)), (true, "")),
            (&|n| n.unused(b, "n2"), (false, "")),
            (&|n| n.used(b, "n1"), (true, "n1")),
            (&|n| n.remove(b, "n1", &service), (true, "")),
        ] {
            let (was_moved, in_use) = moved(change);
            assert_eq!((was_moved, in_use.as_str()), expected);
        }
    }
}
