//! The services that clients on the node connect to, and their backends.

use std::collections::HashMap;

use mesh_admin::v1;
use mesh_balance::Candidate;
use mesh_model::{ServiceName, lb};

use mesh_node::Node;

use crate::{cluster_name, explain::traffic};

/// A service, if it is taken, with what the kernel has of it and not what it should have.
pub fn service(state: &Node, service: &ServiceName) -> Option<v1::Service> {
    let balancer = state.core.balancer();
    if !balancer.takes(service) {
        return None;
    }
    let without_backends = state.without_backends(service);
    let frontends = balancer.frontends(service);
    let of = |found| frontend(state, found, &without_backends);
    Some(v1::Service {
        namespace: service.namespace.to_string(),
        name: service.name.to_string(),
        frontends: frontends.iter().filter_map(of).collect(),
        traffic: balancer.traffic(service).map(traffic),
    })
}

fn frontend(state: &Node, frontend: &lb::Frontend, without_backends: &str) -> Option<v1::Frontend> {
    let explanation = state.core.balancer().explain(frontend)?;
    let candidates: HashMap<lb::Backend, &Candidate> =
        explanation.backends.iter().map(|candidate| (candidate.backend, candidate)).collect();
    let backends = state.lb.tables().backends(frontend).into_iter().flatten();
    Some(v1::Frontend {
        address: frontend.address.to_string(),
        port: frontend.port.into(),
        protocol: frontend.protocol.to_string(),
        port_name: explanation.port_name.to_string(),
        backends: backends.map(|found| backend(state, found, candidates.get(found))).collect(),
        without_backends: without_backends.into(),
    })
}

fn backend(state: &Node, backend: &lb::Backend, known: Option<&&Candidate>) -> v1::Backend {
    let node = known.and_then(|candidate| candidate.node.as_deref());
    let node = node.or_else(|| state.core.merge().node_of(backend.cluster, backend.address));
    let cluster = cluster_name(state, backend.cluster);
    let is_drained = || state.drained(&cluster, node).is_some();
    let condition = match known.map_or("unknown", |candidate| candidate.state()) {
        "terminating" if is_drained() => "drained",
        state => state,
    };
    v1::Backend {
        address: backend.address.to_string(),
        port: backend.port.into(),
        node: node.unwrap_or_default().into(),
        state: condition.into(),
        cluster,
        reason: known.map_or("unknown", |candidate| candidate.reason.as_str()).into(),
    }
}
