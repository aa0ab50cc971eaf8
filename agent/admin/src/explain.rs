//! Explains where frontends lead, and compares that with the kernel.

use std::collections::{BTreeMap, BTreeSet};

use mesh_admin::v1;
use mesh_balance::{Candidate, Explanation, Reason, Usage, differences};
use mesh_model::{
    ServiceName, ServiceTraffic,
    lb::{Backend, Content, Frontend, Group, NodeHealth, Settings},
};

use mesh_node::Node;

use crate::{absences, claims, cluster_name};

/// The frontends of a service. It may have none.
pub fn explain(node: &Node, service: &ServiceName) -> v1::ExplainResponse {
    let mut response = v1::ExplainResponse::default();
    let balancer = node.core.balancer();
    let frontends = balancer.frontends(service);
    if frontends.is_empty() {
        response.without_frontend.push(v1::ServiceReference {
            namespace: service.namespace.to_string(),
            name: service.name.to_string(),
        });
    }
    response.absences = absences::of_service(node, service);
    let unusable = || node.core.merge().unusable_of(service);
    let explained = frontends.iter();
    let explained = explained.filter_map(|of| balancer.explain_beside(of, unusable()));
    let without_backends = node.without_backends(service);
    let explained = explained.map(|explanation| frontend(node, explanation, &without_backends));
    response.frontends.extend(explained);
    response
}

fn frontend(
    node: &Node,
    explanation: Explanation,
    without_backends: &str,
) -> v1::FrontendExplanation {
    let frontend = explanation.frontend;
    let should = node.core.balancer().content(&frontend);
    let has = node.lb.tables().frontend(&frontend).map(|view| view.content());
    let name = |backend: &Backend| {
        let address = std::net::SocketAddr::from((backend.address, backend.port));
        format!("{address} of {}", cluster_name(node, backend.cluster))
    };
    let differences = differences(should.as_ref(), has.as_ref(), name);
    v1::FrontendExplanation {
        namespace: explanation.service.namespace.to_string(),
        name: explanation.service.name.to_string(),
        port_name: explanation.port_name.to_string(),
        address: frontend.address.to_string(),
        port: frontend.port.into(),
        protocol: frontend.protocol.to_string(),
        traffic: Some(traffic(&explanation.traffic)),
        settings: explanation.settings.map(settings),
        basis: explanation.basis.as_str().into(),
        tiers: explanation.tiers.iter().map(tier).collect(),
        groups: explanation.groups.iter().map(group).collect(),
        backends: programmed(node, &explanation, should.as_ref(), has.as_ref()),
        kernel: has.map(|has| kernel(node, &frontend, &has)),
        differences,
        without_backends: without_backends.into(),
        locality: explanation.locality.unwrap_or_default(),
    }
}

pub(crate) fn traffic(traffic: &ServiceTraffic) -> v1::Traffic {
    let clusters = |tier: &BTreeSet<_>| v1::ClusterSet {
        clusters: tier.iter().map(ToString::to_string).collect(),
    };
    let weights = traffic.weights.iter();
    v1::Traffic {
        global: traffic.global,
        affinity: traffic.affinity.to_string(),
        session_affinity_seconds: traffic.session_affinity.unwrap_or(0),
        weights: weights.map(|(cluster, weight)| (cluster.to_string(), *weight)).collect(),
        tiers: traffic.tiers.iter().map(clusters).collect(),
        minimum_healthy_percent: traffic.minimum_healthy.unwrap_or(0).into(),
        weights_of: match traffic.weights.is_empty() {
            true => String::new(),
            false => traffic.weights_of.as_str().into(),
        },
        internal_traffic_local: traffic.internal_traffic_local,
        topology_hints: traffic.topology_hints,
    }
}

fn settings(settings: Settings) -> v1::FrontendSettings {
    v1::FrontendSettings {
        session_affinity_seconds: settings.session_affinity,
        plain: settings.plain,
        pass_if_empty: settings.pass_if_empty,
    }
}

fn tier(tier: &mesh_balance::Tier) -> v1::TrafficTier {
    let cluster = |cluster: &mesh_balance::TierCluster| v1::TierCluster {
        cluster: cluster.cluster.to_string(),
        weight: cluster.weight,
        state: cluster.state.as_str().into(),
        usable: cluster.usable,
    };
    v1::TrafficTier {
        number: number(tier.number),
        clusters: tier.clusters.iter().map(cluster).collect(),
        usable: tier.usable,
        meant: tier.meant,
        health_billionths: tier.health.0,
        minimum_percent: tier.minimum.unwrap_or(0).into(),
        capacity_billionths: tier.capacity.0,
        load_billionths: tier.load.0,
    }
}

fn group(group: &mesh_balance::GroupShare) -> v1::TrafficGroup {
    v1::TrafficGroup {
        group: number(group.group.number()),
        tier: number(group.tier),
        cluster_weight: group.weight,
        backends: group.backends,
        kernel_weight: group.kernel_weight,
        share_billionths: group.share.0,
    }
}

/// All backends: one that the kernel should have and has not gets no connection, and the others of its group get its share.
fn programmed(
    node: &Node,
    explanation: &Explanation,
    should: Option<&Content>,
    has: Option<&Content>,
) -> Vec<v1::Candidate> {
    let group = |backend: &Backend| should.and_then(|should| should.backends.get(backend));
    let is_missing = |backend: &Backend| {
        group(backend).is_some() && !has.is_some_and(|has| has.backends.contains_key(backend))
    };
    // By group, how much the missing ones should get, and how many others there are.
    let mut groups: BTreeMap<Group, (u64, u64)> = BTreeMap::new();
    for Candidate { backend, usage, .. } in &explanation.backends {
        let Some(group) = group(backend) else { continue };
        let (missed, others) = groups.entry(*group).or_default();
        match is_missing(backend) {
            true => *missed += usage.share().0,
            false => *others += 1,
        }
    }
    let service = &*explanation.service;
    let is_closed = absences::is_closed(node, service);
    let shown = |known: &Candidate| {
        let mut shown = candidate(known);
        if known.reason == Reason::NotGlobal && is_closed {
            shown.reason = "namespace-not-global".into();
            shown.because = format!(
                "it is of cluster {}, and namespace {} of cluster {} is not global (clustermesh.cilium.io/global)",
                known.cluster,
                service.namespace,
                node.core.local()
            );
        }
        if known.state() == "terminating"
            && let Some(why) = node.drained(&shown.cluster, known.node.as_deref())
        {
            shown.state = "drained".into();
            shown.because = match known.usage {
                Usage::InUse(_) => format!("{}; {why}", known.because),
                Usage::Fallback | Usage::LeftOut => format!("{why}, and others are ready"),
            };
        }
        if is_missing(&known.backend) {
            let failure = node.lb.failure_of(&explanation.frontend, &known.backend);
            let why = failure.map_or_else(|| "it is being added".into(), ToString::to_string);
            shown.usage = Usage::LeftOut.as_str().into();
            shown.share_billionths = 0;
            shown.reason = "not-programmed".into();
            shown.because = format!("not programmed: {why}");
        } else if let Some((missed, others)) = group(&known.backend).and_then(|g| groups.get(g)) {
            shown.share_billionths += missed.checked_div(*others).unwrap_or_default();
        }
        shown
    };
    let mut backends: Vec<v1::Candidate> = explanation.backends.iter().map(shown).collect();
    for (known, shown) in explanation.backends.iter().zip(&mut backends) {
        (shown.claimed_by, shown.also_claimed_by) = claims::names(node, known.backend.address);
    }
    backends
}

fn candidate(candidate: &Candidate) -> v1::Candidate {
    v1::Candidate {
        address: candidate.backend.address.to_string(),
        port: candidate.backend.port.into(),
        cluster: candidate.cluster.to_string(),
        node: candidate.node.as_deref().unwrap_or_default().into(),
        zone: candidate.zone.as_deref().unwrap_or_default().into(),
        condition: candidate.condition.to_string(),
        node_answers: candidate.node_health == NodeHealth::Alive,
        cluster_state: candidate.cluster_state.as_str().into(),
        tier: candidate.tier.map_or(0, number),
        usage: candidate.usage.as_str().into(),
        share_billionths: candidate.usage.share().0,
        reason: candidate.reason.as_str().into(),
        because: candidate.because.clone(),
        state: candidate.state().into(),
        port_name: candidate.port_name.to_string(),
        // From the table of addresses, which the balancer does not know.
        claimed_by: String::new(),
        also_claimed_by: Vec::new(),
    }
}

fn kernel(node: &Node, frontend: &Frontend, has: &Content) -> v1::KernelFrontend {
    let backends = node.lb.tables().backends(frontend).into_iter().flatten();
    let backend = |backend: &Backend| v1::KernelBackend {
        address: backend.address.to_string(),
        port: backend.port.into(),
        cluster: cluster_name(node, backend.cluster),
        group: has.backends.get(backend).map_or(0, |group| number(group.number())),
    };
    v1::KernelFrontend {
        settings: Some(settings(has.settings)),
        weights: has.weights.0.to_vec(),
        backends: backends.map(backend).collect(),
    }
}

fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
