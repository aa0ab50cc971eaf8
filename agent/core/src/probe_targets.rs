//! Which nodes are worth probing: those that own backends in use, or would if they answered, and some others of each cluster.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use mesh_model::ClusterName;

/// Of which clusters the nodes to probe may have changed.
#[derive(Debug)]
pub(crate) struct ProbeTargets {
    /// Their nodes did.
    nodes: BTreeSet<ClusterName>,
    /// Nodes in use did, of whichever cluster.
    in_use: bool,
    looked: Option<Instant>,
    /// The nodes in use of each cluster, at the last look.
    asked: BTreeMap<ClusterName, BTreeSet<Arc<str>>>,
}

/// How soon after a look there may be the next.
const PAUSE: Duration = Duration::from_millis(200);

impl ProbeTargets {
    pub(crate) fn new() -> Self {
        Self { nodes: BTreeSet::new(), in_use: true, looked: None, asked: BTreeMap::new() }
    }

    /// The nodes of a cluster changed.
    pub(crate) fn nodes_changed(&mut self, cluster: &ClusterName) {
        if !self.nodes.contains(cluster) {
            self.nodes.insert(cluster.clone());
        }
    }

    /// Other nodes may own backends in use.
    pub(crate) fn in_use_changed(&mut self) {
        self.in_use = true;
    }

    /// When to look again.
    pub(crate) fn next_timeout(&self, now: Instant) -> Option<Instant> {
        let due = self.looked.map_or(now, |looked| looked + PAUSE);
        (self.in_use || !self.nodes.is_empty()).then_some(due)
    }

    /// Looks: `in_use` are the nodes in use by cluster, `misses` whether a node is out of use only because it does not
    /// answer. Such a node goes on being probed, or it would never come back. Returns the clusters to probe otherwise than
    /// before, with their nodes in use.
    pub(crate) fn look(
        &mut self,
        mut in_use: BTreeMap<ClusterName, BTreeSet<Arc<str>>>,
        misses: impl Fn(&ClusterName, &str) -> bool,
        now: Instant,
    ) -> Vec<(ClusterName, BTreeSet<Arc<str>>)> {
        self.looked = Some(now);
        for (cluster, asked) in &self.asked {
            let missed = asked.iter().filter(|node| misses(cluster, node));
            let missed: Vec<Arc<str>> = missed.cloned().collect();
            if !missed.is_empty() {
                in_use.entry(cluster.clone()).or_default().extend(missed);
            }
        }
        let mut changed = std::mem::take(&mut self.nodes);
        let moved = |name: &&ClusterName| self.asked.get(*name) != in_use.get(*name);
        changed.extend(in_use.keys().chain(self.asked.keys()).filter(moved).cloned());
        self.in_use = false;
        let of = |name: ClusterName| {
            let nodes = in_use.get(&name).cloned().unwrap_or_default();
            (name, nodes)
        };
        let changed = changed.into_iter().map(of).collect();
        self.asked = in_use;
        changed
    }

    /// A cluster is no longer followed.
    pub(crate) fn forget(&mut self, cluster: &ClusterName) {
        self.nodes.remove(cluster);
        self.asked.remove(cluster);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_clusters_that_changed_are_looked_at_and_missed_nodes_stay() {
        let (b, c) = (ClusterName::new("b").unwrap(), ClusterName::new("c").unwrap());
        let node = |name: &str| -> Arc<str> { name.into() };
        let set = |names: &[&str]| names.iter().map(|name| node(name)).collect::<BTreeSet<_>>();
        let now = Instant::now();
        let mut targets = ProbeTargets::new();
        assert_eq!(targets.next_timeout(now), Some(now));
        let first = BTreeMap::from([(b.clone(), set(&["n1"])), (c.clone(), set(&["n1", "n2"]))]);
        let looked = targets.look(first.clone(), |_, _| false, now);
        assert_eq!(looked, [(b.clone(), set(&["n1"])), (c.clone(), set(&["n1", "n2"]))]);
        assert_eq!(targets.next_timeout(now), None);
        assert_eq!(targets.look(first, |_, _| false, now), []);

        targets.nodes_changed(&b);
        assert_eq!(targets.next_timeout(now), Some(now + PAUSE));
        // c's n2 is out of use because it is dead, c's n1 because it has no backend any more.
        let second = BTreeMap::from([(b.clone(), set(&["n1"]))]);
        let looked = targets.look(second, |name, node| *name == c && node == "n2", now);
        assert_eq!(looked, [(b.clone(), set(&["n1"])), (c.clone(), set(&["n2"]))]);
        targets.in_use_changed();
        assert!(targets.next_timeout(now).is_some());
        let looked = targets.look(BTreeMap::from([(b, set(&["n1"]))]), |_, _| false, now);
        assert_eq!(looked, [(c.clone(), set(&[]))]);
        targets.nodes_changed(&c);
        targets.forget(&c);
        assert_eq!(targets.next_timeout(now), None);
    }
}
