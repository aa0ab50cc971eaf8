//! `clustermesh drain` and `undrain`: clients leave a cluster or node before maintenance, and return after it.

mod config_map;
pub(crate) mod here;
mod wait;

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use mesh_admin::v1::{
    DrainOutcome, DrainRequest, Drained, PreviewDrainRequest, StatusRequest, UndrainRequest,
};
use mesh_lab::contexts::Context;
use serde_json::{Value, json};

use crate::{
    args::DrainArgs,
    contexts,
    outcome::Outcome,
    output::{self, Output},
};

/// The requested change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// New connections avoid the target.
    Drain,
    /// The target may get new connections again.
    Undrain,
}

/// The cluster whose apiserver is asked, and the part of it to drain.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    context: Context,
    what: What,
}

/// A cluster, or a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Cluster,
    /// A node. `cluster` is the cluster's name, if the user named it.
    Node {
        cluster: Option<String>,
        node: String,
    },
    /// The cluster if this is its name, or else the node of this name.
    Either(String),
}

/// The apiserver's answer.
struct Answer {
    cluster: String,
    node: Option<String>,
    changed: bool,
    drained: Drained,
}

pub(crate) fn run(change: Change, args: &DrainArgs, output: Output) -> anyhow::Result<Outcome> {
    let DrainArgs { target, context, from, dry_run, wait, wait_duration } = args;
    let limit = wait_duration.limit(*wait);
    if let Some(from) = from {
        return here::run(change, target, from, (*dry_run, limit), output);
    }
    let what = What::parse(target, context.is_some())?;
    let target = Target::find(what, context.as_deref())?;
    let asked = target.context.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(ask(change, *dry_run, target))?;
    drop(runtime);
    let Answer { cluster, node, changed, drained } = &answer;
    let outcome = match limit {
        Some(limit) => wait::until_in_force(change, &asked, cluster, node.as_deref(), limit)?,
        None => Outcome::Done,
    };
    match output {
        Output::Text => {
            print(&answer, change.done(*changed, *dry_run))?;
            if let Some(still) = state_text(drained).filter(|_| change == Change::Undrain) {
                output::line(format!(
                    "still drained: {still}; to undrain a node: clustermesh undrain {cluster}/NODE"
                ))?;
            }
        }
        Output::Json => output::json(
            "Drain",
            json!({
                "cluster": cluster, "node": node, "drained": change == Change::Drain,
                "changed": changed, "dryRun": dry_run, "state": state_json(drained),
            }),
        )?,
    }
    Ok(outcome)
}

fn print(Answer { cluster, node, drained, .. }: &Answer, done: &str) -> anyhow::Result<()> {
    let node = node.clone().unwrap_or_default();
    let row = vec![cluster.clone(), node, done.to_owned(), drained.endpoints.to_string()];
    Ok(output::table(&["CLUSTER", "NODE", "STATE", "PODS LEAVING"], [row])?)
}

impl Change {
    /// The result in words.
    fn done(self, changed: bool, dry_run: bool) -> &'static str {
        match (self, changed, dry_run) {
            (Self::Drain, true, false) => "drained",
            (Self::Drain, true, true) => "would be drained",
            (Self::Drain, false, _) => "was drained already",
            (Self::Undrain, true, false) => "undrained",
            (Self::Undrain, true, true) => "would be undrained",
            (Self::Undrain, false, _) => "was not drained",
        }
    }
}

/// The drained nodes of a cluster, or the cluster itself, as JSON.
pub(crate) fn state_json(drained: &Drained) -> Value {
    let nodes = drained.nodes.iter().map(|node| {
        json!({ "name": node.name, "byFile": node.by_file, "byAnnotation": node.by_annotation })
    });
    json!({
        "cluster": drained.cluster, "nodes": nodes.collect::<Vec<_>>(),
        "endpoints": drained.endpoints,
    })
}

/// The same in words; `None` if nothing is drained.
pub(crate) fn state_text(drained: &Drained) -> Option<String> {
    let nodes: Vec<&str> = drained.nodes.iter().map(|node| node.name.as_str()).collect();
    let what = match (drained.cluster, nodes.as_slice()) {
        (true, _) => "the whole cluster".to_owned(),
        (false, []) => return None,
        (false, nodes) => format!("nodes {}", nodes.join(", ")),
    };
    Some(format!("{what}: {} pods leaving", drained.endpoints))
}

async fn ask(change: Change, dry_run: bool, target: Target) -> anyhow::Result<Answer> {
    let Target { context, what } = target;
    let sockets: Vec<&PathBuf> =
        [&context.apiserver].into_iter().chain(&context.replicas).collect();
    let mut client = None;
    let mut failed = None;
    // Any replica: all read the same file.
    for socket in sockets {
        match mesh_admin::connect(socket).await {
            Ok(connected) => {
                client = Some(connected);
                break;
            }
            Err(error) => failed = Some(anyhow::Error::from(error)),
        }
    }
    let Some(mut client) = client else {
        let failed = failed.unwrap_or_else(|| anyhow::anyhow!("no admin socket"));
        let name = &context.name;
        return Err(failed.context(format!(
            "{name}: no apiserver answers, and nothing was changed; to drain {name} for the clients of another cluster: clustermesh drain {name} --from CLUSTER"
        )));
    };
    let status = client.status(StatusRequest::default()).await;
    let status = status.map_err(|status| anyhow::anyhow!("{}", status.message()))?;
    let local = status.into_inner().cluster;
    let (cluster, node) = match what {
        What::Cluster => (local.clone(), None),
        What::Node { cluster, node } => (cluster.unwrap_or_else(|| local.clone()), Some(node)),
        What::Either(name) if name == local => (local.clone(), None),
        What::Either(name) => (local.clone(), Some(name)),
    };
    let node_text = node.clone().unwrap_or_default();
    let failed = |status: mesh_admin::Status| match status.code() {
        mesh_admin::Code::Unimplemented => {
            anyhow::anyhow!("the apiserver is older than --dry-run; nothing was changed")
        }
        _ => anyhow::anyhow!("{}", status.message()),
    };
    let (outcome, drained) = match change {
        _ if dry_run => {
            let undrain = change == Change::Undrain;
            let request = PreviewDrainRequest { cluster, node: node_text, undrain };
            let answer = client.preview_drain(request).await.map_err(failed)?.into_inner();
            (answer.outcome(), answer.drained)
        }
        Change::Drain => {
            let request = DrainRequest { cluster, node: node_text };
            let answer = client.drain(request).await.map_err(failed)?.into_inner();
            (answer.outcome(), answer.drained)
        }
        Change::Undrain => {
            let request = UndrainRequest { cluster, node: node_text };
            let answer = client.undrain(request).await.map_err(failed)?.into_inner();
            (answer.outcome(), answer.drained)
        }
    };
    let changed = outcome == DrainOutcome::Changed;
    Ok(Answer { cluster: local, node, changed, drained: drained.unwrap_or_default() })
}

impl What {
    /// Parses a target. Without `--context`, the part before a slash is a context.
    fn parse(target: &str, with_context: bool) -> anyhow::Result<(Option<String>, Self)> {
        let part = |name: &str| match name.is_empty() || name.contains('/') {
            true => bail!("{target:?} is neither CLUSTER nor CLUSTER/NODE"),
            false => Ok(name.to_owned()),
        };
        Ok(match (target.split_once('/'), with_context) {
            (None, _) => (None, Self::Either(part(target)?)),
            (Some((cluster, node)), true) => {
                (None, Self::Node { cluster: Some(part(cluster)?), node: part(node)? })
            }
            (Some((cluster, node)), false) => {
                (Some(part(cluster)?), Self::Node { cluster: None, node: part(node)? })
            }
        })
    }
}

impl Target {
    /// Finds the context of the cluster.
    fn find((named, what): (Option<String>, What), context: Option<&str>) -> anyhow::Result<Self> {
        if let Some(context) = context.or(named.as_deref()) {
            return Ok(Self { context: contexts::find(context)?, what });
        }
        let What::Either(name) = &what else {
            let local = contexts::find_or_all(None)?.into_iter().next();
            return Ok(Self { context: local.context("no cluster")?, what });
        };
        match contexts::find(name) {
            Ok(context) => Ok(Self { context, what: What::Cluster }),
            // No contexts: the cluster of this host, or one of its nodes.
            Err(_) if contexts::all()?.is_empty() => {
                let local = contexts::find_or_all(None)?.into_iter().next();
                Ok(Self { context: local.context("no cluster")?, what })
            }
            Err(error) => Err(error.context("a node is CLUSTER/NODE, or NODE with --context")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::samples;

    #[test]
    fn what_became_of_it_fits() {
        let drained = Drained { cluster: true, nodes: Vec::new(), endpoints: 20 };
        let answer =
            Answer { cluster: "a".into(), node: Some("n1".into()), changed: false, drained };
        samples::fits(80, || print(&answer, "was drained already"));
    }

    #[test]
    fn what_is_meant() {
        let node = |cluster: Option<&str>, node: &str| What::Node {
            cluster: cluster.map(str::to_owned),
            node: node.into(),
        };
        for (target, with_context, means) in [
            ("a", false, (None, What::Either("a".into()))),
            ("a", true, (None, What::Either("a".into()))),
            ("a/n1", false, (Some("a".to_owned()), node(None, "n1"))),
            ("a/n1", true, (None, node(Some("a"), "n1"))),
        ] {
            assert_eq!(What::parse(target, with_context).unwrap(), means, "{target}");
        }
        for target in ["", "/", "a/", "/n1", "a/n1/x"] {
            let error = What::parse(target, false).unwrap_err().to_string();
            assert!(error.contains("is neither CLUSTER nor CLUSTER/NODE"), "{target}: {error}");
        }
    }

    #[test]
    fn what_is_drained_in_words() {
        let node = |name: &str| mesh_admin::v1::DrainedNode { name: name.into(), ..<_>::default() };
        for (cluster, nodes, endpoints, says) in [
            (false, vec![], 0, None),
            (false, vec![node("n1"), node("n2")], 3, Some("nodes n1, n2: 3 pods leaving")),
            (true, vec![node("n1")], 9, Some("the whole cluster: 9 pods leaving")),
        ] {
            let text = state_text(&Drained { cluster, nodes, endpoints });
            assert_eq!(text.as_deref(), says);
        }
    }
}
