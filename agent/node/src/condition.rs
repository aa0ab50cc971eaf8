//! The state of nodes and backends, including what the balancer does not know: what is drained in the local cluster.

use mesh_model::ClusterName;

use crate::Node;

impl Node {
    /// Why a backend of a cluster is left although it serves: its cluster, which is the local one, or its node is drained.
    pub fn drained(&self, cluster: &str, node: Option<&str>) -> Option<String> {
        let local = self.core.local();
        let status = self.followers.get(local)?.status.borrow();
        let drained = &status.drained;
        if cluster != local.as_str() {
            return None;
        }
        let node = node.filter(|node| drained.nodes.contains(*node));
        match (drained.cluster, node) {
            (true, _) => {
                Some(format!("cluster {cluster} is drained (clustermesh undrain {cluster})"))
            }
            (false, Some(node)) => Some(format!(
                "its node {cluster}/{node} is drained (clustermesh undrain {cluster}/{node})"
            )),
            (false, None) => None,
        }
    }

    /// A node's state, in a stable name.
    pub fn node_status(&self, cluster: &ClusterName, node: &str) -> &'static str {
        let report = self.writers.health.report();
        let health = report.clusters.get(cluster);
        if self.core.is_drained(cluster) || self.drained(cluster.as_str(), Some(node)).is_some() {
            "drained"
        } else if self.core.is_unreachable(cluster) {
            "unreachable"
        } else if health.is_some_and(|health| health.dead.contains(node)) {
            "dead"
        } else if health.is_some_and(|health| health.unverified.contains(node)) {
            "unverified"
        } else {
            "ready"
        }
    }
}
