//! `lab check-history`.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use mesh_chaos::{
    history::{self, Difference, History},
    record::{self, WatchRecording},
};
use mesh_lab::Lab;
use serde_json::json;

use crate::{
    outcome::Outcome,
    output::{self, Output},
};

/// How often it is looked at while waiting.
const LOOK: Duration = Duration::from_millis(100);

pub(super) fn check(
    lab: &str,
    wait: Option<Duration>,
    record: Option<Duration>,
    output: Output,
) -> anyhow::Result<Outcome> {
    let recorded = match record {
        Some(time) => {
            let state = Lab::open(lab)?.state().clone();
            Some(record::record(&state, time)?)
        }
        None => None,
    };
    let kept = recorded.iter().flatten().all(|recorded| recorded.violations.is_empty());
    let deadline = Instant::now() + wait.unwrap_or_default();
    let found = loop {
        // Opened anew each time: others may change the lab while this waits.
        let state = Lab::open(lab)?.state().clone();
        let found = history::check(&state)?;
        if found.differences.is_empty() || Instant::now() >= deadline {
            break found;
        }
        thread::sleep(LOOK);
    };
    match output {
        Output::Text => {
            recorded.as_deref().map(print_recorded).transpose()?;
            print(&found)?;
        }
        Output::Json => {
            let equal = found.differences.is_empty();
            let value = json!({ "equal": equal, "history": found, "recorded": recorded });
            output::json("LabHistory", value)?;
        }
    }
    Ok(match (found.differences.is_empty(), wait) {
        (true, _) if kept => Outcome::Done,
        (false, Some(_)) => Outcome::Timeout,
        _ => Outcome::NotReady,
    })
}

fn print_recorded(recorded: &[WatchRecording]) -> anyhow::Result<()> {
    for WatchRecording { cluster, revisions, watches, events, violations } in recorded {
        output::line(format!(
            "the etcd of {cluster}: {revisions} revisions, {watches} watches delivered {events} events, {} promises broken",
            violations.len()
        ))?;
        for violation in violations {
            output::line(format!("  {}: {}", violation.guarantee, violation.what))?;
        }
    }
    Ok(())
}

fn print(found: &History) -> anyhow::Result<()> {
    let History { nodes, frontends, backends, differences } = found;
    if differences.is_empty() {
        output::line(format!(
            "{nodes} kernels are what the manifests say: {frontends} frontends, {backends} backends"
        ))?;
        return Ok(());
    }
    let list =
        |all: &[SocketAddr]| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let rows = differences.iter().map(|difference: &Difference| {
        let frontend = difference.frontend.map(|frontend| frontend.to_string());
        vec![
            difference.cluster.clone(),
            difference.node.clone(),
            format!("{} {}", frontend.unwrap_or_default(), difference.protocol),
            difference.what.clone(),
            list(&difference.missing),
            list(&difference.strange),
        ]
    });
    Ok(output::table(&["CLUSTER", "NODE", "FRONTEND", "DIFFERENCE", "MISSING", "STRANGE"], rows)?)
}
