//! What frontends should be, as a whole.

use std::{collections::BTreeMap, sync::Arc};

use mesh_model::{
    ClusterId, ServiceName, ServiceTraffic,
    lb::{Backend, Condition, Content, Frontend},
};

use super::Decider;
use crate::{
    plan::Plan,
    pool::PoolKey,
    scheme::Scheme,
    standing::{Counts, Standing},
};

/// A backend as somebody knows it who does not ask a [`Decider`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known<'a> {
    /// Where it is.
    pub backend: Backend,
    /// The name of the port that it serves.
    pub port_name: &'a str,
    /// Whether it takes connections, by its cluster's word.
    pub condition: Condition,
    /// The node it is on, where its cluster says so. Where it does not, it is on the one that was looked up before.
    pub node: Option<&'a str>,
}

impl Decider {
    /// What a frontend leads to, as it was made of the changes so far; `None` where it is not taken.
    pub fn content(&self, frontend: &Frontend) -> Option<Content> {
        let (owner, key) = self.frontends.get(frontend)?;
        let service = self.services.get(owner).filter(|service| self.rules.takes(service))?;
        let pool = service.pools.get(key)?;
        let (settings, weights) = (pool.settings(), pool.chosen().weights);
        Some(Content { settings, weights, backends: pool.in_use().collect() })
    }

    /// What a frontend should lead to by what is known of its service's backends, whatever became of the changes so far;
    /// `None` where it is not to be taken. How clusters and nodes are is as the decider was told.
    pub fn content_from<'a>(
        &self,
        service: &ServiceName,
        traffic: &Arc<ServiceTraffic>,
        (frontend, port_name): (&Frontend, &str),
        backends: impl Iterator<Item = Known<'a>>,
    ) -> Option<Content> {
        if !self.rules.takes_traffic(traffic) {
            return None;
        }
        let key = PoolKey::of_frontend(&port_name.into(), frontend);
        let pool = self.services.get(service).and_then(|service| service.pools.get(&key));
        let mut standings: BTreeMap<Backend, Standing> = BTreeMap::new();
        for Known { backend, port_name, condition, node } in backends {
            let fits = backend.protocol == key.protocol
                && backend.address.is_ipv4() == key.is_ipv4
                && *port_name == *key.port_name;
            if fits {
                let looked_up = || pool?.get(&backend).map(|(node, _)| node.as_ref());
                let node = node.or_else(looked_up);
                let alive = node.is_none_or(|node| self.nodes.is_alive(backend.cluster, node));
                standings.insert(backend, Standing::new(condition, alive));
            }
        }
        let mut counts: BTreeMap<ClusterId, Counts> = BTreeMap::new();
        for (backend, standing) in &standings {
            counts.entry(backend.cluster).or_default().add(*standing);
        }
        let scheme = Scheme::new(Arc::clone(traffic), self.rules.own, &self.clusters);
        let chosen = Plan::new(&scheme, &self.clusters, &counts).chosen;
        let settings =
            self.rules.settings(service, &scheme, &chosen, (&self.clusters, self.all_known));
        let backends = standings.into_iter().filter_map(|(backend, standing)| {
            Some((backend, chosen.group(backend.cluster, standing)?))
        });
        Some(Content { settings, weights: chosen.weights, backends: backends.collect() })
    }
}
