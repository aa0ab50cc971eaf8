//! Explains which backends a cluster's clients use, and why.

use std::{collections::BTreeSet, net::IpAddr, str::FromStr as _};

use mesh_balance::{Candidate, Explanation, Reason, Share, Usage};
use mesh_model::{
    ClusterName, Port, Protocol, ServiceName,
    lb::{Condition, Frontend, NodeHealth},
};

use crate::{
    events::time,
    exports::{NotExported, Offer, Offers},
    simulation::{Exporter, Reachability, Simulation},
};

/// A frontend with the backends of its service in all clusters.
#[derive(Clone, Debug)]
pub struct ExplainedFrontend {
    /// How backends are chosen.
    pub explanation: Explanation,
    /// The backends, each with its usage.
    pub entries: Vec<ExplainedBackend>,
    /// Where there are none: what each cluster has of the service, as a sentence.
    pub without_backends: Option<String>,
}

/// A backend, with the reason why it is used or not.
#[derive(Clone, Debug, PartialEq)]
pub struct ExplainedBackend {
    /// Its address.
    pub address: IpAddr,
    /// Its port; `None` if it has no port that the frontend could use.
    pub port: Option<u16>,
    /// The name of its port, as its cluster reports it; `None` without a port.
    pub port_name: Option<String>,
    /// Its cluster.
    pub cluster: String,
    /// Its node, if it is known.
    pub node: Option<String>,
    /// Its zone, if its cluster reports it.
    pub zone: Option<String>,
    /// Its condition, as its cluster reports it.
    pub condition: Condition,
    /// Whether its node answers.
    pub node_answers: bool,
    /// The number of its tier; `None` if no agent knows the backend.
    pub tier: Option<usize>,
    /// How it is used.
    pub usage: Usage,
    /// The reason, as a word that does not change.
    pub word: &'static str,
    /// The reason, as a sentence.
    pub reason: String,
    /// The clusters that claim its address, first the one that has it.
    pub claimed_by: Vec<String>,
}

/// A service that a user asks for, or one of its ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceQuery {
    /// The service.
    pub service: ServiceName,
    /// The number or the name of its port.
    pub port: Option<String>,
    /// The protocol of the port.
    pub protocol: Option<Protocol>,
}

/// A text that is not a query for a service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a service, as in NAMESPACE/NAME, NAMESPACE/NAME:PORT or NAMESPACE/NAME:PORT/TCP"
)]
pub struct InvalidServiceQuery(String);

// === impl ServiceQuery ===

impl ServiceQuery {
    /// A query for all ports of a service.
    pub(crate) fn of(service: &ServiceName) -> Self {
        Self { service: service.clone(), port: None, protocol: None }
    }

    /// Parses `[NAMESPACE/]NAME[:PORT[/PROTOCOL]]`; the default namespace is `default`.
    pub fn parse(text: &str) -> Result<Self, InvalidServiceQuery> {
        let invalid = || InvalidServiceQuery(text.into());
        let (name, port) = match text.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        };
        let (port, protocol) = match port.map(|port| port.split_once('/').unwrap_or((port, ""))) {
            Some((port, "")) if !text.ends_with('/') => (Some(port), None),
            Some((port, word)) => {
                let protocol = Protocol::from_str(&word.to_ascii_uppercase());
                (Some(port), Some(protocol.map_err(|_| invalid())?))
            }
            None => (None, None),
        };
        let port = port.map(ToOwned::to_owned);
        let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
        let empty = namespace.is_empty() || name.is_empty() || name.contains('/');
        if empty || port.as_ref().is_some_and(String::is_empty) {
            return Err(invalid());
        }
        Ok(Self { service: ServiceName::new(namespace, name), port, protocol })
    }

    /// Whether the query asks for this port.
    pub fn has_port(&self, name: &str, number: u16, protocol: Protocol) -> bool {
        let is = |port: &String| name == port || number.to_string() == *port;
        self.port.as_ref().is_none_or(is) && self.protocol.is_none_or(|asked| asked == protocol)
    }

    fn matches(&self, explanation: &Explanation) -> bool {
        let Frontend { port, protocol, .. } = explanation.frontend;
        *explanation.service == self.service
            && self.has_port(&explanation.port_name, port, protocol)
    }
}

// === impl Simulation ===

impl Simulation {
    /// The frontends of the importing cluster, or those that a query asks for.
    pub fn explain(&self, wanted: Option<&ServiceQuery>) -> Vec<ExplainedFrontend> {
        let mut all = Vec::new();
        for service in self.importer.balancer.services() {
            if wanted.is_some_and(|wanted| wanted.service != *service) {
                continue;
            }
            for frontend in self.importer.balancer.frontends(&service) {
                let explanation = self.importer.explain(&frontend);
                let explanation =
                    explanation.filter(|e| wanted.is_none_or(|wanted| wanted.matches(e)));
                all.extend(explanation.map(|explanation| self.explained(explanation)));
            }
        }
        all
    }

    /// The clusters that have a service of this name.
    pub fn clusters_with(&self, service: &ServiceName) -> Vec<&ClusterName> {
        let has = |(_, exporter): &(&ClusterName, &_)| Offers::of(exporter, service).has_service;
        self.exporters.iter().filter(has).map(|(name, _)| name).collect()
    }

    fn explained(&self, explanation: Explanation) -> ExplainedFrontend {
        let mut entries: Vec<ExplainedBackend> =
            explanation.backends.iter().map(|c| self.entry(&explanation.service, c)).collect();
        let known: BTreeSet<(String, IpAddr)> =
            entries.iter().map(|entry| (entry.cluster.clone(), entry.address)).collect();
        for name in self.exporters.keys() {
            let others = self.not_known(name, &explanation);
            entries.extend(
                others
                    .into_iter()
                    .filter(|entry| !known.contains(&(entry.cluster.clone(), entry.address))),
            );
        }
        let order = |entry: &ExplainedBackend| (entry.cluster.clone(), entry.address, entry.port);
        entries.sort_by_key(order);
        for entry in &mut entries {
            entry.claimed_by = self.importer.claims(entry.address);
        }
        let without_backends = entries
            .is_empty()
            .then(|| self.without_backends(&explanation.service, &explanation.frontend));
        ExplainedFrontend { explanation, entries, without_backends }
    }

    /// Whether the service's namespace is global in the importing cluster; true if that is not known.
    fn local_takes_part(&self, service: &ServiceName) -> bool {
        match self.exporters.get(self.local()) {
            Some(Exporter::Objects(cluster)) => cluster.takes_part(&service.namespace),
            _ => true,
        }
    }

    fn entry(&self, service: &ServiceName, candidate: &Candidate) -> ExplainedBackend {
        let mut entry = ExplainedBackend::new(candidate);
        // The balancer does not know why a service is not global: it may be the namespace.
        if candidate.reason == Reason::NotGlobal && !self.local_takes_part(service) {
            let (local, namespace) = (self.local(), &service.namespace);
            entry.word = NotExported::NamespaceNotGlobal.as_str();
            entry.reason = format!(
                "it is of cluster {}, and namespace {namespace} of cluster {local} is not global (clustermesh.cilium.io/global)",
                entry.cluster
            );
        }
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

    /// The backends in a cluster that the importing cluster's agents do not know, each with the reason.
    fn not_known(&self, name: &ClusterName, explanation: &Explanation) -> Vec<ExplainedBackend> {
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
            let not_exported = offers.not_exported.filter(|_| name != self.local());
            let (word, reason) = match (self.reachability(name), not_exported) {
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
            let port = offer.port(&explanation.port_name, frontend.protocol);
            entries.push(ExplainedBackend::left_out(name, offer, port, word, reason));
        }
        entries
    }
}

/// Why ports of SCTP have no frontend.
pub(crate) const SCTP: &str = "SCTP is carried between clusters and not balanced";

fn stale(cluster: &str, since: std::time::Duration, until: std::time::Duration) -> String {
    format!(
        "stale: cluster {cluster} has been unreachable since {}, and its staleness budget was spent at {}",
        time(since),
        time(until)
    )
}

// === impl ExplainedBackend ===

impl ExplainedBackend {
    /// A backend that no agent knows, or can use.
    pub(crate) fn left_out(
        cluster: &ClusterName,
        offer: &Offer,
        port: Option<&(String, Port)>,
        word: &'static str,
        reason: String,
    ) -> Self {
        Self {
            address: offer.address,
            port: port.map(|(_, port)| port.number),
            port_name: port.map(|(name, _)| name.clone()),
            cluster: cluster.to_string(),
            node: offer.node.clone(),
            zone: None,
            condition: offer.condition,
            node_answers: true,
            tier: None,
            usage: Usage::LeftOut,
            word,
            reason,
            claimed_by: Vec::new(),
        }
    }

    fn new(candidate: &Candidate) -> Self {
        Self {
            address: candidate.backend.address,
            port: Some(candidate.backend.port).filter(|port| *port != 0),
            port_name: (candidate.backend.port != 0).then(|| candidate.port_name.to_string()),
            cluster: candidate.cluster.to_string(),
            node: candidate.node.as_deref().map(ToOwned::to_owned),
            zone: candidate.zone.as_deref().map(ToOwned::to_owned),
            condition: candidate.condition,
            node_answers: candidate.node_health == NodeHealth::Alive,
            tier: candidate.tier,
            usage: candidate.usage,
            word: candidate.reason.as_str(),
            reason: candidate.because.clone(),
            claimed_by: Vec::new(),
        }
    }

    /// Its share of the frontend's new connections.
    pub fn share(&self) -> Share {
        self.usage.share()
    }
}
