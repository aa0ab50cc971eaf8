//! Nodes, as agents know them.

use anyhow::{Context as _, bail};
use mesh_admin::v1::{ListNodesRequest, Node};
use serde_json::{Value, json};

use crate::{
    args::{NodeArgs, NodeCommand},
    contexts::{self, agent_of},
    outcome::Outcome,
    output::{self, Output},
};

/// A node, and whose agent says so.
struct Seen {
    from: String,
    node: Node,
}

pub(crate) fn run(args: &NodeArgs, output: Output) -> anyhow::Result<Outcome> {
    let NodeCommand::List { from, cluster } = &args.command;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut seen = Vec::new();
    for context in contexts::find_or_all(from.context.as_deref())? {
        let agent = agent_of(&context, from.node.as_deref())?;
        let request = ListNodesRequest { cluster: cluster.clone().unwrap_or_default() };
        let nodes = runtime.block_on(async {
            let client = mesh_admin::connect(&agent.socket).await?;
            let mut client = client.max_decoding_message_size(contexts::MAX_ANSWER);
            anyhow::Ok(client.list_nodes(request).await?.into_inner().nodes)
        });
        let nodes = nodes.with_context(|| format!("{}/{}", context.name, agent.node))?;
        seen.extend(nodes.into_iter().map(|node| Seen { from: context.name.clone(), node }));
    }
    if let (true, Some(cluster)) = (seen.is_empty(), cluster) {
        bail!("no agent knows a node of a cluster {cluster}");
    }
    match output {
        Output::Text => {
            let header = ["IN", "CLUSTER", "NAME", "ADDRESSES", "POD RANGES"];
            output::table(&header, seen.iter().map(Seen::row))?;
        }
        Output::Json => {
            let nodes: Vec<Value> = seen.iter().map(Seen::json).collect();
            output::json("NodeList", json!({ "nodes": nodes }))?;
        }
    }
    Ok(Outcome::Done)
}

impl Seen {
    fn row(&self) -> Vec<String> {
        let Self { from, node } = self;
        let cluster =
            if node.own { format!("{} (local)", node.cluster) } else { node.cluster.clone() };
        let (addresses, ranges) = (node.internal_addresses.join(", "), node.pod_cidrs.join(", "));
        vec![from.clone(), cluster, node.name.clone(), addresses, ranges]
    }

    fn json(&self) -> Value {
        let Self { from, node } = self;
        json!({
            "in": from, "cluster": node.cluster, "clusterId": node.cluster_id, "own": node.own, "name": node.name,
            "internalAddresses": node.internal_addresses, "podCIDRs": node.pod_cidrs,
        })
    }
}
