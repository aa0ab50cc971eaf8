//! CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy: what Cilium's documentation says, case by case. A title is a
//! section of "Network Policy"; a path is a file of Cilium's repository.

mod common;

use common::{ccnp, check, check_with, cnp, np};
use serde_json::{Value, json};

const OPEN: &str = "default-allow";
const CLOSED: &str = "default-deny CiliumNetworkPolicy default/p";
const FIRST: &str = "allow-rule CiliumNetworkPolicy default/p ingress[0]";
const OUT: &str = "allow-rule CiliumNetworkPolicy default/p egress[0]";
const DENIED: &str = "deny-rule CiliumNetworkPolicy default/p ingressDeny[0]";

/// A policy of db with these rules.
fn ingress(rules: Value) -> Value {
    cnp("p", json!({ "endpointSelector": { "matchLabels": { "app": "db" } }, "ingress": rules }))
}

/// A policy of all pods of the namespace with these rules.
fn egress(rules: Value) -> Value {
    cnp("p", json!({ "endpointSelector": {}, "egress": rules }))
}

/// "Endpoints based"
#[test]
fn endpoints() {
    // "Simple Ingress Allow"
    check(
        &[ingress(json!([{ "fromEndpoints": [{ "matchLabels": { "role": "front" } }] }]))],
        &[
            ("web > db 80/TCP", OPEN, FIRST),
            ("dev-client > db 80/TCP", OPEN, CLOSED),
            ("web > db icmp:8", OPEN, FIRST),
        ],
    );
    // "Simple Egress Allow"
    check(
        &[egress(json!([{ "toEndpoints": [{ "matchLabels": { "app": "db" } }] }]))],
        &[("web > db 80/TCP", OUT, OPEN), ("web > bank 80/TCP", CLOSED, "-")],
    );
    // "Egress Allow All Endpoints": "to all other endpoints in the same namespace".
    check(
        &[egress(json!([{ "toEndpoints": [{}] }]))],
        &[
            ("web > db 80/TCP", OUT, OPEN),
            ("web > prod-web 80/TCP", CLOSED, OPEN),
            ("web > bank 80/TCP", CLOSED, "-"),
            ("web > node-2 80/TCP", CLOSED, "-"),
        ],
    );
    // "Ingress/Egress Default Deny": `- {}` allows nothing.
    check(
        &[ingress(json!([{}]))],
        &[("web > db 80/TCP", OPEN, CLOSED), ("db > web 80/TCP", OPEN, OPEN)],
    );
    check(&[egress(json!([{}]))], &[("web > db 80/TCP", CLOSED, OPEN)]);
    // pkg/policy/api/ingress.go: "an empty non-nil FromEndpoints does not select anything"; with ports neither.
    check(&[ingress(json!([{ "fromEndpoints": [] }]))], &[("web > db 80/TCP", OPEN, CLOSED)]);
    check(
        &[ingress(json!([{ "fromEndpoints": [], "toPorts": [{ "ports": [{ "port": "80" }] }] }]))],
        &[("web > db 80/TCP", OPEN, CLOSED)],
    );
    // Keys may name sources; without one any is meant.
    for (key, answer) in
        [("app", FIRST), ("any:app", FIRST), ("k8s:app", FIRST), ("container:app", CLOSED)]
    {
        let selector =
            json!({ "matchExpressions": [{ "key": key, "operator": "In", "values": ["web"] }] });
        check(
            &[ingress(json!([{ "fromEndpoints": [selector] }]))],
            &[("web > db 80/TCP", OPEN, answer)],
        );
    }
}

/// "Using Kubernetes Constructs in Policy"
#[test]
fn namespaces() {
    // "Expose pods across namespaces"
    let prod =
        json!({ "matchLabels": { "k8s:io.kubernetes.pod.namespace": "prod", "app": "client" } });
    check(
        &[ingress(json!([{ "fromEndpoints": [prod] }]))],
        &[
            ("prod-client > db 80/TCP", OPEN, FIRST),
            ("prod-web > db 80/TCP", OPEN, CLOSED),
            ("dev-client > db 80/TCP", OPEN, CLOSED),
        ],
    );
    // pkg/k8s/apis/cilium.io/utils/utils.go: whoever asks for labels of namespaces means other namespaces.
    let labels = json!({ "matchLabels": { "io.cilium.k8s.namespace.labels.env": "prod" } });
    check(
        &[ingress(json!([{ "fromEndpoints": [labels] }]))],
        &[("prod-web > db 80/TCP", OPEN, FIRST), ("dev-client > db 80/TCP", OPEN, CLOSED)],
    );
    // "ServiceAccounts"
    let account = json!({ "matchLabels": {
        "io.cilium.k8s.policy.serviceaccount": "shopper", "io.kubernetes.pod.namespace": "prod",
    } });
    check(
        &[ingress(json!([{ "fromEndpoints": [account] }]))],
        &[("prod-client > db 80/TCP", OPEN, FIRST), ("prod-web > db 80/TCP", OPEN, CLOSED)],
    );
    // pkg/k8s/utils (SanitizePodLabels): a pod's own labels do not say where it is; and other sources do not either.
    for selector in [
        json!({ "matchLabels": { "io.cilium.k8s.namespace.labels.env": "prod" } }),
        json!({ "matchLabels": { "any:io.cilium.k8s.policy.serviceaccount": "shopper" } }),
    ] {
        check(
            &[ingress(json!([{ "fromEndpoints": [selector] }]))],
            &[("liar > db 80/TCP", OPEN, CLOSED), ("boaster > db 80/TCP", OPEN, CLOSED)],
        );
    }
    // The subject is in the policy's namespace.
    check(
        &[cnp("p", json!({ "endpointSelector": {}, "ingress": [{}] }))],
        &[("web > db 80/TCP", OPEN, CLOSED), ("web > prod-web 80/TCP", OPEN, OPEN)],
    );
}

/// "Clusterwide Policies"
#[test]
fn clusterwide() {
    let all = "allow-rule CiliumClusterwideNetworkPolicy p ingress[0]";
    let closed = "default-deny CiliumClusterwideNetworkPolicy p";
    // "Allow all ingress to kube-dns": all endpoints of the cluster that are managed, in whatever namespace.
    check(
        &[ccnp(
            "p",
            json!({ "endpointSelector": { "matchLabels": { "app": "db" } }, "ingress": [{ "fromEndpoints": [{}] }] }),
        )],
        &[
            ("web > db 80/TCP", OPEN, all),
            ("dev-client > db 80/TCP", OPEN, all),
            ("west-web > db 80/TCP", OPEN, closed),
            ("bank > db 80/TCP", "-", closed),
            ("node-1 > db 80/TCP", "-", closed),
            ("starting > db 80/TCP", OPEN, closed),
        ],
    );
    // The subjects are pods of all namespaces, of the policy's cluster.
    check(
        &[ccnp("p", json!({ "endpointSelector": {}, "ingress": [{}] }))],
        &[
            ("web > db 80/TCP", OPEN, closed),
            ("web > dev-client 80/TCP", OPEN, closed),
            ("web > west-web 80/TCP", OPEN, OPEN),
        ],
    );
    // Policies of pods without labels take peers as they are: matchesPodInit.
    check(
        &[ccnp(
            "p",
            json!({
                "endpointSelector": { "matchLabels": { "reserved:init": "" } },
                "ingress": [{ "fromEndpoints": [{ "matchLabels": { "app": "web" } }] }],
            }),
        )],
        &[
            ("web > starting 80/TCP", OPEN, all),
            ("db > starting 80/TCP", OPEN, closed),
            ("web > db 80/TCP", OPEN, OPEN),
        ],
    );
}

/// "Network Policy in Cluster Mesh": since 1.19 selectors are of the local cluster; `policy-default-local-cluster`.
#[test]
fn clusters() {
    let web = |more: Value| {
        let labels = json!({ "matchLabels": { "app": "web" }, "matchExpressions": more });
        ingress(json!([{ "fromEndpoints": [labels] }]))
    };
    let key = "io.cilium.k8s.policy.cluster";
    check(
        &[web(json!([]))],
        &[("web > db 80/TCP", OPEN, FIRST), ("west-web > db 80/TCP", OPEN, CLOSED)],
    );
    check(
        &[web(json!([{ "key": key, "operator": "In", "values": ["west"] }]))],
        &[("web > db 80/TCP", OPEN, CLOSED), ("west-web > db 80/TCP", OPEN, FIRST)],
    );
    check(
        &[web(json!([{ "key": key, "operator": "Exists" }]))],
        &[("web > db 80/TCP", OPEN, FIRST), ("west-web > db 80/TCP", OPEN, FIRST)],
    );
    check_with(
        json!({ "defaultLocalCluster": false }),
        &[web(json!([]))],
        &[("west-web > db 80/TCP", OPEN, FIRST)],
    );
    // NetworkPolicies too.
    let policy = [np(
        "p",
        json!({
            "podSelector": { "matchLabels": { "app": "db" } },
            "ingress": [{ "from": [{ "namespaceSelector": { "matchLabels": { "env": "prod" } } }] }],
        }),
    )];
    let (first, closed) =
        ("allow-rule NetworkPolicy default/p ingress[0]", "default-deny NetworkPolicy default/p");
    check(
        &policy,
        &[("prod-client > db 80/TCP", OPEN, first), ("west-client > db 80/TCP", OPEN, closed)],
    );
    check_with(
        json!({ "defaultLocalCluster": false }),
        &policy,
        &[("west-client > db 80/TCP", OPEN, first)],
    );
    check(
        &[np(
            "p",
            json!({
                "podSelector": { "matchLabels": { "app": "db" } },
                "ingress": [{ "from": [{ "podSelector": { "matchLabels": { key: "west" } } }] }],
            }),
        )],
        &[
            ("west-web > db 80/TCP", OPEN, first),
            ("west-client > db 80/TCP", OPEN, closed),
            ("web > db 80/TCP", OPEN, closed),
        ],
    );
    // Policies are not distributed: west's pods are governed by west's.
    check(&[egress(json!([{}]))], &[("west-web > db 80/TCP", OPEN, OPEN)]);
}

/// "Entities based"; pkg/policy/api/entity.go.
#[test]
fn entities() {
    let ends = [
        "db",
        "dev-client",
        "starting",
        "west-web",
        "node-1",
        "node-2",
        "west-node",
        "bank",
        "bank6",
        "west-api",
        "east-api",
        "10.1.99.9",
        "10.2.99.9",
    ];
    let cluster = ["db", "dev-client", "starting", "node-1", "node-2", "west-node", "east-api"];
    for (entity, meant) in [
        ("all", &ends[..]),
        ("world", &["bank", "bank6", "west-api", "east-api"]),
        ("world-ipv4", &["bank", "west-api", "east-api"]),
        ("world-ipv6", &["bank6"]),
        ("cluster", &cluster),
        (
            "cluster-mesh",
            &[
                "db",
                "dev-client",
                "starting",
                "west-web",
                "node-1",
                "node-2",
                "west-node",
                "east-api",
            ],
        ),
        ("host", &["node-1"]),
        ("remote-node", &["node-2", "west-node"]),
        ("kube-apiserver", &["node-2", "east-api"]),
        ("init", &["starting"]),
        ("health", &[]),
        ("ingress", &[]),
        ("unmanaged", &[]),
        ("none", &[]),
    ] {
        let web = json!({ "matchLabels": { "app": "web" } });
        let policy =
            cnp("p", json!({ "endpointSelector": web, "egress": [{ "toEntities": [entity] }] }));
        let flows = ends.map(|end| format!("web > {end} 80/TCP"));
        let rows = ends.iter().zip(&flows).map(|(end, flow)| {
            let other = match *end {
                "db" | "dev-client" | "starting" | "west-web" => OPEN,
                _ => "-",
            };
            (flow.as_str(), if meant.contains(end) { OUT } else { CLOSED }, other)
        });
        check(&[policy], &rows.collect::<Vec<_>>());
    }
    // Several: either.
    check(
        &[egress(json!([{ "toEntities": ["host", "world"] }]))],
        &[
            ("web > bank 80/TCP", OUT, "-"),
            ("web > node-1 80/TCP", OUT, "-"),
            ("web > node-2 80/TCP", CLOSED, "-"),
        ],
    );
    // Selectors may name the labels of reserved identities.
    check(
        &[ingress(
            json!([{ "fromEndpoints": [{ "matchLabels": { "reserved:remote-node": "" } }] }]),
        )],
        &[
            ("node-1 > db 80/TCP", "-", FIRST),
            ("node-2 > db 80/TCP", "-", "allow-localhost"),
            ("web > db 80/TCP", OPEN, CLOSED),
        ],
    );
}

/// "CIDR based": "CIDR policies do not apply to traffic where both sides of the connection are managed by Cilium".
#[test]
fn ranges() {
    let all = json!([{ "toCIDR": ["0.0.0.0/0"] }]);
    check(
        &[egress(all.clone())],
        &[
            ("web > bank 80/TCP", OUT, "-"),
            ("web > bank6 80/TCP", CLOSED, "-"),
            ("web > db 80/TCP", CLOSED, OPEN),
            ("web > node-2 80/TCP", CLOSED, "-"),
        ],
    );
    check_with(
        json!({ "cidrMatch": "all" }),
        &[egress(all)],
        &[("web > db 80/TCP", OUT, OPEN), ("web > node-2 80/TCP", OUT, "-")],
    );
    check(
        &[egress(
            json!([{ "toCIDRSet": [{ "cidr": "203.0.113.0/24", "except": ["203.0.113.0/28"] }] }]),
        )],
        &[("web > shop 80/TCP", OUT, "-"), ("web > bank 80/TCP", CLOSED, "-")],
    );
    // "CIDR-dependent Layer 4 Rule"
    check(
        &[egress(json!([{
            "toCIDR": ["203.0.113.0/24"], "toPorts": [{ "ports": [{ "port": "80", "protocol": "TCP" }] }],
        }]))],
        &[
            ("web > bank 80/TCP", OUT, "-"),
            ("web > bank 81/TCP", CLOSED, "-"),
            ("web > 198.51.100.9 80/TCP", CLOSED, "-"),
        ],
    );
    check(&[egress(json!([{ "toCIDR": [] }]))], &[("web > bank 80/TCP", CLOSED, "-")]);
}

/// "Services based"
#[test]
fn services() {
    for service in [
        json!({ "k8sService": { "serviceName": "db", "namespace": "default" } }),
        json!({ "k8sService": { "serviceName": "db" } }),
        json!({ "k8sServiceSelector": { "selector": { "matchLabels": { "of": "db" } }, "namespace": "default" } }),
    ] {
        check(
            &[egress(json!([{ "toServices": [service] }]))],
            &[
                ("web > db 80/TCP", OUT, OPEN),
                ("db > web 80/TCP", CLOSED, OPEN),
                ("web > bank 80/TCP", CLOSED, "-"),
            ],
        );
    }
    let other = json!({ "k8sService": { "serviceName": "db", "namespace": "prod" } });
    check(&[egress(json!([{ "toServices": [other] }]))], &[("web > db 80/TCP", CLOSED, OPEN)]);
    // "Services without selectors": the addresses of their EndpointSlices.
    let bank = json!({ "k8sService": { "serviceName": "bank" } });
    check(
        &[egress(json!([{ "toServices": [bank] }]))],
        &[
            ("web > bank 80/TCP", OUT, "-"),
            ("web > shop 80/TCP", CLOSED, "-"),
            ("web > db 80/TCP", CLOSED, OPEN),
        ],
    );
}

/// "Layer 4 Policies"
#[test]
fn ports() {
    let at = |port: Value| ingress(json!([{ "toPorts": [{ "ports": [port] }] }]));
    // "Limit ingress/egress ports": whatever the layer 3; and ICMP is blocked.
    check(
        &[at(json!({ "port": "80", "protocol": "TCP" }))],
        &[
            ("bank > db 80/TCP", "-", FIRST),
            ("west-web > db 80/TCP", OPEN, FIRST),
            ("web > db 81/TCP", OPEN, CLOSED),
            ("web > db 80/UDP", OPEN, CLOSED),
            ("web > db icmp:8", OPEN, CLOSED),
        ],
    );
    // "If omitted or empty, any protocol matches"; since 1.14 SCTP is among them.
    for port in [json!({ "port": "80" }), json!({ "port": "80", "protocol": "ANY" })] {
        check(
            &[at(port)],
            &[
                ("web > db 80/TCP", OPEN, FIRST),
                ("web > db 80/UDP", OPEN, FIRST),
                ("web > db 80/SCTP", OPEN, FIRST),
                ("web > db icmp:8", OPEN, CLOSED),
            ],
        );
    }
    // "Example Port Ranges"
    check(
        &[at(json!({ "port": "80", "endPort": 444, "protocol": "TCP" }))],
        &[
            ("web > db 80/TCP", OPEN, FIRST),
            ("web > db 444/TCP", OPEN, FIRST),
            ("web > db 445/TCP", OPEN, CLOSED),
        ],
    );
    // endPort 0 is as none.
    check(
        &[at(json!({ "port": "80", "endPort": 0, "protocol": "TCP" }))],
        &[("web > db 80/TCP", OPEN, FIRST), ("web > db 81/TCP", OPEN, CLOSED)],
    );
    // pkg/policy/api/l4.go, PortProtocol: port 0 is every port.
    check(
        &[at(json!({ "port": "0", "protocol": "UDP" }))],
        &[("web > db 4711/UDP", OPEN, FIRST), ("web > db 4711/TCP", OPEN, CLOSED)],
    );
    // Names, in whatever case (rule_validation.go).
    check(
        &[at(json!({ "port": "HTTP", "protocol": "TCP" }))],
        &[("web > db 8080/TCP", OPEN, FIRST), ("web > db 80/TCP", OPEN, CLOSED)],
    );
    check(
        &[egress(json!([{ "toPorts": [{ "ports": [{ "port": "dns" }] }] }]))],
        &[
            ("web > db 53/UDP", OUT, OPEN),
            ("web > db 53/TCP", CLOSED, OPEN),
            ("web > bank 53/UDP", CLOSED, "-"),
        ],
    );
    // "Labels-dependent Layer 4 rule"
    check(
        &[ingress(json!([{
            "fromEndpoints": [{ "matchLabels": { "app": "web" } }], "toPorts": [{ "ports": [{ "port": "80", "protocol": "TCP" }] }],
        }]))],
        &[
            ("web > db 80/TCP", OPEN, FIRST),
            ("web > db 81/TCP", OPEN, CLOSED),
            ("dev-client > db 80/TCP", OPEN, CLOSED),
        ],
    );
    // Omitted or empty members have no effect (pkg/policy/api/ingress.go); several entries: either.
    check(
        &[ingress(json!([{ "fromEndpoints": [{}], "toPorts": [] }]))],
        &[("web > db icmp:8", OPEN, FIRST)],
    );
    check(
        &[ingress(
            json!([{ "toPorts": [{ "ports": [{ "port": "80" }] }, { "ports": [{ "port": "81" }] }] }]),
        )],
        &[("web > db 81/TCP", OPEN, FIRST), ("web > db 82/TCP", OPEN, CLOSED)],
    );
}

/// "Limit ICMP/ICMPv6 types"
#[test]
fn icmp() {
    let fields = |fields: Value| egress(json!([{ "icmps": [{ "fields": fields }] }]));
    for field in [
        json!({ "type": 8 }),
        json!({ "type": 8, "family": "IPv4" }),
        json!({ "type": "EchoRequest" }),
        json!({ "type": "Echo" }),
        json!({ "type": "8" }),
    ] {
        check(
            &[fields(json!([field]))],
            &[
                ("web > bank icmp:8", OUT, "-"),
                ("web > bank icmp:EchoRequest", OUT, "-"),
                ("web > bank icmp:0", CLOSED, "-"),
                ("web > bank6 icmpv6:8", CLOSED, "-"),
                // "layer 4 and ICMP communication will be blocked".
                ("web > bank 8/TCP", CLOSED, "-"),
            ],
        );
    }
    check(
        &[fields(json!([{ "family": "IPv6", "type": "EchoRequest" }, { "type": 8 }]))],
        &[
            ("web > bank6 icmpv6:128", OUT, "-"),
            ("web > bank6 icmp:128", OUT, "-"),
            ("web > bank icmp:8", OUT, "-"),
        ],
    );
}

/// "Deny Policies", its table: the columns are sets of policies of the server, the rows three flows of the client.
#[test]
fn the_table_of_deny_policies() {
    let port =
        |port: &str| json!({ "toPorts": [{ "ports": [{ "port": port, "protocol": "TCP" }] }] });
    let client = json!({ "fromEndpoints": [{ "matchLabels": { "app": "web" } }] });
    let allows = json!([port("80"), port("81"), client]);
    let (closed, third) = (CLOSED, "allow-rule CiliumNetworkPolicy default/p ingress[2]");
    let second = "allow-rule CiliumNetworkPolicy default/p ingress[1]";
    let other = "deny-rule CiliumNetworkPolicy default/p ingressDeny[1]";
    for (allows, denials, [at_81, at_80, ping]) in [
        (allows.clone(), json!([]), [second, FIRST, third]),
        (allows.clone(), json!([port("80")]), [second, DENIED, third]),
        (allows.clone(), json!([client]), [DENIED, DENIED, DENIED]),
        (allows, json!([port("80"), client]), [other, DENIED, other]),
        (json!([]), json!([port("80")]), [closed, DENIED, closed]),
    ] {
        let subject = json!({ "matchLabels": { "app": "db" } });
        check(
            &[cnp(
                "p",
                json!({ "endpointSelector": subject, "ingress": allows, "ingressDeny": denials }),
            )],
            &[
                ("web > db 81/TCP", OPEN, at_81),
                ("web > db 80/TCP", OPEN, at_80),
                ("web > db icmp:8", OPEN, ping),
            ],
        );
    }
}

/// "Deny Policies": they take precedence over allows of all kinds.
#[test]
fn denials() {
    check(
        &[
            np("p", json!({ "podSelector": {}, "ingress": [{}] })),
            ccnp(
                "z",
                json!({ "endpointSelector": {}, "ingressDeny": [{ "fromEntities": ["world"] }] }),
            ),
        ],
        &[
            ("bank > db 80/TCP", "-", "deny-rule CiliumClusterwideNetworkPolicy z ingressDeny[0]"),
            ("web > db 80/TCP", OPEN, "allow-rule NetworkPolicy default/p ingress[0]"),
        ],
    );
    // A pod's own node is denied, too.
    check(
        &[cnp(
            "p",
            json!({ "endpointSelector": {}, "ingressDeny": [{ "fromEntities": ["host"] }] }),
        )],
        &[("node-1 > web 80/TCP", "-", DENIED), ("node-2 > web 80/TCP", "-", CLOSED)],
    );
    // "Simple Egress Deny"
    check(
        &[cnp(
            "p",
            json!({
                "endpointSelector": { "matchLabels": { "role": "front" } },
                "egress": [{ "toEntities": ["all"] }],
                "egressDeny": [{ "toEndpoints": [{ "matchLabels": { "app": "db" } }] }],
            }),
        )],
        &[
            ("web > db 80/TCP", "deny-rule CiliumNetworkPolicy default/p egressDeny[0]", OPEN),
            ("web > bank 80/TCP", OUT, "-"),
        ],
    );
    // A deny without peers and ports denies nothing.
    check(
        &[cnp(
            "p",
            json!({ "endpointSelector": {}, "ingress": [{ "fromEntities": ["all"] }], "ingressDeny": [{}] }),
        )],
        &[("web > db 80/TCP", OPEN, FIRST)],
    );
}

/// "Endpoint default policy"; pkg/policy/api/rule_validation.go, Sanitize.
#[test]
fn default_deny() {
    let policy = |flags: Value| {
        [cnp(
            "p",
            json!({
                "endpointSelector": {},
                "enableDefaultDeny": flags,
                "ingress": [{ "toPorts": [{ "ports": [{ "port": "80" }] }] }],
                "egress": [{ "toPorts": [{ "ports": [{ "port": "80" }] }] }],
            }),
        )]
    };
    check(&policy(json!({})), &[("web > db 81/TCP", CLOSED, CLOSED)]);
    check(
        &policy(json!({ "ingress": false })),
        &[("web > db 81/TCP", CLOSED, OPEN), ("web > db 80/TCP", OUT, FIRST)],
    );
    check(
        &policy(json!({ "ingress": false, "egress": false })),
        &[("web > db 81/TCP", OPEN, OPEN)],
    );
    // It can also be switched on where there is no rule.
    check(
        &[cnp(
            "p",
            json!({ "endpointSelector": {}, "enableDefaultDeny": { "egress": true }, "ingress": [{}] }),
        )],
        &[("web > db 80/TCP", CLOSED, CLOSED)],
    );
    // Another policy may still restrict the pod.
    let [lax] = policy(json!({ "ingress": false, "egress": false }));
    check(
        &[lax, ccnp("z", json!({ "endpointSelector": {}, "ingress": [{}] }))],
        &[("web > db 81/TCP", OPEN, "default-deny CiliumClusterwideNetworkPolicy z")],
    );
    // A deny without default deny takes only what it means.
    check(
        &[cnp(
            "p",
            json!({
                "endpointSelector": {}, "enableDefaultDeny": { "ingress": false },
                "ingressDeny": [{ "fromEntities": ["world"] }],
            }),
        )],
        &[("bank > db 80/TCP", "-", DENIED), ("web > db 80/TCP", OPEN, OPEN)],
    );
}

/// "Policy Enforcement Modes"
#[test]
fn modes() {
    let deny =
        [cnp("p", json!({ "endpointSelector": {}, "ingressDeny": [{ "fromEntities": ["all"] }] }))];
    let off = "enforcement-off";
    check_with(
        json!({ "enforcementMode": "never" }),
        &deny,
        &[("web > db 80/TCP", off, off), ("web > web 80/TCP", "same-pod", "same-pod")],
    );
    check_with(
        json!({ "enforcementMode": "always" }),
        &[],
        &[
            ("web > db 80/TCP", "default-deny", "default-deny"),
            ("west-web > bank 80/TCP", "default-deny", "-"),
            ("node-1 > web 80/TCP", "-", "allow-localhost"),
        ],
    );
}

/// Which rule is named: of several policies and specs.
#[test]
fn names() {
    let all = json!([{ "fromEntities": ["none"] }, { "fromEntities": ["all"] }]);
    let spec = json!({ "endpointSelector": {}, "ingress": all });
    let policies = [
        ccnp("a", spec.clone()),
        cnp("b", spec.clone()),
        cnp("a", spec.clone()),
        np("z", json!({ "podSelector": {}, "ingress": [{ "ports": [{ "port": 80 }] }] })),
    ];
    check(
        &policies,
        &[
            ("web > db 80/TCP", OPEN, "allow-rule NetworkPolicy default/z ingress[0]"),
            ("web > db 81/TCP", OPEN, "allow-rule CiliumNetworkPolicy default/a ingress[1]"),
        ],
    );
    let mut several = cnp(
        "p",
        json!({ "endpointSelector": { "matchLabels": { "app": "web" } }, "ingress": [{}] }),
    );
    several["specs"] = json!([{ "endpointSelector": {}, "egress": [{}] }, spec]);
    check(
        &[several],
        &[(
            "web > db 80/TCP",
            CLOSED,
            "allow-rule CiliumNetworkPolicy default/p specs[1].ingress[1]",
        )],
    );
}

/// A policy is named once, however many of its specs restrict the pod; several in order.
#[test]
fn restricting_policies() {
    let spec = json!({ "endpointSelector": {}, "ingress": [{}] });
    let mut several = cnp("p", spec.clone());
    several["specs"] = json!([spec, spec]);
    check(
        &[ccnp("a", spec.clone()), several, np("z", json!({ "podSelector": {} }))],
        &[(
            "web > db 80/TCP",
            OPEN,
            "default-deny NetworkPolicy default/z CiliumNetworkPolicy default/p CiliumClusterwideNetworkPolicy a",
        )],
    );
}

/// An address of a cluster's pods of which nothing is known (docs/policy.md, "Who is who"): 10.1.99.9 is of east, 10.2.99.9
/// of west. An allow means it only without an L3 part, a deny if it could.
#[test]
fn unknown_addresses() {
    let allow = |rule: Value| ingress(json!([rule]));
    let ports = json!([{ "ports": [{ "port": "80" }] }]);
    for (rule, answer) in [
        (json!({ "toPorts": ports }), FIRST),
        (json!({ "fromEntities": ["all"] }), FIRST),
        (json!({ "fromEntities": ["cluster-mesh"] }), CLOSED),
        (json!({ "fromEntities": ["world"] }), CLOSED),
        (json!({ "fromEndpoints": [{}] }), CLOSED),
        (json!({ "fromCIDR": ["0.0.0.0/0"] }), CLOSED),
    ] {
        check(
            &[allow(rule)],
            &[("10.1.99.9 > db 80/TCP", "-", answer), ("10.2.99.9 > db 80/TCP", "-", answer)],
        );
    }
    check_with(
        json!({ "cidrMatch": "all" }),
        &[allow(json!({ "fromCIDR": ["0.0.0.0/0"] }))],
        &[("10.1.99.9 > db 80/TCP", "-", CLOSED)],
    );
    let cluster = "io.cilium.k8s.policy.cluster";
    for (rule, own, other) in [
        (json!({ "fromEndpoints": [{}] }), DENIED, FIRST),
        (json!({ "fromEndpoints": [{ "matchLabels": { "app": "nobody" } }] }), DENIED, FIRST),
        (json!({ "fromEndpoints": [{ "matchLabels": { cluster: "west" } }] }), FIRST, DENIED),
        (
            json!({ "fromEndpoints": [{ "matchExpressions": [{ "key": cluster, "operator": "Exists" }] }] }),
            DENIED,
            DENIED,
        ),
        (json!({ "fromEndpoints": [{ "matchLabels": { "reserved:host": "" } }] }), DENIED, FIRST),
        (json!({ "fromEndpoints": [{ "matchLabels": { "reserved:world": "" } }] }), FIRST, FIRST),
        (json!({ "fromEntities": ["world"] }), FIRST, FIRST),
        (json!({ "fromEntities": ["host"] }), DENIED, FIRST),
        (json!({ "fromEntities": ["remote-node"] }), DENIED, DENIED),
        (json!({ "fromEntities": ["cluster"] }), DENIED, DENIED),
        (json!({ "fromEntities": ["cluster-mesh"] }), DENIED, DENIED),
        (json!({ "fromEntities": ["none"] }), FIRST, FIRST),
        (json!({ "fromCIDR": ["10.0.0.0/8"] }), FIRST, FIRST),
        (json!({ "toPorts": ports }), DENIED, DENIED),
        (
            json!({ "fromEndpoints": [{}], "toPorts": [{ "ports": [{ "port": "81" }] }] }),
            FIRST,
            FIRST,
        ),
    ] {
        let policy = cnp(
            "p",
            json!({
                "endpointSelector": {}, "ingress": [{ "fromEntities": ["all"] }], "ingressDeny": [rule],
            }),
        );
        check(
            &[policy],
            &[("10.1.99.9 > db 80/TCP", "-", own), ("10.2.99.9 > db 80/TCP", "-", other)],
        );
    }
    check_with(
        json!({ "cidrMatch": "all" }),
        &[cnp(
            "p",
            json!({
                "endpointSelector": {}, "ingress": [{ "fromEntities": ["all"] }], "ingressDeny": [{ "fromCIDR": ["10.1.0.0/16"] }],
            }),
        )],
        &[("10.1.99.9 > db 80/TCP", "-", DENIED), ("10.2.99.9 > db 80/TCP", "-", FIRST)],
    );
}
