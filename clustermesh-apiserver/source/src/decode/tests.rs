use mesh_model::object::TargetPort;

use super::*;

const NODE: &str = "apiVersion: v1
kind: Node
metadata: {name: n1, labels: {zone: z}}
spec: {podCIDR: 10.1.1.0/24, podCIDRs: [10.1.1.0/24, 'fd00:10:1:1::/64']}
status:
  addresses:
  - {type: InternalIP, address: 172.31.1.1}
  - {type: Hostname, address: n1}
";

fn yaml(text: &str) -> Decoded {
    decode(Format::Yaml, text).whole().unwrap()
}

#[test]
fn several_documents_lists_and_unknown_kinds() {
    let text = format!(
        "# a comment\n---\n{NODE}---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: x}}\nspec: {{replicas: 2}}\n--- # next\napiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Namespace\n  metadata: {{name: shop}}\n- {{apiVersion: v1, kind: Pod, metadata: {{name: p, namespace: shop}}}}\n"
    );
    let decoded = yaml(&text);
    let kinds: Vec<_> =
        decoded.objects.iter().map(|(line, o)| (*line, o.key().to_string())).collect();
    let expected = [(3, "Node n1"), (17, "Namespace shop"), (17, "Pod shop/p")];
    assert_eq!(kinds, expected.map(|(line, key)| (line, key.to_owned())));
    let Object::Node(node) = &decoded.objects[0].1 else { panic!("no node") };
    assert_eq!((node.pod_cidrs.len(), node.addresses.len()), (2, 1));
    assert!(yaml("").objects.is_empty());
    let behind =
        yaml("--- {apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n--- # more\n");
    assert_eq!((behind.objects.len(), behind.objects[0].0), (1, 1));
}

#[test]
fn everything_but_other_kinds_is_decoded_or_reported() {
    let text = "apiVersion: v1\nmetadata: {name: x}\n---\nkind: List\nitems: [{kind: List}, {metadata: {}}]\n";
    let reasons: Vec<String> = yaml(text).rejected.iter().map(ToString::to_string).collect();
    assert_eq!(
        reasons,
        [
            "line 1: an object without a kind",
            "line 4: item 0: a List in a List: a List contains objects",
            "line 4: item 1: an object without a kind",
        ]
    );
}

#[test]
fn a_pod_has_its_uid_and_its_socket_lb_setting() {
    let pod = |annotations: &str| {
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p, namespace: shop, uid: 5b0f2a54, annotations: {annotations}}}\n"
        );
        let Object::Pod(pod) = yaml(&text).objects.remove(0).1 else { panic!("no pod") };
        (pod.uid.clone(), pod.socket_lb_off)
    };
    for (annotations, off) in [
        ("{}", false),
        ("{clustermesh.dev/socket-lb: 'off'}", true),
        ("{clustermesh.dev/socket-lb: 'OFF'}", true),
        // A text, as in YAML 1.2; kubectl sends `false`, which no API server takes.
        ("{clustermesh.dev/socket-lb: off}", true),
        ("{clustermesh.dev/socket-lb: 'on'}", false),
    ] {
        assert_eq!(pod(annotations), ("5b0f2a54".into(), off), "{annotations}");
    }
}

#[test]
fn json() {
    let text = r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"web","namespace":"shop"},
        "spec":{"clusterIP":"10.101.0.10","clusterIPs":["10.101.0.10","fd00:100:1::10"],"selector":{"app":"web"},
        "ports":[{"name":"http","port":80,"targetPort":"http"},{"name":"dns","port":53,"protocol":"UDP","targetPort":5353}]}}"#;
    let decoded = decode(Format::Json, text);
    let Object::Service(service) = &decoded.objects[0].1 else { panic!("no service") };
    assert_eq!(service.cluster_ips.len(), 2);
    assert_eq!(service.ports[0].target, TargetPort::Name("http".into()));
    assert_eq!(service.ports[1].target, TargetPort::Number(5353));
    assert_eq!(decode(Format::Json, "{\n\"kind\": }").broken[0].line, 2);
    assert_eq!(decode(Format::Json, "\n"), Decoded::default());
}

#[test]
fn a_broken_document_has_its_line_and_affects_no_other() {
    let text = format!(
        "{NODE}---\napiVersion: v1\nkind: Pod\nmetadata: [\n---\n{}",
        NODE.replace("n1", "n2")
    );
    let decoded = decode(Format::Yaml, &text);
    assert_eq!((decoded.objects.len(), decoded.broken.len()), (2, 1));
    let broken = &decoded.broken[0];
    assert!((9..=13).contains(&broken.line), "{broken}");
    assert!(broken.reason.starts_with("document 2: not YAML: "), "{broken}");
    assert!(decoded.whole().is_err());
    for text in ["a: [", "just text", "- a\n- b"] {
        let broken = decode(Format::Yaml, text).broken;
        assert_eq!(broken.len(), 1, "{text}");
        assert!(!broken[0].reason.contains("document"), "there is one: {}", broken[0]);
    }
}

#[test]
fn an_invalid_object_is_rejected_alone() {
    let service = |spec: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop}}\nspec: {spec}\n"
        )
    };
    for (text, says) in [
        (service("{ports: [{port: 80}]}"), "line 1: Service shop/web: it has no clusterIP"),
        (
            service("{clusterIP: 10.0.0.x, ports: [{port: 80}]}"),
            "spec.clusterIP: \"10.0.0.x\" is not an IP address",
        ),
        (
            service("{clusterIP: None, ports: [{port: 80, protocol: QUIC}]}"),
            "\"QUIC\" is not a protocol",
        ),
        (
            service("{clusterIP: None, sessionAffinity: Cookie}"),
            "sessionAffinity \"Cookie\": it is None or ClientIP",
        ),
        (
            service(
                "{clusterIP: None, sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}}",
            ),
            "timeoutSeconds 0: it is 1 to 86400",
        ),
        (
            service(
                "{clusterIP: None, sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 86401}}}",
            ),
            "timeoutSeconds 86401: it is 1 to 86400",
        ),
        (
            service("{clusterIP: None, internalTrafficPolicy: Nearest}"),
            "internalTrafficPolicy \"Nearest\": it is Cluster or Local",
        ),
        (
            service("{clusterIP: None, trafficDistribution: Nearest}"),
            "trafficDistribution \"Nearest\": it is PreferSameZone, PreferSameNode or PreferClose",
        ),
        (
            service("{clusterIP: None, ipFamilies: [IPv5]}"),
            "ipFamilies \"IPv5\": each is IPv4 or IPv6",
        ),
        (NODE.replace("v1", "v2"), "apiVersion \"v2\""),
        (NODE.replace("n1,", "'',"), "no metadata.name"),
        (NODE.replace("172.31.1.1", "x"), "\"x\" is not an IP address"),
    ] {
        let decoded = yaml(&format!("{text}---\n{NODE}"));
        assert_eq!(decoded.objects.len(), 1, "{text}");
        let problem = decoded.rejected[0].to_string();
        assert!(problem.contains(says), "{problem}");
    }
}

#[test]
fn invalid_cilium_objects_are_rejected_alone() {
    let object =
        |kind: &str, rest: &str| format!("apiVersion: cilium.io/v2\nkind: {kind}\n{rest}\n");
    let node = |spec: &str| object("CiliumNode", &format!("metadata: {{name: n1}}\nspec: {spec}"));
    let endpoint = |status: &str| {
        object(
            "CiliumEndpoint",
            &format!("metadata: {{name: p, namespace: shop}}\nstatus: {status}"),
        )
    };
    for (text, says) in [
        (node("{addresses: [{type: InternalIP, ip: x}]}"), "CiliumNode n1: \"x\" is not an IP address"),
        (node("{ipam: {podCIDRs: [10.0.0.0/33]}}"), "\"10.0.0.0/33\" is not a CIDR"),
        (node("{health: {ipv4: y}}"), "\"y\" is not an IP address"),
        (node("{encryption: {key: 256}}"), "encryption.key 256: it is 0 to 255"),
        (object("CiliumIdentity", "metadata: {name: x}"), "its name is not an identity ID"),
        (object("CiliumIdentity", "metadata: {name: '0458753'}"), "its name is not an identity ID"),
        (object("CiliumIdentity", "metadata: {name: '4294967296'}"), "its name is not an identity ID"),
        (endpoint("{identity: {id: -1}}"), "-1 is not an identity ID"),
        (endpoint("{networking: {node: n1}}"), "\"n1\" is not an IP address"),
        (object("CiliumEndpointSlice", "metadata: {name: s}"), "only cilium.io/v2alpha1 is supported"),
        (
            "apiVersion: cilium.io/v2alpha1\nkind: CiliumEndpointSlice\nmetadata: {name: s}\n".into(),
            "it has no namespace",
        ),
        (
            "apiVersion: cilium.io/v2alpha1\nkind: CiliumEndpointSlice\nmetadata: {name: s}\nnamespace: shop\nendpoints: [{name: p, encryption: {key: -1}}]\n".into(),
            "endpoint \"p\": encryption.key -1",
        ),
    ] {
        let decoded = yaml(&format!("{text}---\n{NODE}"));
        assert_eq!(decoded.objects.len(), 1, "{text}");
        let problem = decoded.rejected[0].to_string();
        assert!(problem.contains(says), "{problem}");
    }
}

#[test]
fn other_kinds_are_ignored_without_decoding() {
    let text = format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNode\nmetadata: {{name: n1}}\nspec: 7\n---\n{NODE}"
    );
    let decoded = decode_kinds(&Kind::KUBERNETES, Format::Yaml, &text);
    assert_eq!((decoded.objects.len(), decoded.rejected.len()), (1, 0));
    let of = PassedOver::Kind("CiliumNode".into());
    assert_eq!(decoded.passed_over.get(&of), Some(&Places { line: 1, count: 1 }));
    assert_eq!(decode(Format::Yaml, &text).rejected.len(), 1);
}

/// An object as a YAML document, as JSON, and as an item of a List in both formats.
fn formats(object: &str) -> [(&'static str, Decoded); 4] {
    let value = tree::read(Format::Yaml, object).unwrap().unwrap();
    let item = object.replace('\n', "\n  ");
    [
        ("YAML", decode(Format::Yaml, object)),
        ("YAML List", decode(Format::Yaml, &format!("kind: List\nitems:\n- {item}\n"))),
        ("JSON", decode(Format::Json, &value.to_string())),
        ("JSON List", decode(Format::Json, &format!("{{\"kind\":\"List\",\"items\":[{value}]}}"))),
    ]
}

#[test]
fn a_mistake_has_the_same_message_in_each_format_and_names_its_field() {
    let service = |spec: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop}}\nspec: {spec}\n"
        )
    };
    let ports = |ports: &str| service(&format!("{{clusterIP: 10.101.0.10, ports: {ports}}}"));
    let pod = |metadata: &str, rest: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p, namespace: shop, {metadata}}}\n{rest}\n"
        )
    };
    let slice = |labels: &str, rest: &str| {
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: s, namespace: shop, labels: {labels}}}\n{rest}\n"
        )
    };
    let of_web = "{kubernetes.io/service-name: web}";
    let endpoints = |ports: &str| {
        format!(
            "apiVersion: v1\nkind: Endpoints\nmetadata: {{name: web, namespace: shop}}\nsubsets: [{{addresses: [{{ip: 10.1.1.1}}], ports: {ports}}}]\n"
        )
    };
    for (object, says) in [
        // Wrong types.
        (
            pod("labels: {version: 1.0}", ""),
            "Pod shop/p: metadata.labels.version: 1.0 is not a text, in quotes",
        ),
        (
            pod("annotations: {a: true}", ""),
            "Pod shop/p: metadata.annotations.a: true is not a text, in quotes",
        ),
        (
            pod("labels: [x]", ""),
            "Pod shop/p: metadata.labels: [\"x\"] is not an object with fields",
        ),
        (
            pod("", "spec: {hostNetwork: 'true'}"),
            "Pod shop/p: spec.hostNetwork: \"true\" is not true or false, without quotes",
        ),
        (
            pod("", "spec: {hostNetwork: yes}"),
            "Pod shop/p: spec.hostNetwork: \"yes\" is not true or false",
        ),
        (pod("", "spec: {containers: {}}"), "Pod shop/p: spec.containers: {} is not a list"),
        (
            pod("", "status: {podIP: nonsense}"),
            "Pod shop/p: status.podIP: \"nonsense\" is not an IP address",
        ),
        (
            pod("", "spec: {containers: [{ports: [{containerPort: 0}]}]}"),
            "Pod shop/p: spec.containers[].ports[].containerPort 0: it is 1 to 65535",
        ),
        (
            pod("", "spec: {containers: [{ports: [{name: x}]}]}"),
            "Pod shop/p: spec.containers[0].ports[0]: it has no containerPort",
        ),
        (
            ports("[{port: '80'}]"),
            "Service shop/web: spec.ports[0].port: \"80\" is not a whole number, without quotes",
        ),
        // What an API server would refuse.
        (ports("[{port: 0}]"), "Service shop/web: spec.ports[0].port 0: it is 1 to 65535"),
        (ports("[{port: 70000}]"), "Service shop/web: spec.ports[0].port 70000: it is 1 to 65535"),
        (
            ports("[{port: 80, targetPort: 70000}]"),
            "Service shop/web: spec.ports[0].targetPort 70000: it is 1 to 65535",
        ),
        (
            ports("[{port: 80, targetPort: '3000'}]"),
            "Service shop/web: spec.ports[0].targetPort \"3000\": the name of a port is at most 15 of a-z, 0-9 and -, with a letter among them; a number is written without quotes",
        ),
        (
            ports("[{port: 80, targetPort: true}]"),
            "Service shop/web: spec.ports[0].targetPort: true is neither a number nor a name",
        ),
        (
            ports("[{port: 80, protocol: tcp}]"),
            "Service shop/web: spec.ports[0].protocol: \"tcp\" is not a protocol: it is TCP, UDP or SCTP",
        ),
        (
            ports("[{port: 80, targetPort: 8080}, {port: 81, targetPort: 9090}]"),
            "Service shop/web: spec.ports[0].name: each of several ports needs a name",
        ),
        (
            ports("[{port: 53, protocol: UDP}, {port: 53}]"),
            "Service shop/web: spec.ports[0].name: each of several ports needs a name",
        ),
        (
            ports("[{name: a, port: 80}, {name: a, port: 81}]"),
            "Service shop/web: spec.ports[1].name \"a\": another port has that name",
        ),
        (
            ports("[{name: a, port: 80}, {name: b, port: 80}]"),
            "Service shop/web: spec.ports[1].port: 80/TCP occurs twice",
        ),
        (
            ports("[{name: a/b, port: 80}]"),
            "Service shop/web: spec.ports[0].name \"a/b\": it is at most 63 of a-z, 0-9 and -, and begins and ends with a letter or digit",
        ),
        (service("{clusterIP: 10.101.0.10}"), "Service shop/web: spec.ports: it needs one"),
        (
            service("{clusterIP: 10.101.0.10, port: 80}"),
            "Service shop/web: spec.port: did you mean ports?",
        ),
        (
            ports("[{port: 80}]").replace("name: web", "name: a/b"),
            "Service shop/a/b: metadata.name \"a/b\": it is at most 63 of a-z, 0-9 and -, and begins and ends with a letter or digit",
        ),
        (
            slice("{}", "addressType: IPv4"),
            "EndpointSlice shop/s: metadata.labels: without kubernetes.io/service-name it belongs to no service",
        ),
        (
            slice(of_web, "endpoints: []"),
            "EndpointSlice shop/s: it has no addressType: it is IPv4, IPv6 or FQDN",
        ),
        (
            slice(of_web, "addressType: ipv4"),
            "EndpointSlice shop/s: addressType \"ipv4\": it is IPv4, IPv6 or FQDN",
        ),
        (
            slice(of_web, "addressType: IPv4\nendpoints: [{adresses: [10.1.1.1]}]"),
            "EndpointSlice shop/s: endpoints[0].adresses: did you mean addresses?",
        ),
        (
            slice(of_web, "addressType: IPv4\nendpoints: [{}]"),
            "EndpointSlice shop/s: endpoints[0].addresses: it needs one",
        ),
        (
            slice(of_web, "addressType: IPv4\nports: [{port: 0}]"),
            "EndpointSlice shop/s: ports[0].port 0: it is 1 to 65535",
        ),
        (
            slice(of_web, "addressType: IPv4\nports: [{port: 80, protocol: tcp}]"),
            "EndpointSlice shop/s: ports[0].protocol: \"tcp\" is not a protocol: it is TCP, UDP or SCTP",
        ),
        (
            slice(of_web, "addressType: IPv4\nports: [{port: 80}, {port: 81}]"),
            "EndpointSlice shop/s: ports[1].name \"\": another port has that name",
        ),
        (
            slice(of_web, "addressType: IPv4\nports: [{name: a/b, port: 80}]"),
            "EndpointSlice shop/s: ports[0].name \"a/b\": it is at most 63 of a-z, 0-9 and -, and begins and ends with a letter or digit",
        ),
        // An unnamed port beside a named one.
        (
            ports("[{name: http, port: 80}, {port: 81}]"),
            "Service shop/web: spec.ports[1].name: each of several ports needs a name",
        ),
        (
            endpoints("[{name: http, port: 80}, {port: 81}]"),
            "Endpoints shop/web: subsets[0].ports[1].name: each of several ports needs a name",
        ),
        (
            endpoints("[{name: a, port: 80}, {name: a, port: 81}]"),
            "Endpoints shop/web: subsets[0].ports[1].name \"a\": another port has that name",
        ),
        (
            "apiVersion: v1\nkind: Endpoints\nmetadata: {name: web, namespace: shop}\nsubsets: [{ports: [{port: 80}]}]\n".into(),
            "Endpoints shop/web: subsets[0].addresses: it needs one",
        ),
        // Labels become parts of identities.
        (
            pod("labels: {'a b': x}", ""),
            "Pod shop/p: metadata.labels \"a b\": it is at most 63 letters, digits, -, _ and ., and begins and ends with a letter or digit; a domain and / may precede it",
        ),
        (
            pod("labels: {app: 'x;k8s:io.cilium.k8s.policy.cluster=b'}", ""),
            "Pod shop/p: metadata.labels.app: \"x;k8s:io.cilium.k8s.policy.cluster=b\": a value is at most 63 letters, digits, -, _ and ., and begins and ends with a letter or digit",
        ),
        (
            pod("annotations: {'a/b/c': x}", ""),
            "Pod shop/p: metadata.annotations \"a/b/c\": it is at most 63 letters, digits, -, _ and ., and begins and ends with a letter or digit; a domain and / may precede it",
        ),
        (
            service("{clusterIP: None, selector: {app: -x}}"),
            "Service shop/web: spec.selector.app: \"-x\": a value is at most 63 letters, digits, -, _ and ., and begins and ends with a letter or digit",
        ),
        // Numbers of any size, and infinite ones.
        (
            ports("[{port: 99999999999999999999999999}]"),
            "Service shop/web: spec.ports[0].port: 1e+26 is not a whole number",
        ),
        (
            ports("[{port: .inf}]"),
            "Service shop/web: spec.ports[0].port: \".inf\" is not a whole number",
        ),
        // A list instead of an object.
        (pod("", "spec: [n1]"), "Pod shop/p: spec: a list is not an object with fields"),
        (
            "apiVersion: v1\nkind: SERVICE\nmetadata: {name: web, namespace: shop}\n".into(),
            "SERVICE shop/web: kind: did you mean Service?",
        ),
        (
            "apiVersion: v1\nkind: Servcie\nmetadata: {name: web, namespace: shop}\n".into(),
            "Servcie shop/web: kind: did you mean Service?",
        ),
    ] {
        for (form, decoded) in formats(&object) {
            assert_eq!((decoded.objects.len(), decoded.broken.len()), (0, 0), "{form} {object}");
            let reasons: Vec<&str> =
                decoded.rejected.iter().map(|p| p.reason.trim_start_matches("item 0: ")).collect();
            assert_eq!(reasons, [says], "{form} {object}");
            assert!(form.contains("List") == decoded.rejected[0].reason.starts_with("item 0: "));
        }
    }
}

#[test]
fn null_and_empty_values_count_as_absent_in_each_format() {
    let pod = |spec: &str, status: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p, namespace: shop, labels: null}}\nspec: {spec}\nstatus: {status}\n"
        )
    };
    let service = |spec: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop}}\nspec: {{clusterIP: None, {spec}}}\n"
        )
    };
    for (object, same) in [
        (pod("{hostNetwork: null, containers: null}", "{podIP: '', podIPs: null}"), pod("{}", "{}")),
        (service("publishNotReadyAddresses: null, ports: null, selector: null"), service("")),
        (
            "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\nspec: {podCIDR: '', podCIDRs: null}\n".into(),
            "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\n".into(),
        ),
    ] {
        let [(_, expected), ..] = formats(&same);
        assert_eq!(expected.objects.len(), 1, "{same}");
        for (form, decoded) in formats(&object) {
            assert_eq!(decoded.rejected, [], "{form} {object}");
            assert_eq!(decoded.objects[0].1, expected.objects[0].1, "{form} {object}");
        }
    }
}

#[test]
fn a_duplicate_field_rejects_its_object() {
    let twice = "{\"apiVersion\":\"v1\",\"kind\":\"Namespace\",\"metadata\":{\"name\":\"a\",\"labels\":{\"x\":\"1\",\"x\":\"2\"}}}";
    let good = twice.replace("\"a\"", "\"b\"").replace("\"x\":\"1\",", "");
    let list = format!("{{\"kind\":\"List\",\"items\":[{twice},{good}]}}");
    for (format, text) in [
        (Format::Json, list.clone()),
        (Format::Yaml, list),
        (Format::Yaml, format!("{twice}\n---\n{good}")),
    ] {
        let decoded = decode(format, &text);
        assert_eq!(
            (decoded.objects.len(), decoded.rejected.len(), decoded.broken.len()),
            (1, 1, 0),
            "{text}"
        );
        let reason = &decoded.rejected[0].reason;
        assert!(reason.ends_with("Namespace a: metadata.labels.x occurs twice"), "{reason}");
    }
}

#[test]
fn a_slice_may_have_a_port_without_a_name_beside_others() {
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s, namespace: shop, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\nports: [{name: http, port: 80}, {port: 81}]\n";
    for (form, decoded) in formats(slice) {
        assert_eq!((decoded.objects.len(), decoded.rejected.len()), (1, 0), "{form}");
    }
}

/// These do not affect objects, and other programs write them.
#[test]
fn byte_order_marks_carriage_returns_directives_and_ends_are_accepted() {
    let one = "apiVersion: v1\nkind: Namespace\nmetadata: {name: one}\n";
    let two = one.replace("one", "two");
    for (text, objects) in [
        (format!("\u{feff}{one}"), 1),
        (format!("{one}---\n{two}").replace('\n', "\r\n"), 2),
        (format!("%YAML 1.2\n---\n{one}"), 1),
        (format!("# first\n%YAML 1.1\n%TAG ! !x\n--- # here\n{one}...\n%YAML 1.2\n---\n{two}"), 2),
        (format!("{one}...\n{two}...\n"), 2),
        (format!("---\n---\n# none\n---\n{one}---\nnull\n---\n~\n---\n"), 1),
        (
            "kind: List\nitems: [&a {apiVersion: v1, kind: Namespace, metadata: &m {name: one}}, {apiVersion: v1, kind: Namespace, metadata: {<<: *m, name: two}}]\n".to_owned(),
            2,
        ),
    ] {
        let decoded = decode(Format::Yaml, &text);
        assert_eq!(decoded.broken, [], "{text}");
        assert_eq!((decoded.objects.len(), decoded.rejected.len()), (objects, 0), "{text}");
    }
    let json = r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"one"}}"#;
    assert_eq!(decode(Format::Json, &format!("\u{feff}{json}\r\n")).objects.len(), 1);
}

/// A wrong item of a List affects only itself, and unknown fields of a List are errors.
#[test]
fn everything_in_a_list_is_decoded_or_reported() {
    let good = r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"good"}}"#;
    for (bad, says) in [
        ("7", "item 0: 7 is not an object with fields"),
        ("null", "item 0: null is not an object with fields"),
        ("[\"v1\",\"Namespace\"]", "item 0: a list is not an object with fields"),
        (
            r#"{"apiVersion":"v1","kind":"Namespace","metadata":{}}"#,
            "item 0: Namespace: it has no metadata.name",
        ),
        (
            r#"{"apiVersion":"v1","kind":"Namespace","metadata":["bad"]}"#,
            "item 0: Namespace bad: metadata: a list is not an object with fields",
        ),
        (
            r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"web"},"spec":{"ports":[{"port":1e400}]}}"#,
            "item 0: Service default/web: spec.ports[0].port: \".inf\" is not a whole number",
        ),
    ] {
        let text = format!("{{\"kind\":\"List\",\"items\":[{bad},{good}]}}");
        for format in [Format::Json, Format::Yaml] {
            let decoded = decode(format, &text);
            assert_eq!((decoded.objects.len(), decoded.broken.len()), (1, 0), "{text}");
            let reasons: Vec<&str> = decoded.rejected.iter().map(|p| p.reason.as_str()).collect();
            assert_eq!(reasons, [says], "{text}");
        }
    }
    for (list, says) in [
        (format!("{{\"kind\":\"List\",\"itmes\":[{good}]}}"), "List: itmes: did you mean items?"),
        (
            format!("{{\"kind\":\"List\",\"items\":[{good}],\"items\":[]}}"),
            "List: items occurs twice",
        ),
    ] {
        let decoded = decode(Format::Json, &list);
        assert_eq!(decoded.rejected.first().map(|p| p.reason.as_str()), Some(says), "{list}");
    }
}

/// Messages are understandable, and have the position once.
#[test]
fn syntax_errors_do_not_have_the_parsers_words() {
    let bomb: String = ('b'..='h')
        .zip('a'..)
        .map(|(name, of)| format!("{name}: &{name} [{}]\n", vec![format!("*{of}"); 9].join(",")))
        .collect();
    let deep = format!("a: {}{}\n", "[".repeat(5_000), "]".repeat(5_000));
    for (format, text, says) in [
        (
            Format::Yaml,
            format!("a: &a [x]\n{bomb}"),
            "not read as YAML: its aliases expand to too many values",
        ),
        (Format::Yaml, deep, "not read as YAML: its values are nested too deeply"),
        (Format::Json, "a: 1".into(), "not JSON: expected value"),
        (Format::Json, "{} {}".into(), "not JSON: trailing characters"),
        (Format::Yaml, "a: *b".into(), "not YAML: alias references unknown anchor"),
    ] {
        let decoded = decode(format, &text);
        let reasons: Vec<&str> = decoded.broken.iter().map(|p| p.reason.as_str()).collect();
        assert_eq!(reasons, [says], "{}", text.chars().take(60).collect::<String>());
    }
}

#[test]
fn a_list_of_one_kind_gives_its_items_their_kind() {
    let text = "apiVersion: v1\nkind: PodList\nitems: [{metadata: {name: p, namespace: shop}}, {kind: Namespace, apiVersion: v1, metadata: {name: shop}}]\n";
    let keys: Vec<String> = yaml(text).objects.iter().map(|(_, o)| o.key().to_string()).collect();
    assert_eq!(keys, ["Pod shop/p", "Namespace shop"]);
}

#[test]
fn ignored_things_are_counted() {
    let names = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s, namespace: shop, labels: {kubernetes.io/service-name: web}}\naddressType: FQDN\n";
    let text =
        format!("kind: Deployment\n---\nkind: ServiceExport\n---\nkind: Deployment\n---\n{names}");
    let decoded = yaml(&text);
    let said: Vec<(String, usize, bool)> = decoded
        .passed_over
        .iter()
        .map(|(what, places)| (what.to_string(), places.count, what.is_mistake()))
        .collect();
    assert_eq!(
        said,
        [
            ("kind Deployment is not read".to_owned(), 2, false),
            (
                "kind ServiceExport is not read: a Service is exported by its annotation service.cilium.io/global: \"true\"".to_owned(),
                1,
                true,
            ),
            ("EndpointSlices of addressType FQDN are not exported: readers do not support host names".to_owned(), 1, false),
        ]
    );
}

/// Many pods may have the same wrong annotation, so it is reported once, with the number of pods.
#[test]
fn misspelt_annotations_of_pods_are_counted() {
    let object = |kind: &str, name: &str, annotations: &str, rest: &str| {
        let of = if kind == "EndpointSlice" { "discovery.k8s.io/v1" } else { "v1" };
        format!(
            "---\napiVersion: {of}\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: web}}, annotations: {annotations}}}\n{rest}\n"
        )
    };
    let text = [
        object("Pod", "a", "{clustermesh.dev/sockt-lb: 'off', example.org/x: y}", ""),
        object("Pod", "b", "{clustermesh.dev/sockt-lb: 'off'}", ""),
        object("Pod", "c", "{clustermesh.dev/socket-lb: 'none'}", ""),
        object("Pod", "d", "{clustermesh.dev/socket-lb: 'Off'}", ""),
        object("Pod", "e", &format!("{{clustermesh.dev/socket-lb: '{}'}}", "x".repeat(61)), ""),
        object("EndpointSlice", "s", "{service.cilium.io/global: 'true'}", "addressType: IPv4"),
    ];
    let said: Vec<(String, usize, bool)> = yaml(&text.concat())
        .passed_over
        .iter()
        .map(|(what, places)| (what.to_string(), places.count, what.is_mistake()))
        .collect();
    let long = "x".repeat(60);
    let long = format!("Pod: clustermesh.dev/socket-lb: \"{long}…\" is neither on nor off");
    let expected = [
        ("Pod: clustermesh.dev/socket-lb: \"none\" is neither on nor off", 1),
        (long.as_str(), 1),
        (
            "Pod: clustermesh.dev/sockt-lb is not a known annotation: did you mean clustermesh.dev/socket-lb?",
            2,
        ),
        ("EndpointSlice: service.cilium.io/global is an annotation of a Service", 1),
    ];
    assert_eq!(said, expected.map(|(what, count)| (what.to_owned(), count, false)));
}

#[test]
fn a_list_of_thousands_of_pods_is_read() {
    let pod = "- apiVersion: v1\n  kind: Pod\n  metadata: {name: p-N, namespace: shop, labels: {app: web, a: b, c: d}}\n  spec: {containers: [{ports: [{name: http, containerPort: 8080}]}]}\n  status: {podIP: 10.1.1.1, conditions: [{type: Ready, status: 'True'}]}\n";
    let items: String = (0..8_000).map(|n| pod.replace('N', &n.to_string())).collect();
    let list = format!("kind: List\nitems:\n{items}");
    assert!(list.len() > 10 * PIECE);
    let decoded = yaml(&list);
    assert_eq!(decoded, decode_in_pieces(Format::Yaml, &list, usize::MAX));
    let names = decoded.objects.into_iter().map(|(_, object)| object.key().name);
    assert!(names.eq((0..8_000).map(|n| format!("p-{n}").into())));
}

#[test]
fn many_items_are_decoded_in_their_order() {
    let round = r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"n@"}},{"kind":"Other"},{"kind":"Namespace"}"#;
    for (format, rounds) in
        [(Format::Yaml, 2), (Format::Json, 2), (Format::Yaml, 100), (Format::Json, 100)]
    {
        let items: Vec<String> = (0..rounds).map(|n| round.replace('@', &n.to_string())).collect();
        let list = format!("{{\"kind\":\"List\",\"items\":[{}]}}", items.join(","));
        let decoded = decode(format, &list);
        let names = decoded.objects.iter().map(|(line, object)| (*line, object.key().name));
        assert!(names.eq((0..rounds).map(|n| (1, format!("n{n}").into()))), "{decoded:?}");
        let reasons = decoded.rejected.iter().map(ToString::to_string);
        let said = |n| format!("line 1: item {}: Namespace: it has no metadata.name", 3 * n + 2);
        assert!(reasons.eq((0..rounds).map(said)), "{decoded:?}");
        let other = PassedOver::Kind("Other".into());
        assert_eq!(decoded.passed_over, [(other, Places { line: 1, count: rounds })].into());
    }
    const { assert!(3 * 2 < MANY && MANY < 3 * 100) };
}

#[test]
fn a_port_of_a_sidecar_has_its_name() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: shop}\nspec: {initContainers: [{restartPolicy: Always, ports: [{name: side, containerPort: 1}]}, {ports: [{name: once, containerPort: 2}]}], containers: [{ports: [{name: main, containerPort: 3}]}]}\n";
    let Object::Pod(pod) = yaml(text).objects.remove(0).1 else { panic!("no pod") };
    let ports: Vec<&str> = pod.template.named_ports.iter().map(|port| port.name.as_str()).collect();
    assert_eq!(ports, ["main", "side"]);
}

/// Many documents are decoded in parallel.
#[test]
fn many_documents_are_read_in_their_order() {
    let good = "apiVersion: v1\nkind: Namespace\nmetadata: {name: n@}\n";
    let round = [good, "kind: Other\n", "kind: [\n", good, "kind: Pod\n"].join("---\n") + "---\n";
    let text = |rounds: usize| -> String {
        (0..rounds).map(|n| round.replace('@', &n.to_string())).collect()
    };
    let [few, many] = [2, 100].map(|rounds| decode(Format::Yaml, &text(rounds)));
    const { assert!(5 * 2 < MANY && MANY < 5 * 100) };
    let lines = round.lines().count();
    let lines_of = |problems: &[DecodeProblem]| -> Vec<usize> {
        problems.iter().map(|problem| problem.line).collect()
    };
    for (decoded, rounds) in [(few, 2), (many, 100)] {
        let at = |line: usize| (0..rounds).map(move |n| n * lines + line);
        let objects: Vec<usize> = decoded.objects.iter().map(|(line, _)| *line).collect();
        let expected: Vec<usize> = at(1).zip(at(9)).flat_map(|(one, two)| [one, two]).collect();
        assert_eq!(objects, expected);
        assert_eq!(lines_of(&decoded.broken).len(), rounds);
        assert_eq!(lines_of(&decoded.rejected), at(13).collect::<Vec<_>>());
        let other = &decoded.passed_over[&PassedOver::Kind("Other".into())];
        assert_eq!((other.line, other.count), (5, rounds));
        assert!(decoded.broken.is_sorted_by_key(|problem| problem.line));
    }
}
