//! What may not be meant about a policy.

use std::collections::BTreeSet;

use mesh_model::identity::CLUSTER_LABEL;
use mesh_policy::{MAX_RULES, MAX_SELECTORS};
use mesh_policy_rules::{
    Action, DirectionRules, Entity, Peer, Peers, Policy, PolicyKind, PortRule, Rule, Selector,
};
use serde::Serialize;

use crate::world::{Endpoint, Place, World};

/// Something that may not be meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// The policy.
    pub object: String,
    /// What it is about.
    pub reason: String,
}

/// A policy with what surrounds it.
struct Looked<'a> {
    world: &'a World,
    cluster: &'a str,
    policy: &'a Policy,
    all: &'a [(String, Policy)],
}

/// What may not be meant about policies.
pub(super) fn findings(world: &World, all: &[(String, Policy)]) -> Vec<Finding> {
    let of_policy = |(cluster, policy): &(String, Policy)| {
        let reasons = Looked { world, cluster, policy, all }.reasons();
        let object = policy.reference.to_string();
        let mut seen = BTreeSet::new();
        let finding = |reason: String| Finding { object: object.clone(), reason };
        reasons.into_iter().filter(|one| seen.insert(one.clone())).map(finding).collect::<Vec<_>>()
    };
    all.iter().flat_map(of_policy).chain(beyond_limits(world, all)).collect()
}

/// More than a node can hold is refused there: the pods are closed then.
fn beyond_limits(world: &World, all: &[(String, Policy)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    // Not the clusters that are named: where there is one, it may have no name.
    let clusters: BTreeSet<&String> = all.iter().map(|(cluster, _)| cluster).collect();
    for cluster in clusters {
        let count = world.mesh.selectors(cluster);
        if count > MAX_SELECTORS {
            let reason = format!(
                "its policies have {count} different selectors; a node whose pods need more than {MAX_SELECTORS} closes what is beyond"
            );
            findings.push(Finding { object: format!("cluster {cluster}"), reason });
        }
    }
    for endpoint in &world.endpoints {
        let Place::Pod(pod) = &endpoint.place else { continue };
        let count = world.mesh.rules(pod);
        if count > MAX_RULES {
            let reason = format!(
                "it has {count} rules in one direction, and a pod can have {MAX_RULES}: put ports and peers together"
            );
            findings.push(Finding { object: format!("pod {}", endpoint.path()), reason });
        }
    }
    findings
}

/// The pods that a selector selects.
fn selected<'a>(world: &'a World, selector: &Selector) -> impl Iterator<Item = &'a Endpoint> {
    let pods = world.endpoints.iter().filter(|one| !one.identity.is_empty());
    pods.filter(|one| selector.matches(&one.identity))
}

// === impl Looked ===

impl Looked<'_> {
    fn reasons(&self) -> Vec<String> {
        let Self { world, cluster, policy, .. } = self;
        let mut reasons = Vec::new();
        let namespace = &policy.reference.namespace;
        if !namespace.is_empty() && !world.knows_namespace(cluster, namespace) {
            reasons.push(format!("cluster {cluster} has no namespace {namespace:?}"));
        }
        for rule in &policy.rules {
            if self.subjects(rule).next().is_none() {
                reasons.push(format!("it selects no pod: {}", rule.subject));
            }
            for (direction, is_ingress) in [(&rule.ingress, true), (&rule.egress, false)] {
                for one in &direction.rules {
                    let Peers::Of(peers) = &one.peers else { continue };
                    let across = peers.iter().filter_map(|peer| self.peer(one, peer, &mut reasons));
                    let across: BTreeSet<String> = across.flatten().collect();
                    if !across.is_empty() {
                        reasons.push(self.reach(rule, one, is_ingress, &across));
                    }
                }
            }
        }
        reasons
    }

    fn subjects<'b>(&'b self, rule: &Rule) -> impl Iterator<Item = &'b Endpoint> {
        selected(self.world, &rule.subject).filter(|one| one.cluster() == Some(self.cluster))
    }

    /// The other clusters that a peer reaches. One that selects nothing is a reason.
    fn peer(
        &self,
        rule: &PortRule,
        peer: &Peer,
        reasons: &mut Vec<String>,
    ) -> Option<BTreeSet<String>> {
        let other = |cluster: &&str| *cluster != self.cluster;
        let selector = match peer {
            Peer::Entity(Entity::ClusterMesh) => {
                return Some(self.world.clusters().filter(other).map(Into::into).collect());
            }
            Peer::Pods(selector) if !selector.names_reserved() => selector,
            Peer::Pods(_) | Peer::Entity(_) | Peer::Cidr(_) | Peer::Service(_) => return None,
        };
        let clusters: BTreeSet<&str> =
            selected(self.world, selector).filter_map(Endpoint::cluster).collect();
        let is_everywhere =
            selector.names(CLUSTER_LABEL) || !self.world.options.default_local_cluster;
        let others: BTreeSet<String> =
            clusters.iter().copied().filter(|one| other(one)).map(Into::into).collect();
        if clusters.is_empty() || !is_everywhere && !clusters.contains(self.cluster) {
            let mut reason = format!("{} selects no pod: {selector}", rule.path);
            if !others.is_empty() {
                let names = others.iter().cloned().collect::<Vec<_>>().join(", ");
                reason.push_str(&format!(
                    "; pods of {names} have these labels: a selector means other clusters only where it has {CLUSTER_LABEL}"
                ));
            }
            reasons.push(reason);
        }
        is_everywhere.then_some(others)
    }

    /// Says that a rule reaches other clusters, and where another engine would not let it.
    fn reach(
        &self,
        rule: &Rule,
        one: &PortRule,
        is_ingress: bool,
        across: &BTreeSet<String>,
    ) -> String {
        let names = across.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        let (does, way) = match one.action {
            Action::Allow => ("allows", if is_ingress { "from" } else { "to" }),
            Action::Deny => ("denies", if is_ingress { "from" } else { "to" }),
        };
        let mut reason = format!("{} {does} flows {way} pods of cluster {names}", one.path);
        if one.action == Action::Deny {
            return reason;
        }
        if self.policy.reference.kind == PolicyKind::NetworkPolicy {
            reason.push_str(
                "; another engine that enforces NetworkPolicies does not know other clusters' pods: use a CiliumNetworkPolicy",
            );
        } else if let Some(denying) = self.network_policy_beside(rule, is_ingress) {
            reason.push_str(&format!(
                "; another engine that enforces NetworkPolicies would deny them by {denying}"
            ));
        }
        reason
    }

    /// A NetworkPolicy of the same cluster with default deny for a pod of a rule.
    fn network_policy_beside(&self, rule: &Rule, is_ingress: bool) -> Option<String> {
        let denies = |other: &Rule| {
            let direction: &DirectionRules =
                if is_ingress { &other.ingress } else { &other.egress };
            direction.default_deny
                && self.subjects(rule).any(|pod| other.subject.matches(&pod.identity))
        };
        let found = self.all.iter().find(|(cluster, other)| {
            cluster == self.cluster
                && other.reference.kind == PolicyKind::NetworkPolicy
                && other.rules.iter().any(denies)
        });
        found.map(|(_, policy)| policy.reference.to_string())
    }
}
