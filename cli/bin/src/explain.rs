//! Explains which backends connections use, computed from files or as an agent reports it.

mod print;
mod shown;
mod wanted;

use std::time::Duration;

use anyhow::{Context as _, bail};
use mesh_admin::v1::ExplainRequest;
use mesh_labels::LabelFilter;
use mesh_model::ClusterId;
use mesh_offline::{
    ClusterState, KeysFile, Objects, Options, ServiceQuery, Simulation, State, limit_of,
    read_events, settings_beside,
};

use crate::{
    args::{From, ImportArgs, Services, WhatIf, missing},
    ask::{self, Unanswered, Which, unreachable},
    contexts,
    outcome::{Outcome, complain, warn},
    output::{self, Output},
    service::meant,
};
use print::{print_explained, print_table};
use shown::ShownFrontend;
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
            bail!("{}: another file has the keys of {name} too", path.display());
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

/// Asks the agent of a node.
fn explain_agent(wanted: &Wanted, from: &From, output: Output) -> anyhow::Result<Outcome> {
    let contexts = contexts::find_or_all(from.context.as_deref())?;
    let context = match contexts.as_slice() {
        [context] => context,
        several => {
            let names: Vec<&str> = several.iter().map(|context| context.name.as_str()).collect();
            bail!("name the cluster whose clients connect with --context: {}", names.join(", "))
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
    // A service that was not asked for by name, or that also has frontends, is in the table and is no failure.
    let failed = nowhere.into_iter().filter(|_| wanted.query.is_some() && frontends.is_empty());
    let reasons = refused.into_iter().chain(failed).filter_map(|absent| absent.absence.as_ref());
    let reasons = reasons.map(|absence| absence.reason.clone());
    let all = frontends.iter().flat_map(|frontend| frontend.differences.iter().flatten());
    let missing = wanted.missing(&frontends);
    Ok(complain(reasons.chain(all.cloned()).chain(missing)).and(outcome))
}

/// Simulates the mesh up to the requested time, for clients on a node.
fn simulate(what_if: &WhatIf, node: Option<String>) -> anyhow::Result<(Simulation, Duration)> {
    let WhatIf { state, from, events, at, staleness_budget } = what_if;
    let (Some(state), Some(from)) = (state, from) else {
        missing(
            "--state DIR --from CLUSTER: the files of the clusters, and the cluster whose clients connect",
        )
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

/// The wanted frontends; and wanted services without a frontend and refused records, each with its reason.
fn explained(simulation: &Simulation, wanted: &Wanted) -> (Vec<ShownFrontend>, Vec<ShownFrontend>) {
    let query = wanted.query.as_ref();
    let frontends = simulation.explain(query);
    let frontends = frontends.iter().map(ShownFrontend::new);
    let absent = simulation.without_frontend(query).into_iter().chain(simulation.refused(query));
    let absent = absent.map(|unserved| ShownFrontend::absent(&unserved));
    let is = |frontend: &ShownFrontend| query.is_some() || wanted.is(frontend);
    (frontends.filter(is).collect(), absent.filter(is).collect())
}

/// Prints warnings and errors: what is refused, invalid objects, and that the wanted service has no frontend.
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
