//! `clustermesh node`: the nodes that agents know.

use anyhow::bail;
use mesh_admin::v1::{ListNodesRequest, Node};
use serde_json::{Value, json};

use crate::{
    args::{NodeArgs, NodeCommand},
    ask::{self, Unanswered, Which, unreachable},
    contexts,
    outcome::{Outcome, complain},
    output::{self, Listed, Output},
};

/// A node, and the cluster of the agent that reported it.
struct Seen {
    from: String,
    node: Node,
}

pub(crate) fn run(args: &NodeArgs, output: Output) -> anyhow::Result<Outcome> {
    let NodeCommand::List { from, cluster } = &args.command;
    let contexts = contexts::find_or_all(from.context.as_deref())?;
    let answers = ask::ask(&contexts, Which::One(from.node.as_deref()), async |socket| {
        let request = ListNodesRequest { cluster: cluster.clone().unwrap_or_default() };
        let client = mesh_admin::connect(socket).await.map_err(unreachable)?;
        let mut client = client.max_decoding_message_size(contexts::MAX_ANSWER);
        let nodes = client.list_nodes(request).await.map_err(Unanswered::failed)?;
        Ok(nodes.into_inner().nodes)
    })?;
    let (nodes, warnings) = answers.split();
    let seen: Vec<Seen> = nodes.map(|(from, node)| Seen { from, node }).collect();
    if let (true, Some(cluster), []) = (seen.is_empty(), cluster, warnings.as_slice()) {
        bail!("no agent knows a node of a cluster {cluster}");
    }
    output::list(output, "NodeList", Some("nodes"), &seen, json!({ "warnings": warnings }))?;
    Ok(complain(warnings))
}

impl Listed for Seen {
    const HEADER: &'static [&'static str] =
        &["IN", "CLUSTER", "NAME", "STATUS", "ADDRESSES", "POD RANGES"];

    fn name(&self) -> String {
        format!("{}/{}", self.node.cluster, self.node.name)
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let Self { from, node } = self;
        let cluster =
            if node.own { format!("{} (local)", node.cluster) } else { node.cluster.clone() };
        let (addresses, ranges) = (node.internal_addresses.join(", "), node.pod_cidrs.join(", "));
        let status = node.status.clone();
        vec![vec![from.clone(), cluster, node.name.clone(), status, addresses, ranges]]
    }

    fn json(&self) -> Value {
        let Self { from, node } = self;
        json!({
            "in": from, "cluster": node.cluster, "clusterId": node.cluster_id, "own": node.own, "name": node.name, "status": node.status,
            "internalAddresses": node.internal_addresses, "podCIDRs": node.pod_cidrs,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::samples;

    #[test]
    fn nodes_fit() {
        let node = Node {
            cluster: "a".into(),
            own: true,
            name: "n1".into(),
            status: "ready".into(),
            internal_addresses: vec!["172.31.1.1".into(), "fd00:172:31:1::1".into()],
            pod_cidrs: vec!["10.1.1.0/24".into(), "fd00:10:1:1::/64".into()],
            ..Node::default()
        };
        samples::list_fits(80, &[Seen { from: "a".into(), node }]);
    }
}
