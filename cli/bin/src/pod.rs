//! Pods, as the agents of their nodes know them.

use anyhow::{Context as _, bail};
use mesh_admin::v1::{ListPodsRequest, Pod, PodState};
use serde_json::{Value, json};

use crate::{
    args::{PodArgs, PodCommand},
    contexts,
    outcome::Outcome,
    output::{self, Output},
};

/// A pod of a cluster's node.
struct Seen {
    cluster: String,
    node: String,
    pod: Pod,
}

pub(crate) fn run(args: &PodArgs, output: Output) -> anyhow::Result<Outcome> {
    let PodCommand::List { context, node, namespace } = &args.command;
    let contexts = contexts::find_or_all(context.as_deref())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut seen = Vec::new();
    for context in &contexts {
        let wanted = |of: &str| node.as_deref().is_none_or(|node| node == of);
        let agents: Vec<_> = context.agents.iter().filter(|agent| wanted(&agent.node)).collect();
        if agents.is_empty() {
            let nodes: Vec<&str> = context.agents.iter().map(|a| a.node.as_str()).collect();
            bail!("{} has no such node; it has: {}", context.name, nodes.join(", "));
        }
        for agent in agents {
            let request = ListPodsRequest {
                namespace: namespace.clone().unwrap_or_default(),
                ..ListPodsRequest::default()
            };
            let pods = runtime.block_on(async {
                let mut pods = mesh_admin::connect_pods(&agent.socket).await?;
                anyhow::Ok(pods.list(request).await?.into_inner().pods)
            });
            let pods = pods.with_context(|| format!("{}/{}", context.name, agent.node))?;
            let (cluster, node) = (&context.name, &agent.node);
            let of = |pod| Seen { cluster: cluster.clone(), node: node.clone(), pod };
            seen.extend(pods.into_iter().map(of));
        }
    }
    match output {
        Output::Text => {
            let header = ["CLUSTER", "NODE", "NAMESPACE", "NAME", "ADDRESSES", "IDENTITY", "STATE"];
            output::table(&header, seen.iter().map(Seen::row))?;
        }
        Output::Json => {
            let pods: Vec<Value> = seen.iter().map(Seen::json).collect();
            output::json("PodList", json!({ "pods": pods }))?;
        }
    }
    let all_bound = seen.iter().all(|seen| seen.pod.state() == PodState::Bound);
    Ok(if all_bound { Outcome::Done } else { Outcome::NotReady })
}

impl Seen {
    fn row(&self) -> Vec<String> {
        let Self { cluster, node, pod } = self;
        vec![
            cluster.clone(),
            node.clone(),
            pod.namespace.clone(),
            pod.name.clone(),
            pod.addresses.join(", "),
            self.identity().map(|identity| identity.to_string()).unwrap_or_default(),
            self.state().into(),
        ]
    }

    fn json(&self) -> Value {
        let Self { cluster, node, pod } = self;
        json!({
            "cluster": cluster, "node": node, "namespace": pod.namespace, "name": pod.name, "uid": pod.uid,
            "addresses": pod.addresses, "state": self.state(), "identity": self.identity(),
            "containerId": pod.container_id, "interface": pod.interface, "netns": pod.netns,
            "netnsCookie": pod.netns_cookie, "attachedUnixSeconds": pod.attached_unix_seconds,
        })
    }

    fn identity(&self) -> Option<u32> {
        (self.pod.state() == PodState::Bound).then_some(self.pod.identity)
    }

    fn state(&self) -> &'static str {
        match self.pod.state() {
            PodState::Bound => "bound",
            PodState::Waiting | PodState::Unspecified => "waiting",
        }
    }
}
