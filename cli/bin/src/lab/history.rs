//! `lab check-history`.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use mesh_chaos::history::{self, Difference, History};
use mesh_lab::Lab;
use serde_json::json;

use crate::{
    outcome::Outcome,
    output::{self, Output},
};

/// How often it is looked at while waiting.
const LOOK: Duration = Duration::from_millis(100);

pub(super) fn check(lab: &str, wait: Option<Duration>, output: Output) -> anyhow::Result<Outcome> {
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
        Output::Text => print(&found)?,
        Output::Json => {
            output::json(
                "LabHistory",
                json!({ "equal": found.differences.is_empty(), "history": found }),
            )?;
        }
    }
    Ok(match (found.differences.is_empty(), wait) {
        (true, _) => Outcome::Done,
        (false, None) => Outcome::NotReady,
        (false, Some(_)) => Outcome::Timeout,
    })
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
