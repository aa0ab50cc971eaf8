//! Where a cluster's clients end up, and why.

use std::{collections::BTreeSet, net::IpAddr};

use mesh_balance::{Candidate, Explanation, Reason, Share, Usage};
use mesh_model::{
    ClusterName, ServiceName,
    lb::{Condition, NodeHealth},
};

use crate::{
    events::time,
    exports::Offers,
    simulation::{Reachability, Simulation},
};

/// A frontend with all backends of its service, of all clusters.
#[derive(Clone, Debug)]
pub struct ExplainedFrontend {
    /// How it was chosen.
    pub explanation: Explanation,
    /// Backends, each with whether it is used.
    pub entries: Vec<ExplainedBackend>,
}

/// A backend, and why it is used or not.
#[derive(Clone, Debug, PartialEq)]
pub struct ExplainedBackend {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its cluster.
    pub cluster: String,
    /// Its node, where that is known.
    pub node: Option<String>,
    /// Its zone, where its cluster reports it.
    pub zone: Option<String>,
    /// By its cluster's word.
    pub condition: Condition,
    /// Whether its node answers.
    pub node_answers: bool,
    /// The number of its tier.
    pub tier: Option<usize>,
    /// Whether it is used.
    pub usage: Usage,
    /// Why, in a stable word.
    pub word: &'static str,
    /// Why, as a sentence.
    pub reason: String,
}

/// What one asks for: a service, or one of its ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceQuery {
    /// The service.
    pub service: ServiceName,
    /// The number or the name of its port.
    pub port: Option<String>,
}

/// Why a text names no service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no service, as in NAMESPACE/NAME or NAMESPACE/NAME:PORT")]
pub struct InvalidServiceQuery(String);

// === impl ServiceQuery ===

impl ServiceQuery {
    /// Reads `[NAMESPACE/]NAME[:PORT]`.
    pub fn parse(text: &str) -> Result<Self, InvalidServiceQuery> {
        let invalid = || InvalidServiceQuery(text.into());
        let (name, port) = match text.split_once(':') {
            Some((name, port)) => (name, Some(port.to_owned())),
            None => (text, None),
        };
        let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
        let empty = namespace.is_empty() || name.is_empty() || name.contains('/');
        if empty || port.as_ref().is_some_and(String::is_empty) {
            return Err(invalid());
        }
        Ok(Self { service: ServiceName::new(namespace, name), port })
    }

    fn matches(&self, explanation: &Explanation) -> bool {
        let port = |port: &String| {
            explanation.port_name.as_ref() == port || explanation.frontend.port.to_string() == *port
        };
        *explanation.service == self.service && self.port.as_ref().is_none_or(port)
    }
}

// === impl Simulation ===

impl Simulation {
    /// The frontends of the one that looks: all, or those that are wanted.
    pub fn explain(&self, wanted: Option<&ServiceQuery>) -> Vec<ExplainedFrontend> {
        let mut all = Vec::new();
        for service in self.importer.balancer.services() {
            if wanted.is_some_and(|wanted| wanted.service != *service) {
                continue;
            }
            for frontend in self.importer.balancer.frontends(&service) {
                let explanation = self.importer.balancer.explain(&frontend);
                let explanation =
                    explanation.filter(|e| wanted.is_none_or(|wanted| wanted.matches(e)));
                all.extend(explanation.map(|explanation| self.explained(explanation)));
            }
        }
        all
    }

    /// The clusters that have a Service of a name.
    pub fn clusters_with(&self, service: &ServiceName) -> Vec<&ClusterName> {
        let has = |(_, exporter): &(&ClusterName, &_)| Offers::of(exporter, service).has_service;
        self.exporters.iter().filter(has).map(|(name, _)| name).collect()
    }

    fn explained(&self, explanation: Explanation) -> ExplainedFrontend {
        let mut entries: Vec<ExplainedBackend> =
            explanation.backends.iter().map(|candidate| self.entry(candidate)).collect();
        let known: BTreeSet<(String, IpAddr)> =
            entries.iter().map(|entry| (entry.cluster.clone(), entry.address)).collect();
        for name in self.exporters.keys().filter(|name| *name != self.local()) {
            let not_exported = self.not_exported(name, &explanation);
            entries.extend(
                not_exported
                    .into_iter()
                    .filter(|entry| !known.contains(&(entry.cluster.clone(), entry.address))),
            );
        }
        let order = |entry: &ExplainedBackend| (entry.cluster.clone(), entry.address, entry.port);
        entries.sort_by_key(order);
        ExplainedFrontend { explanation, entries }
    }

    fn entry(&self, candidate: &Candidate) -> ExplainedBackend {
        let mut entry = ExplainedBackend::new(candidate);
        let name = ClusterName::new(&candidate.cluster);
        match name.map(|name| self.reachability(&name)) {
            Ok(Reachability::Stale(since, until)) if candidate.reason == Reason::ClusterStale => {
                entry.reason = stale(&entry.cluster, since, until);
            }
            Ok(Reachability::Unreachable(since, until)) => {
                let (since, until) = (time(since), time(until));
                entry.reason.push_str(&format!(
                    "; cluster {} has been unreachable since {since}, and what it last reported is valid until {until}",
                    entry.cluster
                ));
            }
            _ => {}
        }
        entry
    }

    /// What a cluster has for the service, each with why it is not offered here.
    fn not_exported(&self, name: &ClusterName, explanation: &Explanation) -> Vec<ExplainedBackend> {
        let Some(exporter) = self.exporters.get(name) else { return Vec::new() };
        let service = &*explanation.service;
        let offers = Offers::of(exporter, service);
        let last_seen = self.importer.last_seen(name);
        let frontend = &explanation.frontend;
        let alike = |address: &IpAddr| address.is_ipv4() == frontend.address.is_ipv4();
        let mut entries = Vec::new();
        for offer in offers.offers.values().filter(|offer| alike(&offer.address)) {
            let refused = last_seen.and_then(|last_seen| offer.refused(last_seen));
            let whole = last_seen.and_then(|last_seen| last_seen.refusal.as_deref());
            let (word, reason) = match (self.reachability(name), offers.not_exported) {
                (Reachability::Removed(at), _) => (
                    "removed",
                    format!(
                        "cluster {name} was removed at {}, and with it all that it reported",
                        time(at)
                    ),
                ),
                (_, Some(not_exported)) => {
                    (not_exported.as_str(), not_exported.sentence(name.as_str(), service))
                }
                (Reachability::Stale(since, until), None) => {
                    ("cluster-stale", stale(name.as_str(), since, until))
                }
                (Reachability::Unreachable(since, _), None) => (
                    "not-heard",
                    format!(
                        "cluster {name} has been unreachable since {}: this was not seen",
                        time(since)
                    ),
                ),
                (Reachability::Connected, None) => match (whole, refused) {
                    (Some(why), _) => {
                        ("cluster-refused", format!("cluster {name} is refused: {why}"))
                    }
                    (None, Some(why)) => ("refused", format!("refused: {why}")),
                    (None, None) if offer.condition == Condition::NotReady => {
                        ("not-ready", "it is not ready, and services v1 leave those out".into())
                    }
                    (None, None) => {
                        ("not-offered", format!("cluster {name} does not offer it for this port"))
                    }
                },
            };
            let Some(port) = offer.port(&explanation.port_name, frontend.protocol) else {
                continue;
            };
            entries.push(ExplainedBackend {
                address: offer.address,
                port: port.number,
                cluster: name.to_string(),
                node: offer.node.clone(),
                zone: None,
                condition: offer.condition,
                node_answers: true,
                tier: None,
                usage: Usage::LeftOut,
                word,
                reason,
            });
        }
        entries
    }
}

fn stale(cluster: &str, since: std::time::Duration, until: std::time::Duration) -> String {
    format!(
        "stale: cluster {cluster} has been unreachable since {}, and its staleness budget was spent at {}",
        time(since),
        time(until)
    )
}

// === impl ExplainedBackend ===

impl ExplainedBackend {
    fn new(candidate: &Candidate) -> Self {
        Self {
            address: candidate.backend.address,
            port: candidate.backend.port,
            cluster: candidate.cluster.to_string(),
            node: candidate.node.as_deref().map(ToOwned::to_owned),
            zone: candidate.zone.as_deref().map(ToOwned::to_owned),
            condition: candidate.condition,
            node_answers: candidate.node_health == NodeHealth::Alive,
            tier: candidate.tier,
            usage: candidate.usage,
            word: candidate.reason.as_str(),
            reason: candidate.because.clone(),
        }
    }

    /// How much of the frontend's connections it gets.
    pub fn share(&self) -> Share {
        self.usage.share()
    }
}
