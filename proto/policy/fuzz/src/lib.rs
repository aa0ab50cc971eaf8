//! Fuzz bodies for policy objects, which whoever may write policies in a namespace writes.

#![allow(clippy::expect_used, reason = "a fuzz body fails by panicking")]

use std::sync::LazyLock;

use ipnet::IpNet;
use mesh_labels::LabelFilter;
use mesh_policy_rules::{
    CidrRule, Operator, Peer, Peers, Policy, PolicyKind, PortMatch, PortRule, Ports, Selector,
    ServiceMatch, parse,
};
use serde_json::Value;

/// Made once: its expressions take longer than a policy.
static FILTER: LazyLock<LabelFilter> =
    LazyLock::new(|| LabelFilter::new([]).expect("there is no rule to be wrong"));

/// Reads a policy as JSON.
///
/// It is understood as a whole, or something of it is refused by path; twice the same; and fields that are null are as
/// absent. What is understood is in the form that the compiler relies on.
pub fn policy(data: &[u8]) {
    let Ok(object) = serde_json::from_slice::<Value>(data) else { return };
    let Some(checked) = parse(&object, &FILTER) else { return };
    assert_eq!(parse(&object, &FILTER).as_ref(), Some(&checked));
    assert_eq!(parse(&without_nulls(object), &FILTER).as_ref(), Some(&checked));
    match checked.policy {
        Ok(policy) => {
            assert_eq!(policy.reference, checked.reference);
            well_formed(&policy);
        }
        Err(refusals) => {
            assert!(!refusals.is_empty());
            for refusal in refusals {
                assert!(!refusal.field.is_empty() && !refusal.reason.is_empty(), "{refusal}");
            }
        }
    }
}

/// An object without fields that are null. The labels of a selector have values, so nulls among them stay, and so do
/// those in lists.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let given = map.into_iter().filter(|(_, value)| !value.is_null());
            let inner = given.map(|(name, value)| match name.as_str() {
                "matchLabels" => (name, value),
                _ => (name, without_nulls(value)),
            });
            Value::Object(inner.collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

fn well_formed(policy: &Policy) {
    let reference = &policy.reference;
    assert!(!reference.name.is_empty());
    assert_eq!(
        reference.namespace.is_empty(),
        reference.kind == PolicyKind::CiliumClusterwideNetworkPolicy
    );
    for rule in &policy.rules {
        selector(&rule.subject);
        let all = [&rule.ingress, &rule.egress].map(|direction| direction.rules.iter());
        let of_pods = !rule.subject.names_reserved();
        all.into_iter().flatten().for_each(|rule| port_rule(rule, of_pods));
    }
}

/// `of_pods`: it governs pods, and not what is reserved.
fn port_rule(rule: &PortRule, of_pods: bool) {
    assert!(rule.path.ends_with(']'), "{}", rule.path);
    if let Peers::Of(peers) = &rule.peers {
        peers.iter().for_each(|one| peer(one, of_pods));
    }
    if let Ports::Of(ports) = &rule.ports {
        for port in ports {
            match port {
                PortMatch::Range { first, last, .. } => assert!(first <= last),
                PortMatch::Named { name, .. } => assert!(!name.is_empty() && name.len() <= 15),
                PortMatch::Icmp { .. } | PortMatch::Protocol(_) => {}
            }
        }
    }
}

fn peer(peer: &Peer, of_pods: bool) {
    match peer {
        Peer::Pods(of) => {
            selector(of);
            // Without a requirement it would select nodes and addresses too.
            assert!(!of_pods || !of.requirements.is_empty());
        }
        Peer::Cidr(CidrRule { cidr, except, .. }) => {
            assert_eq!(cidr.trunc(), *cidr);
            let is_within = |range: &IpNet| range.trunc() == *range && cidr.contains(range);
            assert!(except.iter().all(is_within), "{cidr} {except:?}");
        }
        Peer::Service(ServiceMatch::Labels { selector: of, .. }) => {
            selector(of);
            assert!(of.requirements.iter().all(|requirement| requirement.source.is_none()));
        }
        Peer::Service(ServiceMatch::Named { name, .. }) => assert!(!name.is_empty()),
        Peer::Entity(_) => {}
    }
}

fn selector(selector: &Selector) {
    assert!(selector.requirements.is_sorted_by(|a, b| a < b), "{selector}");
    for requirement in &selector.requirements {
        assert!(!requirement.key.is_empty() && !requirement.key.contains(':'));
        if let Operator::In(values) | Operator::NotIn(values) = &requirement.operator {
            assert!(!values.is_empty() && values.is_sorted_by(|a, b| a < b), "{selector}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seeds() -> Vec<Vec<u8>> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/seeds");
        let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
        let mut files: Vec<_> = files.collect();
        files.sort();
        files.into_iter().map(|file| std::fs::read(file).unwrap()).collect()
    }

    #[test]
    fn seeds_are_understood() {
        assert!(seeds().len() >= 4);
        for seed in seeds() {
            let object = serde_json::from_slice(&seed).unwrap();
            let checked = parse(&object, &FILTER).unwrap();
            assert!(checked.policy.is_ok(), "{checked:?}");
        }
    }

    #[test]
    fn policies() {
        mesh_wire_fuzz::run(seeds(), policy);
    }
}
