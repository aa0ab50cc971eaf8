//! Generated worlds: clusters a and b, three namespaces with three pods each, nodes, addresses outside, services, and
//! policies of all kinds. The alphabets are small, so that rules and flows meet.

use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::{Map, Value, json};

pub(crate) const CLUSTERS: [&str; 2] = ["a", "b"];
const NAMESPACES: [&str; 3] = ["n1", "n2", "n3"];

fn word(words: &'static [&'static str]) -> impl Strategy<Value = String> {
    select(words).prop_map(str::to_owned)
}

fn app() -> impl Strategy<Value = String> {
    word(&["x", "y", "z"])
}

fn tier() -> impl Strategy<Value = String> {
    word(&["web", "db"])
}

/// A pod of a place in the world: its labels differ from world to world.
pub(crate) fn pod(cluster: usize, namespace: usize, number: usize) -> impl Strategy<Value = Value> {
    (app(), prop::option::of(tier()), 0usize..4, any::<bool>()).prop_map(move |(app, tier, families, named)| {
        let mut labels = Map::new();
        labels.insert("app".into(), app.into());
        labels.extend(tier.map(|tier| ("tier".to_owned(), Value::from(tier))));
        let v4 = format!("10.{}.{namespace}.{number}", cluster + 1);
        let v6 = format!("fd00:{}::{namespace}:{number}", cluster + 1);
        let ips = match families {
            0 => json!([v6]),
            1 => json!([v4, v6]),
            _ => json!([v4]),
        };
        let http = if named { 80 } else { 81 };
        json!({
            "kind": "pod", "cluster": CLUSTERS[cluster], "namespace": NAMESPACES[namespace],
            "name": format!("p{number}-{}-{}", NAMESPACES[namespace], CLUSTERS[cluster]),
            "node": format!("node{}", number % 2), "ips": ips, "labels": labels,
            "ports": [{ "name": "http", "containerPort": http }, { "name": "dns", "port": 53, "protocol": "UDP" }],
        })
    })
}

fn pods() -> impl Strategy<Value = Vec<Value>> {
    let places =
        (0..2).flat_map(|cluster| (0..3).flat_map(move |n| (1..4).map(move |p| (cluster, n, p))));
    places.map(|(cluster, namespace, number)| pod(cluster, namespace, number)).collect::<Vec<_>>()
}

pub(crate) fn namespace(cluster: usize, number: usize) -> impl Strategy<Value = Value> {
    word(&["prod", "dev"]).prop_map(move |env| {
        json!({ "kind": "namespace", "cluster": CLUSTERS[cluster], "name": NAMESPACES[number], "labels": { "env": env } })
    })
}

fn expression(
    keys: &'static [&'static str],
    values: &'static [&'static str],
) -> impl Strategy<Value = Value> {
    let some = vec(word(values), 1..3);
    (word(keys), 0usize..4, some).prop_map(|(key, operator, values)| match operator {
        0 => json!({ "key": key, "operator": "In", "values": values }),
        1 => json!({ "key": key, "operator": "NotIn", "values": values }),
        2 => json!({ "key": key, "operator": "Exists" }),
        _ => json!({ "key": key, "operator": "DoesNotExist" }),
    })
}

fn selector(
    labels: Vec<(&'static str, &'static [&'static str])>,
    keys: &'static [&'static str],
    values: &'static [&'static str],
) -> impl Strategy<Value = Value> {
    let label = select(labels).prop_flat_map(|(key, values)| (Just(key), select(values)));
    let labels = vec(label, 0..2).prop_map(|all| {
        Value::Object(all.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect())
    });
    (labels, vec(expression(keys, values), 0..2)).prop_map(|(labels, expressions)| {
        let mut selector = Map::new();
        if labels.as_object().is_some_and(|all| !all.is_empty()) {
            selector.insert("matchLabels".into(), labels);
        }
        if !expressions.is_empty() {
            selector.insert("matchExpressions".into(), expressions.into());
        }
        Value::Object(selector)
    })
}

fn of_pods() -> impl Strategy<Value = Value> {
    selector(
        vec![
            ("app", &["x", "y", "z"]),
            ("tier", &["web", "db"]),
            ("io.cilium.k8s.policy.cluster", &["a", "b"]),
        ],
        &["app", "tier"],
        &["x", "y", "web"],
    )
}

fn of_namespaces() -> impl Strategy<Value = Value> {
    selector(
        vec![("env", &["prod", "dev"]), ("kubernetes.io/metadata.name", &["n1", "n2"])],
        &["env"],
        &["prod", "dev"],
    )
}

/// Selectors of Cilium's kinds, which may name where pods are.
fn of_endpoints() -> impl Strategy<Value = Value> {
    selector(
        vec![
            ("app", &["x", "y", "z"]),
            ("k8s:tier", &["web", "db"]),
            ("io.cilium.k8s.policy.cluster", &["a", "b"]),
            ("k8s:io.kubernetes.pod.namespace", &["n1", "n2"]),
            ("k8s:io.cilium.k8s.namespace.labels.env", &["prod"]),
        ],
        &["app", "any:tier", "k8s:io.cilium.k8s.policy.cluster", "k8s:io.kubernetes.pod.namespace"],
        &["x", "web", "a", "b", "n1", "n3"],
    )
}

fn range() -> impl Strategy<Value = (String, Vec<String>)> {
    let ranges: Vec<(&str, Vec<&str>)> = vec![
        ("10.1.0.0/16", vec!["10.1.1.0/24"]),
        ("10.0.0.0/8", vec!["10.2.0.0/16", "10.1.0.1/32"]),
        ("0.0.0.0/0", vec!["203.0.113.0/24", "10.0.0.0/8"]),
        ("203.0.113.0/24", vec!["203.0.113.0/28"]),
        ("172.31.0.0/16", vec![]),
        ("fd00:1::/32", vec!["fd00:1::1:0/112"]),
        ("::/0", vec!["fd00::/16"]),
    ];
    (select(ranges), any::<bool>()).prop_map(|((cidr, except), with)| {
        let except =
            if with { except.into_iter().map(str::to_owned).collect() } else { Vec::new() };
        (cidr.to_owned(), except)
    })
}

fn k8s_peer() -> impl Strategy<Value = Value> {
    prop_oneof![
        of_pods().prop_map(|pods| json!({ "podSelector": pods })),
        of_namespaces().prop_map(|namespaces| json!({ "namespaceSelector": namespaces })),
        (of_pods(), of_namespaces()).prop_map(
            |(pods, namespaces)| json!({ "podSelector": pods, "namespaceSelector": namespaces })
        ),
        range().prop_map(|(cidr, except)| match except.is_empty() {
            true => json!({ "ipBlock": { "cidr": cidr } }),
            false => json!({ "ipBlock": { "cidr": cidr, "except": except } }),
        }),
    ]
}

fn k8s_port() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({})),
        Just(json!({ "protocol": "UDP" })),
        Just(json!({ "port": 80 })),
        Just(json!({ "port": 80, "endPort": 443 })),
        Just(json!({ "port": "http" })),
        Just(json!({ "port": "dns", "protocol": "UDP" })),
    ]
}

fn k8s_rules(peers: &'static str) -> impl Strategy<Value = Vec<Value>> {
    let rule = (prop::option::of(vec(k8s_peer(), 0..3)), prop::option::of(vec(k8s_port(), 0..3)));
    vec(
        rule.prop_map(move |(from, ports)| {
            let mut rule = Map::new();
            rule.extend(from.map(|from| (peers.to_owned(), from.into())));
            rule.extend(ports.map(|ports| ("ports".to_owned(), ports.into())));
            Value::Object(rule)
        }),
        0..3,
    )
}

fn network_policy() -> impl Strategy<Value = Value> {
    let types = select(vec![
        None,
        Some(json!(["Ingress"])),
        Some(json!(["Egress"])),
        Some(json!(["Ingress", "Egress"])),
    ]);
    (select(NAMESPACES.as_slice()), of_pods(), k8s_rules("from"), k8s_rules("to"), types, 0..2)
        .prop_map(|(namespace, pods, ingress, egress, types, number)| {
            let mut spec = Map::new();
            spec.insert("podSelector".into(), pods);
            for (name, rules) in [("ingress", ingress), ("egress", egress)] {
                if !rules.is_empty() {
                    spec.insert(name.into(), rules.into());
                }
            }
            spec.extend(types.map(|types| ("policyTypes".to_owned(), types)));
            json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": { "namespace": namespace, "name": format!("np{number}") }, "spec": spec,
            })
        })
}

fn cilium_port() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({ "port": "0" })),
        Just(json!({ "port": "0", "protocol": "UDP" })),
        Just(json!({ "port": "80", "protocol": "TCP" })),
        Just(json!({ "port": "80" })),
        Just(json!({ "port": "80", "endPort": 443, "protocol": "TCP" })),
        Just(json!({ "port": "http" })),
        Just(json!({ "port": "http", "protocol": "TCP" })),
        Just(json!({ "port": "dns", "protocol": "UDP" })),
    ]
}

fn cilium_ports() -> impl Strategy<Value = Option<(&'static str, Value)>> {
    let icmp = select(vec![
        json!({ "type": 8 }),
        json!({ "type": 3 }),
        json!({ "family": "IPv6", "type": 128 }),
    ]);
    prop_oneof![
        2 => Just(None),
        3 => vec(cilium_port(), 0..3).prop_map(|ports| Some(("toPorts", json!([{ "ports": ports }])))),
        1 => vec(icmp, 1..3).prop_map(|fields| Some(("icmps", json!([{ "fields": fields }])))),
    ]
}

fn cilium_rule(ingress: bool) -> impl Strategy<Value = Value> {
    let entities = word(&[
        "all",
        "world",
        "world-ipv4",
        "world-ipv6",
        "cluster",
        "cluster-mesh",
        "host",
        "remote-node",
        "kube-apiserver",
        "none",
        "init",
    ]);
    let service = select(vec![
        json!({ "k8sService": { "serviceName": "svc", "namespace": "n1" } }),
        json!({ "k8sServiceSelector": { "selector": { "matchLabels": { "of": "svc" } }, "namespace": "n2" } }),
    ]);
    let word = if ingress { "from" } else { "to" };
    let l3 = prop_oneof![
        2 => Just(None),
        4 => vec(of_endpoints(), 0..3).prop_map(|all| Some(("Endpoints", json!(all)))),
        3 => vec(entities, 1..3).prop_map(|all| Some(("Entities", json!(all)))),
        2 => vec(range(), 1..3).prop_map(|all| {
            let cidrs: Vec<String> = all.into_iter().map(|(cidr, _)| cidr).collect();
            Some(("CIDR", json!(cidrs)))
        }),
        2 => vec(range(), 1..3).prop_map(|all| {
            let set = |(cidr, except): (String, Vec<String>)| json!({ "cidr": cidr, "except": except });
            Some(("CIDRSet", all.into_iter().map(set).collect()))
        }),
        1 => vec(service, 1..2).prop_map(move |all| Some(if ingress { ("Entities", json!(["cluster"])) } else { ("Services", json!(all)) })),
    ];
    (l3, cilium_ports()).prop_map(move |(l3, ports)| {
        let mut rule = Map::new();
        rule.extend(l3.map(|(name, value)| (format!("{word}{name}"), value)));
        rule.extend(ports.map(|(name, value)| (name.to_owned(), value)));
        Value::Object(rule)
    })
}

fn cilium_spec() -> impl Strategy<Value = Value> {
    let rules = |ingress| vec(cilium_rule(ingress), 0..3);
    let subject = selector(
        vec![("app", &["x", "y", "z"]), ("any:tier", &["web", "db"])],
        &["app", "k8s:tier"],
        &["x", "web"],
    );
    let deny = prop::option::of((any::<bool>(), any::<bool>()));
    (subject, rules(true), rules(true), rules(false), rules(false), deny).prop_map(
        |(subject, ingress, ingress_deny, egress, egress_deny, deny)| {
            let mut spec = Map::new();
            spec.insert("endpointSelector".into(), subject);
            let lists = [
                ("ingress", ingress),
                ("ingressDeny", ingress_deny),
                ("egress", egress),
                ("egressDeny", egress_deny),
            ];
            let given = lists.into_iter().filter(|(_, rules)| !rules.is_empty());
            spec.extend(given.map(|(name, rules)| (name.to_owned(), Value::from(rules))));
            if spec.len() == 1 {
                spec.insert("ingress".into(), json!([{}]));
            }
            if let Some((ingress, egress)) = deny {
                spec.insert(
                    "enableDefaultDeny".into(),
                    json!({ "ingress": ingress, "egress": egress }),
                );
            }
            Value::Object(spec)
        },
    )
}

fn cilium_policy() -> impl Strategy<Value = Value> {
    let specs = prop_oneof![
        3 => cilium_spec().prop_map(|spec| ("spec", spec)),
        1 => vec(cilium_spec(), 1..3).prop_map(|specs| ("specs", specs.into())),
    ];
    (any::<bool>(), select(NAMESPACES.as_slice()), specs, 0..2).prop_map(|(wide, namespace, (field, specs), number)| {
        let mut policy = match wide {
            true => json!({ "kind": "CiliumClusterwideNetworkPolicy", "metadata": { "name": format!("wide{number}") } }),
            false => json!({ "kind": "CiliumNetworkPolicy", "metadata": { "namespace": namespace, "name": format!("cnp{number}") } }),
        };
        policy["apiVersion"] = "cilium.io/v2".into();
        policy[field] = specs;
        policy
    })
}

pub(crate) fn policy() -> impl Strategy<Value = Value> {
    let object = prop_oneof![network_policy(), cilium_policy(), cilium_policy()];
    (select(CLUSTERS.as_slice()), object)
        .prop_map(|(cluster, object)| json!({ "cluster": cluster, "object": object }))
}

/// What names a policy in its cluster.
pub(crate) fn name_of(policy: &Value) -> (Value, Value, Value, Value) {
    let object = &policy["object"];
    let metadata = &object["metadata"];
    (
        policy["cluster"].clone(),
        object["kind"].clone(),
        metadata["namespace"].clone(),
        metadata["name"].clone(),
    )
}

fn options() -> impl Strategy<Value = Value> {
    let mode = word(&["default", "default", "default", "always", "never"]);
    let localhost = word(&["always", "policy"]);
    let cidr = word(&["network-policy", "network-policy", "all", "none"]);
    (mode, prop::bool::weighted(0.8), localhost, cidr).prop_map(|(mode, local, localhost, cidr)| {
        json!({ "enforcementMode": mode, "defaultLocalCluster": local, "allowLocalhost": localhost, "cidrMatch": cidr })
    })
}

fn services() -> Value {
    let service = |cluster: &str, namespace: &str, selector: Value| {
        json!({ "cluster": cluster, "object": {
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "namespace": namespace, "name": "svc", "labels": { "of": "svc" } },
            "spec": { "clusterIP": "10.200.0.1", "selector": selector, "ports": [{ "port": 80 }] },
        } })
    };
    json!([
        service("a", "n1", json!({ "app": "x" })),
        service("a", "n2", json!({ "tier": "db" })),
        service("b", "n1", json!({ "app": "y" }))
    ])
}

/// A line of a batch, without flows.
pub(crate) fn world() -> impl Strategy<Value = Value> {
    let namespaces: Vec<_> = (0..2).flat_map(|c| (0..3).map(move |n| namespace(c, n))).collect();
    (namespaces, pods(), vec(policy(), 0..5), options()).prop_map(|(namespaces, pods, policies, options)| {
        let mut endpoints = namespaces;
        endpoints.extend(pods);
        for (index, cluster) in CLUSTERS.iter().enumerate() {
            for node in 0..2 {
                endpoints.push(json!({
                    "kind": "node", "cluster": cluster, "name": format!("node{node}"),
                    "ips": [format!("172.31.{index}.{node}"), format!("fd00:172::{index}:{node}")], "kubeAPIServer": node == 1 && index == 0,
                }));
            }
        }
        endpoints.extend([
            json!({ "kind": "external", "name": "bank", "ip": "203.0.113.7" }),
            json!({ "kind": "external", "name": "bank6", "ip": "2001:db8::7" }),
            json!({ "kind": "external", "name": "api-b", "ip": "203.0.113.99", "kubeAPIServerOf": "b" }),
        ]);
        let mut policies = policies;
        let mut seen = std::collections::HashSet::new();
        policies.retain(|policy| seen.insert(name_of(policy).to_owned_text()));
        json!({ "policies": policies, "endpoints": endpoints, "services": services(), "options": options })
    })
}

trait Text {
    fn to_owned_text(&self) -> String;
}

impl Text for (Value, Value, Value, Value) {
    fn to_owned_text(&self) -> String {
        format!("{} {} {} {}", self.0, self.1, self.2, self.3)
    }
}

/// Ends that flows name; nodes by address, since two clusters have nodes of one name.
pub(crate) fn end() -> impl Strategy<Value = String> {
    let pods = (0..2usize, 0..3usize, 1..4usize).prop_map(|(cluster, namespace, number)| {
        format!("p{number}-{}-{}", NAMESPACES[namespace], CLUSTERS[cluster])
    });
    prop_oneof![
        6 => pods,
        2 => (0..2, 0..2).prop_map(|(cluster, node)| format!("172.31.{cluster}.{node}")),
        2 => word(&["bank", "bank6", "api-b"]),
        // Unknown of a and of b, and nobody's.
        1 => word(&["10.1.9.9", "10.2.9.9", "198.51.100.1", "fd00:1::9:9"]),
    ]
}

pub(crate) fn flow() -> impl Strategy<Value = Value> {
    let port = prop_oneof![
        select(vec![80u16, 81, 443, 53]).prop_map(|port| ("port", port, "TCP")),
        select(vec![80u16, 53]).prop_map(|port| ("port", port, "UDP")),
        Just(("port", 80, "SCTP")),
        select(vec![8u16, 3, 128]).prop_map(|kind| ("icmpType", kind, "ICMP")),
    ];
    (end(), end(), port).prop_map(|(from, to, (field, number, protocol))| {
        let mut flow = json!({ "from": from, "to": to, "protocol": protocol });
        flow[field] = number.into();
        flow
    })
}

/// A change of a world, as `--steps` has them.
pub(crate) fn change() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => policy().prop_map(|policy| json!({ "cluster": policy["cluster"], "apply": policy["object"] })),
        2 => (0..2usize, 0..3usize, 1..4usize).prop_flat_map(|(c, n, p)| pod(c, n, p)).prop_map(|pod| json!({ "apply": pod })),
        1 => (0..2usize, 0..3usize).prop_flat_map(|(c, n)| namespace(c, n)).prop_map(|namespace| json!({ "apply": namespace })),
        2 => any::<prop::sample::Index>().prop_map(|index| json!({ "deletePolicy": index.index(1_000) })),
        1 => (0..2usize, 0..3usize, 1..4usize).prop_map(|(c, n, p)| json!({ "delete": format!("p{p}-{}-{}", NAMESPACES[n], CLUSTERS[c]) })),
    ]
}
