//! Prints explanations as text.

use std::{io::IsTerminal as _, time::Duration};

use comfy_table::{ContentArrangement, Table, presets::NOTHING};
use mesh_offline::time;
use serde_json::json;

use super::shown::{ShownAbsence, ShownBackend, ShownFrontend};
use crate::output::{self, Output};

/// Prints a table with a row for each backend, and for each service without a frontend or refused record.
pub(super) fn print_table(frontends: &[ShownFrontend]) -> anyhow::Result<()> {
    let rows =
        frontends.iter().flat_map(|frontend| {
            let address = frontend.address().unwrap_or_default();
            let row = |used: &str, backend: Option<&ShownBackend>, cluster: &str, reason: &str| {
                vec![
                    frontend.service.clone(),
                    address.clone(),
                    used.to_owned(),
                    backend.map(ShownBackend::socket).unwrap_or_default(),
                    cluster.to_owned(),
                    backend.and_then(|backend| backend.node.clone()).unwrap_or_default(),
                    reason.to_owned(),
                ]
            };
            let mut rows = Vec::new();
            if let Some(ShownAbsence { cluster, key, why, reason }) = &frontend.absence {
                let used = if why.ends_with("refused") { "refused" } else { "no frontend" };
                let key = key.as_ref().map(|key| format!("{key}: ")).unwrap_or_default();
                rows.push(row(used, None, cluster, &format!("{key}{reason}")));
            }
            rows.extend(frontend.backends().map(|(used, backend)| {
                row(used, Some(backend), &backend.cluster, &backend.reason)
            }));
            if rows.is_empty() {
                let why = frontend.without_backends.as_deref();
                rows.push(row("none", None, "", why.unwrap_or("no cluster has a backend for it")));
            }
            rows
        });
    let header = ["SERVICE", "FRONTEND", "USED", "BACKEND", "CLUSTER", "NODE", "REASON"];
    table(&header, rows)?;
    for frontend in frontends {
        if let Some(locality) = &frontend.locality {
            let address = frontend.address().unwrap_or_default();
            output::line(format!("{} {address}: {locality}", frontend.service))?;
        }
    }
    Ok(())
}

/// Prints a table. If the output is no terminal and has no width, the table is as wide as its cells.
fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> std::io::Result<()> {
    if std::io::stdout().is_terminal() || std::env::var_os("COLUMNS").is_some() {
        return output::table(header, rows);
    }
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().copied());
    table.add_rows(rows);
    table.lines().try_for_each(|text| output::line(text.trim_end()))
}

/// Prints each frontend with the reasons of the choice, and then services without a frontend and refused records.
pub(super) fn print_explained(
    from: &str,
    at: Option<Duration>,
    (frontends, absent): (&[ShownFrontend], &[ShownFrontend]),
    output: Output,
) -> anyhow::Result<()> {
    if output == Output::Json {
        let at = at.map(time);
        return output::json(
            "Explanation",
            json!({
                "from": from, "at": at, "frontends": frontends, "items": frontends,
                "withoutFrontend": absent,
            }),
        );
    }
    for (index, frontend) in frontends.iter().enumerate() {
        if index > 0 {
            output::line("")?;
        }
        print_frontend(from, at, frontend)?;
    }
    if !absent.is_empty() {
        if !frontends.is_empty() {
            output::line("")?;
        }
        print_table(absent)?;
    }
    Ok(())
}

fn print_frontend(
    from: &str,
    at: Option<Duration>,
    frontend: &ShownFrontend,
) -> anyhow::Result<()> {
    let ShownFrontend { service, port_name, .. } = frontend;
    let name = if port_name.is_empty() { String::new() } else { format!(" ({port_name})") };
    let at = at.map(|at| format!(" at {}", time(at))).unwrap_or_default();
    let address = frontend.address().unwrap_or_default();
    output::line(format!("{service} in {from}{at}: {address}{name}"))?;
    if let Some(choice) = &frontend.choice {
        let mut asks = vec![if choice.global { "global" } else { "not global" }.to_owned()];
        if choice.affinity != "none" {
            asks.push(format!("affinity {}", choice.affinity));
        }
        asks.extend(choice.session_affinity.map(|seconds| format!("session affinity {seconds} s")));
        asks.extend(
            choice.minimum_healthy_percent.map(|percent| format!("minimum healthy {percent} %")),
        );
        asks.extend(choice.weights_of.as_ref().map(|of| format!("weights of {of}")));
        asks.extend(
            choice.internal_traffic_policy.as_ref().map(|to| format!("internal traffic {to}")),
        );
        asks.extend(choice.topology_hints.then(|| "topology hints".to_owned()));
        if !choice.taken {
            asks.push("left to kube-proxy".into());
        }
        let (asks, used) = (asks.join(", "), basis(&choice.basis));
        let why = frontend.without_backends.as_ref();
        let why = why.map(|why| format!(": {why}")).unwrap_or_default();
        output::line(format!("Annotations: {asks}. {used}{why}."))?;
        if let Some(locality) = &frontend.locality {
            output::line(format!("{locality}."))?;
        }
        output::line("")?;
        let tiers = choice.tiers.iter().map(|tier| {
            let clusters = tier.clusters.iter().map(|cluster| {
                let state = match cluster.state.as_str() {
                    "in-use" => String::new(),
                    state => format!(", {state}"),
                };
                format!("{} (weight {}{state})", cluster.cluster, cluster.weight)
            });
            vec![
                tier.tier.to_string(),
                clusters.collect::<Vec<_>>().join(", "),
                format!("{} of {}", tier.usable, tier.meant),
                percent(tier.health),
                percent(tier.capacity),
                percent(tier.load),
            ]
        });
        table(&["TIER", "CLUSTERS", "USABLE", "HEALTH", "CAPACITY", "LOAD"], tiers)?;
        output::line("")?;
    }
    let rows = frontend.backends().map(|(used, backend)| {
        vec![
            backend.socket(),
            backend.cluster.clone(),
            backend.node.clone().unwrap_or_default(),
            backend.state.clone(),
            used.to_owned(),
            if backend.share > 0.0 { percent(backend.share) } else { String::new() },
            backend.reason.clone(),
        ]
    });
    table(&["BACKEND", "CLUSTER", "NODE", "STATE", "USED", "SHARE", "REASON"], rows)?;
    let mut contested: Vec<String> =
        frontend.backends().filter_map(|(_, backend)| backend.contested()).collect();
    contested.dedup();
    contested.into_iter().try_for_each(output::line)?;
    Ok(())
}

fn basis(word: &str) -> &'static str {
    match word {
        "ready" => "In use: ready backends",
        "weight-zero" => "In use: backends of clusters of weight 0, because there are no others",
        "terminating" => "In use: backends that shut down, because there are no others",
        "unverified" => {
            "In use: backends on nodes that never answered a probe, because there are no others"
        }
        "nobody-answers" => "In use: all backends, because no node answers",
        _ => "No backend is available",
    }
}

fn percent(part: f64) -> String {
    let text = format!("{:.2}", part * 100.0);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use mesh_balance::Basis;

    use super::basis;

    #[test]
    fn each_basis_has_a_sentence_of_its_own() {
        for found in [
            Basis::Ready,
            Basis::WeightZero,
            Basis::Terminating,
            Basis::Unverified,
            Basis::NoAnsweringNode,
        ] {
            let sentence = basis(found.as_str());
            assert!(sentence.starts_with("In use: "), "{found:?}: {sentence}");
        }
        assert_eq!(basis(Basis::Empty.as_str()), "No backend is available");
    }
}
