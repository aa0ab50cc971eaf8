//! Why frontends lead where they lead, beside what the kernel has of them.

use std::collections::BTreeSet;

use mesh_admin::v1;
use mesh_balance::{Candidate, Explanation};
use mesh_model::{
    ServiceName, ServiceTraffic,
    lb::{Backend, Content, Frontend, NodeHealth, Settings},
};

use crate::node::Node;

/// What is asked for; an empty text for everything.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) namespace: String,
    pub(super) name: String,
}

impl Wanted {
    pub(super) fn is(&self, service: &ServiceName) -> bool {
        let matches = |of: &str, wanted: &str| wanted.is_empty() || of == wanted;
        matches(&service.namespace, &self.namespace) && matches(&service.name, &self.name)
    }
}

/// The frontends of a service. It may have none.
pub(super) fn explain(node: &Node, service: &ServiceName) -> v1::ExplainResponse {
    let mut response = v1::ExplainResponse::default();
    let balancer = node.core.balancer();
    let frontends = balancer.frontends(service);
    if frontends.is_empty() {
        response.without_frontend.push(v1::ServiceReference {
            namespace: service.namespace.to_string(),
            name: service.name.to_string(),
        });
    }
    let explained = frontends.iter().filter_map(|frontend| balancer.explain(frontend));
    response.frontends.extend(explained.map(|explanation| frontend(node, explanation)));
    response
}

fn frontend(node: &Node, explanation: Explanation) -> v1::FrontendExplanation {
    let frontend = explanation.frontend;
    let should = node.core.balancer().content(&frontend);
    let has = node.lb.tables().frontend(&frontend).map(|view| view.content());
    let name = |backend: &Backend| {
        let address = std::net::SocketAddr::from((backend.address, backend.port));
        format!("{address} of {}", super::cluster_name(node, backend.cluster))
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
        backends: explanation.backends.iter().map(candidate).collect(),
        kernel: has.map(|has| kernel(node, &frontend, &has)),
        differences,
    }
}

fn traffic(traffic: &ServiceTraffic) -> v1::Traffic {
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
    }
}

fn kernel(node: &Node, frontend: &Frontend, has: &Content) -> v1::KernelFrontend {
    let backends = node.lb.tables().backends(frontend).into_iter().flatten();
    let backend = |backend: &Backend| v1::KernelBackend {
        address: backend.address.to_string(),
        port: backend.port.into(),
        cluster: super::cluster_name(node, backend.cluster),
        group: has.backends.get(backend).map_or(0, |group| number(group.number())),
    };
    v1::KernelFrontend {
        settings: Some(settings(has.settings)),
        weights: has.weights.0.to_vec(),
        backends: backends.map(backend).collect(),
    }
}

/// What is otherwise than it should be.
fn differences(
    should: Option<&Content>,
    has: Option<&Content>,
    name: impl Fn(&Backend) -> String,
) -> Vec<String> {
    let (should, has) = match (should, has) {
        (None, None) => return Vec::new(),
        (Some(_), None) => return vec!["the kernel does not have the frontend".into()],
        (None, Some(_)) => return vec!["the kernel has the frontend and should not".into()],
        (Some(should), Some(has)) => (should, has),
    };
    let mut found = Vec::new();
    if should.settings != has.settings {
        found.push(format!(
            "settings are {:?} in the kernel, not {:?}",
            has.settings, should.settings
        ));
    }
    if should.weights != has.weights {
        found.push(format!(
            "weights are {:?} in the kernel, not {:?}",
            has.weights.0, should.weights.0
        ));
    }
    let all: BTreeSet<&Backend> = should.backends.keys().chain(has.backends.keys()).collect();
    for backend in all {
        match (should.backends.get(backend), has.backends.get(backend)) {
            (Some(should), Some(has)) if should != has => {
                let (has, should) = (has.number(), should.number());
                found.push(format!(
                    "{} is in group {has} in the kernel, not {should}",
                    name(backend)
                ));
            }
            (Some(_), None) => found.push(format!("the kernel does not have {}", name(backend))),
            (None, Some(_)) => {
                found.push(format!("the kernel has {} and should not", name(backend)))
            }
            _ => {}
        }
    }
    found
}

fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use mesh_model::{
        ClusterId, Protocol,
        lb::{Group, Weights},
    };

    use super::*;

    #[test]
    fn what_the_kernel_has_otherwise_is_reported() {
        let backend = |last: u8| Backend {
            address: [10, 1, 1, last].into(),
            port: 80,
            protocol: Protocol::Tcp,
            cluster: ClusterId::NONE,
        };
        let name = |backend: &Backend| backend.address.to_string();
        let second = Group::new(1).unwrap();
        let should = Content {
            backends: [(backend(1), Group::FIRST), (backend(2), second)].into(),
            ..Content::default()
        };
        assert!(differences(None, None, name).is_empty());
        assert!(differences(Some(&should), Some(&should.clone()), name).is_empty());
        let missing = differences(Some(&should), None, name);
        assert_eq!(missing, ["the kernel does not have the frontend"]);
        let strange = differences(None, Some(&should), name);
        assert_eq!(strange, ["the kernel has the frontend and should not"]);
        let has = Content {
            settings: Settings { plain: true, ..Settings::default() },
            weights: Weights([1, 2, 0, 0, 0, 0, 0, 0]),
            backends: [(backend(2), Group::FIRST), (backend(3), second)].into(),
        };
        let found = differences(Some(&should), Some(&has), name);
        assert_eq!(
            found[1..],
            [
                "weights are [1, 2, 0, 0, 0, 0, 0, 0] in the kernel, not [1, 0, 0, 0, 0, 0, 0, 0]",
                "the kernel does not have 10.1.1.1",
                "10.1.1.2 is in group 0 in the kernel, not 1",
                "the kernel has 10.1.1.3 and should not",
            ]
        );
        assert!(found[0].starts_with("settings are ") && found.len() == 5, "{found:?}");
    }
}
