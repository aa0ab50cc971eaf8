//! Nodes: whether they answer, and what is on them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use mesh_model::{ClusterId, ServiceName};

/// All nodes that somebody said something of.
#[derive(Debug, Default)]
pub(crate) struct Nodes(BTreeMap<ClusterId, HashMap<Arc<str>, Node>>);

#[derive(Debug, Default)]
struct Node {
    dead: bool,
    /// Places of its backends in pools that are in use.
    in_use: usize,
    /// Whose backends it has, and how many places in pools.
    services: HashMap<Arc<ServiceName>, usize>,
}

impl Nodes {
    /// The name of the node of backends whose node is not known. It is always well.
    pub(crate) const UNKNOWN: &str = "";

    pub(crate) fn is_alive(&self, cluster: ClusterId, node: &str) -> bool {
        !self.get(cluster, node).is_some_and(|node| node.dead)
    }

    /// Takes note of whether a node answers; returns whether that is new.
    pub(crate) fn set_alive(&mut self, cluster: ClusterId, node: &str, alive: bool) -> bool {
        if node == Self::UNKNOWN || self.is_alive(cluster, node) == alive {
            return false;
        }
        self.entry(cluster, node).dead = !alive;
        self.tidy(cluster, node);
        true
    }

    /// A backend of a service has one place more on a node.
    pub(crate) fn add(&mut self, cluster: ClusterId, node: &str, service: &Arc<ServiceName>) {
        let entry = self.entry(cluster, node);
        *entry.services.entry(Arc::clone(service)).or_default() += 1;
    }

    /// A backend of a service has one place less on a node.
    pub(crate) fn remove(&mut self, cluster: ClusterId, node: &str, service: &ServiceName) {
        let Some(entry) = self.get_mut(cluster, node) else { return };
        if let Some(places) = entry.services.get_mut(service) {
            *places = places.saturating_sub(1);
            if *places == 0 {
                entry.services.remove(service);
            }
        }
        self.tidy(cluster, node);
    }

    pub(crate) fn used(&mut self, cluster: ClusterId, node: &str) {
        self.entry(cluster, node).in_use += 1;
    }

    pub(crate) fn unused(&mut self, cluster: ClusterId, node: &str) {
        if let Some(entry) = self.get_mut(cluster, node) {
            entry.in_use = entry.in_use.saturating_sub(1);
        }
    }

    /// The nodes of a cluster that do not answer.
    pub(crate) fn dead(&self, cluster: ClusterId) -> Vec<Arc<str>> {
        let nodes = self.0.get(&cluster).into_iter().flatten();
        nodes.filter(|(_, node)| node.dead).map(|(name, _)| Arc::clone(name)).collect()
    }

    /// The services that have a backend on a node.
    pub(crate) fn services(&self, cluster: ClusterId, node: &str) -> Vec<Arc<ServiceName>> {
        let services = self.get(cluster, node).into_iter().flat_map(|node| node.services.keys());
        services.cloned().collect()
    }

    /// The services that have a backend in a cluster.
    pub(crate) fn services_of(&self, cluster: ClusterId) -> Vec<Arc<ServiceName>> {
        let nodes = self.0.get(&cluster).into_iter().flat_map(HashMap::values);
        let mut services: Vec<_> = nodes.flat_map(|node| node.services.keys()).cloned().collect();
        services.sort_unstable();
        services.dedup();
        services
    }

    /// The services with backends whose node is not known.
    pub(crate) fn unplaced(&self) -> Vec<(ClusterId, Vec<Arc<ServiceName>>)> {
        let services = |cluster: &ClusterId| self.services(*cluster, Self::UNKNOWN);
        let all = self.0.keys().map(|cluster| (*cluster, services(cluster)));
        all.filter(|(_, services)| !services.is_empty()).collect()
    }

    /// The nodes with backends in use, and those with backends that would be if they answered.
    pub(crate) fn in_use(&self) -> impl Iterator<Item = (ClusterId, &Arc<str>)> {
        self.0.iter().flat_map(|(cluster, nodes)| {
            let used = nodes.iter().filter(|(name, node)| {
                name.as_ref() != Self::UNKNOWN
                    && (node.in_use > 0 || (node.dead && !node.services.is_empty()))
            });
            used.map(|(name, _)| (*cluster, name))
        })
    }

    fn get(&self, cluster: ClusterId, node: &str) -> Option<&Node> {
        self.0.get(&cluster)?.get(node)
    }

    fn get_mut(&mut self, cluster: ClusterId, node: &str) -> Option<&mut Node> {
        self.0.get_mut(&cluster)?.get_mut(node)
    }

    fn entry(&mut self, cluster: ClusterId, node: &str) -> &mut Node {
        let nodes = self.0.entry(cluster).or_default();
        let name = nodes.get_key_value(node).map(|(name, _)| Arc::clone(name));
        nodes.entry(name.unwrap_or_else(|| node.into())).or_default()
    }

    /// Of a node that is as if nothing had been said of it nothing is kept.
    fn tidy(&mut self, cluster: ClusterId, node: &str) {
        let Some(nodes) = self.0.get_mut(&cluster) else { return };
        if nodes.get(node).is_some_and(|node| !node.dead && node.services.is_empty()) {
            nodes.remove(node);
        }
        if nodes.is_empty() {
            self.0.remove(&cluster);
        }
    }
}
