//! What policies decide of a flow, by asking each of them.

use std::net::IpAddr;

use serde_json::Value;

use crate::{
    cilium,
    json::{items, only, text},
    network_policy,
    peer::Peer,
    port::{Traffic, traffic},
    unsupported::Unsupported,
    world::{End, Place, Policy, World},
};

/// What is decided at both ends of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Where the flow leaves.
    pub egress: Answer,
    /// Where it arrives.
    pub ingress: Answer,
}

/// What is decided at one end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whether the flow passes.
    pub state: State,
    /// Why; `None` where nothing is enforced.
    pub kind: Option<Kind>,
    /// The policies: of the rule, or for a default deny all that restrict the pod.
    pub policies: Vec<String>,
    /// Where the rule is in its object.
    pub rule: Option<String>,
}

/// What becomes of a flow at one end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It passes.
    Allowed,
    /// It does not.
    Denied,
    /// The end is no pod with an identity of its own.
    NotEnforced,
}

/// Why a flow passes an end or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing restricts the pod.
    DefaultAllow,
    /// A rule allows it.
    AllowRule,
    /// A rule denies it.
    DenyRule,
    /// Something restricts the pod, and no rule allows it.
    DefaultDeny,
    /// It comes from the pod's own node.
    AllowLocalhost,
    /// Enforcement is switched off.
    EnforcementOff,
    /// It is from a pod to itself.
    SamePod,
}

// === impl State ===

impl State {
    /// As answers of a batch have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::NotEnforced => "not-enforced",
        }
    }
}

// === impl Kind ===

impl Kind {
    /// As answers of a batch have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DefaultAllow => "default-allow",
            Self::AllowRule => "allow-rule",
            Self::DenyRule => "deny-rule",
            Self::DefaultDeny => "default-deny",
            Self::AllowLocalhost => "allow-localhost",
            Self::EnforcementOff => "enforcement-off",
            Self::SamePod => "same-pod",
        }
    }
}

// === impl Answer ===

impl Answer {
    fn new(kind: Kind, policies: Vec<String>, rule: Option<String>) -> Self {
        let state = match kind {
            Kind::DenyRule | Kind::DefaultDeny => State::Denied,
            _ => State::Allowed,
        };
        Self { state, kind: Some(kind), policies, rule }
    }

    fn without_policies(kind: Kind) -> Self {
        Self::new(kind, Vec::new(), None)
    }

    fn not_enforced() -> Self {
        Self { state: State::NotEnforced, kind: None, policies: Vec::new(), rule: None }
    }
}

// === impl World ===

impl World {
    /// Decides a flow.
    ///
    /// # Errors
    /// When the flow, or a range of a policy, is invalid.
    pub fn judge(&self, flow: &Value) -> Result<Decision, Unsupported> {
        only(flow, &["from", "to", "protocol", "port", "portName", "icmpType"])?;
        let (from, to) = (self.end(text(flow, "from"))?, self.end(text(flow, "to"))?);
        let (source, destination) = addresses(flow, &from, &to);
        let v6 = destination.or(source).or(to.addresses.first().copied());
        let v6 = v6.or(from.addresses.first().copied()).is_some_and(|one| one.is_ipv6());
        let traffic = traffic(flow, v6, &to.place)?;
        let decide = |ingress, pod, other, address| {
            self.decide(ingress, (pod, other, address), &traffic, &to.place)
        };
        Ok(Decision {
            egress: decide(false, &from.place, &to.place, destination)?,
            ingress: decide(true, &to.place, &from.place, source)?,
        })
    }

    /// Decides one direction: the pod, and the other end with its address.
    fn decide(
        &self,
        ingress: bool,
        (pod, other, address): (&Place, &Place, Option<IpAddr>),
        traffic: &Traffic,
        receiver: &Place,
    ) -> Result<Answer, Unsupported> {
        let Place::Pod { cluster, node, labels, .. } = pod else {
            return Ok(Answer::not_enforced());
        };
        if pod == other {
            return Ok(Answer::without_policies(Kind::SamePod));
        }
        // Cilium documentation, "Policy Enforcement Modes".
        if self.options.enforcement_mode == "never" {
            return Ok(Answer::without_policies(Kind::EnforcementOff));
        }
        let (mut allow, mut deny, mut restricting) = (None, None, Vec::new());
        for policy in self.policies.iter().filter(|policy| policy.cluster == *cluster) {
            let namespace = policy.namespace.as_deref();
            for (prefix, spec) in specs(policy) {
                let kubernetes = namespace.filter(|_| policy.kind == 0);
                let (is_governed, is_default_deny) = match kubernetes {
                    Some(namespace) => (
                        network_policy::governs(spec, namespace, labels),
                        network_policy::is_default_deny(spec, ingress),
                    ),
                    None => (
                        cilium::governs(spec, namespace, labels),
                        cilium::is_default_deny(spec, ingress),
                    ),
                };
                if !is_governed {
                    continue;
                }
                if is_default_deny {
                    restricting.push(policy.shown());
                }
                // Rules of a direction that is not among a NetworkPolicy's types say nothing.
                if kubernetes.is_some() && !is_default_deny {
                    continue;
                }
                let (allows, denials) = cilium::lists(ingress);
                for (list, denies) in [(allows, false), (denials, true)] {
                    let peer = Peer { world: self, cluster, node, place: other, address, denies };
                    for (index, rule) in items(spec, list).iter().enumerate() {
                        let matches = match kubernetes {
                            Some(namespace) => network_policy::matches(
                                rule, namespace, ingress, &peer, traffic, receiver,
                            )?,
                            None => {
                                let of = (spec, namespace);
                                cilium::matches(rule, of, ingress, &peer, traffic, receiver)?
                            }
                        };
                        if matches {
                            let first = if denies { &mut deny } else { &mut allow };
                            let path = format!("{prefix}{list}[{index}]");
                            first.get_or_insert((policy.shown(), path));
                        }
                    }
                }
            }
        }
        restricting.dedup();
        let is_restricted = !restricting.is_empty() || self.options.enforcement_mode == "always";
        // Cilium documentation, "Access to/from local host".
        let is_localhost = ingress
            && self.options.allow_localhost == "always"
            && matches!(other, Place::Node { cluster: of, name, .. } if of == cluster && name == node);
        // Cilium documentation, "Deny Policies": they take precedence over whatever allows.
        Ok(match (deny, allow) {
            (Some((policy, rule)), _) => Answer::new(Kind::DenyRule, vec![policy], Some(rule)),
            (None, Some((policy, rule))) => Answer::new(Kind::AllowRule, vec![policy], Some(rule)),
            _ if !is_restricted => Answer::without_policies(Kind::DefaultAllow),
            _ if is_localhost => Answer::without_policies(Kind::AllowLocalhost),
            _ => Answer::new(Kind::DefaultDeny, restricting, None),
        })
    }
}

/// The specs of a policy, each with how the paths of its rules begin.
fn specs(policy: &Policy) -> Vec<(String, &Value)> {
    let one = policy.object.get("spec").map(|spec| (String::new(), spec));
    let several = items(&policy.object, "specs").iter().enumerate();
    let several = several.map(|(index, spec)| (format!("specs[{index}]."), spec));
    one.into_iter().chain(several).collect()
}

/// The addresses of both ends: of the first family that both have. Without one, only what is in no mesh keeps its own.
fn addresses(flow: &Value, from: &End, to: &End) -> (Option<IpAddr>, Option<IpAddr>) {
    let only_v6 = text(flow, "protocol") == "ICMPv6";
    for source in from.addresses.iter().filter(|one| one.is_ipv6() || !only_v6) {
        let same = |one: &&IpAddr| one.is_ipv6() == source.is_ipv6();
        if let Some(destination) = to.addresses.iter().find(same) {
            return (Some(*source), Some(*destination));
        }
    }
    let own = |end: &End| match end.place {
        Place::Pod { .. } | Place::Node { .. } => None,
        Place::World { .. } | Place::Unknown { .. } => end.addresses.first().copied(),
    };
    (own(from), own(to))
}
