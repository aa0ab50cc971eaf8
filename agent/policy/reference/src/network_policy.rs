//! NetworkPolicy (Kubernetes API reference, `networking.k8s.io/v1`; Kubernetes documentation, "Network Policies").

use serde_json::Value;

use crate::{
    json::{items, text, texts},
    labels::{Keys, Label, NAMESPACE, Requirement, requirements},
    peer::Peer,
    port::{Traffic, network_policy},
    unsupported::Unsupported,
    world::Place,
};

/// NetworkPolicySpec: `podSelector` selects pods of the policy's namespace.
pub(crate) fn governs(spec: &Value, namespace: &str, labels: &[Label]) -> bool {
    let selector = spec.get("podSelector").unwrap_or(&Value::Null);
    let mut all = requirements(selector, Keys::Pods);
    all.push(Requirement::equals(NAMESPACE, namespace));
    all.iter().all(|one| one.holds(labels))
}

/// NetworkPolicySpec, `policyTypes`: Ingress if it is not given, and Egress if there are egress rules
/// (pkg/apis/networking/v1/defaults.go).
pub(crate) fn is_default_deny(spec: &Value, ingress: bool) -> bool {
    let mut types = texts(spec, "policyTypes").peekable();
    match types.peek() {
        Some(_) => types.any(|one| one == if ingress { "Ingress" } else { "Egress" }),
        None => ingress || !items(spec, "egress").is_empty(),
    }
}

/// NetworkPolicyIngressRule, NetworkPolicyEgressRule: one of the peers, if any is given, and one of the ports.
pub(crate) fn matches(
    rule: &Value,
    namespace: &str,
    ingress: bool,
    peer: &Peer<'_>,
    traffic: &Traffic,
    receiver: &Place,
) -> Result<bool, Unsupported> {
    let peers = items(rule, if ingress { "from" } else { "to" });
    let mut is_peer = peers.is_empty();
    for one in peers {
        is_peer |= is_peer_of(one, namespace, peer)?;
    }
    Ok(is_peer && network_policy(rule, traffic, receiver))
}

/// NetworkPolicyPeer.
fn is_peer_of(one: &Value, namespace: &str, peer: &Peer<'_>) -> Result<bool, Unsupported> {
    if let Some(block) = one.get("ipBlock") {
        return peer.is_in(text(block, "cidr"), texts(block, "except"), true);
    }
    // Selectors select pods; a node, or a pod in host networking, is only in ranges.
    if !matches!(peer.place, Place::Pod { .. } | Place::Unknown { .. }) {
        return Ok(false);
    }
    let mut all = match one.get("namespaceSelector") {
        Some(selector) => {
            let mut all = requirements(selector, Keys::Namespaces);
            all.push(Requirement::exists(NAMESPACE));
            all
        }
        None => vec![Requirement::equals(NAMESPACE, namespace)],
    };
    all.extend(requirements(one.get("podSelector").unwrap_or(&Value::Null), Keys::Pods));
    Ok(peer.is_selected(all))
}
