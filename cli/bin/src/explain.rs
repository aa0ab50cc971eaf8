//! Where connections end, and why: from files, or as an agent has it.

mod shown;
mod wanted;

use std::{io::IsTerminal as _, time::Duration};

use anyhow::{Context as _, bail};
use comfy_table::{ContentArrangement, Table, presets::NOTHING};
use mesh_admin::v1::ExplainRequest;
use mesh_labels::LabelFilter;
use mesh_model::ClusterId;
use mesh_offline::{
    ClusterState, KeysFile, Objects, Options, ServiceQuery, Simulation, State, limit_of,
    read_events, settings_beside, time,
};
use serde_json::json;

use crate::{
    args::{From, ImportArgs, Services, WhatIf, missing},
    ask::{self, Unanswered, Which, unreachable},
    contexts,
    outcome::{Outcome, complain, warn},
    output::{self, Output},
    service::meant,
};
use shown::{ShownAbsence, ShownBackend, ShownFrontend};
use wanted::{Of, Wanted};

/// `clustermesh import`.
pub(crate) fn import(args: &ImportArgs, output: Output) -> anyhow::Result<Outcome> {
    let ImportArgs { keys, objects, cluster, id, service, namespace, options } = args;
    let mut clusters = std::collections::BTreeMap::new();
    let mut announced = None;
    for path in keys {
        let file = KeysFile::read(path)?;
        let name = file.cluster.clone();
        announced = announced.or_else(|| limit_of(&file));
        if name == *cluster {
            bail!("{}: its keys are of {name}, the importing cluster itself", path.display());
        }
        if clusters.insert(name.clone(), ClusterState::of_keys(file)?).is_some() {
            bail!("{}: there is another file of {name}", path.display());
        }
    }
    let limit = options.max_connected_clusters;
    let id = id.map(|id| ClusterId::new(id, limit.unwrap_or(mesh_model::ClusterLimit::Max511)));
    let free = (1..=511)
        .filter_map(ClusterId::from_wire)
        .find(|id| !clusters.values().any(|cluster: &ClusterState| cluster.settings.id == *id));
    let free = free.context("the peers have all cluster IDs")?;
    let settings = settings_beside(
        objects,
        cluster,
        id.transpose()?,
        limit,
        (free, announced.unwrap_or_default()),
    )?;
    let settings = options.over(settings);
    let content = mesh_offline::Content::Objects(Objects::read(objects)?);
    clusters.insert(cluster.clone(), ClusterState { settings, content });
    let filter = LabelFilter::new(options.identity_labels.iter().map(String::as_str))?;
    let options = Options::new(filter);
    let simulation = Simulation::new(State { clusters, stray: Vec::new() }, cluster, options)?;
    let wanted = Wanted::new(&namespace.services(service.as_deref()))?;
    print_backends(&simulation, &wanted, output)
}

/// `clustermesh service backends`.
pub(crate) fn backends(
    services: &Services,
    what_if: &WhatIf,
    node: Option<String>,
    output: Output,
) -> anyhow::Result<Outcome> {
    let wanted = Wanted::new(services)?;
    let (simulation, _) = simulate(what_if, node)?;
    print_backends(&simulation, &wanted, output)
}

/// `clustermesh service explain`.
pub(crate) fn explain(
    services: &Services,
    what_if: &WhatIf,
    agent: &From,
    output: Output,
) -> anyhow::Result<Outcome> {
    let wanted = Wanted::new(services)?;
    if what_if.state.is_none() {
        return explain_agent(&wanted, agent, output);
    }
    if agent.context.is_some() {
        bail!("--state is computed from files: there is no --context to ask");
    }
    let (simulation, at) = simulate(what_if, agent.node.clone())?;
    let (frontends, absent) = explained(&simulation, &wanted);
    let from = simulation.local().as_str();
    print_explained(from, Some(at), (&frontends, &absent), output)?;
    let outcome = finish(&simulation, wanted.query.as_ref(), &frontends);
    Ok(outcome.and(complain(wanted.missing(&frontends))))
}

/// Asks a node's agent.
fn explain_agent(wanted: &Wanted, from: &From, output: Output) -> anyhow::Result<Outcome> {
    let contexts = contexts::find_or_all(from.context.as_deref())?;
    let context = match contexts.as_slice() {
        [context] => context,
        several => {
            let names: Vec<&str> = several.iter().map(|context| context.name.as_str()).collect();
            bail!("whose clients connect? Name one with --context: {}", names.join(", "))
        }
    };
    let request = match (&wanted.query, &wanted.of) {
        (Some(ServiceQuery { service, .. }), _) => ExplainRequest {
            namespace: service.namespace.to_string(),
            name: service.name.to_string(),
        },
        (None, Of::Namespace(namespace)) => {
            ExplainRequest { namespace: namespace.clone(), ..ExplainRequest::default() }
        }
        (None, Of::Name(_) | Of::Any) => ExplainRequest::default(),
    };
    let answers = ask::ask(&contexts, Which::One(from.node.as_deref()), async |socket| {
        let mut client = mesh_admin::connect(socket).await.map_err(unreachable)?;
        let request = request.clone();
        Ok(client.explain(request).await.map_err(Unanswered::failed)?.into_inner())
    })?;
    let outcome = complain(answers.warnings);
    let Some(reported) = answers.answers.into_iter().next().map(|answer| answer.answer) else {
        bail!("no agent of {} answers", context.name)
    };
    let frontends: Vec<ShownFrontend> = reported
        .frontends
        .iter()
        .map(ShownFrontend::of_agent)
        .filter(|frontend| wanted.is(frontend))
        .collect();
    let reported_absent = reported.absences.iter().map(ShownFrontend::absent_of_agent);
    let mut absent: Vec<ShownFrontend> =
        reported_absent.filter(|absent| wanted.may_be(absent)).collect();
    let said = absent.iter().any(ShownFrontend::has_no_frontend);
    let none = wanted.query.as_ref().filter(|_| frontends.is_empty() && !said);
    let unknown = none
        .map(|wanted| {
            let ServiceQuery { service, port, .. } = wanted;
            let name = &context.name;
            let (word, reason) = match (reported.without_frontend.is_empty(), port) {
                (false, _) => ("headless", format!("service {service} of {name} has no cluster IP")),
                (true, Some(port)) => (
                    "no-frontend",
                    format!("there is no service {service} with a port {port} in {name}"),
                ),
                (true, None) => (
                    "no-service",
                    format!(
                        "there is no service {service} in {name}{}: it must exist in the cluster that is asked",
                        meant(&contexts, from.node.as_deref(), &service.name)
                    ),
                ),
            };
            ShownFrontend::without(service, name, word, reason)
        });
    absent.extend(unknown);
    print_explained(&context.name, None, (&frontends, &absent), output)?;
    let (refused, nowhere): (Vec<_>, Vec<_>) =
        absent.iter().partition(|absent| absent.is_refused());
    // What was not asked for by name, or leads somewhere too, is in the table and no failure.
    let failed = nowhere.into_iter().filter(|_| wanted.query.is_some() && frontends.is_empty());
    let reasons = refused.into_iter().chain(failed).filter_map(|absent| absent.absence.as_ref());
    let reasons = reasons.map(|absence| absence.reason.clone());
    let all = frontends.iter().flat_map(|frontend| frontend.differences.iter().flatten());
    let missing = wanted.missing(&frontends);
    Ok(complain(reasons.chain(all.cloned()).chain(missing)).and(outcome))
}

/// Computes what a mesh is like at the time that is asked for, for clients on a node.
fn simulate(what_if: &WhatIf, node: Option<String>) -> anyhow::Result<(Simulation, Duration)> {
    let WhatIf { state, from, events, at, staleness_budget } = what_if;
    let (Some(state), Some(from)) = (state, from) else {
        missing("--state DIR --from CLUSTER say of which clusters, and whose clients connect")
    };
    let events = events.as_ref().map(|file| read_events(file)).transpose()?.unwrap_or_default();
    let last = events.last().map(|event| event.at).unwrap_or_default();
    let at = at.unwrap_or(last);
    let options = Options::new(LabelFilter::new([])?);
    let options = Options { staleness_budget: *staleness_budget, node, ..options };
    let mut simulation = Simulation::new(State::read(state)?, from, options)?;
    simulation.run(&events, at)?;
    Ok((simulation, at))
}

/// What is wanted: frontends, and beside them what has none or is refused, each with its reason.
fn explained(simulation: &Simulation, wanted: &Wanted) -> (Vec<ShownFrontend>, Vec<ShownFrontend>) {
    let query = wanted.query.as_ref();
    let frontends = simulation.explain(query);
    let frontends = frontends.iter().map(ShownFrontend::new);
    let absent = simulation.without_frontend(query).into_iter().chain(simulation.refused(query));
    let absent = absent.map(|unserved| ShownFrontend::absent(&unserved));
    let is = |frontend: &ShownFrontend| query.is_some() || wanted.is(frontend);
    (frontends.filter(is).collect(), absent.filter(is).collect())
}

/// Says what is not as it should be: what is refused, objects that are rejected, and that what is wanted is not there.
fn finish(
    simulation: &Simulation,
    wanted: Option<&ServiceQuery>,
    frontends: &[ShownFrontend],
) -> Outcome {
    simulation.notes().into_iter().chain(simulation.refusals()).for_each(warn);
    let mut absent = Vec::new();
    if wanted.is_some() && frontends.is_empty() {
        absent = simulation.without_frontend(wanted);
    }
    let absent = absent.into_iter().map(|unserved| unserved.reason);
    match complain(absent.chain(simulation.problems())) {
        Outcome::Done if !simulation.refused(wanted).is_empty() => Outcome::NotReady,
        outcome => outcome,
    }
}

fn print_backends(
    simulation: &Simulation,
    wanted: &Wanted,
    output: Output,
) -> anyhow::Result<Outcome> {
    let (frontends, absent) = explained(simulation, wanted);
    let outcome = finish(simulation, wanted.query.as_ref(), &frontends);
    let outcome = outcome.and(complain(wanted.missing(&frontends)));
    let all = frontends.into_iter().chain(absent).map(ShownFrontend::brief);
    let all: Vec<ShownFrontend> = all.collect();
    match output {
        Output::Json => output::value(&all)?,
        Output::Text => print_table(&all)?,
    }
    Ok(outcome)
}

fn print_table(frontends: &[ShownFrontend]) -> anyhow::Result<()> {
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
                rows.push(row("none", None, "", "no cluster has a backend for it"));
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

/// A table as wide as its cells where it goes to a program that does not say how wide it is.
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

fn print_explained(
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
        output::line(format!("Annotations: {asks}. {used}."))?;
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
