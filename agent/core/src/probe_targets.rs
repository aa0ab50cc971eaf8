//! When to choose again which nodes to probe, and of which clusters: those whose nodes changed, and those whose nodes
//! own backends in use.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use mesh_model::ClusterName;

/// The clusters whose nodes to probe may have changed.
#[derive(Debug)]
pub(crate) struct ProbeTargets {
    /// Their nodes did, or how these are.
    nodes: BTreeSet<ClusterName>,
    /// Nodes in use did, of whichever cluster.
    in_use: bool,
    looked: Option<Instant>,
    /// The nodes in use of each cluster, at the last look.
    last: BTreeMap<ClusterName, BTreeSet<Arc<str>>>,
}

/// The least time between two choices.
const PAUSE: Duration = Duration::from_millis(200);

impl ProbeTargets {
    pub(crate) fn new() -> Self {
        Self { nodes: BTreeSet::new(), in_use: true, looked: None, last: BTreeMap::new() }
    }

    /// The nodes of a cluster changed, or how they are.
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

    /// Looks: `in_use` are the nodes in use by cluster. Returns the clusters of which other nodes may be worth probing, with
    /// their nodes in use.
    pub(crate) fn look(
        &mut self,
        in_use: BTreeMap<ClusterName, BTreeSet<Arc<str>>>,
        now: Instant,
    ) -> Vec<(ClusterName, BTreeSet<Arc<str>>)> {
        self.looked = Some(now);
        self.in_use = false;
        let mut changed = std::mem::take(&mut self.nodes);
        let moved = |name: &&ClusterName| self.last.get(*name) != in_use.get(*name);
        changed.extend(in_use.keys().chain(self.last.keys()).filter(moved).cloned());
        let of = |name: ClusterName| {
            let nodes = in_use.get(&name).cloned().unwrap_or_default();
            (name, nodes)
        };
        let changed = changed.into_iter().map(of).collect();
        self.last = in_use;
        changed
    }

    /// A cluster is no longer followed.
    pub(crate) fn forget(&mut self, cluster: &ClusterName) {
        self.nodes.remove(cluster);
        self.last.remove(cluster);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_clusters_that_changed_are_looked_at() {
        let (b, c) = (ClusterName::new("b").unwrap(), ClusterName::new("c").unwrap());
        let set = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect();
        let now = Instant::now();
        let mut targets = ProbeTargets::new();
        assert_eq!(targets.next_timeout(now), Some(now));
        let first = BTreeMap::from([(b.clone(), set(&["n1"])), (c.clone(), set(&["n1", "n2"]))]);
        let looked = targets.look(first.clone(), now);
        assert_eq!(looked, [(b.clone(), set(&["n1"])), (c.clone(), set(&["n1", "n2"]))]);
        assert_eq!(targets.next_timeout(now), None);
        assert_eq!(targets.look(first, now), []);

        targets.nodes_changed(&b);
        assert_eq!(targets.next_timeout(now), Some(now + PAUSE));
        let second = BTreeMap::from([(b.clone(), set(&["n1"]))]);
        assert_eq!(targets.look(second, now), [(b.clone(), set(&["n1"])), (c.clone(), set(&[]))]);
        targets.in_use_changed();
        assert!(targets.next_timeout(now).is_some());
        assert_eq!(targets.look(BTreeMap::from([(b, set(&["n1"]))]), now), []);
        targets.nodes_changed(&c);
        targets.forget(&c);
        assert_eq!(targets.next_timeout(now), None);
    }
}
