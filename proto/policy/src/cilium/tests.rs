//! Expected values are written by hand from Cilium's documentation and source (1.20): the CRD schema, `pkg/policy/api`
//! (validation), `pkg/k8s/apis/cilium.io/utils` (selectors) and `pkg/policy/rule.go` (what absent members mean).

use serde_json::{Value, json};

use crate::shown::{assert_refused, lines};

fn policy(spec: &Value) -> Value {
    json!({
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": "one", "namespace": "shop"},
        "spec": spec,
    })
}

fn clusterwide(spec: &Value) -> Value {
    let mut object = policy(spec);
    object["kind"] = json!("CiliumClusterwideNetworkPolicy");
    object
}

/// The first rule of a direction, without its path.
#[track_caller]
fn rule(object: &Value, path: &str) -> String {
    let lines = lines(object);
    let found = lines.iter().find_map(|line| line.strip_prefix(&format!("{path} ")));
    found.unwrap_or_else(|| panic!("{lines:#?}")).to_owned()
}

fn ingress(rule: &Value) -> Value {
    policy(&json!({"endpointSelector": {}, "ingress": [rule]}))
}

fn egress(rule: &Value) -> Value {
    policy(&json!({"endpointSelector": {}, "egress": [rule]}))
}

#[track_caller]
fn assert_rule_refused(object: &Value, paths: &[&str]) {
    let rule = match object["spec"].get("egress") {
        Some(_) => "spec.egress[0]",
        None => "spec.ingress[0]",
    };
    let paths: Vec<String> = paths.iter().map(|path| format!("{rule}{path}")).collect();
    assert_refused(object, &paths.iter().map(String::as_str).collect::<Vec<_>>());
}

const ALL: &str = "subject k8s:io.kubernetes.pod.namespace=shop";

#[test]
fn default_deny() {
    let world = json!([{"fromEntities": ["world"]}]);
    let allow = "ingress[0] allow World at any";
    for (more, wanted) in [
        // "If not specified, the default is true for each traffic direction that has rules, and false otherwise."
        (json!({"ingress": world}), vec!["ingress default-deny", allow]),
        (json!({"ingress": world, "egress": []}), vec!["ingress default-deny", allow]),
        (
            json!({"ingressDeny": world}),
            vec!["ingress default-deny", "ingressDeny[0] deny World at any"],
        ),
        (json!({"ingress": world, "enableDefaultDeny": {"ingress": false}}), vec![allow]),
        (
            json!({"ingress": world, "enableDefaultDeny": {"egress": true}}),
            vec!["ingress default-deny", allow, "egress default-deny"],
        ),
        (
            json!({"ingress": world, "enableDefaultDeny": {"ingress": true, "egress": false}}),
            vec!["ingress default-deny", allow],
        ),
        (json!({"ingress": world, "enableDefaultDeny": {}}), vec!["ingress default-deny", allow]),
    ] {
        let mut spec = json!({"endpointSelector": {}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let wanted: Vec<&str> = [ALL].into_iter().chain(wanted).collect();
        assert_eq!(lines(&policy(&spec)), wanted, "{spec}");
    }
    // "rule must have at least one of Ingress, IngressDeny, Egress, EgressDeny", by their lengths.
    for more in [json!({}), json!({"ingress": []}), json!({"egress": [], "ingressDeny": []})] {
        let mut spec = json!({"endpointSelector": {}, "enableDefaultDeny": {"ingress": true}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        assert_refused(&policy(&spec), &["spec"]);
    }
    assert_refused(
        &policy(
            &json!({"endpointSelector": {}, "ingress": [{}], "enableDefaultDeny": {"ingress": "no", "x": 1}}),
        ),
        &["spec.enableDefaultDeny.x", "spec.enableDefaultDeny.ingress"],
    );
}

#[test]
fn absent_and_empty_members() {
    for (rule_of, wanted) in [
        // The documents' default deny: absent members have no effect, so nothing is allowed.
        (json!({}), "allow nobody at any"),
        (json!({"toPorts": [], "icmps": []}), "allow nobody at any"),
        (json!({"fromEndpoints": null}), "allow nobody at any"),
        // No L3 part, but ports: everybody.
        (
            json!({"toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}]}]}),
            "allow any at Tcp/80",
        ),
        (json!({"icmps": [{"fields": [{"type": 8}]}]}), "allow any at icmpV4/8"),
        // An L3 part and no ports: all of them.
        (json!({"fromEntities": ["world"]}), "allow World at any"),
        (json!({"fromEntities": ["world"], "toPorts": []}), "allow World at any"),
        // Present and empty: nobody, with or without ports, and whatever else there is.
        (json!({"fromEndpoints": []}), "allow nobody at any"),
        (json!({"fromEntities": []}), "allow nobody at any"),
        (json!({"fromCIDR": []}), "allow nobody at any"),
        (json!({"fromCIDRSet": []}), "allow nobody at any"),
        (
            json!({"fromCIDR": [], "toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}]}]}),
            "allow nobody at Tcp/80",
        ),
        (json!({"fromCIDR": [], "fromEntities": ["all"]}), "allow nobody at any"),
        // An entry without ports is an L4 part that matches nothing.
        (json!({"toPorts": [{}]}), "allow any at none"),
        (json!({"toPorts": [{"ports": []}], "fromEntities": ["world"]}), "allow World at none"),
        (json!({"icmps": [{}]}), "allow any at none"),
        (json!({"icmps": [{"fields": []}]}), "allow any at none"),
    ] {
        assert_eq!(rule(&ingress(&rule_of), "ingress[0]"), wanted, "{rule_of}");
    }
    assert_eq!(rule(&egress(&json!({"toServices": []})), "egress[0]"), "allow nobody at any");
}

#[test]
fn rules_are_named_by_their_place() {
    let spec = |endpoint: &str| {
        json!({
            "endpointSelector": {"matchLabels": {"app": endpoint}},
            "description": "for people",
            "labels": [{"key": "x"}],
            "log": {"value": "y"},
            "ingressDeny": [{"fromEntities": ["host"]}],
            "ingress": [{"fromEntities": ["all"]}, {"fromEntities": ["init", "none"]}],
            "egressDeny": [{"toEntities": ["remote-node"]}],
            "egress": [{"toEntities": ["kube-apiserver"]}],
        })
    };
    let wanted = |prefix: &str, endpoint: &str| {
        vec![
            format!("subject k8s:io.kubernetes.pod.namespace=shop,app={endpoint}"),
            "ingress default-deny".into(),
            format!("{prefix}ingress[0] allow any at any"),
            format!("{prefix}ingress[1] allow Init | None at any"),
            format!("{prefix}ingressDeny[0] deny Host at any"),
            "egress default-deny".into(),
            format!("{prefix}egress[0] allow KubeApiserver at any"),
            format!("{prefix}egressDeny[0] deny RemoteNode at any"),
        ]
    };
    // Without a source a key is of any; `None` comes before `k8s` in the order of requirements.
    let order = |lines: Vec<String>| -> Vec<String> {
        let swap = |line: String| match line.strip_prefix("subject ") {
            Some(selector) => {
                let (namespace, app) = selector.split_once(',').unwrap();
                format!("subject {app},{namespace}")
            }
            None => line,
        };
        lines.into_iter().map(swap).collect()
    };
    assert_eq!(lines(&policy(&spec("a"))), order(wanted("", "a")));

    let mut object = policy(&Value::Null);
    object["specs"] = json!([spec("b"), spec("c")]);
    let both = [wanted("specs[0].", "b"), wanted("specs[1].", "c")].concat();
    assert_eq!(lines(&object), order(both));

    // The schema asks for one of them, and Cilium reads both.
    object["spec"] = spec("a");
    object["specs"] = json!([spec("b")]);
    let both = [wanted("", "a"), wanted("specs[0].", "b")].concat();
    assert_eq!(lines(&object), order(both));

    object["spec"] = Value::Null;
    object["specs"] = json!([]);
    assert_eq!(lines(&object), [] as [&str; 0]);
    object["specs"] = Value::Null;
    assert_refused(&object, &["spec"]);
    object["specs"] = json!([{"endpointSelector": {}, "ingress": [{"to": 1}]}, 1]);
    assert_refused(&object, &["specs[0].ingress[0].to", "specs[1]"]);
}

#[test]
fn subjects() {
    let subject = |selector: &Value| {
        let spec = json!({"endpointSelector": selector, "ingress": [{}]});
        let of = |object: &Value| lines(object)[0].clone();
        [of(&policy(&spec)), of(&clusterwide(&spec))]
    };
    let namespace = "k8s:io.kubernetes.pod.namespace";
    // The namespace is added (`ParseToCiliumRule`), but not to cluster-wide policies.
    assert_eq!(
        subject(&json!({"matchLabels": {"k8s:app": "web"}})),
        [format!("subject k8s:app=web,{namespace}=shop"), "subject k8s:app=web".into()]
    );
    assert_eq!(subject(&json!({})), [format!("subject {namespace}=shop"), "subject all".into()]);
    // The own namespace by another word changes nothing.
    for (key, operator, values) in [
        ("io.kubernetes.pod.namespace", "In", json!(["shop"])),
        ("k8s:io.kubernetes.pod.namespace", "In", json!(["shop"])),
        ("any:io.kubernetes.pod.namespace", "In", json!(["shop"])),
    ] {
        let selector =
            json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        assert_eq!(subject(&selector)[0], format!("subject {namespace}=shop"));
    }
    // Cilium takes these out and warns.
    for selector in [
        json!({"matchLabels": {"io.kubernetes.pod.namespace": "other"}}),
        json!({"matchLabels": {"k8s:io.kubernetes.pod.namespace": "other"}}),
        json!({"matchExpressions": [{"key": "k8s:io.kubernetes.pod.namespace", "operator": "In", "values": ["a", "b"]}]}),
        json!({"matchExpressions": [{"key": "k8s:io.kubernetes.pod.namespace", "operator": "NotIn", "values": ["shop"]}]}),
        json!({"matchExpressions": [{"key": "k8s:io.kubernetes.pod.namespace", "operator": "DoesNotExist"}]}),
    ] {
        let spec = json!({"endpointSelector": selector, "ingress": [{}]});
        assert_refused(&policy(&spec), &["spec.endpointSelector"]);
        assert!(lines(&clusterwide(&spec))[0].starts_with("subject "));
    }
    assert_refused(&policy(&json!({"ingress": [{}]})), &["spec.endpointSelector"]);
    assert_refused(
        &policy(&json!({"endpointSelector": null, "ingress": [{}]})),
        &["spec.endpointSelector"],
    );
    assert_refused(
        &clusterwide(&json!({"nodeSelector": {}, "ingress": [{}]})),
        &["spec.nodeSelector"],
    );
}

#[test]
fn selectors_of_peers() {
    let peers = |selector: &Value| {
        let spec = json!({"endpointSelector": {}, "ingress": [{"fromEndpoints": [selector]}]});
        [rule(&policy(&spec), "ingress[0]"), rule(&clusterwide(&spec), "ingress[0]")].map(|line| {
            let line = line.strip_prefix("allow pods(").unwrap();
            line.strip_suffix(") at any").unwrap().to_owned()
        })
    };
    // `getEndpointSelector`.
    for (selector, namespaced, wide) in [
        (json!({}), "k8s:io.kubernetes.pod.namespace=shop", "k8s:io.kubernetes.pod.namespace"),
        (
            json!({"matchLabels": {"app": "web"}}),
            "app=web,k8s:io.kubernetes.pod.namespace=shop",
            "app=web,k8s:io.kubernetes.pod.namespace",
        ),
        // Whoever names a namespace has it, in whatever way.
        (
            json!({"matchLabels": {"k8s:io.kubernetes.pod.namespace": "other"}}),
            "k8s:io.kubernetes.pod.namespace=other",
            "k8s:io.kubernetes.pod.namespace=other",
        ),
        (
            json!({"matchExpressions": [{"key": "io.kubernetes.pod.namespace", "operator": "NotIn", "values": ["x"]}]}),
            "k8s:io.kubernetes.pod.namespace notin (x)",
            "k8s:io.kubernetes.pod.namespace notin (x)",
        ),
        // Labels of namespaces too, in a namespace.
        (
            json!({"matchLabels": {"io.cilium.k8s.namespace.labels.team": "a", "app": "web"}}),
            "app=web,k8s:io.cilium.k8s.namespace.labels.team=a",
            "app=web,k8s:io.cilium.k8s.namespace.labels.team=a,k8s:io.kubernetes.pod.namespace",
        ),
        (
            json!({"matchLabels": {"k8s:io.cilium.k8s.policy.cluster": "west"}}),
            "k8s:io.cilium.k8s.policy.cluster=west,k8s:io.kubernetes.pod.namespace=shop",
            "k8s:io.cilium.k8s.policy.cluster=west,k8s:io.kubernetes.pod.namespace",
        ),
        (
            json!({"matchExpressions": [{"key": "io.cilium.k8s.policy.cluster", "operator": "Exists"}]}),
            "k8s:io.cilium.k8s.policy.cluster,k8s:io.kubernetes.pod.namespace=shop",
            "k8s:io.cilium.k8s.policy.cluster,k8s:io.kubernetes.pod.namespace",
        ),
        // Reserved labels are left alone.
        (json!({"matchLabels": {"reserved:host": ""}}), "reserved:host=", "reserved:host="),
        (
            json!({"matchLabels": {"reserved.remote-node": "", "app": "x"}}),
            "app=x,reserved:remote-node=",
            "app=x,reserved:remote-node=",
        ),
        (
            json!({"matchExpressions": [{"key": "$init", "operator": "Exists"}]}),
            "reserved:init",
            "reserved:init",
        ),
    ] {
        assert_eq!(peers(&selector), [namespaced, wide], "{selector}");
    }
    // Pods without labels have no namespace either: their policies' peers are taken as they are.
    let spec = json!({
        "endpointSelector": {"matchLabels": {"reserved:init": ""}},
        "ingress": [{"fromEndpoints": [{"matchLabels": {"app": "x"}}]}],
    });
    assert_eq!(rule(&clusterwide(&spec), "ingress[0]"), "allow pods(app=x) at any");
    assert_eq!(
        rule(&policy(&spec), "ingress[0]"),
        "allow pods(app=x,k8s:io.kubernetes.pod.namespace=shop) at any"
    );
}

#[test]
fn entities() {
    for (name, wanted) in [
        ("all", "any"),
        ("world", "World"),
        ("world-ipv4", "WorldIpv4"),
        ("world-ipv6", "WorldIpv6"),
        ("cluster", "Cluster"),
        ("cluster-mesh", "ClusterMesh"),
        ("host", "Host"),
        ("remote-node", "RemoteNode"),
        ("kube-apiserver", "KubeApiserver"),
        ("init", "Init"),
        ("ingress", "Ingress"),
        ("health", "Health"),
        ("unmanaged", "Unmanaged"),
        ("none", "None"),
    ] {
        let object = egress(&json!({"toEntities": [name]}));
        assert_eq!(rule(&object, "egress[0]"), format!("allow {wanted} at any"));
    }
    let object = egress(&json!({"toEntities": ["host", "all"]}));
    assert_eq!(rule(&object, "egress[0]"), "allow any at any");
    assert_rule_refused(
        &egress(&json!({"toEntities": ["World", "", 1, "world"]})),
        &[".toEntities[0]", ".toEntities[1]", ".toEntities[2]"],
    );
}

#[test]
fn cidrs() {
    let object = egress(&json!({"toCIDR": ["10.1.2.3/8", "::/0"]}));
    assert_eq!(rule(&object, "egress[0]"), "allow cidr(10.0.0.0/8) | cidr(::/0) at any");
    let object = ingress(&json!({"fromCIDRSet": [
        {"cidr": "10.0.0.0/8", "except": ["10.96.0.0/12", "10.0.0.0/8"]},
        {"cidr": "1.1.1.1/32", "except": []},
    ]}));
    assert_eq!(
        rule(&object, "ingress[0]"),
        "allow cidr(10.0.0.0/8-10.0.0.0/8-10.96.0.0/12) | cidr(1.1.1.1/32) at any"
    );
    assert_rule_refused(
        &ingress(&json!({"fromCIDRSet": [
            {"cidr": "10.0.0.0/8", "except": ["9.0.0.0/8", "10.0.0.0/7", "10.1.0.0"]},
            {},
            {"cidrGroupRef": "a"},
            {"cidrGroupSelector": {}, "cidr": "10.0.0.0/8"},
            {"cidr": ""},
            "10.0.0.0/8",
        ]})),
        &[
            ".fromCIDRSet[0].except[0]",
            ".fromCIDRSet[0].except[1]",
            ".fromCIDRSet[0].except[2]",
            ".fromCIDRSet[1].cidr",
            ".fromCIDRSet[2].cidrGroupRef",
            ".fromCIDRSet[3].cidrGroupSelector",
            ".fromCIDRSet[4].cidr",
            ".fromCIDRSet[5]",
        ],
    );
    assert_rule_refused(
        &egress(&json!({"toCIDR": ["10.0.0.1", 1]})),
        &[".toCIDR[0]", ".toCIDR[1]"],
    );
}

#[test]
fn services() {
    for (service, wanted) in [
        (json!({"k8sService": {"serviceName": "db", "namespace": "data"}}), "service(data/db)"),
        // Without a namespace, `serviceRefMatches` takes those of every one.
        (json!({"k8sService": {"serviceName": "db"}}), "service(*/db)"),
        (
            json!({"k8sServiceSelector": {"selector": {"matchLabels": {"k8s:app": "db"}}, "namespace": "data"}}),
            "services(data/app=db)",
        ),
        // The filter of identities' labels does not hold for services.
        (
            json!({"k8sServiceSelector": {"selector": {"matchLabels": {"pod-template-hash": "x"}}, "namespace": ""}}),
            "services(*/pod-template-hash=x)",
        ),
        (json!({"k8sServiceSelector": {"selector": {}}}), "services(*/all)"),
    ] {
        let object = egress(&json!({"toServices": [service]}));
        assert_eq!(rule(&object, "egress[0]"), format!("allow {wanted} at any"));
    }
    // Ports may be together with services since Cilium 1.17.
    let object = egress(&json!({
        "toServices": [{"k8sService": {"serviceName": "db"}}],
        "toPorts": [{"ports": [{"port": "5432", "protocol": "TCP"}]}],
    }));
    assert_eq!(rule(&object, "egress[0]"), "allow service(*/db) at Tcp/5432");
    assert_rule_refused(
        &egress(&json!({"toServices": [
            {},
            {"k8sService": {"serviceName": "a"}, "k8sServiceSelector": {"selector": {}}},
            {"k8sService": {"namespace": "x"}},
            {"k8sService": {"serviceName": "A", "namespace": "X"}},
            {"k8sServiceSelector": {}},
            {"k8sServiceSelector": {"selector": {"matchLabels": {"reserved:host": ""}}}},
            1,
        ]})),
        &[
            ".toServices[0]",
            ".toServices[1]",
            ".toServices[2].k8sService.serviceName",
            ".toServices[3].k8sService.namespace",
            ".toServices[3].k8sService.serviceName",
            ".toServices[4].k8sServiceSelector.selector",
            ".toServices[5].k8sServiceSelector.selector.matchLabels[reserved:host]",
            ".toServices[6]",
        ],
    );
    assert_rule_refused(&ingress(&json!({"toServices": []})), &[".toServices"]);
}

#[test]
fn ports() {
    for (port, wanted) in [
        (json!({"port": "80", "protocol": "TCP"}), "Tcp/80"),
        (json!({"port": "53", "protocol": "UDP"}), "Udp/53"),
        (json!({"port": "5000", "protocol": "SCTP"}), "Sctp/5000"),
        // "If ANY, omitted or empty, any protocols with transport ports (TCP, UDP, SCTP) match."
        (json!({"port": "80"}), "Tcp/80 Udp/80 Sctp/80"),
        (json!({"port": "80", "protocol": "ANY"}), "Tcp/80 Udp/80 Sctp/80"),
        (json!({"port": "0", "protocol": "TCP"}), "Tcp/*"),
        (json!({"port": "0"}), "Tcp/* Udp/* Sctp/*"),
        (json!({"port": "80", "endPort": 90, "protocol": "TCP"}), "Tcp/80-90"),
        (json!({"port": "80", "endPort": 0, "protocol": "TCP"}), "Tcp/80"),
        (json!({"port": "80", "endPort": 80, "protocol": "TCP"}), "Tcp/80"),
        (json!({"port": "65535", "protocol": "TCP"}), "Tcp/65535"),
        (json!({"port": "http"}), "any/http"),
        // Names are made lower-case (`PortProtocol.Sanitize`).
        (json!({"port": "HTTP-8080", "protocol": "TCP"}), "Tcp/http-8080"),
        (json!({"port": "0x10", "protocol": "TCP"}), "Tcp/0x10"),
        (json!({"protocol": "VRRP"}), "protocol/112"),
        (json!({"protocol": "IGMP", "port": "0"}), "protocol/2"),
    ] {
        let object = ingress(&json!({"toPorts": [{"ports": [port]}]}));
        assert_eq!(rule(&object, "ingress[0]"), format!("allow any at {wanted}"), "{port}");
    }
    let object = ingress(&json!({"toPorts": [
        {"ports": [{"port": "443", "protocol": "TCP"}, {"port": "80", "protocol": "TCP"}]},
        {},
        {"ports": [{"port": "80", "protocol": "TCP"}]},
    ]}));
    assert_eq!(rule(&object, "ingress[0]"), "allow any at Tcp/80 Tcp/443");

    for (port, paths) in [
        (json!({"port": 80}), &["port"] as &[&str]),
        (json!({"port": "65536"}), &["port"]),
        (json!({"port": "-1"}), &["port"]),
        (json!({"port": "080"}), &["port"]),
        (json!({"port": "8_0"}), &["port"]),
        (json!({"port": "80-90"}), &["port"]),
        (json!({"port": ""}), &["port"]),
        (json!({"protocol": "TCP"}), &["port"]),
        (json!({}), &["port"]),
        (json!({"port": "a-name-of-16-chr"}), &["port"]),
        (json!({"port": "http", "endPort": 90}), &["endPort"]),
        (json!({"port": "80", "endPort": 79}), &["endPort"]),
        (json!({"port": "0", "endPort": 79}), &["endPort"]),
        (json!({"port": "80", "endPort": "90"}), &["endPort"]),
        (json!({"port": "80", "endPort": 65536}), &["endPort"]),
        (json!({"port": "80", "protocol": "VRRP"}), &["port"]),
        // The schema's enumeration.
        (json!({"port": "80", "protocol": "tcp"}), &["protocol"]),
        (json!({"port": "80", "protocol": "ICMP"}), &["protocol"]),
        (json!({"port": "80", "protocol": "ICMPv6"}), &["protocol"]),
        (json!({"port": "80", "protocol": ""}), &["protocol"]),
        (json!({"port": "x!", "protocol": "", "name": "a"}), &["name", "protocol", "port"]),
    ] {
        let paths: Vec<String> =
            paths.iter().map(|path| format!(".toPorts[0].ports[0].{path}")).collect();
        assert_rule_refused(
            &ingress(&json!({"toPorts": [{"ports": [port]}]})),
            &paths.iter().map(String::as_str).collect::<Vec<_>>(),
        );
    }
    let many = |count: usize| {
        let ports = vec![json!({"port": "80", "protocol": "TCP"}); count];
        ingress(&json!({"toPorts": [{"ports": ports}]}))
    };
    assert_eq!(rule(&many(40), "ingress[0]"), "allow any at Tcp/80");
    assert_rule_refused(&many(41), &[".toPorts[0].ports"]);
}

#[test]
fn icmp() {
    for (field, wanted) in [
        (json!({"type": 8}), "icmpV4/8"),
        (json!({"type": 0, "family": "IPv4"}), "icmpV4/0"),
        (json!({"type": 255, "family": "IPv6"}), "icmpV6/255"),
        (json!({"type": "8"}), "icmpV4/8"),
        (json!({"type": "EchoRequest"}), "icmpV4/8"),
        (json!({"type": "EchoRequest", "family": "IPv6"}), "icmpV6/128"),
        // RFC 4443, RFC 4861, RFC 8335.
        (json!({"type": "PacketTooBig", "family": "IPv6"}), "icmpV6/2"),
        (json!({"type": "NeighborSolicitation", "family": "IPv6"}), "icmpV6/135"),
        (json!({"type": "ExtendedEchoReply", "family": "IPv6"}), "icmpV6/161"),
        (json!({"type": "ExtendedEcho Reply"}), "icmpV4/43"),
    ] {
        let object = egress(&json!({"icmps": [{"fields": [field]}]}));
        assert_eq!(rule(&object, "egress[0]"), format!("allow any at {wanted}"), "{field}");
    }
    for (field, path) in [
        (json!({"type": 256}), "type"),
        (json!({"type": -1}), "type"),
        (json!({"type": "256"}), "type"),
        (json!({"type": "echorequest"}), "type"),
        (json!({"type": "PacketTooBig"}), "type"),
        (json!({"type": true}), "type"),
        (json!({}), "type"),
        (json!({"type": 8, "family": "ipv4"}), "family"),
        (json!({"type": 8, "code": 0}), "code"),
    ] {
        assert_rule_refused(
            &egress(&json!({"icmps": [{"fields": [field]}]})),
            &[&format!(".icmps[0].fields[0].{path}")],
        );
    }
    let fields = vec![json!({"type": 8}); 41];
    assert_rule_refused(&egress(&json!({"icmps": [{"fields": fields}]})), &[".icmps[0].fields"]);
    let ports = json!([{"ports": [{"port": "80"}]}]);
    assert_rule_refused(
        &egress(&json!({"icmps": [{"fields": [{"type": 8}]}], "toPorts": ports})),
        &[""],
    );
    let object = egress(&json!({"icmps": [], "toPorts": ports}));
    assert_eq!(rule(&object, "egress[0]"), "allow any at Tcp/80 Udp/80 Sctp/80");
}

#[test]
fn several_members() {
    // "combining FromEndpoints and FromCIDR is not supported yet"; empty ones do not count.
    for rule in [
        json!({"toEndpoints": [{}], "toCIDR": ["10.0.0.0/8"]}),
        json!({"toEntities": ["world"], "toCIDRSet": [{"cidr": "10.0.0.0/8"}]}),
        json!({"toServices": [{"k8sService": {"serviceName": "a"}}], "toEntities": ["world"]}),
    ] {
        assert_rule_refused(&egress(&rule), &[""]);
    }
}

#[test]
fn refused_objects() {
    let mut object = policy(&json!({
        "endpointSelector": {},
        "ingres": [],
        "egress": [{
            "toFQDNs": [{"matchName": "a.example.org"}],
            "authentication": {"mode": "required"},
            "toPorts": [{
                "ports": [{"port": "443", "protocol": "TCP"}],
                "rules": {"http": [{}]},
                "serverNames": ["a"],
            }],
        }],
        "egressDeny": [{"toFQDNs": []}],
    }));
    object["apiVersion"] = json!("cilium.io/v2alpha1");
    assert_refused(
        &object,
        &[
            "apiVersion",
            "spec.ingres",
            "spec.egress[0].authentication",
            "spec.egress[0].toFQDNs",
            "spec.egress[0].toPorts[0].rules",
            "spec.egress[0].toPorts[0].serverNames",
            "spec.egressDeny[0].toFQDNs",
        ],
    );
    // The namespace of what has none is not looked at, as in an API server.
    let mut wide = clusterwide(&json!({"endpointSelector": {}, "ingress": [{}]}));
    wide["metadata"]["namespace"] = json!("Shop");
    assert_eq!(lines(&wide)[0], "subject all");
}
