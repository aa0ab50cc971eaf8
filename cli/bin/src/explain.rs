//! Where connections end, and why: from files, or as an agent has it.

mod shown;

use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{CommandFactory as _, error::ErrorKind};
use mesh_admin::v1::ExplainRequest;
use mesh_labels::LabelFilter;
use mesh_model::ClusterId;
use mesh_offline::{
    ClusterState, KeysFile, Objects, Options, ServiceQuery, Simulation, State, read_events,
    settings_beside, time,
};
use serde_json::json;

use crate::{
    args::{Args, From, ImportArgs, WhatIf},
    contexts::{self, agent_of},
    outcome::{Outcome, complain, warn},
    output::{self, Output},
};
use shown::{ShownBackend, ShownFrontend};

/// `clustermesh import`.
pub(crate) fn import(args: &ImportArgs, output: Output) -> anyhow::Result<Outcome> {
    let ImportArgs { keys, objects, cluster, id, service, options } = args;
    let mut clusters = std::collections::BTreeMap::new();
    for path in keys {
        let file = KeysFile::read(path)?;
        let name = file.cluster.clone();
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
    let settings = settings_beside(objects, cluster, id.transpose()?, limit, free)?;
    let settings = options.over(settings);
    let content = mesh_offline::Content::Objects(Objects::read(objects)?);
    clusters.insert(cluster.clone(), ClusterState { settings, content });
    let filter = LabelFilter::new(options.identity_labels.iter().map(String::as_str))?;
    let options = Options::new(filter);
    let simulation = Simulation::new(State { clusters }, cluster, options)?;
    let wanted = service.as_deref().map(ServiceQuery::parse).transpose()?;
    print_backends(&simulation, wanted.as_ref(), output)
}

/// `clustermesh service backends`.
pub(crate) fn backends(
    service: Option<&str>,
    what_if: &WhatIf,
    output: Output,
) -> anyhow::Result<Outcome> {
    let wanted = service.map(ServiceQuery::parse).transpose()?;
    let (simulation, _) = simulate(what_if)?;
    print_backends(&simulation, wanted.as_ref(), output)
}

/// `clustermesh service explain`.
pub(crate) fn explain(
    service: Option<&str>,
    what_if: &WhatIf,
    agent: &From,
    output: Output,
) -> anyhow::Result<Outcome> {
    let wanted = service.map(ServiceQuery::parse).transpose()?;
    if what_if.state.is_none() {
        return explain_agent(wanted.as_ref(), agent, output);
    }
    if agent.context.is_some() || agent.node.is_some() {
        bail!("--state is computed from files: there is no --context or --node to ask");
    }
    let (simulation, at) = simulate(what_if)?;
    let frontends = explained(&simulation, wanted.as_ref())?;
    let from = simulation.local().as_str();
    print_explained(from, Some(at), &frontends, output)?;
    simulation.notes().into_iter().chain(simulation.refusals()).for_each(warn);
    Ok(complain(simulation.problems()))
}

/// Asks a node's agent.
fn explain_agent(
    wanted: Option<&ServiceQuery>,
    from: &From,
    output: Output,
) -> anyhow::Result<Outcome> {
    let contexts = contexts::find_or_all(from.context.as_deref())?;
    let context = match contexts.as_slice() {
        [context] => context,
        several => {
            let names: Vec<&str> = several.iter().map(|context| context.name.as_str()).collect();
            bail!("whose clients connect? Name one with --context: {}", names.join(", "))
        }
    };
    let agent = agent_of(context, from.node.as_deref())?;
    let request = match wanted {
        Some(ServiceQuery { service, .. }) => ExplainRequest {
            namespace: service.namespace.to_string(),
            name: service.name.to_string(),
        },
        None => ExplainRequest::default(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let reported = runtime.block_on(async {
        let mut client = mesh_admin::connect(&agent.socket).await?;
        anyhow::Ok(client.explain(request).await?.into_inner())
    })?;
    let port = wanted.and_then(|wanted| wanted.port.as_deref());
    let frontends: Vec<ShownFrontend> = reported
        .frontends
        .iter()
        .map(ShownFrontend::of_agent)
        .filter(|frontend| port.is_none_or(|port| frontend.has_port(port)))
        .collect();
    if let (true, Some(ServiceQuery { service, .. })) = (frontends.is_empty(), wanted) {
        match (reported.without_frontend.is_empty(), port) {
            (false, _) => bail!("service {service} of {} has no cluster IP", context.name),
            (true, Some(port)) => {
                bail!("there is no service {service} with a port {port} in {}", context.name)
            }
            (true, None) => bail!(
                "there is no service {service} in {}: it must exist in the cluster that is asked",
                context.name
            ),
        }
    }
    print_explained(&context.name, None, &frontends, output)?;
    let all = frontends.iter().flat_map(|frontend| frontend.differences.iter().flatten());
    Ok(complain(all.cloned()))
}

/// Computes what a mesh is like at the time that is asked for.
fn simulate(what_if: &WhatIf) -> anyhow::Result<(Simulation, Duration)> {
    let WhatIf { state, from, events, at, staleness_budget } = what_if;
    let (Some(state), Some(from)) = (state, from) else {
        let missing = "--state DIR --from CLUSTER say of which clusters, and whose clients connect";
        Args::command().error(ErrorKind::MissingRequiredArgument, missing).exit();
    };
    let events = events.as_ref().map(|file| read_events(file)).transpose()?.unwrap_or_default();
    let last = events.last().map(|event| event.at).unwrap_or_default();
    let at = at.unwrap_or(last);
    let options =
        Options { staleness_budget: *staleness_budget, ..Options::new(LabelFilter::new([])?) };
    let mut simulation = Simulation::new(State::read(state)?, from, options)?;
    simulation.run(&events, at)?;
    Ok((simulation, at))
}

fn explained(
    simulation: &Simulation,
    wanted: Option<&ServiceQuery>,
) -> anyhow::Result<Vec<ShownFrontend>> {
    let explained = simulation.explain(wanted);
    if let (true, Some(wanted)) = (explained.is_empty(), wanted) {
        let (service, local) = (&wanted.service, simulation.local());
        let having = simulation.clusters_with(service);
        let names: Vec<&str> = having.iter().map(|name| name.as_str()).collect();
        match (names.as_slice(), having.contains(&local)) {
            ([], _) => bail!("there is no service {service} in any cluster"),
            (_, false) => warn(format!(
                "cluster {local} has no service {service}, so it does not use that of {}",
                names.join(", ")
            )),
            (_, true) => match &wanted.port {
                Some(port) => {
                    bail!("service {service} of cluster {local} has no frontend with a port {port}")
                }
                None => warn(format!("service {service} of cluster {local} has no cluster IP")),
            },
        }
    }
    Ok(explained.iter().map(ShownFrontend::new).collect())
}

fn print_backends(
    simulation: &Simulation,
    wanted: Option<&ServiceQuery>,
    output: Output,
) -> anyhow::Result<Outcome> {
    let frontends = explained(simulation, wanted)?;
    match output {
        Output::Json => {
            let brief: Vec<ShownFrontend> =
                frontends.into_iter().map(ShownFrontend::brief).collect();
            output::value(&brief)?;
        }
        Output::Text => print_table(&frontends)?,
    }
    simulation.notes().into_iter().chain(simulation.refusals()).for_each(warn);
    Ok(complain(simulation.problems()))
}

fn print_table(frontends: &[ShownFrontend]) -> anyhow::Result<()> {
    let rows = frontends.iter().flat_map(|frontend| {
        let row = |used: &str, backend: &ShownBackend| {
            vec![
                frontend.service.clone(),
                format!("{}/{}", socket(&frontend.frontend, frontend.port), frontend.protocol),
                used.to_owned(),
                socket(&backend.address, backend.port),
                backend.cluster.clone(),
                backend.node.clone().unwrap_or_default(),
                backend.reason.clone(),
            ]
        };
        let all = [
            ("in use", &frontend.in_use),
            ("fallback", &frontend.fallback),
            ("left out", &frontend.left_out),
        ];
        let rows = all
            .into_iter()
            .flat_map(|(used, backends)| backends.iter().map(move |backend| (used, backend)));
        rows.map(|(used, backend)| row(used, backend)).collect::<Vec<_>>()
    });
    let header = ["SERVICE", "FRONTEND", "USED", "BACKEND", "CLUSTER", "NODE", "REASON"];
    output::table(&header, rows)?;
    Ok(())
}

fn print_explained(
    from: &str,
    at: Option<Duration>,
    frontends: &[ShownFrontend],
    output: Output,
) -> anyhow::Result<()> {
    if output == Output::Json {
        let at = at.map(time);
        return output::json(
            "Explanation",
            json!({ "from": from, "at": at, "frontends": frontends }),
        );
    }
    for (index, frontend) in frontends.iter().enumerate() {
        if index > 0 {
            output::line("")?;
        }
        print_frontend(from, at, frontend)?;
    }
    Ok(())
}

fn print_frontend(
    from: &str,
    at: Option<Duration>,
    frontend: &ShownFrontend,
) -> anyhow::Result<()> {
    let ShownFrontend { service, port_name, protocol, .. } = frontend;
    let name = if port_name.is_empty() { String::new() } else { format!(" ({port_name})") };
    let at = at.map(|at| format!(" at {}", time(at))).unwrap_or_default();
    let address = socket(&frontend.frontend, frontend.port);
    output::line(format!("{service} in {from}{at}: {address}/{protocol}{name}"))?;
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
        if !choice.taken {
            asks.push("left to kube-proxy".into());
        }
        output::line(format!(
            "It asks for: {}. Used are: {}.\n",
            asks.join(", "),
            basis(&choice.basis)
        ))?;
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
        output::table(&["TIER", "CLUSTERS", "USABLE", "HEALTH", "CAPACITY", "LOAD"], tiers)?;
        output::line("")?;
    }
    let all = [
        ("in use", &frontend.in_use),
        ("fallback", &frontend.fallback),
        ("left out", &frontend.left_out),
    ];
    let rows = all.into_iter().flat_map(|(used, backends)| {
        backends.iter().map(move |backend| {
            vec![
                socket(&backend.address, backend.port),
                backend.cluster.clone(),
                backend.node.clone().unwrap_or_default(),
                backend.state.clone(),
                used.to_owned(),
                if backend.share > 0.0 { percent(backend.share) } else { String::new() },
                backend.reason.clone(),
            ]
        })
    });
    output::table(&["BACKEND", "CLUSTER", "NODE", "STATE", "USED", "SHARE", "REASON"], rows)?;
    Ok(())
}

fn basis(word: &str) -> &'static str {
    match word {
        "ready" => "ready backends",
        "weight-zero" => "backends of clusters of weight 0, for want of others",
        "terminating" => "backends that shut down, for want of others",
        "nobody-answers" => "all backends, since no node answers",
        _ => "none, since there are no backends",
    }
}

fn percent(part: f64) -> String {
    let text = format!("{:.2}", part * 100.0);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

/// An address and port as one writes them.
fn socket(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}
