//! The wanted content of frontends, as a whole.

use std::{collections::BTreeMap, sync::Arc};

use mesh_model::{
    ClusterId, ServiceName, ServiceTraffic,
    lb::{Backend, Condition, Content, Frontend, Hints, NodeHealth},
};

use super::Balancer;
use crate::{
    backend_health::{BackendHealth, Counts},
    nodes::Nodes,
    plan::Plan,
    pool::PoolKey,
    port_names::PortFit,
    traffic_policy::TrafficPolicy,
};

/// A backend by what its cluster reports of it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownBackend<'a> {
    /// Where it is.
    pub backend: Backend,
    /// The name of the port that it serves.
    pub port_name: &'a str,
    /// Whether it takes connections, as its cluster reports.
    pub condition: Condition,
    /// Its node, if its cluster reports it. If not, it is on the node that was looked up before.
    pub node: Option<&'a str>,
    /// Whether that was found by the address.
    pub node_is_derived: bool,
    /// For whose clients it is, where its cluster reports it.
    pub hints: Option<&'a Hints>,
}

impl Balancer {
    /// The content of a frontend after the changes so far; `None` if it is not programmed.
    pub fn content(&self, frontend: &Frontend) -> Option<Content> {
        let (owner, key) = self.frontends.get(frontend)?;
        let service = self.services.get(owner).filter(|service| self.rules.takes(service))?;
        let pool = service.pools.get(key)?;
        let (settings, weights) = (pool.settings(), pool.chosen().weights);
        Some(Content { settings, weights, backends: pool.in_use().collect() })
    }

    /// Whether services that ask for this are taken.
    pub fn takes_traffic(&self, traffic: &ServiceTraffic) -> bool {
        self.rules.takes_traffic(traffic)
    }

    /// The wanted content of a frontend by what is known of its service's backends, whatever changes were made so far;
    /// `None` if it is not to be programmed. Clusters and nodes are as the balancer knows them.
    pub fn content_from<'a>(
        &self,
        service: &ServiceName,
        traffic: &Arc<ServiceTraffic>,
        (frontend, port_name): (&Frontend, &str),
        backends: impl Iterator<Item = KnownBackend<'a>>,
    ) -> Option<Content> {
        if !self.rules.takes_traffic(traffic) {
            return None;
        }
        let key = PoolKey::of_frontend(&port_name.into(), frontend);
        let pool = self.services.get(service).and_then(|service| service.pools.get(&key));
        // One may be reported under several names, of which one counts.
        let mut reported: BTreeMap<Backend, (PortFit, KnownBackend<'a>)> = BTreeMap::new();
        for known in backends {
            let backend = known.backend;
            if (backend.protocol, backend.address.is_ipv4()) != (key.protocol, key.is_ipv4) {
                continue;
            }
            let fit = PortFit::of(&key.port_name, known.port_name);
            let rank = |fit, known: &KnownBackend<'a>| (fit, known.condition, known.port_name);
            let best = reported.get(&backend).map(|(fit, known)| rank(*fit, known));
            if best.is_none_or(|best| rank(fit, &known) < best) {
                reported.insert(backend, (fit, known));
            }
        }
        let leading = reported.into_values().filter(|(fit, _)| fit.leads(&key.port_name));
        let healths = leading.map(|(_, known)| {
            let KnownBackend { backend, condition, node, hints, .. } = known;
            let node_is_derived = known.node_is_derived || node.is_none();
            let looked_up = || pool?.get(&backend).map(|(node, _)| node.as_ref());
            let node = node.or_else(looked_up);
            let health = |node| self.nodes.health(backend.cluster, node);
            let health = node.map_or(NodeHealth::Alive, health);
            let node = node.unwrap_or(Nodes::UNKNOWN);
            let location = (backend.cluster, node, node_is_derived);
            let locality = self.client.locality(Some(traffic), location, hints);
            (backend, BackendHealth::new(condition, health, locality))
        });
        let healths: BTreeMap<Backend, BackendHealth> = healths.collect();
        let mut counts: BTreeMap<ClusterId, Counts> = BTreeMap::new();
        for (backend, backend_health) in &healths {
            counts.entry(backend.cluster).or_default().add(*backend_health);
        }
        let policy = TrafficPolicy::new(Arc::clone(traffic), self.rules.local, &self.clusters);
        let chosen = Plan::new(&policy, &self.clusters, &counts).chosen;
        let settings = self.rules.settings(service, &policy, &chosen, self.synced);
        let backends = healths.into_iter().filter_map(|(backend, backend_health)| {
            Some((backend, chosen.group(backend.cluster, backend_health)?))
        });
        Some(Content { settings, weights: chosen.weights, backends: backends.collect() })
    }
}
