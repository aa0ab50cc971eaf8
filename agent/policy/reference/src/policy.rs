//! All policies of an end, asked one after another.

use std::net::IpAddr;

use serde_json::Value;

use crate::{
    items,
    labels::{NAMESPACE, requirements, selects},
    peer::{Of, sourced},
    port::{Traffic, of_cilium, of_network_policy},
    text,
    world::{End, Kind, World},
};

/// What one end decides, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Allowed, denied, or nobody judges.
    pub state: State,
    /// The kind of reason; empty where nobody judges.
    pub kind: String,
    /// The policies.
    pub policies: Vec<String>,
    /// The rule within the policy.
    pub rule: Option<String>,
}

/// The three answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It passes.
    Allowed,
    /// It is dropped.
    Denied,
    /// Nobody judges there.
    NotEnforced,
}

pub(crate) fn judge(world: &World, flow: &Value) -> (Answer, Answer) {
    let (from, to) = (world.end(text(flow, "/from")), world.end(text(flow, "/to")));
    let icmp = flow.get("icmpType").and_then(Value::as_u64);
    let common = from.ips.iter().filter_map(|one| {
        let other = to.ips.iter().find(|other| other.is_ipv4() == one.is_ipv4())?;
        Some((*one, *other))
    });
    let mut common: Vec<(IpAddr, IpAddr)> = common.collect();
    common.sort_by_key(|(one, _)| one.is_ipv6());
    let own = |end: &End| {
        end.ips.first().copied().filter(|_| matches!(end.kind, Kind::External | Kind::Unknown))
    };
    let (source, destination) = match common.first() {
        Some((source, destination)) => (Some(*source), Some(*destination)),
        None => (own(&from), own(&to)),
    };
    let v6 = destination.or(source).or(to.ips.first().copied()).or(from.ips.first().copied());
    let protocol = match (text(flow, "/protocol"), icmp) {
        (_, Some(_)) if v6.is_some_and(|ip| ip.is_ipv6()) => "ICMPv6",
        (_, Some(_)) => "ICMP",
        ("", None) => "TCP",
        (other, None) => other,
    };
    let traffic = Traffic {
        protocol: protocol.to_owned(),
        number: icmp.or(flow.get("port").and_then(Value::as_u64)).unwrap_or_default(),
    };
    (
        directed(world, false, &from, &to, destination, &traffic),
        directed(world, true, &to, &from, source, &traffic),
    )
}

fn directed(
    world: &World,
    ingress: bool,
    pod: &End,
    peer: &End,
    address: Option<IpAddr>,
    traffic: &Traffic,
) -> Answer {
    let answer = |state, kind: &str, policies: Vec<String>, rule| Answer {
        state,
        kind: kind.into(),
        policies,
        rule,
    };
    if pod.kind != Kind::Pod {
        return answer(State::NotEnforced, "", Vec::new(), None);
    }
    let same = |end: &End| (end.cluster.clone(), end.namespace.clone(), end.name.clone());
    if peer.kind == Kind::Pod && same(pod) == same(peer) {
        return answer(State::Allowed, "same-pod", Vec::new(), None);
    }
    // Cilium docs, "Policy Enforcement Modes".
    let mode = world.option("enforcementMode", "default");
    if mode == "never" {
        return answer(State::Allowed, "enforcement-off", Vec::new(), None);
    }
    let mut policies: Vec<&Value> = world
        .policies
        .iter()
        .filter(|(cluster, _)| *cluster == pod.cluster)
        .map(|(_, one)| one)
        .collect();
    let rank = |policy: &Value| {
        ["NetworkPolicy", "CiliumNetworkPolicy"]
            .iter()
            .position(|kind| *kind == text(policy, "/kind"))
            .unwrap_or(2)
    };
    policies.sort_by_key(|policy| {
        (rank(policy), namespace_of(policy), text(policy, "/metadata/name").to_owned())
    });

    let (mut restricting, mut denied, mut allowed) = (Vec::new(), None, None);
    for policy in policies {
        let name = match namespace_of(policy).as_str() {
            "" => format!("{} {}", text(policy, "/kind"), text(policy, "/metadata/name")),
            namespace => {
                format!("{} {namespace}/{}", text(policy, "/kind"), text(policy, "/metadata/name"))
            }
        };
        let mut specs: Vec<(String, &Value)> =
            policy.get("spec").map(|spec| (String::new(), spec)).into_iter().collect();
        for (index, spec) in items(policy, "/specs").iter().enumerate() {
            specs.push((format!("specs[{index}]."), spec));
        }
        for (prefix, spec) in specs {
            if !is_selected(policy, spec, pod) {
                continue;
            }
            let lists: &[(&str, bool)] = match ingress {
                true => &[("ingress", false), ("ingressDeny", true)],
                false => &[("egress", false), ("egressDeny", true)],
            };
            if restricts(policy, spec, ingress) && !restricting.contains(&name) {
                restricting.push(name.clone());
            }
            if rank(policy) == 0 && !restricts(policy, spec, ingress) {
                continue;
            }
            for (list, denies) in lists {
                for (index, rule) in items(spec, &format!("/{list}")).iter().enumerate() {
                    let namespace = namespace_of(policy);
                    let of = Of {
                        world,
                        cluster: &pod.cluster,
                        namespace: &namespace,
                        pod,
                        denies: *denies,
                        address,
                    };
                    let receiver = if ingress { pod } else { peer };
                    let matches = match rank(policy) {
                        0 => {
                            let peers = if ingress { "/from" } else { "/to" };
                            of.network_policy(rule, peers, peer)
                                && of_network_policy(rule, receiver, traffic)
                        }
                        _ => of.cilium(rule, ingress, peer) && of_cilium(rule, receiver, traffic),
                    };
                    let first = if *denies { &mut denied } else { &mut allowed };
                    if matches && first.is_none() {
                        *first = Some((name.clone(), format!("{prefix}{list}[{index}]")));
                    }
                }
            }
        }
    }
    // Cilium docs, "Deny Policies": a deny comes before every allow.
    if let Some((policy, rule)) = denied {
        return answer(State::Denied, "deny-rule", vec![policy], Some(rule));
    }
    if let Some((policy, rule)) = allowed {
        return answer(State::Allowed, "allow-rule", vec![policy], Some(rule));
    }
    if restricting.is_empty() && mode != "always" {
        return answer(State::Allowed, "default-allow", Vec::new(), None);
    }
    let own_node = peer.kind == Kind::Node && peer.cluster == pod.cluster && peer.node == pod.node;
    if ingress && own_node && world.option("allowLocalhost", "always") == "always" {
        return answer(State::Allowed, "allow-localhost", Vec::new(), None);
    }
    answer(State::Denied, "default-deny", restricting, None)
}

fn namespace_of(policy: &Value) -> String {
    match (text(policy, "/kind"), text(policy, "/metadata/namespace")) {
        ("CiliumClusterwideNetworkPolicy", _) => String::new(),
        (_, "") => "default".to_owned(),
        (_, namespace) => namespace.to_owned(),
    }
}

/// Whether a spec selects a pod of its cluster; one in a namespace only pods of that.
fn is_selected(policy: &Value, spec: &Value, pod: &End) -> bool {
    let network_policy = text(policy, "/kind") == "NetworkPolicy";
    let (field, prefix) =
        if network_policy { ("podSelector", "k8s:") } else { ("endpointSelector", "any:") };
    let mut all =
        spec.get(field).map(|selector| requirements(selector, prefix)).unwrap_or_default();
    sourced(&mut all);
    let namespace = namespace_of(policy);
    let own = pod.labels.get(&format!("k8s:{NAMESPACE}"));
    (namespace.is_empty() || own == Some(&namespace)) && selects(&all, &pod.labels)
}

/// Whether a spec puts its pods under default deny (Kubernetes, "The two sorts of pod isolation"; Cilium docs, "Policy
/// Enforcement", `enableDefaultDeny`).
fn restricts(policy: &Value, spec: &Value, ingress: bool) -> bool {
    let name = if ingress { "ingress" } else { "egress" };
    if text(policy, "/kind") == "NetworkPolicy" {
        let types = items(spec, "/policyTypes");
        return match types.is_empty() {
            true => ingress || !items(spec, "/egress").is_empty(),
            false => {
                types.iter().any(|one| one.as_str().unwrap_or_default().to_lowercase() == name)
            }
        };
    }
    let said = spec.pointer(&format!("/enableDefaultDeny/{name}")).and_then(Value::as_bool);
    said.unwrap_or_else(|| {
        !items(spec, &format!("/{name}")).is_empty()
            || !items(spec, &format!("/{name}Deny")).is_empty()
    })
}
