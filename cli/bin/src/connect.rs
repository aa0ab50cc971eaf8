//! `clustermesh connect` and `clustermesh disconnect`.
//!
//! A connection from *a* to *b* consists of a user in *b*'s etcd, a certificate for it that *b* signed (the private key
//! never leaves *a*), and a peer file in *a* with the address of *b* and what *b* may claim. Everything is checked before
//! anything is written. The peer file is written last, so *a*'s agents see only complete connections. Clusters are
//! directories, or in Kubernetes ([`kubernetes`]).

mod check;
mod facts;
mod kubernetes;
mod plan;
mod side;

use std::{
    cmp::Ordering,
    path::{Path, PathBuf},
    slice,
};

use anyhow::{Context as _, bail};
use mesh_admin::v1::Peer;
use mesh_lab::contexts::Context;
use mesh_model::ClusterName;
use serde_json::json;

use crate::{
    args::{ConnectArgs, ConnectionMode, DisconnectArgs, Pair},
    ask::{self, Answer, Answers, Which},
    contexts,
    kube_exec::Cluster,
    outcome::{Outcome, note, warn},
    output::{self, Output},
    status, wait,
};
pub(crate) use kubernetes::{described, renew_credentials};
#[cfg(test)]
pub(crate) use plan::tests::{connect as plan_between, make};
use plan::{Step, plan_connect, plan_disconnect, plan_leave};
pub(crate) use side::{Side, lock};

pub(crate) fn connect(args: &ConnectArgs, output: Output) -> anyhow::Result<Outcome> {
    let pair = &args.pair;
    match (in_kubernetes(pair.context())?, in_kubernetes(&pair.destination_context)?) {
        (Some(one), Some(other)) => {
            let (names, changed) = kubernetes::connect(args, (one, other), output)?;
            let status = format!("clustermesh status --context {} --wait", pair.context());
            finish(args, names, changed.then_some(status), Outcome::Done)
        }
        (None, None) => connect_directories(args, output),
        (Some(_), None) | (None, Some(_)) => bail!(mixed(pair)),
    }
}

/// The cluster of a kubeconfig's context; `None` if the context is a cluster directory.
fn in_kubernetes(name: &str) -> anyhow::Result<Option<Cluster>> {
    contexts::cluster_of(&contexts::find(name)?)
}

fn mixed(pair: &Pair) -> String {
    format!(
        "{} and {}: one is in Kubernetes, the other is a cluster directory. Clusters of both kinds cannot be connected by this command",
        pair.context(),
        pair.destination_context
    )
}

fn connect_directories(args: &ConnectArgs, output: Output) -> anyhow::Result<Outcome> {
    let (source, destination) = sides(&args.pair, !args.dry_run)?;
    check::check(&source.facts, &destination.facts, args.replace)?;
    let mut steps = plan_connect(&source, &destination)?;
    if args.connection_mode == ConnectionMode::Bidirectional {
        steps.extend(plan_connect(&destination, &source)?);
    }
    let changes = !steps.is_empty() && !args.dry_run;
    let outcome = carry_out("Connect", steps, args.dry_run, output)?;
    let names = [source.name().to_string(), destination.name().to_string()];
    // Other commands may change the clusters while this one waits.
    drop((source, destination));
    finish(args, names, changes.then(|| "clustermesh status --wait".into()), outcome)
}

/// Waits until the agents are connected, if that is asked for, else says how to: by `status`, if anything was changed. The
/// names are those of the two clusters.
fn finish(
    args: &ConnectArgs,
    [source, destination]: [String; 2],
    status: Option<String>,
    outcome: Outcome,
) -> anyhow::Result<Outcome> {
    let (one, other) = (args.pair.context(), args.pair.destination_context.as_str());
    let both = args.connection_mode == ConnectionMode::Bidirectional;
    if let Some(limit) = args.wait {
        let mut follows = vec![(contexts::find(one)?, destination)];
        if both {
            follows.push((contexts::find(other)?, source));
        }
        return Ok(outcome.and(wait::until(limit, || not_connected(&follows))?));
    }
    if let Some(status) = status {
        let waits = match both {
            true => format!("waiting for {other} and {one} to accept each other: {status}"),
            false => format!("waiting for {other} to accept {one}: {status}"),
        };
        note(&contexts::hint(&waits));
    }
    Ok(outcome)
}

/// The first agent that is not connected to the cluster that it should follow, and the reason.
fn not_connected(follows: &[(Context, String)]) -> anyhow::Result<Option<String>> {
    for (context, peer) in follows {
        let agents = ask::ask(slice::from_ref(context), Which::Every(None), ask::peers)?;
        let missing = missing(&agents, peer);
        if missing.is_some() {
            return Ok(missing);
        }
    }
    Ok(None)
}

fn missing(agents: &Answers<Vec<Peer>>, name: &str) -> Option<String> {
    let mut missing =
        agents.answers.iter().filter_map(|Answer { context, node, answer: peers }| {
            let why = match peers.iter().find(|peer| peer.name == name) {
                Some(peer) if peer.ready => return None,
                Some(peer) => status::summary(peer),
                None => "the agent has not read its peer file yet".into(),
            };
            Some(format!("{context}/{node}: {name}: {why}"))
        });
    missing.next().or_else(|| agents.warnings.first().cloned())
}

pub(crate) fn disconnect(args: &DisconnectArgs, output: Output) -> anyhow::Result<Outcome> {
    let (one, other) = (args.pair.context(), args.pair.destination_context.as_str());
    match (in_kubernetes(one), in_kubernetes(other)) {
        (Ok(Some(_)), Ok(None)) | (Ok(None), Ok(Some(_))) => bail!(mixed(&args.pair)),
        (Ok(Some(here)), there) => {
            let there = there.and_then(|there| there.context("no cluster"));
            return kubernetes::disconnect(args, (Ok(here), there), output);
        }
        (Err(why), Ok(Some(there))) => {
            return kubernetes::disconnect(args, (Err(why), Ok(there)), output);
        }
        (Ok(None) | Err(_), Ok(None) | Err(_)) => {}
    }
    match (at_hand(one), at_hand(other)) {
        (Ok(here), Err(why)) => return leave((one, &here), other, &why, args.dry_run, output),
        (Err(why), Ok(here)) => return leave((other, &here), one, &why, args.dry_run, output),
        (Ok(_), Ok(_)) | (Err(_), Err(_)) => {}
    }
    let (source, destination) = sides(&args.pair, !args.dry_run)?;
    let mut steps = plan_disconnect(&source, &destination)?;
    steps.extend(plan_disconnect(&destination, &source)?);
    carry_out("Disconnect", steps, args.dry_run, output)
}

/// The cluster directory of a context, if it exists.
fn at_hand(context: &str) -> anyhow::Result<PathBuf> {
    let directory = contexts::find(context)?.directory;
    match directory.is_dir() {
        true => Ok(directory),
        false => bail!("there is no cluster directory {}", directory.display()),
    }
}

/// Removes the connection from the cluster that is at hand, and names the command for the other one.
fn leave(
    (here, directory): (&str, &Path),
    gone: &str,
    why: &anyhow::Error,
    dry_run: bool,
    output: Output,
) -> anyhow::Result<Outcome> {
    let peer = ClusterName::new(gone).with_context(|| format!("{gone}: {why:#}"))?;
    let side = Side::read(directory, !dry_run)?;
    let steps = plan_leave(&side, &peer)?;
    // It is more likely a typo than a cluster that is gone.
    if steps.is_empty() {
        bail!("{here} has nothing of {gone}, and {gone} is not at hand: {why:#}");
    }
    carry_out("Disconnect", steps, dry_run, output)?;
    warn(format!(
        "{gone} is not at hand ({why:#}): if it still exists, run `clustermesh disconnect --context {gone} --destination-context {here}` where it is"
    ));
    Ok(Outcome::NotReady)
}

/// Reads both clusters. Locks them in a fixed order, so that two commands never wait for each other.
fn sides(pair: &Pair, change: bool) -> anyhow::Result<(Side, Side)> {
    let directory = |name: &str| anyhow::Ok(contexts::find(name)?.directory);
    let context = pair.context();
    let (source, destination) = (directory(context)?, directory(&pair.destination_context)?);
    match source.cmp(&destination) {
        Ordering::Equal => bail!("{context} cannot be connected to itself"),
        Ordering::Less => {
            let source = Side::read(&source, change)?;
            Ok((source, Side::read(&destination, change)?))
        }
        Ordering::Greater => {
            let destination = Side::read(&destination, change)?;
            Ok((Side::read(&source, change)?, destination))
        }
    }
}

fn carry_out(
    kind: &str,
    steps: Vec<Step>,
    dry_run: bool,
    output: Output,
) -> anyhow::Result<Outcome> {
    let shown: Vec<String> = steps.iter().map(ToString::to_string).collect();
    if !dry_run {
        steps.into_iter().try_for_each(Step::carry_out)?;
    }
    show(kind, &shown, dry_run, output)?;
    Ok(Outcome::Done)
}

/// Writes the steps that were made, or would be.
fn show(kind: &str, shown: &[String], dry_run: bool, output: Output) -> anyhow::Result<()> {
    match output {
        Output::Text => {
            shown.iter().try_for_each(output::line)?;
            match (shown.is_empty(), dry_run) {
                (true, _) => output::line("nothing to change")?,
                (false, true) => output::line("nothing was changed: --dry-run")?,
                (false, false) => {}
            }
        }
        Output::Json => {
            output::json(kind, json!({ "changes": shown, "items": shown, "dryRun": dry_run }))?
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use mesh_admin::v1::{Step, StepState};

    use super::*;

    #[test]
    fn who_is_not_connected_is_named_with_the_reason() {
        let failed = Step {
            name: "tcp".into(),
            state: StepState::Failed.into(),
            detail: "nothing listens there".into(),
        };
        let b = |ready: bool| Peer {
            name: "b".into(),
            ready,
            ladder: if ready { vec![] } else { vec![failed.clone()] },
            ..Peer::default()
        };
        let of = |node: &str, peers: Vec<Peer>| Answer {
            context: "a".into(),
            node: node.into(),
            answer: peers,
        };
        let dead = "the agent of a/n3 does not run";
        for (second, warnings, says) in [
            (vec![b(true)], vec![], None),
            (vec![b(false)], vec![], Some("a/n2: b: tcp: nothing listens there")),
            (vec![], vec![dead], Some("a/n2: b: the agent has not read its peer file yet")),
            (vec![b(true)], vec![dead], Some(dead)),
        ] {
            let answers = vec![of("n1", vec![b(true)]), of("n2", second)];
            let warnings = warnings.into_iter().map(str::to_owned).collect();
            assert_eq!(missing(&Answers { answers, warnings }, "b").as_deref(), says);
        }
    }
}
