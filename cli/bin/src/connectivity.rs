//! `clustermesh connectivity test`: tests connections within a mesh and between its clusters.

mod check;
mod in_lab;
mod in_pods;
mod site;
mod skip;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::bail;
use indicatif::ProgressBar;
use mesh_lab::{contexts::Context, need_root};
use serde_json::json;

use crate::{
    args::{ConnectivityCommand, refuse},
    contexts::{self, Origin},
    outcome::{Outcome, warn},
    output::{self, Output},
};
use check::{Check, CheckOutcome, CheckResult, Goal, checks};
use in_lab::LabSite;
use in_pods::PodsSite;
use site::Site;
use skip::Layout;

/// The namespace of all objects that the test creates.
const NAMESPACE: &str = "clustermesh-test";
/// The shortest and the longest time of an attempt: the time of a check, within these limits. A shorter attempt would fail
/// on a busy machine, and a lost connection needs no longer one.
const ATTEMPT: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(2)];
/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(100);

/// Set by a signal.
static STOP: AtomicBool = AtomicBool::new(false);

pub(crate) fn run(command: &ConnectivityCommand, output: Output) -> anyhow::Result<Outcome> {
    let ConnectivityCommand::Test { context, destination_contexts, timeout } = command;
    match (context, contexts::origin()) {
        (None, Ok(Origin::Kubeconfig(name))) => {
            in_pods(&name, destination_contexts, *timeout, output)
        }
        (Some(name), _) => in_pods(name, destination_contexts, *timeout, output),
        (None, origin) => {
            if !destination_contexts.is_empty() {
                refuse("--destination-context needs --context")
            }
            need_root()?;
            let Some(lab) = contexts::lab_of(&origin?)? else {
                bail!(
                    "the contexts are not those of a lab: name a lab with --lab, or clusters of a kubeconfig with --context and --destination-context"
                )
            };
            let site = LabSite::new(lab)?;
            report(&site, &contexts::all()?, *timeout, output)
        }
    }
}

/// The test in clusters of a kubeconfig.
fn in_pods(
    name: &str,
    others: &[String],
    timeout: Duration,
    output: Output,
) -> anyhow::Result<Outcome> {
    let names = [name].into_iter().chain(others.iter().map(String::as_str));
    let found = names.map(contexts::find).collect::<anyhow::Result<Vec<_>>>()?;
    for context in &found {
        if contexts::cluster_of(context)?.is_none() {
            bail!(
                "{} is no context of a kubeconfig. In a lab, all clusters are tested, without --context; elsewhere the test has no pods",
                context.name
            );
        }
    }
    let site = PodsSite::new(found)?;
    report(&site, site.contexts(), timeout, output)
}

fn report(
    site: &dyn Site,
    contexts: &[Context],
    timeout: Duration,
    output: Output,
) -> anyhow::Result<Outcome> {
    stop_on_signal()?;
    let progress = ProgressBar::new_spinner();
    let tested = test(site, contexts, timeout, &progress);
    progress.set_message("removing what the test made");
    progress.tick();
    let removed = site.remove();
    progress.finish_and_clear();
    for left in removed {
        warn(format!("not everything was removed: {left:#}"));
    }
    let results = tested?;
    output::list(output, "ConnectivityTest", None, &results, json!({}))?;
    if STOP.load(Ordering::Relaxed) {
        bail!("stopped after {} checks", results.len());
    }
    let count = |wanted: fn(&CheckOutcome) -> bool| {
        results.iter().filter(|result| wanted(&result.outcome)).count()
    };
    let skipped = count(|outcome| matches!(outcome, CheckOutcome::Skipped(_)));
    match count(|outcome| matches!(outcome, CheckOutcome::Failed(_))) {
        0 if skipped == results.len() => bail!("no check was made: all are skipped"),
        0 => Ok(Outcome::Done),
        failed => bail!("{failed} of {} checks failed", results.len()),
    }
}

fn test(
    site: &dyn Site,
    contexts: &[Context],
    timeout: Duration,
    progress: &ProgressBar,
) -> anyhow::Result<Vec<CheckResult>> {
    progress.set_message(format!("creating pods in namespace {NAMESPACE}"));
    progress.tick();
    for cluster in site.clusters() {
        site.apply(cluster, 1)?;
    }
    let layout = Layout::find(site, contexts)?;
    let mut results = Vec::new();
    let mut without_pods = None;
    let all = checks(site.clusters());
    // Checks that differ only in address family and protocol run at the same time.
    let same = |one: &Check, other: &Check| {
        (&one.cluster, one.goal, &one.to) == (&other.cluster, other.goal, &other.to)
    };
    for group in all.chunk_by(same) {
        let Some(first) = group.first().filter(|_| !STOP.load(Ordering::Relaxed)) else { break };
        let skipped: Vec<_> = group.iter().map(|check| layout.skip(check)).collect();
        progress.set_message(first.to_string());
        progress.tick();
        // A cluster without local pods fails over to the others.
        let wanted = (first.goal == Goal::Failover).then(|| first.cluster.clone());
        if without_pods != wanted && skipped.iter().any(Option::is_none) {
            for (cluster, replicas) in [(&without_pods, 1), (&wanted, 0)] {
                cluster.as_ref().map(|cluster| site.apply(cluster, replicas)).transpose()?;
            }
            without_pods = wanted;
        }
        let outcomes = thread::scope(|scope| {
            let make = |(check, skipped): (&'_ Check, Option<String>)| match skipped {
                Some(why) => CheckOutcome::Skipped(why),
                None => attempt(site, check, timeout),
            };
            let made = group.iter().zip(skipped).map(|one| scope.spawn(move || make(one)));
            let made: Vec<_> = made.collect();
            let outcomes = made
                .into_iter()
                .map(|made| made.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            outcomes.collect::<Vec<_>>()
        });
        let results_of = group.iter().cloned().zip(outcomes);
        results.extend(results_of.map(|(check, outcome)| CheckResult { check, outcome }));
    }
    Ok(results)
}

/// Tries until the check passes or its time is over. A failure has the reason of the last attempt.
fn attempt(site: &dyn Site, check: &Check, timeout: Duration) -> CheckOutcome {
    let deadline = Instant::now() + timeout;
    let [shortest, longest] = ATTEMPT;
    loop {
        match check.run(site, timeout.clamp(shortest, longest)) {
            Err(_) if Instant::now() < deadline && !STOP.load(Ordering::Relaxed) => {
                thread::sleep(PAUSE);
            }
            Ok(()) => return CheckOutcome::Passed,
            Err(error) => return CheckOutcome::Failed(format!("{error:#}")),
        }
    }
}

/// A signal ends the test after the current check. The test's objects are removed all the same.
fn stop_on_signal() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let stop = {
        let _entered = runtime.enter();
        mesh_admin::stop_signal()?
    };
    thread::spawn(move || {
        runtime.block_on(stop);
        STOP.store(true, Ordering::Relaxed);
    });
    Ok(())
}
