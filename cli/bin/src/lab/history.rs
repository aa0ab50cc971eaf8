//! `lab check-history`.

use std::{net::SocketAddr, time::Duration};

use mesh_admin::plain;
use mesh_chaos::{
    history::{self, Difference, History},
    record::{self, WatchRecording},
};
use mesh_lab::Lab;
use serde_json::json;

use crate::{
    outcome::Outcome,
    output::{self, Output},
    wait::until,
};

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
    // Opened anew each time: others may change the lab while this waits.
    let look = || -> anyhow::Result<History> {
        let mut found = history::check(&Lab::open(lab)?.state().clone())?;
        for difference in &mut found.differences {
            difference.what = plain(&difference.what).into_owned();
        }
        Ok(found)
    };
    let mut found = look()?;
    if let Some(limit) = wait {
        until(limit, || {
            if !found.differences.is_empty() {
                found = look()?;
            }
            Ok(missing(&found.differences))
        })?;
    }
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

/// The first difference, in words.
fn missing(differences: &[Difference]) -> Option<String> {
    let first = differences.first()?;
    let (cluster, node, what) = (&first.cluster, &first.node, &first.what);
    let more = match differences.len() {
        1 => String::new(),
        count => format!(", and {} more differences", count - 1),
    };
    Some(format!("{cluster}/{node}: {what}{more}"))
}

fn print_recorded(recorded: &[WatchRecording]) -> anyhow::Result<()> {
    for WatchRecording { cluster, revisions, watches, events, violations } in recorded {
        output::line(format!(
            "the etcd of {cluster}: {revisions} revisions, {watches} watches delivered {events} events, {} guarantees violated",
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
            "{nodes} kernels agree with the manifests: {frontends} frontends, {backends} backends"
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
    Ok(output::table(
        &["CLUSTER", "NODE", "FRONTEND", "DIFFERENCE", "MISSING", "UNEXPECTED"],
        rows,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::samples;

    #[test]
    fn differences_fit_and_are_named_while_they_are_waited_for() {
        let difference = |node: &str| Difference {
            cluster: "a".into(),
            node: node.into(),
            frontend: Some("10.101.0.10:80".parse().unwrap()),
            protocol: "TCP",
            what: "it has other backends".into(),
            missing: vec!["10.2.1.7:8080".parse().unwrap(), "10.2.1.8:8080".parse().unwrap()],
            strange: Vec::new(),
        };
        let differences = vec![difference("n1"), difference("n2")];
        assert_eq!(missing(&[]), None);
        let first = missing(&differences[..1]).unwrap();
        assert_eq!(first, "a/n1: it has other backends");
        let both = missing(&differences).unwrap();
        assert_eq!(both, "a/n1: it has other backends, and 1 more differences");
        let found = History { nodes: 2, frontends: 4, backends: 8, differences };
        samples::fits(80, || print(&found));
    }
}
