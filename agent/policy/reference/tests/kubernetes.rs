//! NetworkPolicy: what Kubernetes' documents say, case by case. The concept page is "Network Policies"
//! (kubernetes.io/docs/concepts/services-networking/network-policies), by its section; types are those of the API reference.

mod common;

use common::{check, check_with, np};
use serde_json::{Value, json};

const OPEN: &str = "default-allow";
const CLOSED: &str = "default-deny NetworkPolicy default/p";
const FIRST: &str = "allow-rule NetworkPolicy default/p ingress[0]";
const SECOND: &str = "allow-rule NetworkPolicy default/p ingress[1]";
const OUT: &str = "allow-rule NetworkPolicy default/p egress[0]";

/// A policy that lets db be reached as a rule says.
fn to_db(rule: Value) -> Value {
    np("p", json!({ "podSelector": { "matchLabels": { "app": "db" } }, "ingress": [rule] }))
}

/// A policy that lets pods of the namespace reach others as a rule says.
fn out(rule: Value) -> Value {
    np("p", json!({ "podSelector": {}, "policyTypes": ["Egress"], "egress": [rule] }))
}

/// "The two sorts of pod isolation": a pod is not isolated until a policy selects it for that direction.
#[test]
fn isolation() {
    check(
        &[],
        &[
            ("web > db 80/TCP", OPEN, OPEN),
            ("bank > db 80/TCP", "-", OPEN),
            ("db > bank 80/TCP", OPEN, "-"),
        ],
    );
    // Both the egress policies of the source and the ingress policies of the destination must allow a connection.
    check(
        &[
            np(
                "p",
                json!({ "podSelector": { "matchLabels": { "app": "db" } }, "policyTypes": ["Ingress"] }),
            ),
            np(
                "q",
                json!({ "podSelector": { "matchLabels": { "app": "web" } }, "policyTypes": ["Egress"], "egress": [{}] }),
            ),
        ],
        &[("web > db 80/TCP", "allow-rule NetworkPolicy default/q egress[0]", CLOSED)],
    );
    // The same section: the effects of those rule lists add up; the order of policies does not matter.
    check(
        &[
            np("p", json!({ "podSelector": {}, "ingress": [{ "ports": [{ "port": 80 }] }] })),
            np("q", json!({ "podSelector": {}, "ingress": [{ "ports": [{ "port": 81 }] }] })),
        ],
        &[
            ("web > db 80/TCP", OPEN, FIRST),
            ("web > db 81/TCP", OPEN, "allow-rule NetworkPolicy default/q ingress[0]"),
            (
                "web > db 82/TCP",
                OPEN,
                "default-deny NetworkPolicy default/p NetworkPolicy default/q",
            ),
        ],
    );
    // A pod cannot block access to itself.
    check(
        &[np("p", json!({ "podSelector": {}, "policyTypes": ["Ingress", "Egress"] }))],
        &[("web > web 80/TCP", "same-pod", "same-pod")],
    );
}

/// "Default policies", each of its sections.
#[test]
fn default_policies() {
    // "Default deny all ingress traffic": of the policy's namespace, and no egress.
    check(
        &[np("p", json!({ "podSelector": {}, "policyTypes": ["Ingress"] }))],
        &[
            ("web > db 80/TCP", OPEN, CLOSED),
            ("bank > db 80/TCP", "-", CLOSED),
            ("west-web > db 80/TCP", OPEN, CLOSED),
            ("db > bank 443/TCP", OPEN, "-"),
            ("prod-client > prod-web 80/TCP", OPEN, OPEN),
            ("west-client > west-web 80/TCP", OPEN, OPEN),
        ],
    );
    // "Allow all ingress traffic"
    check(
        &[np("p", json!({ "podSelector": {}, "ingress": [{}], "policyTypes": ["Ingress"] }))],
        &[
            ("dev-client > db 80/TCP", OPEN, FIRST),
            ("west-web > db icmp:8", OPEN, FIRST),
            ("bank > db 80/SCTP", "-", FIRST),
            ("node-1 > db 80/TCP", "-", FIRST),
        ],
    );
    // "Default deny all egress traffic"
    check(
        &[np("p", json!({ "podSelector": {}, "policyTypes": ["Egress"] }))],
        &[("web > db 80/TCP", CLOSED, OPEN), ("db > bank 443/TCP", CLOSED, "-")],
    );
    // "Allow all egress traffic"
    check(&[out(json!({}))], &[("web > db 80/TCP", OUT, OPEN), ("db > bank 443/TCP", OUT, "-")]);
    // "Default deny all ingress and all egress traffic"
    check(
        &[np("p", json!({ "podSelector": {}, "policyTypes": ["Ingress", "Egress"] }))],
        &[("web > db 80/TCP", CLOSED, CLOSED)],
    );
    // "SCTP support"
    check(
        &[to_db(json!({ "ports": [{ "protocol": "SCTP", "port": 80 }] }))],
        &[("web > db 80/SCTP", OPEN, FIRST), ("web > db 80/TCP", OPEN, CLOSED)],
    );
}

/// NetworkPolicySpec, `policyTypes`: "If this field is not specified, it will default based on the existence of ingress or
/// egress rules"; ingress always.
#[test]
fn policy_types() {
    let rules = json!([{}]);
    check(&[np("p", json!({ "podSelector": {} }))], &[("web > db 80/TCP", OPEN, CLOSED)]);
    check(
        &[np("p", json!({ "podSelector": {}, "egress": rules }))],
        &[("web > db 80/TCP", OUT, CLOSED)],
    );
    check(
        &[np("p", json!({ "podSelector": {}, "egress": [], "policyTypes": [] }))],
        &[("web > db 80/TCP", OPEN, CLOSED)],
    );
    // Rules of a direction that is not among them do not count.
    check(
        &[np("p", json!({ "podSelector": {}, "ingress": rules, "policyTypes": ["Egress"] }))],
        &[("web > db 80/TCP", CLOSED, OPEN)],
    );
}

/// "Behavior of to and from selectors"
#[test]
fn peers() {
    let prod = json!({ "matchLabels": { "env": "prod" } });
    let client = json!({ "matchLabels": { "app": "client" } });
    // podSelector: pods in the same namespace as the policy.
    check(
        &[to_db(json!({ "from": [{ "podSelector": { "matchLabels": { "app": "web" } } }] }))],
        &[
            ("web > db 80/TCP", OPEN, FIRST),
            ("prod-web > db 80/TCP", OPEN, CLOSED),
            ("bank > db 80/TCP", "-", CLOSED),
        ],
    );
    // namespaceSelector: all pods of those namespaces.
    check(
        &[to_db(json!({ "from": [{ "namespaceSelector": prod }] }))],
        &[
            ("prod-web > db 80/TCP", OPEN, FIRST),
            ("prod-client > db 80/TCP", OPEN, FIRST),
            ("dev-client > db 80/TCP", OPEN, CLOSED),
            ("web > db 80/TCP", OPEN, CLOSED),
        ],
    );
    // namespaceSelector and podSelector in one item: both.
    check(
        &[to_db(json!({ "from": [{ "namespaceSelector": prod, "podSelector": client }] }))],
        &[
            ("prod-client > db 80/TCP", OPEN, FIRST),
            ("prod-web > db 80/TCP", OPEN, CLOSED),
            ("dev-client > db 80/TCP", OPEN, CLOSED),
        ],
    );
    // In two items: either.
    check(
        &[to_db(json!({ "from": [{ "namespaceSelector": prod }, { "podSelector": client }] }))],
        &[
            ("prod-client > db 80/TCP", OPEN, FIRST),
            ("prod-web > db 80/TCP", OPEN, FIRST),
            ("dev-client > db 80/TCP", OPEN, CLOSED),
        ],
    );
    // NetworkPolicyPeer: an empty namespaceSelector selects all namespaces; but pods only.
    check(
        &[to_db(json!({ "from": [{ "namespaceSelector": {} }] }))],
        &[
            ("dev-client > db 80/TCP", OPEN, FIRST),
            ("web > db 80/TCP", OPEN, FIRST),
            ("bank > db 80/TCP", "-", CLOSED),
            ("node-1 > db 80/TCP", "-", CLOSED),
            // It has no label of a namespace yet.
            ("starting > db 80/TCP", OPEN, CLOSED),
        ],
    );
    // "What you can't do with network policies", host networking: such a pod is its node, which no selector selects.
    check(
        &[to_db(json!({ "from": [{ "podSelector": {} }] }))],
        &[("web > db 80/TCP", OPEN, FIRST), ("proxy > db 80/TCP", "-", CLOSED)],
    );
    // NetworkPolicyIngressRule, `from`: empty or missing, all sources.
    check(&[to_db(json!({ "from": [] }))], &[("bank > db 80/TCP", "-", FIRST)]);
    // The second rule.
    check(
        &[np(
            "p",
            json!({ "podSelector": {}, "ingress": [
            { "from": [{ "podSelector": client }] },
            { "from": [{ "podSelector": {} }] },
        ] }),
        )],
        &[("web > db 80/TCP", OPEN, SECOND)],
    );
}

/// "Targeting multiple namespaces by label", "Targeting a Namespace by its name"; "Labels and Selectors".
#[test]
fn expressions() {
    let of = |expression: Value| {
        to_db(json!({ "from": [{ "namespaceSelector": { "matchExpressions": [expression] } }] }))
    };
    check(
        &[of(json!({ "key": "env", "operator": "In", "values": ["prod", "dev"] }))],
        &[
            ("prod-web > db 80/TCP", OPEN, FIRST),
            ("dev-client > db 80/TCP", OPEN, FIRST),
            ("web > db 80/TCP", OPEN, CLOSED),
        ],
    );
    // NotIn selects what has no such label, too.
    check(
        &[of(json!({ "key": "env", "operator": "NotIn", "values": ["prod"] }))],
        &[
            ("prod-web > db 80/TCP", OPEN, CLOSED),
            ("dev-client > db 80/TCP", OPEN, FIRST),
            ("web > db 80/TCP", OPEN, FIRST),
            ("bank > db 80/TCP", "-", CLOSED),
        ],
    );
    check(
        &[of(json!({ "key": "env", "operator": "Exists" }))],
        &[("dev-client > db 80/TCP", OPEN, FIRST), ("web > db 80/TCP", OPEN, CLOSED)],
    );
    check(
        &[of(json!({ "key": "env", "operator": "DoesNotExist" }))],
        &[
            ("dev-client > db 80/TCP", OPEN, CLOSED),
            ("web > db 80/TCP", OPEN, FIRST),
            ("node-1 > db 80/TCP", "-", CLOSED),
        ],
    );
    check(
        &[of(json!({ "key": "kubernetes.io/metadata.name", "operator": "In", "values": ["dev"] }))],
        &[("dev-client > db 80/TCP", OPEN, FIRST), ("prod-web > db 80/TCP", OPEN, CLOSED)],
    );
    // Labels and expressions of a selector must all hold.
    let both = json!({
        "matchLabels": { "app": "web" },
        "matchExpressions": [{ "key": "role", "operator": "DoesNotExist" }],
    });
    check(
        &[to_db(json!({ "from": [{ "podSelector": both, "namespaceSelector": {} }] }))],
        &[("web > db 80/TCP", OPEN, CLOSED), ("prod-web > db 80/TCP", OPEN, FIRST)],
    );
}

/// IPBlock: a range, and what is not in it.
#[test]
fn ip_blocks() {
    check(
        &[out(
            json!({ "to": [{ "ipBlock": { "cidr": "203.0.113.0/24", "except": ["203.0.113.0/28"] } }] }),
        )],
        &[
            ("web > shop 443/TCP", OUT, "-"),
            ("web > bank 443/TCP", CLOSED, "-"),
            ("web > 198.51.100.9 443/TCP", CLOSED, "-"),
        ],
    );
    check(
        &[out(json!({ "to": [{ "ipBlock": { "cidr": "::/0" } }] }))],
        &[("web > bank6 443/TCP", OUT, "-"), ("web > bank 443/TCP", CLOSED, "-")],
    );
    // An exception only takes out of its own range: another peer may allow what is in it.
    check(
        &[out(json!({ "to": [
            { "ipBlock": { "cidr": "203.0.113.0/24", "except": ["203.0.113.0/28"] } },
            { "ipBlock": { "cidr": "203.0.113.7/32" } },
        ] }))],
        &[("web > bank 443/TCP", OUT, "-")],
    );
    // Kubernetes' conformance tests (test/e2e/network/netpol, "CIDRBlock"): a pod is in a range by its address. This and
    // that nodes are can be switched off: in Cilium ranges do not match what Cilium manages ("CIDR based").
    let pods = [out(
        json!({ "to": [{ "ipBlock": { "cidr": "10.1.0.0/24" } }, { "ipBlock": { "cidr": "172.31.0.0/24" } }] }),
    )];
    check(
        &pods,
        &[
            ("web > db 80/TCP", OUT, OPEN),
            ("web > prod-web 80/TCP", CLOSED, OPEN),
            ("web > node-2 80/TCP", OUT, "-"),
        ],
    );
    check_with(
        json!({ "cidrMatch": "none" }),
        &pods,
        &[("web > db 80/TCP", CLOSED, OPEN), ("web > node-2 80/TCP", CLOSED, "-")],
    );
    check_with(json!({ "cidrMatch": "all" }), &pods, &[("web > db 80/TCP", OUT, OPEN)]);
}

/// NetworkPolicyPort; "Targeting a range of ports".
#[test]
fn ports() {
    check(
        &[to_db(json!({ "ports": [{ "protocol": "TCP", "port": 8000, "endPort": 9000 }] }))],
        &[
            ("web > db 8000/TCP", OPEN, FIRST),
            ("web > db 9000/TCP", OPEN, FIRST),
            ("web > db 9001/TCP", OPEN, CLOSED),
            ("web > db 7999/TCP", OPEN, CLOSED),
            ("web > db 8080/UDP", OPEN, CLOSED),
        ],
    );
    // "protocol … If not specified, this field defaults to TCP."
    check(
        &[to_db(json!({ "ports": [{ "port": 53 }] }))],
        &[
            ("web > db 53/TCP", OPEN, FIRST),
            ("web > db 53/UDP", OPEN, CLOSED),
            ("web > db icmp:8", OPEN, CLOSED),
        ],
    );
    // "port … If this field is not provided, this matches all port names and numbers."
    check(
        &[to_db(json!({ "ports": [{ "protocol": "UDP" }] }))],
        &[("web > db 4711/UDP", OPEN, FIRST), ("web > db 4711/TCP", OPEN, CLOSED)],
    );
    // `ports`: "If this field is empty or missing, this rule matches all ports".
    check(
        &[to_db(json!({ "ports": [] }))],
        &[("web > db 1/TCP", OPEN, FIRST), ("web > db icmp:8", OPEN, FIRST)],
    );
    // "a named port on a pod": of the pod that receives, with its protocol.
    check(
        &[np("p", json!({ "podSelector": {}, "ingress": [{ "ports": [{ "port": "http" }] }] }))],
        &[
            ("web > db 8080/TCP", OPEN, FIRST),
            ("web > db http", OPEN, FIRST),
            ("web > db 80/TCP", OPEN, CLOSED),
            ("web > db 8080/UDP", OPEN, CLOSED),
        ],
    );
    check(
        &[out(json!({ "ports": [{ "port": "dns", "protocol": "UDP" }] }))],
        &[
            ("web > db 53/UDP", OUT, OPEN),
            ("web > bank 53/UDP", CLOSED, "-"),
            ("web > node-1 53/UDP", CLOSED, "-"),
        ],
    );
    // The name is one of UDP there.
    check(
        &[out(json!({ "ports": [{ "port": "dns" }] }))],
        &[("web > db 53/UDP", CLOSED, OPEN), ("web > db 53/TCP", CLOSED, OPEN)],
    );
    // Peers and ports of a rule must both match.
    check(
        &[to_db(json!({ "from": [{ "podSelector": {} }], "ports": [{ "port": 80 }] }))],
        &[
            ("web > db 80/TCP", OPEN, FIRST),
            ("web > db 81/TCP", OPEN, CLOSED),
            ("prod-web > db 80/TCP", OPEN, CLOSED),
        ],
    );
}

/// "Network traffic filtering": traffic between a pod and the node where it runs is always allowed; Cilium documentation,
/// "Access to/from local host", lets policy decide it, and never allows it on egress by itself.
#[test]
fn the_own_node() {
    check(&[], &[("node-1 > web 80/TCP", "-", OPEN)]);
    let deny = [np("p", json!({ "podSelector": {}, "policyTypes": ["Ingress", "Egress"] }))];
    check(
        &deny,
        &[
            ("node-1 > web 80/TCP", "-", "allow-localhost"),
            ("proxy > web 80/TCP", "-", "allow-localhost"),
            ("node-2 > web 80/TCP", "-", CLOSED),
            ("web > node-1 80/TCP", CLOSED, "-"),
        ],
    );
    check_with(
        json!({ "allowLocalhost": "policy" }),
        &deny,
        &[("node-1 > web 80/TCP", "-", CLOSED)],
    );
}
