//! Policies as lines of text, so that tests can say what they expect.

use mesh_labels::LabelFilter;
use serde_json::Value;

use crate::{
    Action, CidrRule, DirectionRules, Peer, Peers, Policy, PortMatch, Ports, Rule, ServiceMatch,
    parse,
};

/// What an object means, with the default filter: a line for each thing, or for each refusal.
pub(crate) fn lines(object: &Value) -> Vec<String> {
    lines_with(object, &LabelFilter::new([]).unwrap())
}

/// The same, with another filter.
pub(crate) fn lines_with(object: &Value, filter: &LabelFilter) -> Vec<String> {
    match parse(object, filter).unwrap().policy {
        Ok(policy) => policy_lines(&policy),
        Err(refusals) => {
            assert!(!refusals.is_empty());
            refusals.iter().map(|refusal| format!("refused {refusal}")).collect()
        }
    }
}

/// Checks the paths that are refused, in their order.
#[track_caller]
pub(crate) fn assert_refused(object: &Value, paths: &[&str]) {
    let lines = lines(object);
    let refused: Option<Vec<&str>> =
        lines.iter().map(|line| Some(line.strip_prefix("refused ")?.split_once(": ")?.0)).collect();
    assert_eq!(refused.as_deref(), Some(paths), "{lines:#?}");
}

fn policy_lines(policy: &Policy) -> Vec<String> {
    policy.rules.iter().flat_map(rule_lines).collect()
}

fn rule_lines(rule: &Rule) -> Vec<String> {
    let mut lines = vec![format!("subject {}", rule.subject)];
    for (name, direction) in [("ingress", &rule.ingress), ("egress", &rule.egress)] {
        let DirectionRules { default_deny, rules } = direction;
        if *default_deny {
            lines.push(format!("{name} default-deny"));
        }
        lines.extend(rules.iter().map(|rule| {
            let action = match rule.action {
                Action::Allow => "allow",
                Action::Deny => "deny",
            };
            format!("{} {action} {} at {}", rule.path, peers(&rule.peers), ports(&rule.ports))
        }));
    }
    lines
}

fn peers(peers: &Peers) -> String {
    match peers {
        Peers::Any => "any".into(),
        Peers::Of(peers) if peers.is_empty() => "nobody".into(),
        Peers::Of(peers) => peers.iter().map(peer).collect::<Vec<_>>().join(" | "),
    }
}

fn peer(peer: &Peer) -> String {
    match peer {
        Peer::Pods(selector) => format!("pods({selector})"),
        Peer::Entity(entity) => format!("{entity:?}"),
        Peer::Cidr(CidrRule { cidr, except, network_policy }) => {
            let except = except.iter().map(|range| format!("-{range}")).collect::<String>();
            let kind = if *network_policy { "block" } else { "cidr" };
            format!("{kind}({cidr}{except})")
        }
        Peer::Service(ServiceMatch::Named { namespace, name }) => {
            format!("service({}/{name})", namespace.as_deref().unwrap_or("*"))
        }
        Peer::Service(ServiceMatch::Labels { namespace, selector }) => {
            format!("services({}/{selector})", namespace.as_deref().unwrap_or("*"))
        }
    }
}

fn ports(ports: &Ports) -> String {
    match ports {
        Ports::Any => "any".into(),
        Ports::Of(ports) if ports.is_empty() => "none".into(),
        Ports::Of(ports) => ports.iter().map(port).collect::<Vec<_>>().join(" "),
    }
}

fn port(port: &PortMatch) -> String {
    match port {
        PortMatch::Range { protocol, first: 0, last: u16::MAX } => format!("{protocol:?}/*"),
        PortMatch::Range { protocol, first, last } if first == last => {
            format!("{protocol:?}/{first}")
        }
        PortMatch::Range { protocol, first, last } => format!("{protocol:?}/{first}-{last}"),
        PortMatch::Named { protocol, name } => {
            let protocol = protocol.map(|one| format!("{one:?}"));
            format!("{}/{name}", protocol.as_deref().unwrap_or("any"))
        }
        PortMatch::Icmp { family, kind } => format!("icmp{family:?}/{kind}"),
        PortMatch::Protocol(number) => format!("protocol/{number}"),
    }
}
