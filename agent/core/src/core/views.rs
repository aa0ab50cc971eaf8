//! Views of the core for others, between two changes.

use std::{
    collections::{BTreeSet, HashSet},
    time::{Duration, Instant},
};

use mesh_balance::{Balancer, KnownBackend};
use mesh_merge::Merge;
use mesh_model::{
    ClusterId, ClusterName, KnownIdentities, Record, RecordKey, ServiceName,
    lb::{Backend, Content, Frontend},
};
use mesh_pods::{Counts, Netns, Pods};

use super::Core;
use crate::{
    address_problems,
    input::Connection,
    peers::Refused,
    problem::{Problem, ProblemKind},
    staleness::Away,
};

impl Core {
    /// The local cluster.
    pub fn local(&self) -> &ClusterName {
        &self.local
    }

    /// This node.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The records of all clusters.
    pub fn merge(&self) -> &Merge {
        &self.merge
    }

    /// The choice of backends for clients.
    pub fn balancer(&self) -> &Balancer {
        self.choice.balancer()
    }

    /// The attachments of this node, each with its identity.
    pub fn pods(&self) -> &Pods {
        self.pods.table()
    }

    /// The network namespaces of all pods of this node, also of those that are not known by name.
    pub fn namespaces(&self) -> impl Iterator<Item = &Netns> {
        self.pods.namespaces()
    }

    /// How many there are.
    pub fn pod_counts(&self) -> Counts {
        self.pods.counts()
    }

    /// Pods whose sockets the programs do not balance, by the cookies of their network namespaces; `None` before the
    /// folder of attachments was scanned.
    pub fn unbalanced(&self) -> Option<&BTreeSet<u64>> {
        self.pods.unbalanced()
    }

    /// The followed clusters, the local one included.
    pub fn peers(&self) -> impl Iterator<Item = &ClusterName> {
        self.peers.names()
    }

    /// A followed cluster's connection, as it was reported last.
    pub fn connection(&self, name: &ClusterName) -> Connection {
        self.peers.connection(name)
    }

    /// The refused records of a cluster.
    pub fn refused(&self, name: &ClusterName) -> Refused {
        self.peers.refused(name).cloned().unwrap_or_default()
    }

    /// Why a peer is in quarantine.
    pub fn quarantined(&self, name: &ClusterName) -> Option<&str> {
        self.quarantine.reason(name)
    }

    /// Whether a cluster's state is the one that the previous run knew.
    pub fn is_restored(&self, name: &ClusterName) -> bool {
        self.restored.is_in_use(name)
    }

    /// Whether the local cluster's operator has it leave a cluster alone.
    pub fn is_drained(&self, name: &ClusterName) -> bool {
        self.peers.is_drained(name)
    }

    /// Whether nothing of a cluster answers.
    pub fn is_unreachable(&self, name: &ClusterName) -> bool {
        self.health.is_cut(name)
    }

    /// Whether all clusters that there are, are followed and have their services synced.
    pub fn is_synced(&self) -> bool {
        self.peers.are_complete()
            && self.peers.names().all(|name| self.merge.has_listed_services(name))
    }

    /// Whether services that are not global are balanced too.
    pub fn takes_all_services(&self) -> bool {
        self.balancer().rules().replace_kube_proxy
    }

    /// Whether the local cluster's writer has not reported for too long: then it matters whether a kube-proxy runs.
    pub fn is_writer_away(&self, now: Instant) -> bool {
        self.readiness.is_away(now)
    }

    /// How long ago the local cluster's writer last reported; or this began, if it has not.
    pub fn writer_last_seen(&self, now: Instant) -> Duration {
        self.readiness.last_seen(now)
    }

    /// The wanted content of a cluster's snapshot on disk; `None` before the cluster is synced.
    pub fn snapshot(
        &self,
        name: &ClusterName,
    ) -> Option<(ClusterId, Vec<Record>, KnownIdentities)> {
        let known = self.merge.known_identities(name)?;
        self.merge.records(name).map(|(id, records)| (id, records, known))
    }

    /// The programmed frontends of a service, with what each should lead to: from what clusters report, and not from
    /// the derived state.
    pub fn wanted_content(&self, service: &ServiceName) -> Vec<(Frontend, Content)> {
        let Some(traffic) = self.merge.traffic_of(service) else { return Vec::new() };
        let content = |(frontend, port_name): (Frontend, &str)| {
            let backends = self.merge.backends_of(service);
            let backends = backends.map(|(backend, port_name, state)| KnownBackend {
                backend,
                port_name,
                condition: state.condition,
                node: state.node.as_deref(),
                node_is_derived: state.node_is_derived,
                hints: state.hints.as_deref(),
            });
            let port = (&frontend, port_name);
            let content = self.balancer().content_from(service, traffic, port, backends)?;
            Some((frontend, content))
        };
        self.merge.frontends_of(service).filter_map(content).collect()
    }

    /// All backends that clusters report for services of the local cluster: goes through everything.
    pub fn reported_backends(&self) -> HashSet<Backend> {
        let services = self.merge.services().map(|(service, ..)| service);
        let backends = services.flat_map(|service| self.merge.backends_of(service));
        backends.map(|(backend, ..)| backend).collect()
    }

    /// How many records of a cluster are refused now.
    pub fn refused_now(&self, name: &ClusterName) -> usize {
        self.peers.refused_now(name)
    }

    /// The records of a cluster that are refused now, each with why; at most as many as are kept.
    pub fn refused_records(&self, name: &ClusterName) -> impl Iterator<Item = (&RecordKey, &str)> {
        self.peers.refused_records(name)
    }

    /// Since when a peer is not connected, and when its state is no longer used; `None` for a connected peer.
    pub fn away(&self, name: &ClusterName) -> Option<Away> {
        self.staleness.away(name)
    }

    /// For how long the state of a peer that is not connected stays in use.
    pub fn staleness_budget(&self) -> Duration {
        self.staleness.budget()
    }

    /// Problems for an operator.
    pub fn problems(&self, now: Instant) -> Vec<Problem> {
        let missing = self.merge.missing_grants().map(|missing| {
            Problem::of(ProblemKind::MissingGrant, &missing.cluster, missing.to_string())
        });
        let readiness = self.readiness.problem(now);
        let pods = self.pods.problem();
        let alone = self.has_no_kube_proxy && self.takes_all_services();
        let unserved = alone.then(|| unserved(self.merge.left_to_kube_proxy())).flatten();
        self.peers
            .problems()
            .chain(missing)
            .chain(address_problems::contested(&self.merge))
            .chain(address_problems::outside(&self.merge))
            .chain(self.restored.problems())
            .chain(self.staleness.problems(now))
            .chain(readiness.map(|why| Problem::new(ProblemKind::LocalApiserver, why)))
            .chain(pods.map(|why| Problem::new(ProblemKind::PodsWaiting, why)))
            .chain(unserved.map(|why| Problem::new(ProblemKind::KubeProxy, why)))
            .collect()
    }
}

/// How many services a sentence names.
const NAMED: usize = 4;

/// The services of which no program serves all, as a sentence.
fn unserved<'a>(mut services: impl Iterator<Item = &'a ServiceName>) -> Option<String> {
    let named: Vec<String> = services.by_ref().take(NAMED).map(ToString::to_string).collect();
    let more = match services.count() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!named.is_empty()).then(|| {
        format!(
            "no kube-proxy is found on the node: no program serves the node ports, external IPs, load balancers' addresses and \
             SCTP ports of {}{more}",
            named.join(", ")
        )
    })
}
