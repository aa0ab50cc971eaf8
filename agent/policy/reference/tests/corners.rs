//! Corners that the tables of both documents leave open. Beside each is where its answer comes from: a section of Cilium's
//! "Network Policy", a file of Cilium's or Kubernetes' repository, or docs/policy.md, where the mesh decides it.

mod common;

use common::{ccnp, check, check_with, cnp, np};
use serde_json::{Value, json};

const OPEN: &str = "default-allow";
const CLOSED: &str = "default-deny CiliumNetworkPolicy default/p";
const FIRST: &str = "allow-rule CiliumNetworkPolicy default/p ingress[0]";
const OUT: &str = "allow-rule CiliumNetworkPolicy default/p egress[0]";
const DENIED: &str = "deny-rule CiliumNetworkPolicy default/p ingressDeny[0]";
const DENIED_OUT: &str = "deny-rule CiliumNetworkPolicy default/p egressDeny[0]";

/// A policy of all pods of the namespace default with one rule.
fn ingress(rule: Value) -> Value {
    cnp("p", json!({ "endpointSelector": {}, "ingress": [rule] }))
}

fn egress(rule: Value) -> Value {
    cnp("p", json!({ "endpointSelector": {}, "egress": [rule] }))
}

/// One that allows everything but what a rule denies.
fn ingress_deny(rule: Value) -> Value {
    let all = json!([{ "fromEntities": ["all"] }]);
    cnp("p", json!({ "endpointSelector": {}, "ingress": all, "ingressDeny": [rule] }))
}

fn egress_deny(rule: Value) -> Value {
    let all = json!([{ "toEntities": ["all"] }]);
    cnp("p", json!({ "endpointSelector": {}, "egress": all, "egressDeny": [rule] }))
}

#[test]
fn ports() {
    let at = |port: Value| json!({ "toPorts": [{ "ports": [port] }] });
    // docs/policy.md, the table of differences: "0" is all ports of the protocol, and ANY is TCP, UDP and SCTP.
    check(
        &[ingress(at(json!({ "port": "0" })))],
        &[
            ("web > db 4711/TCP", OPEN, FIRST),
            ("web > db 4711/UDP", OPEN, FIRST),
            ("web > db 4711/SCTP", OPEN, FIRST),
            ("web > db icmp:8", OPEN, CLOSED),
        ],
    );
    // pkg/policy/types/policyentry.go: the ports of a rule are its port rules, here one that names none; with peers too.
    for rule in [json!({ "toPorts": [{}] }), json!({ "fromEndpoints": [{}], "toPorts": [{}] })] {
        check(
            &[ingress(rule)],
            &[("web > db 80/TCP", OPEN, CLOSED), ("web > db icmp:8", OPEN, CLOSED)],
        );
    }
    // "Layer 4 Policies": a name without a protocol is of whatever protocol the pod gives it.
    check(
        &[ingress(at(json!({ "port": "http" })))],
        &[("web > db 8080/TCP", OPEN, FIRST), ("web > db 8080/UDP", OPEN, CLOSED)],
    );
    // "Deny Policies": they have the same ports as allows.
    check(
        &[ingress_deny(at(json!({ "port": "http" })))],
        &[("web > db 8080/TCP", OPEN, DENIED), ("web > db 80/TCP", OPEN, FIRST)],
    );
    check(
        &[ingress_deny(at(json!({ "port": "80", "endPort": 443, "protocol": "TCP" })))],
        &[
            ("web > db 79/TCP", OPEN, FIRST),
            ("web > db 80/TCP", OPEN, DENIED),
            ("web > db 443/TCP", OPEN, DENIED),
            ("web > db 444/TCP", OPEN, FIRST),
            ("web > db 443/UDP", OPEN, FIRST),
        ],
    );
    // "Limit ICMP/ICMPv6 types", as a deny: only that type.
    check(
        &[ingress_deny(json!({ "icmps": [{ "fields": [{ "type": 8 }] }] }))],
        &[
            ("bank > db icmp:8", "-", DENIED),
            ("bank > db icmp:3", "-", FIRST),
            ("bank > db 8/TCP", "-", FIRST),
        ],
    );
}

#[test]
fn selectors() {
    // Kubernetes, "Labels and Selectors": NotIn and DoesNotExist hold without the label. utils.go, getEndpointSelector: the
    // namespace of the policy is required nevertheless, so that nothing outside, no node and no pod of init is meant.
    let not = |expression: Value| {
        ingress(json!({ "fromEndpoints": [{ "matchExpressions": [expression] }] }))
    };
    check(
        &[not(json!({ "key": "app", "operator": "NotIn", "values": ["db"] }))],
        &[
            ("web > db 80/TCP", OPEN, FIRST),
            ("db > web 80/TCP", OPEN, CLOSED),
            ("prod-web > db 80/TCP", OPEN, CLOSED),
            ("starting > db 80/TCP", OPEN, CLOSED),
            ("bank > db 80/TCP", "-", CLOSED),
            ("node-1 > db 80/TCP", "-", CLOSED),
        ],
    );
    check(
        &[not(json!({ "key": "role", "operator": "DoesNotExist" }))],
        &[
            ("db > web 80/TCP", OPEN, FIRST),
            ("web > db 80/TCP", OPEN, CLOSED),
            ("10.1.99.9 > db 80/TCP", "-", CLOSED),
        ],
    );
    // utils.go, mergeEndpointSelectors: a list that is empty selects nothing, and takes what is beside it along.
    check(
        &[ingress(json!({ "fromEndpoints": [], "fromEntities": ["all"] }))],
        &[("web > db 80/TCP", OPEN, CLOSED), ("bank > db 80/TCP", "-", CLOSED)],
    );
    // Several selectors: either of them.
    check(
        &[ingress(json!({ "fromEndpoints": [
            { "matchLabels": { "role": "front" } },
            { "matchLabels": { "k8s:io.kubernetes.pod.namespace": "dev" } },
        ] }))],
        &[
            ("web > db 80/TCP", OPEN, FIRST),
            ("dev-client > db 80/TCP", OPEN, FIRST),
            ("prod-client > db 80/TCP", OPEN, CLOSED),
        ],
    );
    // Kubernetes, "Targeting a Namespace by its name": each namespace has this label.
    let name = "io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name";
    check(
        &[ingress(json!({ "fromEndpoints": [{ "matchLabels": { name: "dev" } }] }))],
        &[("dev-client > db 80/TCP", OPEN, FIRST), ("web > db 80/TCP", OPEN, CLOSED)],
    );
}

#[test]
fn clusterwide_selectors() {
    let all = "allow-rule CiliumClusterwideNetworkPolicy p ingress[0]";
    let closed = "default-deny CiliumClusterwideNetworkPolicy p";
    let from = |labels: Value| {
        let rule = json!([{ "fromEndpoints": [{ "matchLabels": labels }] }]);
        [ccnp("p", json!({ "endpointSelector": {}, "ingress": rule }))]
    };
    check(
        &from(json!({ "io.cilium.k8s.namespace.labels.env": "prod" })),
        &[
            ("prod-web > db 80/TCP", OPEN, all),
            ("dev-client > db 80/TCP", OPEN, closed),
            ("west-client > db 80/TCP", OPEN, closed),
        ],
    );
    // utils.go: without a namespace only what has one, so that an empty selector means no more than pods.
    check_with(
        json!({ "defaultLocalCluster": false }),
        &from(json!({})),
        &[
            ("web > db 80/TCP", OPEN, all),
            ("west-client > db 80/TCP", OPEN, all),
            ("starting > db 80/TCP", OPEN, closed),
            ("bank > db 80/TCP", "-", closed),
            ("node-1 > db 80/TCP", "-", closed),
        ],
    );
    // utils.go: what names reserved labels gets neither a namespace nor a cluster.
    check(
        &from(json!({ "reserved:init": "" })),
        &[("starting > db 80/TCP", OPEN, all), ("web > db 80/TCP", OPEN, closed)],
    );
    check(
        &from(json!({ "io.cilium.k8s.policy.cluster": "west" })),
        &[
            ("west-web > db 80/TCP", OPEN, all),
            ("west-client > db 80/TCP", OPEN, all),
            ("web > db 80/TCP", OPEN, closed),
        ],
    );
}

/// utils.go, getEndpointSelector: the namespace and the cluster are added each by itself.
#[test]
fn namespaces_of_other_clusters() {
    let west = json!({ "io.cilium.k8s.policy.cluster": "west" });
    check(
        &[ingress(json!({ "fromEndpoints": [{ "matchLabels": west }] }))],
        &[("west-web > db 80/TCP", OPEN, FIRST), ("west-client > db 80/TCP", OPEN, CLOSED)],
    );
    check_with(
        json!({ "defaultLocalCluster": false }),
        &[ingress(json!({ "fromEndpoints": [{}] }))],
        &[("west-web > db 80/TCP", OPEN, FIRST), ("west-client > db 80/TCP", OPEN, CLOSED)],
    );
    // pkg/policy/api/entity.go: the entity cluster is the own one, whatever the default of selectors.
    check_with(
        json!({ "defaultLocalCluster": false }),
        &[ingress(json!({ "fromEntities": ["cluster"] }))],
        &[("web > db 80/TCP", OPEN, FIRST), ("west-web > db 80/TCP", OPEN, CLOSED)],
    );
}

#[test]
fn services() {
    let db = json!({ "k8sService": { "serviceName": "db" } });
    let ports = json!([{ "ports": [{ "port": "80" }] }]);
    // pkg/policy/api/rule_validation.go, l3DependentL4Support: services and ports may be together.
    check(
        &[egress(json!({ "toServices": [db], "toPorts": ports }))],
        &[("web > db 80/TCP", OUT, OPEN), ("web > db 81/TCP", CLOSED, OPEN)],
    );
    // A service that is not there has no backends. With ports this is not everybody.
    let none = json!({ "k8sService": { "serviceName": "none" } });
    check(
        &[egress(json!({ "toServices": [none], "toPorts": ports }))],
        &[("web > db 80/TCP", CLOSED, OPEN), ("web > bank 80/TCP", CLOSED, "-")],
    );
    // docs/policy.md, the table of differences: present and empty is nobody.
    check(
        &[egress(json!({ "toServices": [], "toPorts": ports }))],
        &[("web > db 80/TCP", CLOSED, OPEN), ("web > bank 80/TCP", CLOSED, "-")],
    );
    // docs/policy.md, the table of fields: egressDeny has services too. What is unknown of the cluster could be a backend.
    check(
        &[egress_deny(json!({ "toServices": [db] }))],
        &[
            ("web > db 80/TCP", DENIED_OUT, OPEN),
            ("db > web 80/TCP", OUT, OPEN),
            ("web > 10.1.99.9 80/TCP", DENIED_OUT, "-"),
            ("web > 10.2.99.9 80/TCP", OUT, "-"),
        ],
    );
    let bank = json!({ "k8sService": { "serviceName": "bank" } });
    check(
        &[egress_deny(json!({ "toServices": [bank] }))],
        &[("web > bank 80/TCP", DENIED_OUT, "-"), ("web > shop 80/TCP", OUT, "-")],
    );
}

/// pkg/policy/api/rule_validation.go: the number of rules decides.
#[test]
fn default_deny() {
    check(
        &[cnp("p", json!({ "endpointSelector": {}, "ingress": [], "egress": [{}] }))],
        &[("web > db 80/TCP", CLOSED, OPEN)],
    );
    check(
        &[cnp(
            "p",
            json!({ "endpointSelector": {}, "ingressDeny": [{ "fromEntities": ["none"] }] }),
        )],
        &[("web > db 80/TCP", OPEN, CLOSED)],
    );
    // A policy is named once, whatever the number of its specs.
    let spec = json!({ "endpointSelector": {}, "ingress": [{}] });
    let mut several = cnp("p", spec.clone());
    several["specs"] = json!([spec, spec]);
    check(&[several], &[("web > db 80/TCP", OPEN, CLOSED)]);
}

/// docs/policy.md, "Who is who", for NetworkPolicies: an unknown address is in no range that allows.
#[test]
fn unknown_addresses_in_network_policies() {
    let closed = "default-deny NetworkPolicy default/p";
    let first = "allow-rule NetworkPolicy default/p ingress[0]";
    for (rule, answer) in [
        (json!({}), first),
        (json!({ "from": [] }), first),
        (json!({ "ports": [{ "port": 80 }] }), first),
        (json!({ "from": [{ "ipBlock": { "cidr": "0.0.0.0/0" } }] }), closed),
        (json!({ "from": [{ "ipBlock": { "cidr": "10.0.0.0/8" } }] }), closed),
        (json!({ "from": [{ "namespaceSelector": {} }] }), closed),
        (json!({ "from": [{ "podSelector": {} }] }), closed),
    ] {
        check(
            &[np("p", json!({ "podSelector": {}, "ingress": [rule] }))],
            &[("10.1.99.9 > db 80/TCP", "-", answer), ("10.2.99.9 > db 80/TCP", "-", answer)],
        );
    }
    let out = "allow-rule NetworkPolicy default/p egress[0]";
    let block = json!({ "ipBlock": { "cidr": "::/0" } });
    check(
        &[np(
            "p",
            json!({ "podSelector": {}, "policyTypes": ["Egress"], "egress": [{ "to": [block] }] }),
        )],
        &[("web > fd00:1::9:9 80/TCP", closed, "-"), ("web > bank6 80/TCP", out, "-")],
    );
}

/// docs/policy.md, "Who is who": a world address stays in ranges whatever `--cidr-match` says.
#[test]
fn ranges() {
    check_with(
        json!({ "cidrMatch": "none" }),
        &[np(
            "p",
            json!({
                "podSelector": {}, "policyTypes": ["Egress"],
                "egress": [{ "to": [{ "ipBlock": { "cidr": "203.0.113.0/24" } }] }],
            }),
        )],
        &[("web > bank 80/TCP", "allow-rule NetworkPolicy default/p egress[0]", "-")],
    );
    let deny = [ingress_deny(json!({ "fromCIDRSet": [
        { "cidr": "10.1.0.0/16", "except": ["10.1.2.0/24"] },
    ] }))];
    check(&deny, &[("prod-web > db 80/TCP", OPEN, FIRST)]);
    check_with(
        json!({ "cidrMatch": "all" }),
        &deny,
        &[("prod-web > db 80/TCP", OPEN, DENIED), ("dev-client > db 80/TCP", OPEN, FIRST)],
    );
}

/// docs/policy.md, "Who is who": an API server outside is `world` too, so that a deny of `world` takes it away.
#[test]
fn the_api_server() {
    let mut policy = egress_deny(json!({ "toEntities": ["world"] }));
    policy["spec"]["egress"] = json!([{ "toEntities": ["kube-apiserver"] }]);
    check(
        &[policy],
        &[
            ("web > east-api 443/TCP", DENIED_OUT, "-"),
            ("web > node-2 443/TCP", OUT, "-"),
            ("web > west-node 443/TCP", CLOSED, "-"),
        ],
    );
    check(
        &[egress(json!({ "toCIDR": ["198.51.100.2/32"] }))],
        &[("web > east-api 443/TCP", OUT, "-"), ("web > west-api 443/TCP", CLOSED, "-")],
    );
}

/// "Entities based": a pod in host networking is its node. A pod reaches itself by each of its addresses.
#[test]
fn ends() {
    check(
        &[egress(json!({ "toEntities": ["host"] }))],
        &[
            ("web > proxy 80/TCP", OUT, "-"),
            ("db > proxy 80/TCP", CLOSED, "-"),
            ("proxy > bank 80/TCP", "-", "-"),
            ("web > 10.1.0.1 80/TCP", "same-pod", "same-pod"),
            ("web > fd00:1::1 80/TCP", "same-pod", "same-pod"),
        ],
    );
}

/// "Policy Enforcement Modes": rules still count.
#[test]
fn modes() {
    check_with(
        json!({ "enforcementMode": "always" }),
        &[egress(json!({ "toEndpoints": [{}] }))],
        &[("web > db 80/TCP", OUT, "default-deny"), ("db > bank 80/TCP", CLOSED, "-")],
    );
    check_with(
        json!({ "enforcementMode": "never" }),
        &[],
        &[("node-1 > web 80/TCP", "-", "enforcement-off"), ("node-1 > bank 80/TCP", "-", "-")],
    );
    // docs/policy.md, the order of answers: without anything that restricts the pod its node is nothing special.
    check(&[], &[("node-1 > web 80/TCP", "-", OPEN)]);
}
