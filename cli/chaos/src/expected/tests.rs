use super::*;

const ECHO: &str = r#"
apiVersion: v1
kind: Service
metadata: { name: echo, namespace: shop, annotations: { service.cilium.io/global: "true" } }
spec:
  clusterIP: 10.101.0.10
  clusterIPs: [10.101.0.10, "fd00:100:1::a"]
  selector: { app: echo }
  ports:
    - { name: http, port: 80, targetPort: web }
    - { name: dns, port: 53, protocol: UDP }
"#;

fn pod(name: &str, ips: [&str; 2], ready: &str) -> String {
    format!(
        r#"
---
apiVersion: v1
kind: Pod
metadata: {{ name: {name}, namespace: shop, labels: {{ app: echo }} }}
spec: {{ nodeName: n1, containers: [{{ name: c, ports: [{{ name: web, containerPort: 8080 }}] }}] }}
status:
  phase: Running
  podIP: "{0}"
  podIPs: [{{ ip: "{0}" }}, {{ ip: "{1}" }}]
  conditions: [{{ type: Ready, status: "{ready}" }}]
"#,
        ips[0], ips[1]
    )
}

fn manifests(text: &str) -> Manifests {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("all.yaml"), text).unwrap();
    fs::write(folder.path().join(".swp.yaml"), "no: [manifest").unwrap();
    Manifests::read(folder.path()).unwrap()
}

fn shown(services: &Services) -> Vec<String> {
    let line =
        |((frontend, protocol), destinations): (&(SocketAddr, u8), &BTreeSet<Destination>)| {
            let to = destinations.iter().map(|d| format!("{}@{}", d.address, d.cluster));
            format!("{frontend}/{protocol}: {}", to.collect::<Vec<_>>().join(" "))
        };
    services.iter().map(line).collect()
}

#[test]
fn pods_of_all_clusters_by_port_name_and_family() {
    let local = manifests(&(ECHO.to_owned() + &pod("p", ["10.1.1.2", "fd00:10:1:1::2"], "True")));
    let other = ECHO.replace("10.101", "10.102").replace("::a", "::b");
    let other = other + &pod("p", ["10.2.1.2", "fd00:10:2:1::2"], "True");
    let other = manifests(&(other + &pod("q", ["10.2.1.3", "fd00:10:2:1::3"], "False")));
    assert_eq!(
        shown(&expected((1, &local), &[(2, &other)], "n1")),
        [
            "10.101.0.10:53/17: 10.1.1.2:53@1 10.2.1.2:53@2",
            "10.101.0.10:80/6: 10.1.1.2:8080@1 10.2.1.2:8080@2",
            "[fd00:100:1::a]:53/17: [fd00:10:1:1::2]:53@1 [fd00:10:2:1::2]:53@2",
            "[fd00:100:1::a]:80/6: [fd00:10:1:1::2]:8080@1 [fd00:10:2:1::2]:8080@2",
        ]
    );
    assert_eq!(shown(&expected((1, &local), &[], "n1"))[0], "10.101.0.10:53/17: 10.1.1.2:53@1");
}

#[test]
fn connections_that_stay_on_their_node_lead_to_it_alone() {
    let stays = ECHO.replace("spec:\n", "spec:\n  internalTrafficPolicy: Local\n");
    let here = pod("p", ["10.1.1.2", "fd00:10:1:1::2"], "True");
    let there = pod("q", ["10.1.2.2", "fd00:10:1:2::2"], "True").replace("n1", "n2");
    let local = manifests(&(stays + &here + &there));
    let other = ECHO.replace("10.101", "10.102").replace("::a", "::b");
    let other = manifests(&(other + &pod("p", ["10.2.1.2", "fd00:10:2:1::2"], "True")));
    for (node, address) in [("n1", "10.1.1.2"), ("n2", "10.1.2.2"), ("n3", "")] {
        let found = shown(&expected((1, &local), &[(2, &other)], node));
        let to = if address.is_empty() { "".into() } else { format!("{address}:8080@1") };
        assert_eq!(found[1], format!("10.101.0.10:80/6: {to}"), "{node}");
    }
}

#[test]
fn a_port_without_a_name_meets_any() {
    let one_port = |name: &str| {
        format!(
            r#"
apiVersion: v1
kind: Service
metadata: {{ name: echo, namespace: shop, annotations: {{ service.cilium.io/global: "true" }} }}
spec: {{ clusterIP: 10.101.0.10, ports: [{{ {name}port: 80 }}] }}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{ name: echo, namespace: shop, labels: {{ kubernetes.io/service-name: echo }} }}
addressType: IPv4
endpoints: [{{ addresses: [10.2.1.2] }}]
ports: [{{ {name}port: 8080 }}]
"#
        )
    };
    let [named, other, unnamed] =
        ["name: http, ", "name: web, ", ""].map(|name| manifests(&one_port(name)));
    for (local, theirs, meet) in [
        (&named, &named, true),
        (&named, &unnamed, true),
        (&unnamed, &named, true),
        (&unnamed, &unnamed, true),
        (&named, &other, false),
    ] {
        let found = expected((1, local), &[(2, theirs)], "n1");
        let theirs = found.values().flatten().filter(|to| to.cluster == 2).count();
        assert_eq!(theirs == 1, meet, "{found:?}");
    }
    // It has a name, if not the one that is looked for.
    let twice = one_port("name: web, ").replace(
        "ports: [{ name: web, port: 8080 }]",
        "ports: [{ name: web, port: 8080 }, { name: '', port: 8080 }]",
    );
    let found = expected((1, &named), &[(2, &manifests(&twice))], "n1");
    assert!(found.values().flatten().all(|to| to.cluster == 1), "{found:?}");
}

#[test]
fn what_is_withheld_is_its_own_clusters_alone() {
    let shares = manifests(ECHO);
    let namespace = |global: &str| {
        format!(
            "\n---\napiVersion: v1\nkind: Namespace\nmetadata: {{ name: shop, annotations: {{ clustermesh.cilium.io/global: \"{global}\" }} }}\n"
        )
    };
    for text in [
        ECHO.replace("service.cilium.io/global: \"true\"", "a: b"),
        ECHO.replace("global: \"true\"", "global: \"true\", service.cilium.io/shared: \"false\""),
        ECHO.to_owned() + &namespace("false"),
    ] {
        let text = text + &pod("p", ["10.1.1.2", "fd00:10:1:1::2"], "True");
        let withholds = manifests(&text);
        let local = expected((1, &withholds), &[(2, &shares)], "n1");
        let is_local = |to: &BTreeSet<Destination>| to.iter().all(|to| to.cluster == 1);
        assert!(
            local.len() == 4 && local.values().all(|to| to.len() == 1 && is_local(to)),
            "{text}"
        );
        let offered = expected((2, &shares), &[(1, &withholds)], "n1");
        assert!(offered.len() == 4 && offered.values().all(BTreeSet::is_empty), "{text}");
    }
}

/// What the first port of the first service leads to.
fn leads_to(local: &Manifests, others: &[(u16, &Manifests)], node: &str) -> String {
    let found = shown(&expected((1, local), others, node));
    let web = found.iter().find_map(|line| line.strip_prefix("10.101.0.10:80/6: "));
    web.unwrap_or_else(|| panic!("{found:?}")).to_owned()
}

const WEB: &str = r#"
apiVersion: v1
kind: Service
metadata: { name: web, namespace: shop, annotations: { service.cilium.io/global: "true" } }
spec:
  clusterIP: 10.101.0.10
  selector: { app: echo }
  ports: [{ name: http, port: 80, targetPort: web }]
"#;

fn node(name: &str, labels: &str, range: &str) -> String {
    format!(
        "
---
apiVersion: v1
kind: Node
metadata: {{ name: {name}, labels: {{ {labels} }} }}
spec: {{ podCIDRs: [{range}] }}
"
    )
}

/// Three nodes, of which two are in one zone and the third is in another.
fn zones() -> String {
    let zone = |zone: &str| format!("topology.kubernetes.io/zone: {zone}");
    node("n1", &zone("east"), "10.1.1.0/24")
        + &node("n2", &zone("east"), "10.1.2.0/24")
        + &node("n3", &zone("west"), "10.1.3.0/24")
}

/// A pod on a node.
fn pod_on(node: &str, last: &str, ready: &str) -> String {
    let name = format!("p-{node}-{last}");
    let v4 = format!("10.1.{}.{last}", node.trim_start_matches('n'));
    pod(&name, [&v4, "fd00::1"], ready).replace("nodeName: n1", &format!("nodeName: {node}"))
}

/// A slice of these endpoints, each as it is written.
fn slice(endpoints: &[&str]) -> String {
    format!(
        "
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{ name: web, namespace: shop, labels: {{ kubernetes.io/service-name: web }} }}
addressType: IPv4
endpoints: [{}]
ports: [{{ name: http, port: 8080 }}]
",
        endpoints.join(", ")
    )
}

fn asking(spec: &str) -> String {
    WEB.replace("spec:\n", &format!("spec:\n  {spec}\n"))
}

#[test]
fn another_clusters_backends_without_a_node_are_on_every_node() {
    let local = asking("internalTrafficPolicy: Local") + &pod_on("n1", "2", "True");
    let local = manifests(&local);
    let other = slice(&["{ addresses: [10.2.1.2], nodeName: n1 }", "{ addresses: [10.2.1.3] }"]);
    let other = manifests(&(WEB.replace("10.101", "10.102") + &other));
    for (node, expected) in [("n1", "10.1.1.2:8080@1 10.2.1.3:8080@2"), ("n2", "10.2.1.3:8080@2")] {
        assert_eq!(leads_to(&local, &[(2, &other)], node), expected, "{node}");
    }
}

#[test]
fn a_local_backend_without_a_node_is_on_the_one_that_has_its_address() {
    let text = asking("internalTrafficPolicy: Local")
        + &zones()
        + &node("n4", "", "10.1.2.128/25")
        + &slice(&[
            "{ addresses: [10.1.2.5] }, { addresses: [10.1.2.200] }, { addresses: [10.9.9.9] }",
        ]);
    let local = manifests(&text);
    for (node, expected) in [("n1", ""), ("n2", "10.1.2.5:8080@1"), ("n4", "10.1.2.200:8080@1")] {
        assert_eq!(leads_to(&local, &[], node), expected, "{node}");
    }
}

/// Pods of all three nodes, and another cluster's, which stays whatever is asked.
#[test]
fn clients_get_the_pods_that_are_meant_for_them() {
    let pods = pod_on("n1", "2", "True") + &pod_on("n2", "2", "True") + &pod_on("n3", "2", "True");
    let other = WEB.replace("10.101", "10.102") + &pod("o", ["10.2.1.2", "fd00::2"], "True");
    let other = manifests(&other);
    let [n1, n2, n3] = ["10.1.1.2:8080@1", "10.1.2.2:8080@1", "10.1.3.2:8080@1"];
    let east = [n1, n2].join(" ");
    let all = [n1, n2, n3].join(" ");
    let all = all.as_str();
    let nowhere = zones().replace("topology.kubernetes.io/zone", "rack");
    for (asked, nodes, at, expected) in [
        ("trafficDistribution: PreferSameZone", zones(), "n1", east.as_str()),
        ("trafficDistribution: PreferClose", zones(), "n3", n3),
        ("trafficDistribution: PreferSameNode", zones(), "n2", n2),
        // Its node has no pod, and its zone has.
        (
            "trafficDistribution: PreferSameNode",
            zones() + &node("n4", "topology.kubernetes.io/zone: west", "10.1.4.0/24"),
            "n4",
            n3,
        ),
        // Nothing is known of zones, or of this node's.
        ("trafficDistribution: PreferSameZone", nowhere, "n1", all),
        ("trafficDistribution: PreferSameZone", zones(), "n9", all),
        // No pod is hinted, and connections need not stay anywhere.
        ("internalTrafficPolicy: Cluster", zones(), "n1", all),
        // Local counts, and hints do not.
        ("internalTrafficPolicy: Local\n  trafficDistribution: PreferSameZone", zones(), "n1", n1),
    ] {
        let local = manifests(&(asking(asked) + &nodes + &pods));
        let remote = if asked.contains("Local") { "" } else { " 10.2.1.2:8080@2" };
        let found = leads_to(&local, &[(2, &other)], at);
        assert_eq!(found, format!("{expected}{remote}"), "{asked} on {at}");
    }
}

#[test]
fn a_ready_backend_without_a_hint_ends_all_hints() {
    let auto = |mode: &str| WEB.replace("annotations: {", &format!("annotations: {{ {mode},"));
    let mode = auto("service.kubernetes.io/topology-mode: Auto");
    let hinted = "{ addresses: [10.1.1.2], hints: { forZones: [{ name: east }] } }";
    let west = "{ addresses: [10.1.3.2], hints: { forZones: [{ name: west }] } }";
    let bare = "{ addresses: [10.1.2.2] }";
    let leaving =
        "{ addresses: [10.1.2.2], conditions: { ready: false, serving: true, terminating: true } }";
    let gone = "{ addresses: [10.1.2.2], conditions: { ready: false } }";
    let both = "10.1.1.2:8080@1 10.1.3.2:8080@1";
    for (service, endpoints, expected) in [
        (&mode, [hinted, west, ""], "10.1.1.2:8080@1"),
        (&mode, [hinted, west, bare], "10.1.1.2:8080@1 10.1.2.2:8080@1 10.1.3.2:8080@1"),
        (&mode, [hinted, west, leaving], "10.1.1.2:8080@1"),
        (&mode, [hinted, west, gone], "10.1.1.2:8080@1"),
        (&mode, [west, leaving, ""], "10.1.3.2:8080@1"),
        (&auto("service.kubernetes.io/topology-mode: Disabled"), [hinted, west, ""], both),
        (
            &auto("service.kubernetes.io/topology-aware-hints: auto"),
            [hinted, west, ""],
            "10.1.1.2:8080@1",
        ),
        // The older one counts.
        (
            &auto(
                "service.kubernetes.io/topology-aware-hints: no, service.kubernetes.io/topology-mode: Auto",
            ),
            [hinted, west, ""],
            both,
        ),
    ] {
        let endpoints: Vec<&str> = endpoints.into_iter().filter(|text| !text.is_empty()).collect();
        let local = manifests(&(service.clone() + &zones() + &slice(&endpoints)));
        assert_eq!(leads_to(&local, &[], "n1"), expected, "{endpoints:?}");
    }
}

#[test]
fn those_that_shut_down_are_for_when_none_is_ready() {
    let leaves = |pod: String| {
        pod.replace(
            "namespace: shop, labels",
            "namespace: shop, deletionTimestamp: 2026-01-01T00:00:00Z, labels",
        )
    };
    let ready = pod_on("n1", "2", "True");
    let leaving = leaves(pod_on("n1", "3", "True"));
    for (pods, expected) in [
        (ready.clone() + &leaving, "10.1.1.2:8080@1"),
        (leaving.clone(), "10.1.1.3:8080@1"),
        (leaves(pod_on("n1", "3", "False")), ""),
    ] {
        assert_eq!(leads_to(&manifests(&(WEB.to_owned() + &pods)), &[], "n1"), expected, "{pods}");
    }
    let local = asking("internalTrafficPolicy: Local") + &leaving + &pod_on("n2", "2", "True");
    assert_eq!(leads_to(&manifests(&local), &[], "n1"), "10.1.1.3:8080@1", "none is ready there");
}
