//! What CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy have in common (`cilium.io/v2`, Cilium 1.20).

use mesh_model::identity::NAMESPACE_LABEL;
use serde_json::Value;

use crate::{
    label_selector::{Keys, normal},
    path::Path,
    read::{Fields, Reader},
    rule::{Action, DirectionRules, PortRule, Rule},
    selector::{Operator, Requirement, Selector},
};

mod clusterwide;
mod namespaced;
mod peers;
mod ports;
mod services;

pub(crate) use clusterwide::Clusterwide;
pub(crate) use namespaced::Namespaced;

/// What the two kinds make of selectors.
pub(crate) trait Scope {
    /// The selector of the pods that are governed.
    fn subject(&self, reader: &mut Reader<'_>, written: Selector, path: &Path<'_>) -> Selector;

    /// A selector of other ends, of a rule whose subject is this one.
    fn peer(&self, written: Selector, subject: &Selector) -> Selector;
}

/// The names of a direction's fields.
#[derive(Clone, Copy, Debug)]
struct Direction {
    allow: &'static str,
    deny: &'static str,
    endpoints: &'static str,
    entities: &'static str,
    cidrs: &'static str,
    cidr_sets: &'static str,
    /// Only egress has it.
    services: Option<&'static str>,
}

const INGRESS: Direction = Direction {
    allow: "ingress",
    deny: "ingressDeny",
    endpoints: "fromEndpoints",
    entities: "fromEntities",
    cidrs: "fromCIDR",
    cidr_sets: "fromCIDRSet",
    services: None,
};
const EGRESS: Direction = Direction {
    allow: "egress",
    deny: "egressDeny",
    endpoints: "toEndpoints",
    entities: "toEntities",
    cidrs: "toCIDR",
    cidr_sets: "toCIDRSet",
    services: Some("toServices"),
};

// === impl Reader ===

impl Reader<'_> {
    /// All specs of an object: that of `spec`, then those of `specs`.
    pub(crate) fn cilium_policy(&mut self, object: Fields<'_>, scope: &impl Scope) -> Vec<Rule> {
        let spec = object.get("spec");
        if spec.is_none() && object.get("specs").is_none() {
            self.refuse(&Path::ROOT.field("spec"), "it is missing, and so is specs");
        }
        let mut rules = Vec::new();
        if let Some(spec) = spec {
            rules.extend(self.spec(spec, &Path::ROOT.field("spec"), scope));
        }
        let specs = self.each(object, &Path::ROOT, "specs", |reader, spec, path| {
            reader.spec(spec, path, scope)
        });
        rules.extend(specs.into_iter().flatten());
        rules
    }

    fn spec(&mut self, value: &Value, path: &Path<'_>, scope: &impl Scope) -> Option<Rule> {
        let spec = self.object(value, path);
        if !spec.is_object() {
            return None;
        }
        let at = path.field("endpointSelector");
        let subject = spec.get("endpointSelector").map(|value| {
            let written = self.selector(value, &at, Keys::WithSources);
            normal(scope.subject(self, written, &at))
        });
        // A nodeSelector in its place was refused: it governs no pod.
        let governs_pods = subject.is_some() || spec.get("nodeSelector").is_none();
        if subject.is_none() && governs_pods {
            self.refuse(&at, "it is missing; {} selects all pods");
        }
        let subject = subject.unwrap_or_default();
        let (deny_ingress, deny_egress) = self.default_deny(spec, path);
        let ingress = self.cilium_rules(spec, path, INGRESS, scope, &subject);
        let egress = self.cilium_rules(spec, path, EGRESS, scope, &subject);
        if ingress.is_empty() && egress.is_empty() {
            let lists = "ingress, ingressDeny, egress and egressDeny";
            self.refuse(path, format!("it has no rule: one of {lists} must have one"));
        }
        let direction = |rules: Vec<PortRule>, default_deny: Option<bool>| DirectionRules {
            default_deny: default_deny.unwrap_or(!rules.is_empty()),
            rules,
        };
        governs_pods.then(|| Rule {
            subject,
            ingress: direction(ingress, deny_ingress),
            egress: direction(egress, deny_egress),
        })
    }

    /// What `enableDefaultDeny` says of ingress and egress.
    fn default_deny(&mut self, spec: Fields<'_>, path: &Path<'_>) -> (Option<bool>, Option<bool>) {
        let path = path.field("enableDefaultDeny");
        let Some(value) = spec.get("enableDefaultDeny") else { return (None, None) };
        let fields = self.object(value, &path);
        let mut of = |name| self.boolean(fields.get(name)?, &path.field(name));
        (of("ingress"), of("egress"))
    }

    /// The allows of a direction, then its denies.
    fn cilium_rules(
        &mut self,
        spec: Fields<'_>,
        path: &Path<'_>,
        direction: Direction,
        scope: &impl Scope,
        subject: &Selector,
    ) -> Vec<PortRule> {
        let mut rules = Vec::new();
        for (name, action) in [(direction.allow, Action::Allow), (direction.deny, Action::Deny)] {
            rules.extend(self.each(spec, path, name, |reader, rule, path| {
                let fields = reader.object(rule, path);
                let ports = reader.cilium_ports(fields, path);
                let peer = |written| scope.peer(written, subject);
                let peers = reader.cilium_peers(fields, path, direction, &peer);
                PortRule {
                    path: path.within_spec().to_string(),
                    action,
                    peers: peers.with(&ports),
                    ports,
                }
            }));
        }
        rules
    }
}

/// Whether a requirement is about the namespace of a pod.
fn names_namespace(requirement: &Requirement) -> bool {
    requirement.key == NAMESPACE_LABEL
}

/// The pod has a namespace: what has none is a node, or outside the mesh.
fn has_namespace() -> Requirement {
    Requirement::kubernetes(NAMESPACE_LABEL, Operator::Exists)
}

#[cfg(test)]
mod tests;
