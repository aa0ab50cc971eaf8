//! The state of nodes and backends, including what the balancer does not know: what clusters report as drained.

use mesh_model::{ClusterName, LocalDrain, ServiceName};

use crate::{Node, absences::without_endpoints};

impl Node {
    /// Why a service has no backend, as a sentence; empty where a cluster reports endpoints of it, of whatever use.
    pub fn without_backends(&self, service: &ServiceName) -> String {
        let merge = self.core.merge();
        let has_any = merge.backends_of(service).next().is_some()
            || merge.unusable_of(service).next().is_some();
        if has_any {
            return String::new();
        }
        let local = self.core.local();
        let others = self.core.peers().filter(|name| *name != local);
        let others: Vec<_> = others.map(|name| (name, merge.has_listed_services(name))).collect();
        without_endpoints(local, service, &others)
    }

    /// Why a backend of a cluster is left although it serves: its cluster's operator has drained the cluster or its node.
    pub fn drained(&self, cluster: &str, node: Option<&str>) -> Option<String> {
        let (_, follower) = self.followers.iter().find(|(name, _)| name.as_str() == cluster)?;
        why_drained(&follower.status.borrow().drained, cluster, node)
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

/// Why a backend on a node of a cluster is left, by what the cluster says is drained of it.
fn why_drained(drained: &LocalDrain, cluster: &str, node: Option<&str>) -> Option<String> {
    let node = node.filter(|node| drained.nodes.contains(*node));
    match (drained.cluster, node) {
        (true, _) => Some(format!("cluster {cluster} is drained (clustermesh undrain {cluster})")),
        (false, Some(node)) => Some(format!(
            "its node {cluster}/{node} is drained (clustermesh undrain {cluster}/{node})"
        )),
        (false, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drained_backend_says_what_of_its_cluster_is_drained() {
        let drained = |cluster, nodes: &[&str]| LocalDrain {
            cluster,
            nodes: nodes.iter().map(|node| (*node).to_owned()).collect(),
        };
        for (what, node, why) in [
            (drained(true, &["n1"]), None, Some("cluster b is drained (clustermesh undrain b)")),
            (
                drained(false, &["n1"]),
                Some("n1"),
                Some("its node b/n1 is drained (clustermesh undrain b/n1)"),
            ),
            (drained(false, &["n1"]), Some("n2"), None),
            (drained(false, &["n1"]), None, None),
        ] {
            assert_eq!(why_drained(&what, "b", node).as_deref(), why);
        }
    }
}
