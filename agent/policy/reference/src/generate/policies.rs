//! Policies of all kinds.

use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::{Map, Value, json};

use super::{CLUSTERS, NAMESPACES, ports, selectors};

/// A policy of a cluster, as a line has them. Few names, so that policies replace others.
pub fn policy() -> impl Strategy<Value = Value> {
    let object = prop_oneof![network_policy(), namespaced(), clusterwide()];
    (select(&CLUSTERS[..]), object)
        .prop_map(|(cluster, object)| json!({ "cluster": cluster, "object": object }))
}

fn network_policy() -> impl Strategy<Value = Value> {
    let types = select(vec![
        None,
        Some(json!([])),
        Some(json!(["Ingress"])),
        Some(json!(["Egress"])),
        Some(json!(["Ingress", "Egress"])),
    ]);
    let rules = |peers| vec(network_policy_rule(peers), 0..3);
    let spec = (selectors::of_pods(), rules("from"), rules("to"), types);
    (select(&NAMESPACES[..]), 0..2, spec).prop_map(
        |(namespace, number, (pods, ingress, egress, types))| {
            let mut spec = json!({ "podSelector": pods });
            // A present and empty list is as an absent one.
            if !egress.is_empty() || number == 0 {
                spec["egress"] = egress.into();
            }
            if !ingress.is_empty() {
                spec["ingress"] = ingress.into();
            }
            if let Some(types) = types {
                spec["policyTypes"] = types;
            }
            json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": { "namespace": namespace, "name": format!("p{number}") }, "spec": spec,
            })
        },
    )
}

fn network_policy_rule(peers: &'static str) -> impl Strategy<Value = Value> {
    let peer = prop_oneof![
        2 => selectors::of_pods().prop_map(|pods| json!({ "podSelector": pods })),
        1 => selectors::of_namespaces().prop_map(|all| json!({ "namespaceSelector": all })),
        2 => (selectors::of_pods(), selectors::of_namespaces()).prop_map(
            |(pods, all)| json!({ "podSelector": pods, "namespaceSelector": all })
        ),
        2 => range().prop_map(|range| json!({ "ipBlock": range })),
    ];
    (prop::option::of(vec(peer, 0..4)), ports::network_policy()).prop_map(move |(from, ports)| {
        let mut rule = Map::new();
        rule.extend(from.map(|from| (peers.to_owned(), from.into())));
        rule.extend(ports.map(|ports| ("ports".to_owned(), ports)));
        Value::Object(rule)
    })
}

/// A range, sometimes with exceptions in it.
fn range() -> impl Strategy<Value = Value> {
    let ranges = vec![
        ("10.1.0.0/16", vec!["10.1.1.0/24"]),
        ("10.1.0.1/32", vec![]),
        ("10.0.0.0/8", vec!["10.2.0.0/16", "10.1.0.1/32"]),
        ("0.0.0.0/0", vec!["203.0.113.0/24", "10.0.0.0/8"]),
        ("203.0.113.0/24", vec!["203.0.113.0/28"]),
        ("203.0.113.7/32", vec![]),
        ("172.31.0.0/16", vec!["172.31.1.0/24"]),
        ("fd00:1::/32", vec!["fd00:1::1:0/112"]),
        ("::/0", vec!["fd00::/16"]),
    ];
    (select(ranges), any::<bool>()).prop_map(|((cidr, except), with)| match with {
        true => json!({ "cidr": cidr, "except": except }),
        false => json!({ "cidr": cidr }),
    })
}

fn namespaced() -> impl Strategy<Value = Value> {
    let specs = specs(|| selectors::of_subjects().boxed());
    (select(&NAMESPACES[..]), 0..2, specs).prop_map(|(namespace, number, mut object)| {
        object["kind"] = "CiliumNetworkPolicy".into();
        object["metadata"] = json!({ "namespace": namespace, "name": format!("p{number}") });
        object
    })
}

fn clusterwide() -> impl Strategy<Value = Value> {
    let specs = specs(|| selectors::of_wide_subjects().boxed());
    (0..2, specs).prop_map(|(number, mut object)| {
        object["kind"] = "CiliumClusterwideNetworkPolicy".into();
        object["metadata"] = json!({ "name": format!("p{number}") });
        object
    })
}

fn specs(subject: fn() -> BoxedStrategy<Value>) -> impl Strategy<Value = Value> {
    let of = |field: &'static str, specs: Value| {
        let mut object = json!({ "apiVersion": "cilium.io/v2" });
        object[field] = specs;
        object
    };
    prop_oneof![
        5 => cilium_spec(subject()).prop_map(move |spec| of("spec", spec)),
        1 => vec(cilium_spec(subject()), 1..3).prop_map(move |specs| of("specs", specs.into())),
        1 => (cilium_spec(subject()), vec(cilium_spec(subject()), 1..2)).prop_map(
            move |(spec, specs)| {
                let mut object = of("spec", spec);
                object["specs"] = specs.into();
                object
            }
        ),
    ]
}

fn cilium_spec(subject: BoxedStrategy<Value>) -> impl Strategy<Value = Value> {
    let rules = |word, most: usize| vec(cilium_rule(word), 0..most);
    let flag = || prop::option::weighted(0.7, any::<bool>());
    let default_deny = prop::option::weighted(0.3, (flag(), flag()));
    let lists = (rules("from", 3), rules("from", 2), rules("to", 3), rules("to", 2));
    (subject, lists, default_deny).prop_map(
        |(subject, (ingress, ingress_deny, egress, egress_deny), default_deny)| {
            let mut spec = json!({ "endpointSelector": subject });
            let lists = [
                ("ingress", ingress),
                ("ingressDeny", ingress_deny),
                ("egress", egress),
                ("egressDeny", egress_deny),
            ];
            // A spec needs a rule.
            if lists.iter().all(|(_, rules)| rules.is_empty()) {
                spec["ingress"] = json!([{}]);
            }
            for (field, rules) in lists {
                if !rules.is_empty() {
                    spec[field] = rules.into();
                }
            }
            if let Some((ingress, egress)) = default_deny {
                let mut flags = Map::new();
                flags.extend(ingress.map(|flag| ("ingress".to_owned(), flag.into())));
                flags.extend(egress.map(|flag| ("egress".to_owned(), flag.into())));
                spec["enableDefaultDeny"] = flags.into();
            }
            spec
        },
    )
}

fn cilium_rule(word: &'static str) -> impl Strategy<Value = Value> {
    (cilium_peers(word), ports::cilium()).prop_map(move |(peers, ports)| {
        let mut rule = Map::new();
        rule.extend(peers.map(|(member, peers)| (format!("{word}{member}"), peers)));
        rule.extend(ports.map(|(member, ports)| (member.to_owned(), ports)));
        Value::Object(rule)
    })
}

fn cilium_peers(word: &'static str) -> impl Strategy<Value = Option<(&'static str, Value)>> {
    let entity = select(vec![
        "all",
        "world",
        "world-ipv4",
        "world-ipv6",
        "cluster",
        "cluster-mesh",
        "host",
        "remote-node",
        "kube-apiserver",
        "init",
        "ingress",
        "health",
        "unmanaged",
        "none",
    ]);
    let service = select(vec![
        json!({ "k8sService": { "serviceName": "web", "namespace": "n1" } }),
        json!({ "k8sService": { "serviceName": "web" } }),
        json!({ "k8sService": { "serviceName": "outside", "namespace": "n1" } }),
        json!({ "k8sServiceSelector": { "selector": { "matchLabels": { "of": "web" } }, "namespace": "n2" } }),
        json!({ "k8sServiceSelector": { "selector": { "matchLabels": { "k8s:of": "outside" } } } }),
    ]);
    let list = |member| move |all: Vec<Value>| Some((member, Value::from(all)));
    let services = move |all| match word {
        "to" => Some(("Services", Value::from(all))),
        // Only egress has them.
        _ => Some(("Entities", json!(["cluster"]))),
    };
    prop_oneof![
        3 => Just(None),
        5 => vec(selectors::of_endpoints(), 0..4).prop_map(list("Endpoints")),
        3 => vec(entity.prop_map(Value::from), 0..4).prop_map(list("Entities")),
        2 => vec(range().prop_map(|one| one["cidr"].clone()), 0..4).prop_map(list("CIDR")),
        2 => vec(range(), 0..4).prop_map(list("CIDRSet")),
        1 => vec(service, 0..4).prop_map(services),
    ]
}
