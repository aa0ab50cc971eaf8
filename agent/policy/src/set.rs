//! The rules of one direction of a pod, in the order in which they are asked.

use std::sync::Arc;

use mesh_model::{NamedPort, Protocol};
use mesh_policy_rules::{Action, PolicyRef, PortMatch};

use crate::{
    mesh::Traffic,
    row::{Number, Row},
};

/// A set is what all pods with the same rules share: it never changes, another one takes its place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Set {
    /// What no rule allows is denied.
    pub default_deny: bool,
    /// The policies that say so.
    pub denying: Vec<Arc<PolicyRef>>,
    /// Denies first; then by policy, and in the order of its rules.
    pub rules: Vec<SetRule>,
}

/// One rule for one port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SetRule {
    /// Deny or allow.
    pub action: Action,
    /// The selector that must match the other end; `None`: all do.
    pub number: Option<Number>,
    /// The ports; `None`: all, of every protocol.
    pub port: Option<SetPort>,
    /// The policy that it is of.
    pub policy: Arc<PolicyRef>,
    /// The rule within it.
    pub path: Arc<str>,
}

/// A port of the receiving end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SetPort {
    /// As the policy has it; names are already ports.
    Known(PortMatch),
    /// A name that the other end gives to its ports.
    Named(Option<Protocol>, String),
}

/// The other end of a flow, as a set looks at it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peer<'a> {
    /// The selectors that match what it is.
    pub class: Option<&'a Row>,
    /// The selectors that name its address.
    pub cidrs: Option<&'a Row>,
    /// Of `cidrs` only these count: it is an address of the mesh.
    pub only: Option<&'a Row>,
    /// It is unknown of a cluster: allows need a rule without an L3 part.
    pub unknown: bool,
    /// Its named ports.
    pub ports: &'a [NamedPort],
}

// === impl Set ===

impl Set {
    /// The first rule that decides.
    pub fn first(&self, peer: &Peer<'_>, traffic: Traffic) -> Option<&SetRule> {
        self.rules.iter().find(|rule| rule.matches(peer, traffic))
    }
}

// === impl SetRule ===

impl SetRule {
    fn matches(&self, peer: &Peer<'_>, traffic: Traffic) -> bool {
        self.port.as_ref().is_none_or(|port| port.matches(peer.ports, traffic))
            && self.number.is_none_or(|number| peer.is(number, self.action))
    }
}

// === impl SetPort ===

impl SetPort {
    fn matches(&self, names: &[NamedPort], traffic: Traffic) -> bool {
        match (self, traffic) {
            (Self::Known(PortMatch::Range { protocol, first, last }), Traffic::Port(of, port)) => {
                *protocol == of && (*first..=*last).contains(&port)
            }
            (Self::Known(PortMatch::Icmp { family, kind }), Traffic::Icmp(of, sent)) => {
                *family == of && *kind == sent
            }
            (Self::Known(PortMatch::Protocol(number)), traffic) => *number == traffic.protocol(),
            (Self::Named(wanted, name), Traffic::Port(protocol, port)) => {
                wanted.is_none_or(|wanted| wanted == protocol)
                    && names.iter().any(|one| {
                        one.name == *name
                            && (one.port.protocol, one.port.number) == (protocol, port)
                    })
            }
            _ => false,
        }
    }
}

// === impl Peer ===

impl Peer<'_> {
    /// Whether a selector matches it.
    fn is(&self, number: Number, action: Action) -> bool {
        let has = |row: Option<&Row>| row.is_some_and(|row| row.contains(number));
        // What is unknown has in its class only the denies that could mean it.
        has(self.class)
            || has(self.cidrs)
                && self.only.is_none_or(|only| only.contains(number))
                && (!self.unknown || action == Action::Deny)
    }
}
