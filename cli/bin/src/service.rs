//! `clustermesh service`: services and their backends.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use anyhow::bail;
use mesh_admin::v1::{Backend, ClusterSet, Frontend, ListServicesRequest, Service, Traffic};
use mesh_lab::contexts::Context;
use serde_json::{Value, json};

use crate::{
    args::{From, ServiceArgs, ServiceCommand, Services},
    ask::{self, Unanswered, Which, unreachable},
    contexts,
    outcome::{Outcome, complain},
    output::{self, Listed, Output},
};

/// A service, and the cluster of the agent that reported it.
struct Seen {
    from: String,
    service: Service,
}

pub(crate) fn run(args: &ServiceArgs, output: Output) -> anyhow::Result<Outcome> {
    match &args.command {
        ServiceCommand::List { from, namespace } => {
            let (seen, warnings) = ask(from, namespace.only().unwrap_or_default(), "")?;
            let fields = json!({ "warnings": warnings });
            output::list(output, "ServiceList", Some("services"), &seen, fields)?;
            Ok(complain(warnings))
        }
        ServiceCommand::Show { service, namespace, from } => {
            let wanted = namespace.services(Some(service));
            let (namespace, name) = match &wanted {
                Services::One(service) => service.split_once('/').unwrap_or_default(),
                _ => ("", service.as_str()),
            };
            let (seen, warnings) = ask(from, namespace, name)?;
            let outcome = complain(warnings);
            if seen.is_empty() {
                let contexts = contexts::find_or_all(from.context.as_deref())?;
                bail!(
                    "there is no service {}{}: it must exist in the cluster that is asked, and be global, to be in the mesh",
                    [namespace, name].join("/").trim_start_matches('/'),
                    meant(&contexts, from.node.as_deref(), name)
                );
            }
            match output {
                Output::Text if !output::names_only() => {
                    for (index, seen) in seen.iter().enumerate() {
                        if index > 0 {
                            output::line("")?;
                        }
                        show(seen)?;
                    }
                }
                Output::Text | Output::Json => {
                    output::list(output, "Service", Some("services"), &seen, json!({}))?;
                }
            }
            let mut frontends = seen.iter().flat_map(|seen| &seen.service.frontends);
            let used = frontends.all(|frontend| !frontend.backends.is_empty());
            Ok(outcome.and(if used { Outcome::Done } else { Outcome::NotReady }))
        }
        // Those are in `explain.rs`.
        ServiceCommand::Backends { .. } | ServiceCommand::Explain { .. } => Ok(Outcome::Done),
    }
}

/// Asks one agent of each cluster.
fn ask(from: &From, namespace: &str, name: &str) -> anyhow::Result<(Vec<Seen>, Vec<String>)> {
    let contexts = contexts::find_or_all(from.context.as_deref())?;
    ask_of(&contexts, from.node.as_deref(), namespace, name)
}

fn ask_of(
    contexts: &[Context],
    node: Option<&str>,
    namespace: &str,
    name: &str,
) -> anyhow::Result<(Vec<Seen>, Vec<String>)> {
    let answers = ask::ask(contexts, Which::One(node), async |socket| {
        let request = ListServicesRequest { namespace: namespace.into(), name: name.into() };
        let client = mesh_admin::connect(socket).await.map_err(unreachable)?;
        let mut client = client.max_decoding_message_size(contexts::MAX_ANSWER);
        let services = client.list_services(request).await.map_err(Unanswered::failed)?;
        Ok(services.into_inner().services)
    })?;
    let (services, warnings) = answers.split();
    Ok((services.map(|(from, service)| Seen { from, service }).collect(), warnings))
}

/// A question that names the services of this name in other namespaces; empty if there is none.
pub(crate) fn meant(contexts: &[Context], node: Option<&str>, name: &str) -> String {
    let all = ask_of(contexts, node, "", "").map(|(seen, _)| seen).unwrap_or_default();
    did_you_mean(all.iter().map(|seen| &seen.service), name)
}

fn did_you_mean<'a>(services: impl Iterator<Item = &'a Service>, name: &str) -> String {
    let others: BTreeSet<String> = services
        .filter(|service| service.name == name)
        .map(|service| format!("{}/{name}", service.namespace))
        .collect();
    match others.is_empty() {
        true => String::new(),
        false => {
            format!(" (did you mean {}?)", others.into_iter().collect::<Vec<_>>().join(", "))
        }
    }
}

fn show(Seen { from, service }: &Seen) -> anyhow::Result<()> {
    let policy = service.traffic.as_ref().map(policy).filter(|policy| !policy.is_empty());
    let policy = policy.map(|policy| format!(": {policy}")).unwrap_or_default();
    output::line(format!("{}/{} in {from}{policy}", service.namespace, service.name))?;
    for frontend in &service.frontends {
        let name = if frontend.port_name.is_empty() {
            String::new()
        } else {
            format!(" ({})", frontend.port_name)
        };
        let address = endpoint(&frontend.address, frontend.port);
        output::line(format!(
            "\n{address}/{}{name}: {}",
            frontend.protocol,
            clusters_of(&frontend.backends)
        ))?;
        if frontend.backends.is_empty() {
            let (namespace, name) = (&service.namespace, &service.name);
            output::line(match frontend.without_backends.as_str() {
                "" => format!(
                    "no cluster has a backend that is used → clustermesh service explain {namespace}/{name} --context {from}"
                ),
                // Which pods its selector picks is known to the apiserver alone.
                why => format!(
                    "{why} → see whether pods match its selector: clustermesh pod list --namespace {namespace} --context {from}"
                ),
            })?;
            continue;
        }
        let row = |backend: &Backend| {
            vec![
                endpoint(&backend.address, backend.port),
                backend.cluster.clone(),
                backend.node.clone(),
                backend.state.clone(),
                backend.reason.clone(),
            ]
        };
        let header = ["BACKEND", "CLUSTER", "NODE", "STATE", "REASON"];
        let mut backends: Vec<&Backend> = frontend.backends.iter().collect();
        backends.sort_by_key(|backend| (backend.address.parse::<IpAddr>().ok(), backend.port));
        output::table(&header, backends.into_iter().map(row))?;
    }
    Ok(())
}

/// A line names at most this many clusters.
const NAMED_CLUSTERS: usize = 4;

/// `2 of a, 3 of b`; with more clusters, `16 of 8 clusters`.
fn clusters_of(backends: &[Backend]) -> String {
    let mut counts = BTreeMap::<&str, usize>::new();
    backends.iter().for_each(|backend| *counts.entry(backend.cluster.as_str()).or_default() += 1);
    if counts.is_empty() {
        return "none".into();
    }
    if counts.len() > NAMED_CLUSTERS {
        return format!("{} of {} clusters", backends.len(), counts.len());
    }
    let in_words = |(cluster, count): (&&str, &usize)| {
        let mut of = backends.iter().filter(|backend| backend.cluster == **cluster);
        match of.all(|backend| matches!(&*backend.state, "drained" | "cluster-drained")) {
            true => format!("{count} of {cluster} (drained)"),
            false => format!("{count} of {cluster}"),
        }
    };
    counts.iter().map(in_words).collect::<Vec<_>>().join(", ")
}

/// The traffic settings of a service: `tiers b, a; weights a=90 b=10 (of clusters)`.
fn policy(traffic: &Traffic) -> String {
    let mut policy = Vec::new();
    if traffic.global && !traffic.affinity.is_empty() && traffic.affinity != "none" {
        policy.push(format!("affinity {}", traffic.affinity));
    }
    if !traffic.tiers.is_empty() {
        let tier = |tier: &ClusterSet| tier.clusters.join("+");
        policy.push(format!(
            "tiers {}",
            traffic.tiers.iter().map(tier).collect::<Vec<_>>().join(", ")
        ));
    }
    if !traffic.weights.is_empty() {
        let weights: BTreeMap<_, _> = traffic.weights.iter().collect();
        let weights = weights.iter().map(|(cluster, weight)| format!("{cluster}={weight}"));
        let weights = weights.collect::<Vec<_>>().join(" ");
        policy.push(format!("weights {weights} (of {})", traffic.weights_of));
    }
    if traffic.minimum_healthy_percent > 0 {
        policy.push(format!("minimum healthy {} %", traffic.minimum_healthy_percent));
    }
    if traffic.session_affinity_seconds > 0 {
        policy.push(format!("session affinity {}s", traffic.session_affinity_seconds));
    }
    policy.extend(traffic.internal_traffic_local.then(|| "internal traffic Local".to_owned()));
    policy.extend(traffic.topology_hints.then(|| "topology hints".to_owned()));
    policy.join("; ")
}

/// The traffic settings as JSON.
fn traffic_json(traffic: &Traffic) -> Value {
    let weights: BTreeMap<_, _> = traffic.weights.iter().collect();
    let tiers: Vec<_> = traffic.tiers.iter().map(|tier| &tier.clusters).collect();
    let given = |number: u32| (number > 0).then_some(number);
    json!({
        "global": traffic.global, "affinity": traffic.affinity, "weights": weights,
        "weightsOf": (!weights.is_empty()).then_some(&traffic.weights_of), "tiers": tiers,
        "minimumHealthyPercent": given(traffic.minimum_healthy_percent),
        "sessionAffinitySeconds": given(traffic.session_affinity_seconds),
        "internalTrafficLocal": traffic.internal_traffic_local, "topologyHints": traffic.topology_hints,
    })
}

/// The number of backends in each state: `3 ready, 1 terminating`.
fn states_of(backends: &[Backend]) -> String {
    let mut counts = BTreeMap::<&str, usize>::new();
    backends.iter().for_each(|backend| *counts.entry(backend.state.as_str()).or_default() += 1);
    let states: Vec<String> =
        counts.iter().map(|(state, count)| format!("{count} {state}")).collect();
    states.join(", ")
}

fn endpoint(address: &str, port: u32) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

impl Listed for Seen {
    const HEADER: &'static [&'static str] = &[
        "IN",
        "NAMESPACE",
        "NAME",
        "FRONTEND",
        "PROTOCOL",
        "PORT",
        "BACKENDS",
        "STATES",
        "POLICY",
    ];
    const WIDE: usize = 2;

    fn name(&self) -> String {
        format!("{}/{}", self.service.namespace, self.service.name)
    }

    /// A row for each frontend.
    fn rows(&self) -> Vec<Vec<String>> {
        let Self { from, service } = self;
        let row = |frontend: &Frontend| {
            vec![
                from.clone(),
                service.namespace.clone(),
                service.name.clone(),
                endpoint(&frontend.address, frontend.port),
                frontend.protocol.clone(),
                frontend.port_name.clone(),
                clusters_of(&frontend.backends),
                states_of(&frontend.backends),
                service.traffic.as_ref().map(policy).unwrap_or_default(),
            ]
        };
        service.frontends.iter().map(row).collect()
    }

    fn json(&self) -> Value {
        let backend = |b: &Backend| {
            json!({
                "address": b.address, "port": b.port, "cluster": b.cluster, "node": b.node, "state": b.state,
                "reason": b.reason,
            })
        };
        let frontend = |f: &Frontend| {
            json!({
                "address": f.address, "port": f.port, "protocol": f.protocol, "portName": f.port_name,
                "withoutBackends": (!f.without_backends.is_empty()).then_some(&f.without_backends),
                "backends": f.backends.iter().map(backend).collect::<Vec<_>>(),
            })
        };
        json!({
            "in": self.from, "namespace": self.service.namespace, "name": self.service.name,
            "traffic": self.service.traffic.as_ref().map(traffic_json),
            "frontends": self.service.frontends.iter().map(frontend).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::samples;

    #[test]
    fn services_and_their_backends_fit() {
        let backend = Backend {
            address: "fd00:10:2:1::7".into(),
            port: 8080,
            cluster: "b".into(),
            node: "n1".into(),
            state: "cluster-drained".into(),
            reason: "its cluster is drained, and others are ready".into(),
        };
        let frontend = Frontend {
            address: "fd00:10:101::10".into(),
            port: 80,
            protocol: "TCP".into(),
            port_name: "http".into(),
            backends: vec![backend],
            without_backends: String::new(),
        };
        let service = Service {
            namespace: "shop".into(),
            name: "web".into(),
            frontends: vec![frontend],
            traffic: None,
        };
        let seen = Seen { from: "a".into(), service };
        samples::fits(90, || show(&seen));
        samples::list_fits(90, &[seen]);
    }

    #[test]
    fn a_service_of_another_namespace_is_proposed() {
        let service = |namespace: &str, name: &str| Service {
            namespace: namespace.into(),
            name: name.into(),
            frontends: Vec::new(),
            traffic: None,
        };
        let services = [
            service("shop", "web"),
            service("other", "web"),
            service("shop", "web"),
            service("a", "db"),
        ];
        let text = did_you_mean(services.iter(), "web");
        assert_eq!(text, " (did you mean other/web, shop/web?)");
        assert_eq!(did_you_mean(services.iter(), "nothing"), "");
    }

    #[test]
    fn weights_and_tiers_are_shown() {
        let set = |clusters: &[&str]| ClusterSet {
            clusters: clusters.iter().map(ToString::to_string).collect(),
        };
        let traffic = Traffic {
            global: true,
            affinity: "local".into(),
            session_affinity_seconds: 60,
            weights: [("b".to_owned(), 10), ("a".to_owned(), 90)].into(),
            tiers: vec![set(&["b", "c"]), set(&["a"])],
            minimum_healthy_percent: 0,
            weights_of: "clusters".into(),
            internal_traffic_local: true,
            topology_hints: true,
        };
        assert_eq!(
            policy(&traffic),
            "affinity local; tiers b+c, a; weights a=90 b=10 (of clusters); session affinity 60s; internal traffic Local; topology hints"
        );
        let wanted = json!({
            "global": true, "affinity": "local", "weights": { "a": 90, "b": 10 }, "weightsOf": "clusters",
            "tiers": [["b", "c"], ["a"]], "minimumHealthyPercent": null, "sessionAffinitySeconds": 60,
            "internalTrafficLocal": true, "topologyHints": true,
        });
        assert_eq!(traffic_json(&traffic), wanted);
        let plain = Traffic { global: true, affinity: "none".into(), ..Traffic::default() };
        assert_eq!(policy(&plain), "");
        assert_eq!(traffic_json(&plain)["weightsOf"], Value::Null);
    }

    #[test]
    fn many_clusters_are_counted() {
        let of = |clusters: &[&str]| {
            let backend =
                |cluster: &&str| Backend { cluster: (*cluster).into(), ..Backend::default() };
            clusters_of(&clusters.iter().map(backend).collect::<Vec<_>>())
        };
        assert_eq!(of(&[]), "none");
        assert_eq!(of(&["b", "a", "b"]), "1 of a, 2 of b");
        assert_eq!(of(&["a", "b", "c", "d", "e", "e"]), "6 of 5 clusters");
    }
}
