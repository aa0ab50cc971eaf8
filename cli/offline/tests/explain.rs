//! The backends that a cluster's clients use, from folders of clusters. The expected answers are written by hand, from
//! `docs/wire.md` ("Merging", "Annotations") and `docs/load-balancing.md`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "all of this is test code"
)]

use std::{fs, time::Duration};

use mesh_balance::Usage;
use mesh_labels::LabelFilter;
use mesh_model::ClusterName;
use mesh_offline::{
    Cluster, ClusterSetup, Content, ExplainedBackend, Options, ServiceQuery, Simulation,
    SimulationError, State, Unserved, parse_events, parse_time,
};
use mesh_source::Format;

/// A folder of clusters.
struct Mesh(tempfile::TempDir);

/// The annotations of a service, and further fields of its spec.
struct Service<'a> {
    annotations: &'a str,
    spec: &'a str,
}

const GLOBAL: &str = "service.cilium.io/global: 'true'";

impl Mesh {
    fn new(files: &[(&str, String)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Self(folder)
    }

    fn at(&self, from: &str, events: &str, at: &str) -> Simulation {
        self.of(from, None, events, at).unwrap()
    }

    /// The mesh as clients on a node of a cluster see it.
    fn of(
        &self,
        from: &str,
        node: Option<&str>,
        events: &str,
        at: &str,
    ) -> Result<Simulation, SimulationError> {
        let node = node.map(ToOwned::to_owned);
        let options = Options { node, ..Options::new(LabelFilter::new([]).unwrap()) };
        let state = State::read(self.0.path()).unwrap();
        let from = ClusterName::new(from).unwrap();
        let mut simulation = Simulation::new(state, &from, options).unwrap();
        let events = parse_events(Format::Json, events).unwrap();
        simulation.run(&events, parse_time(at).unwrap())?;
        Ok(simulation)
    }

    /// The mesh as a cluster sees it when a peer exports services v1 only.
    fn with_services_v1_of(&self, peer: &str, from: &str) -> Simulation {
        let name = |name: &str| ClusterName::new(name).unwrap();
        let options = Options::new(LabelFilter::new([]).unwrap());
        let mut state = State::read(self.0.path()).unwrap();
        let of_peer = state.clusters.get_mut(&name(peer)).unwrap();
        let Content::Objects(objects) = &of_peer.content else { panic!("{peer} has objects") };
        let setup = ClusterSetup::new(&of_peer.settings, options.filter.clone());
        let mut file = Cluster::new(setup, objects.objects.clone()).keys_file();
        file.entries.retain(|key, _| !key.starts_with("cilium/state/endpointslices/"));
        let config = file.entries.get_mut(&format!("cilium/cluster-config/{peer}")).unwrap();
        let text = String::from_utf8(config.clone()).unwrap();
        let mode = r#","endpointSlicesExportMode":"services-and-endpointslices""#;
        assert!(text.contains(mode), "{text}");
        *config = text.replace(mode, "").into_bytes();
        of_peer.content = Content::Keys(Box::new(file));
        Simulation::new(state, &name(from), options).unwrap()
    }

    /// Each frontend of `shop/web` with its backends: `in use | fallback | left out`.
    fn seen(&self, from: &str) -> Vec<String> {
        self.seen_at(from, "[]", "0s")
    }

    fn seen_at(&self, from: &str, events: &str, at: &str) -> Vec<String> {
        lines_of(&self.at(from, events, at), "shop/web")
    }
}

fn address(entry: &ExplainedBackend) -> String {
    let port = entry.port.map_or_else(|| "-".into(), |port| port.to_string());
    format!("{}:{port}", entry.address)
}

/// Services without a frontend, and refused records, each as `service frontend key why | backends`.
fn absent(simulation: &Simulation, wanted: Option<&str>) -> Vec<String> {
    let wanted = wanted.map(|wanted| ServiceQuery::parse(wanted).unwrap());
    let without = simulation.without_frontend(wanted.as_ref()).into_iter();
    let line = |unserved: Unserved| {
        let service = unserved.service.map_or_else(|| "-".into(), |service| service.to_string());
        let frontend = unserved.frontend.map_or_else(|| "-".into(), |f| f.to_string());
        let key = unserved.key.unwrap_or_else(|| "-".into());
        let backends: Vec<String> = unserved.backends.iter().map(address).collect();
        format!("{service} {frontend} {key} {} | {}", unserved.word, backends.join(", "))
    };
    without.chain(simulation.refused(wanted.as_ref())).map(line).collect()
}

fn lines_of(simulation: &Simulation, wanted: &str) -> Vec<String> {
    let wanted = ServiceQuery::parse(wanted).unwrap();
    let explained = simulation.explain(Some(&wanted));
    let line = |explained: &mesh_offline::ExplainedFrontend| {
        let of = |wanted: fn(Usage) -> bool, with_word: bool| {
            let entries = explained.entries.iter().filter(|entry| wanted(entry.usage));
            let entry = |entry: &ExplainedBackend| match with_word {
                true => format!("{} {}", address(entry), entry.word),
                false => address(entry),
            };
            entries.map(entry).collect::<Vec<_>>().join(", ")
        };
        format!(
            "{} = {} | {} | {}",
            explained.explanation.frontend,
            of(|usage| matches!(usage, Usage::InUse(_)), false),
            of(|usage| usage == Usage::Fallback, true),
            of(|usage| usage == Usage::LeftOut, true),
        )
    };
    explained.iter().map(line).collect()
}

/// The service `shop/web` of the cluster with ID `n`, with a port `http` and a slice of endpoints.
fn cluster(n: u8, service: &Service<'_>, endpoints: &str) -> String {
    let Service { annotations, spec } = service;
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: web, namespace: shop, annotations: {{{annotations}}}}}
spec: {{clusterIP: 10.10{n}.0.10, ports: [{{name: http, port: 80}}], {spec}}}
---
{}",
        slice(n, endpoints)
    )
}

fn slice(n: u8, endpoints: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-{n}, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
endpoints: [{endpoints}]
ports: [{{name: http, port: 8080}}]
"
    )
}

fn plain(annotations: &str) -> Service<'_> {
    Service { annotations, spec: "" }
}

fn ready(n: u8) -> String {
    format!("{{addresses: [10.{n}.0.1]}}")
}

#[test]
fn a_cluster_offers_what_is_shared_and_uses_others_if_it_is_global() {
    let unshared = format!("{GLOBAL}, service.cilium.io/shared: 'false'");
    let own = "10.1.0.1:8080";
    for (a, b, seen_by_a) in [
        ("", GLOBAL, format!("{own} |  | 10.2.0.1:8080 not-global")),
        (GLOBAL, GLOBAL, format!("{own}, 10.2.0.1:8080 |  | ")),
        (GLOBAL, unshared.as_str(), format!("{own} |  | 10.2.0.1:8080 not-shared")),
        (unshared.as_str(), GLOBAL, format!("{own}, 10.2.0.1:8080 |  | ")),
        (unshared.as_str(), unshared.as_str(), format!("{own} |  | 10.2.0.1:8080 not-shared")),
        (GLOBAL, "", format!("{own} |  | 10.2.0.1:8080 service-not-global")),
        (GLOBAL, "io.cilium/global-service: 'true'", format!("{own}, 10.2.0.1:8080 |  | ")),
        (
            GLOBAL,
            "service.cilium.io/global: 'false', io.cilium/global-service: 'true'",
            format!("{own} |  | 10.2.0.1:8080 service-not-global"),
        ),
    ] {
        let mesh = Mesh::new(&[
            ("a/x.yaml", cluster(1, &plain(a), &ready(1))),
            ("b/x.yaml", cluster(2, &plain(b), &ready(2))),
        ]);
        let expected = format!("10.101.0.10:80/TCP = {seen_by_a}");
        assert_eq!(mesh.seen("a"), [expected], "a: {a:?}, b: {b:?}");
    }
}

#[test]
fn namespaces_services_and_proxies_that_keep_a_cluster_out_are_named() {
    let namespace = |global: &str| {
        format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, annotations: {{clustermesh.cilium.io/global: '{global}'}}}}\n---\n"
        )
    };
    let web = |n| cluster(n, &plain(GLOBAL), &ready(n));
    let proxied = web(2).replace(
        "metadata: {name: web,",
        "metadata: {name: web, labels: {service.kubernetes.io/service-proxy-name: x},",
    );
    let left_out =
        |word: &str| vec![format!("10.101.0.10:80/TCP = 10.1.0.1:8080 |  | 10.2.0.1:8080 {word}")];
    let both = vec!["10.101.0.10:80/TCP = 10.1.0.1:8080, 10.2.0.1:8080 |  | ".to_owned()];
    for (b, settings, expected) in [
        (namespace("false") + &web(2), "", left_out("namespace-not-global")),
        (namespace("true") + &web(2), "defaultGlobalNamespace: false\n", both.clone()),
        (web(2), "defaultGlobalNamespace: false\n", left_out("namespace-not-global")),
        (slice(2, &ready(2)), "", left_out("no-service")),
        (proxied, "", left_out("foreign-proxy")),
        (
            web(2).replace("shop", "other"),
            "",
            vec!["10.101.0.10:80/TCP = 10.1.0.1:8080 |  | ".into()],
        ),
    ] {
        let mesh = Mesh::new(&[
            ("a/x.yaml", web(1)),
            ("b/x.yaml", b.clone()),
            ("b/cluster.yaml", settings.into()),
        ]);
        assert_eq!(mesh.seen("a"), expected, "{b}");
    }
    // The local namespace is not global, so only local backends are used.
    let mesh = Mesh::new(&[("a/x.yaml", namespace("false") + &web(1)), ("b/x.yaml", web(2))]);
    assert_eq!(
        mesh.seen("a"),
        ["10.101.0.10:80/TCP = 10.1.0.1:8080 |  | 10.2.0.1:8080 namespace-not-global"]
    );
    let reason = &mesh.at("a", "[]", "0s").explain(None)[0].entries[1].reason;
    assert!(reason.contains("namespace shop of cluster a is not global"), "{reason}");
    // Without a local service there is no frontend.
    let mesh = Mesh::new(&[("a/x.yaml", slice(1, &ready(1))), ("b/x.yaml", web(2))]);
    assert!(mesh.seen("a").is_empty());
}

#[test]
fn affinity_readiness_and_shutting_down_decide_in_that_order() {
    let with = |affinity: &str| format!("{GLOBAL}, service.cilium.io/affinity: {affinity}");
    let endpoint = |address: &str, conditions: &str| {
        format!("{{addresses: [{address}], conditions: {{{conditions}}}}}")
    };
    let (gone, leaving) =
        ("ready: false, serving: false", "ready: false, serving: true, terminating: true");
    let unknown = "";
    for (affinity, ours, theirs, expected) in [
        ("local", "ready: true", "ready: true", "10.1.0.1:8080 | 10.2.0.1:8080 later-tier | "),
        ("remote", "ready: true", "ready: true", "10.2.0.1:8080 | 10.1.0.1:8080 later-tier | "),
        ("none", "ready: true", "ready: true", "10.1.0.1:8080, 10.2.0.1:8080 |  | "),
        ("local", gone, "ready: true", "10.2.0.1:8080 |  | 10.1.0.1:8080 not-ready"),
        ("local", leaving, "ready: true", "10.2.0.1:8080 | 10.1.0.1:8080 terminating | "),
        ("remote", "ready: true", gone, "10.1.0.1:8080 |  | 10.2.0.1:8080 not-ready"),
        ("none", leaving, leaving, "10.1.0.1:8080, 10.2.0.1:8080 |  | "),
        ("none", gone, leaving, "10.2.0.1:8080 |  | 10.1.0.1:8080 not-ready"),
        ("none", unknown, "ready: true", "10.1.0.1:8080, 10.2.0.1:8080 |  | "),
        ("none", gone, gone, " |  | 10.1.0.1:8080 not-ready, 10.2.0.1:8080 not-ready"),
        ("nonsense", "ready: true", "ready: true", "10.1.0.1:8080, 10.2.0.1:8080 |  | "),
    ] {
        let mesh = Mesh::new(&[
            ("a/x.yaml", cluster(1, &plain(&with(affinity)), &endpoint("10.1.0.1", ours))),
            ("b/x.yaml", cluster(2, &plain(GLOBAL), &endpoint("10.2.0.1", theirs))),
        ]);
        let expected = format!("10.101.0.10:80/TCP = {expected}");
        assert_eq!(mesh.seen("a"), [expected], "{affinity}: {ours} / {theirs}");
    }
}

#[test]
fn ports_meet_by_name_protocol_and_family() {
    let service = |ports: &str, addresses: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop, annotations: {{{GLOBAL}}}}}\nspec: {{clusterIPs: [{addresses}], clusterIP: {}, ports: [{ports}]}}\n",
            addresses.split(',').next().unwrap()
        )
    };
    let slice = |name: &str, family: &str, address: &str, ports: &str| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}\naddressType: {family}\nendpoints: [{{addresses: ['{address}']}}]\nports: [{ports}]\n"
        )
    };
    let a = service(
        "{name: http, port: 80}, {name: dns, port: 53, protocol: UDP}",
        "10.101.0.10, 'fd00:101::10'",
    );
    let b = service("{name: web, port: 80}", "10.102.0.10")
        + &slice(
            "v4",
            "IPv4",
            "10.2.0.1",
            "{name: http, port: 8080}, {name: dns, port: 5353, protocol: UDP}",
        )
        + &slice("tcp", "IPv4", "10.2.0.2", "{name: dns, port: 53}")
        + &slice("other", "IPv4", "10.2.0.3", "{name: web, port: 8080}")
        + &slice("v6", "IPv6", "fd00:2::1", "{name: http, port: 8080}");
    let mesh = Mesh::new(&[("a/x.yaml", a), ("b/x.yaml", b)]);
    assert_eq!(
        mesh.seen("a"),
        [
            "10.101.0.10:53/UDP = 10.2.0.1:5353 |  | 10.2.0.2:53 other-port, 10.2.0.3:8080 other-port",
            "10.101.0.10:80/TCP = 10.2.0.1:8080 |  | 10.2.0.2:53 other-port, 10.2.0.3:8080 other-port",
            "[fd00:101::10]:53/UDP =  |  | fd00:2::1:8080 other-port",
            "[fd00:101::10]:80/TCP = fd00:2::1:8080 |  | ",
        ]
    );
    for (wanted, count) in [
        ("shop/web:80", 2),
        ("shop/web:dns", 2),
        ("shop/web:81", 0),
        ("web", 0),
        ("shop/web:80/TCP", 2),
        ("shop/web:80/tcp", 2),
        ("shop/web:http/TCP", 2),
        ("shop/web:80/UDP", 0),
        ("shop/web:53/UDP", 2),
    ] {
        assert_eq!(lines_of(&mesh.at("a", "[]", "0s"), wanted).len(), count, "{wanted}");
    }
    let names = |n: u8, name: &str| {
        let port = |number: u16| match name {
            "" => format!("{{port: {number}}}"),
            name => format!("{{name: {name}, port: {number}}}"),
        };
        service(&port(80), &format!("10.10{n}.0.10"))
            + &slice("s", "IPv4", &format!("10.{n}.0.1"), &port(8080))
    };
    // A port without a name matches every name, in slices as in services v1.
    for (ours, theirs, meet) in [
        ("http", "http", true),
        ("http", "", true),
        ("", "http", true),
        ("", "", true),
        ("http", "web", false),
    ] {
        let mesh = Mesh::new(&[("a/x.yaml", names(1, ours)), ("b/x.yaml", names(2, theirs))]);
        let expected = match meet {
            true => "10.101.0.10:80/TCP = 10.1.0.1:8080, 10.2.0.1:8080 |  | ",
            false => "10.101.0.10:80/TCP = 10.1.0.1:8080 |  | 10.2.0.1:8080 other-port",
        };
        assert_eq!(mesh.seen("a"), [expected], "{ours:?} and {theirs:?} in slices");
        let seen = lines_of(&mesh.with_services_v1_of("b", "a"), "shop/web");
        assert_eq!(seen, [expected], "{ours:?} and {theirs:?} in services v1");
    }
}

#[test]
fn weights_and_tiers_are_those_of_the_cluster_that_looks() {
    let weights = format!("{GLOBAL}, clustermesh.dev/weights: 'a=3,b=1,c=0'");
    let tiers = format!("{GLOBAL}, clustermesh.dev/tiers: 'c;a,b'");
    let web = |n, annotations: &str| cluster(n, &plain(annotations), &ready(n));
    let mesh = Mesh::new(&[
        ("a/x.yaml", web(1, &weights)),
        ("b/x.yaml", web(2, &tiers)),
        ("c/x.yaml", web(3, GLOBAL)),
    ]);
    assert_eq!(
        mesh.seen("a"),
        ["10.101.0.10:80/TCP = 10.1.0.1:8080, 10.2.0.1:8080 | 10.3.0.1:8080 weight-zero | "]
    );
    let simulation = mesh.at("a", "[]", "0s");
    let shares: Vec<u64> =
        simulation.explain(None)[0].entries.iter().map(|e| e.share().0).collect();
    assert_eq!(shares, [750_000_000, 250_000_000, 0]);
    assert_eq!(
        mesh.seen("b"),
        [
            "10.102.0.10:80/TCP = 10.3.0.1:8080 | 10.1.0.1:8080 later-tier, 10.2.0.1:8080 later-tier | "
        ]
    );
    assert_eq!(
        mesh.seen("c"),
        ["10.103.0.10:80/TCP = 10.1.0.1:8080, 10.2.0.1:8080, 10.3.0.1:8080 |  | "]
    );
}

#[test]
fn what_a_cluster_may_not_claim_is_refused_with_its_reason() {
    let web = |n| cluster(n, &plain(GLOBAL), &ready(n));
    let ranges =
        |n: u8| format!("id: {n}\npodCIDRs: [10.{n}.0.0/16]\nnodeCIDRs: [172.31.{n}.0/24]\n");
    let liar = cluster(2, &plain(GLOBAL), "{addresses: [10.2.0.1]}, {addresses: [10.1.0.9]}");
    let mesh = Mesh::new(&[
        ("a/cluster.yaml", ranges(1)),
        ("a/x.yaml", web(1)),
        ("b/cluster.yaml", ranges(2)),
        ("b/x.yaml", liar),
        ("c/cluster.yaml", ranges(1)),
        ("c/x.yaml", web(3)),
    ]);
    // b exports addresses outside of its ranges, and c has the local cluster's ID.
    let refused = [
        "- - - cluster-refused | ",
        "shop/web - cilium/state/endpointslices/v1/b/shop/web-2 refused | ",
    ];
    let mut found = absent(&mesh.at("a", "[]", "0s"), None);
    found.sort();
    assert_eq!(found, refused);
    let mut found = absent(&mesh.at("a", "[]", "0s"), Some("shop/web"));
    found.sort();
    assert_eq!(found, refused);
    assert!(
        !absent(&mesh.at("a", "[]", "0s"), Some("shop/other")).contains(&refused[1].to_owned()),
        "it is of another service"
    );
    let seen = mesh.seen("a");
    assert_eq!(
        seen,
        [
            "10.101.0.10:80/TCP = 10.1.0.1:8080 |  | 10.1.0.9:8080 refused, 10.2.0.1:8080 refused, 10.3.0.1:8080 cluster-refused"
        ]
    );
    let refusals = mesh.at("a", "[]", "0s").refusals().join("\n");
    assert!(refusals.contains("10.1.0.9/32 is ours"), "{refusals}");
    assert!(
        refusals.contains("cluster c is refused: the cluster has the local cluster's ID 1"),
        "{refusals}"
    );
}

#[test]
fn an_unreachable_cluster_is_valid_until_its_budget_is_spent() {
    let web = |n| cluster(n, &plain(GLOBAL), &ready(n));
    let mesh = Mesh::new(&[("a/x.yaml", web(1)), ("b/x.yaml", web(2)), ("c/x.yaml", web(3))]);
    let slice = |endpoints: &str| {
        format!(
            r#"{{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{{"name":"web-2","namespace":"shop","labels":{{"kubernetes.io/service-name":"web"}}}},"addressType":"IPv4","endpoints":[{endpoints}],"ports":[{{"name":"http","port":8080}}]}}"#
        )
    };
    let events = format!(
        r#"[{{"at":"20m","connect":"b"}},{{"at":"60s","disconnect":"b"}},{{"at":"2m","cluster":"b","apply":{}}},
            {{"at":"30m","remove":"b"}},{{"at":"40m","connect":"b"}},
            {{"at":"50m","cluster":"b","delete":{{"kind":"Service","metadata":{{"name":"web","namespace":"shop"}}}}}}]"#,
        slice(r#"{"addresses":["10.2.0.2"]}"#)
    );
    let before = "10.1.0.1:8080, 10.2.0.1:8080, 10.3.0.1:8080 |  | ";
    let after = "10.1.0.1:8080, 10.2.0.2:8080, 10.3.0.1:8080 |  | ";
    let gone = "10.1.0.1:8080, 10.3.0.1:8080 |  | ";
    for (at, expected) in [
        ("59s", before.to_owned()),
        ("60s", before.to_owned()),
        // It was deleted in b, but other clusters did not see that.
        ("2m", format!("{before}10.2.0.2:8080 not-heard")),
        ("15m59s", format!("{before}10.2.0.2:8080 not-heard")),
        ("16m", format!("{gone}10.2.0.1:8080 cluster-stale, 10.2.0.2:8080 cluster-stale")),
        ("20m", after.to_owned()),
        ("30m", format!("{gone}10.2.0.2:8080 removed")),
        ("40m", after.to_owned()),
        ("50m", format!("{gone}10.2.0.2:8080 no-service")),
    ] {
        let expected = format!("10.101.0.10:80/TCP = {expected}");
        assert_eq!(mesh.seen_at("a", &events, at), [expected], "{at}");
    }
    let simulation = mesh.at("a", &events, "16m");
    let stale = simulation.explain(None)[0]
        .entries
        .iter()
        .find(|e| e.word == "cluster-stale")
        .unwrap()
        .clone();
    assert_eq!(
        stale.reason,
        "stale: cluster b has been unreachable since 1m, and its staleness budget was spent at 16m"
    );
    // An unreachable cluster reaches no other, and uses its local backends.
    assert_eq!(
        mesh.seen_at("b", &events, "16m"),
        [
            "10.102.0.10:80/TCP = 10.2.0.2:8080 |  | 10.1.0.1:8080 cluster-stale, 10.3.0.1:8080 cluster-stale"
        ]
    );
    assert_eq!(
        mesh.seen_at("b", &events, "30m"),
        ["10.102.0.10:80/TCP = 10.2.0.2:8080 |  | 10.1.0.1:8080 removed, 10.3.0.1:8080 removed"]
    );
}

#[test]
fn what_is_drained_is_left_as_long_as_there_is_another() {
    let on = |n: u8, node: &str| format!("{{addresses: [10.{n}.0.1], nodeName: {node}}}");
    let node = "---\n{apiVersion: v1, kind: Node, metadata: {name: n1, annotations: {clustermesh.dev/drain: 'true'}}}\n";
    let drained = "10.101.0.10:80/TCP = 10.1.0.1:8080 | 10.2.0.1:8080 terminating | ";
    for (file, text) in [
        ("b/drain.yaml", "cluster: true\n".to_owned()),
        ("b/drain.yaml", "nodes: [n1]\n".to_owned()),
        ("b/node.yaml", node.to_owned()),
    ] {
        let mesh = Mesh::new(&[
            ("a/x.yaml", cluster(1, &plain(GLOBAL), &on(1, "n1"))),
            ("b/x.yaml", cluster(2, &plain(GLOBAL), &on(2, "n1"))),
            (file, text.clone()),
        ]);
        assert_eq!(mesh.seen("a"), [drained], "{file}: {text}");
    }
    let mesh =
        Mesh::new(&[("a/x.yaml", slice(1, &ready(1))), ("a/drain.yaml", "node: n1\n".into())]);
    let error = State::read(mesh.0.path()).unwrap_err().to_string();
    assert!(error.contains("a/drain.yaml: unknown field `node`"), "{error}");
}

#[test]
fn events_of_strangers_are_refused() {
    let web = cluster(1, &plain(GLOBAL), &ready(1));
    let keys = r#"{"cluster":{"name":"b","id":2},"entries":[]}"#;
    let mesh = Mesh::new(&[("a/x.yaml", web), ("b/keys.json", keys.into())]);
    let options = || Options::new(LabelFilter::new([]).unwrap());
    let name = |name: &str| ClusterName::new(name).unwrap();
    let run = |events: &str| {
        let state = State::read(mesh.0.path()).unwrap();
        let mut simulation = Simulation::new(state, &name("a"), options()).unwrap();
        let events = parse_events(Format::Json, events).unwrap();
        simulation.run(&events, Duration::from_secs(60)).map(|()| simulation.problems())
    };
    let error = run(r#"[{"at":"5m","disconnect":"x"}]"#).unwrap_err().to_string();
    assert!(
        error.contains("event at 5m (number 1 by time): there is no cluster x (there are: a, b)"),
        "{error}"
    );
    let error =
        run(r#"[{"at":"0s","cluster":"b","delete":{"kind":"Pod","metadata":{"name":"p"}}}]"#)
            .unwrap_err();
    assert!(error.to_string().contains("of b only keys are known"), "{error}");
    let problems =
        run(r#"[{"at":"0s","cluster":"a","delete":{"kind":"Pod","metadata":{"name":"p"}}}]"#)
            .unwrap();
    assert_eq!(problems, ["event at 0s (number 1 by time): cluster a has no Pod default/p"]);
    let state = State::read(mesh.0.path()).unwrap();
    let error = Simulation::new(state, &name("z"), options()).unwrap_err().to_string();
    assert_eq!(error, "--from: there is no cluster z (there are: a, b)");
}

#[test]
fn what_is_no_service_is_said() {
    for text in
        ["", "/web", "shop/", "a/b/c", "web:", "web:80/", "web:80/TCPX", "web:/TCP", "web:80/TCP/x"]
    {
        assert!(ServiceQuery::parse(text).is_err(), "{text:?}");
    }
}

/// Pods without the target port, endpoints without ports, and ports of SCTP are listed with their reasons, for the local
/// cluster and for others.
#[test]
fn whoever_has_no_port_for_a_frontend_is_listed() {
    let pod = |n: u8, name: &str, ports: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: web}}}}\nspec: {{nodeName: n1, containers: [{{name: c, image: i, ports: [{ports}]}}]}}\nstatus: {{podIP: 10.{n}.0.1, podIPs: [{{ip: 10.{n}.0.{}}}], conditions: [{{type: Ready, status: 'True'}}]}}\n",
            if name == "with" { 1 } else { 2 }
        )
        .replace(&format!("podIP: 10.{n}.0.1"), &format!("podIP: 10.{n}.0.{}", if name == "with" { 1 } else { 2 }))
    };
    let service = |n: u8| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop, annotations: {{{GLOBAL}}}}}\nspec: {{clusterIP: 10.10{n}.0.10, selector: {{app: web}}, ports: [{{name: http, port: 80, targetPort: http}}]}}\n"
        )
    };
    let http = "{name: http, containerPort: 8080}";
    let pods = |n: u8| service(n) + &pod(n, "with", http) + &pod(n, "without", "");
    let sctp =
        cluster(3, &plain(GLOBAL), &ready(3)).replace("port: 8080}", "port: 8080, protocol: SCTP}");
    let portless = cluster(4, &plain(GLOBAL), &ready(4))
        .replace("ports: [{name: http, port: 8080}]", "ports: []");
    let mesh = Mesh::new(&[
        ("a/x.yaml", pods(1)),
        ("b/x.yaml", pods(2)),
        ("c/x.yaml", sctp),
        ("d/x.yaml", portless),
    ]);
    assert_eq!(
        mesh.seen("a"),
        [
            "10.101.0.10:80/TCP = 10.1.0.1:8080, 10.2.0.1:8080 |  | 10.1.0.2:- no-port, 10.2.0.2:- no-port, 10.3.0.1:8080 sctp, 10.4.0.1:- no-port"
        ]
    );
}

/// Whatever has no frontend is listed with the reason: headless services, ports of SCTP, services of other clusters only,
/// and services of no cluster.
#[test]
fn what_has_no_frontend_is_listed_with_its_reason() {
    let headless =
        cluster(1, &plain(GLOBAL), &ready(1)).replace("clusterIP: 10.101.0.10", "clusterIP: None");
    let sctp = cluster(1, &plain(GLOBAL), "")
        .replace("name: web,", "name: signal,")
        .replace("service-name: web", "service-name: signal")
        .replace("web-1", "signal-1")
        .replace("port: 80}", "port: 38412, protocol: SCTP}");
    let alias = "---\napiVersion: v1\nkind: Service\nmetadata: {name: alias, namespace: shop}\nspec: {type: ExternalName, externalName: example.com}\n";
    let theirs = cluster(2, &plain(GLOBAL), &ready(2));
    let theirs = theirs.replace("web", "only").replace("10.102.0.10", "10.102.0.11");
    let mesh = Mesh::new(&[
        ("a/x.yaml", format!("{headless}---\n{sctp}{alias}")),
        ("b/x.yaml", cluster(2, &plain(GLOBAL), &ready(2)) + "---\n" + &theirs),
    ]);
    let simulation = mesh.at("a", "[]", "0s");
    let alias = "shop/alias - - external-name | ";
    let signal = "shop/signal 10.101.0.10:38412/SCTP - sctp | ";
    let web = "shop/web - - headless | 10.1.0.1:8080, 10.2.0.1:8080";
    assert_eq!(absent(&simulation, None), [alias, signal, web]);
    for (wanted, expected) in [
        ("shop/web", web),
        ("shop/web:80", web),
        ("shop/signal", signal),
        ("shop/signal:38412/SCTP", signal),
        ("shop/alias", alias),
        ("shop/only", "shop/only - - no-service | 10.2.0.1:8080"),
        ("shop/none", "shop/none - - no-service | "),
        ("shop/signal:80", "shop/signal - - no-frontend | "),
        ("shop/signal:38412/TCP", "shop/signal - - no-frontend | "),
    ] {
        assert_eq!(absent(&simulation, Some(wanted)), [expected], "{wanted}");
        assert!(lines_of(&simulation, wanted).is_empty(), "{wanted}");
    }
    let at_b = mesh.at("b", "[]", "0s");
    assert_eq!(absent(&at_b, None), Vec::<String>::new());
    let asked = ServiceQuery::parse("shop/alias").unwrap();
    let reason = &at_b.without_frontend(Some(&asked))[0].reason;
    assert_eq!(reason, "cluster b has no service shop/alias, so it does not use that of a");
}

/// Each cluster by what it has: no pod that the selector picks, none with an address, empty slices, no service.
#[test]
fn a_service_without_backends_says_what_each_cluster_has() {
    let selecting = |n: u8, selector: &str| {
        format!(
            "apiVersion: v1
kind: Service
metadata: {{name: web, namespace: shop, annotations: {{{GLOBAL}}}}}
spec: {{clusterIP: 10.10{n}.0.10, ports: [{{name: http, port: 80}}], selector: {selector}}}
"
        )
    };
    let pod = |labels: &str, status: &str| {
        format!(
            "---
apiVersion: v1
kind: Pod
metadata: {{name: web-1, namespace: shop, labels: {labels}}}
status: {status}
"
        )
    };
    let web = selecting(1, "{app: web, tier: front}");
    let both = "{app: web, tier: front}";
    let no_pod = "no pod in a matches app=web,tier=front in namespace shop";
    let no_address =
        "no pod in a that matches app=web,tier=front in namespace shop runs with an IPv4 address";
    let at_b = "b has no service shop/web";
    for (pods, says) in [
        (String::new(), Some(no_pod)),
        (pod("{app: web}", "{podIP: 10.1.1.1}"), Some(no_pod)),
        (pod(both, "{}"), Some(no_address)),
        (pod(both, "{phase: Succeeded, podIP: 10.1.1.1}"), Some(no_address)),
        (pod(both, "{podIP: 'fd00::1'}"), Some(no_address)),
        (pod(both, "{podIP: 10.1.1.1}"), None),
    ] {
        let mesh =
            Mesh::new(&[("a/x.yaml", web.clone() + &pods), ("b/cluster.yaml", "id: 2".into())]);
        let wanted = says.map(|says| format!("{says}; {at_b}"));
        assert_eq!(without_backends(&mesh.at("a", "[]", "0s")), wanted, "{pods}");
    }
    let empty = cluster(2, &plain(GLOBAL), "");
    let mesh = Mesh::new(&[("a/x.yaml", web), ("b/x.yaml", empty)]);
    let at_b = "b has service shop/web without endpoints";
    assert_eq!(without_backends(&mesh.at("a", "[]", "0s")), Some(format!("{no_pod}; {at_b}")));
    // The one that looks comes first.
    let from_b = without_backends(&mesh.at("b", "[]", "0s"));
    assert_eq!(from_b, Some(format!("{at_b}; {no_pod}")));
    // Of a cluster that is known by its keys, what it exports counts.
    let by_keys = without_backends(&mesh.with_services_v1_of("b", "a"));
    let exported = "b exports service shop/web without endpoints";
    assert_eq!(by_keys, Some(format!("{no_pod}; {exported}")));
}

fn without_backends(simulation: &Simulation) -> Option<String> {
    let wanted = ServiceQuery::parse("shop/web").unwrap();
    let [frontend] = simulation.explain(Some(&wanted)).try_into().unwrap();
    frontend.without_backends
}

/// The reason is the object's, in whichever cluster it is.
#[test]
fn a_service_whose_object_is_refused_is_listed_with_what_is_wrong() {
    let good = cluster(1, &plain(GLOBAL), "{addresses: [10.1.1.1]}");
    let bad = cluster(2, &plain("service.cilium.io/global: true"), "{addresses: [10.2.1.1]}");
    let mesh = Mesh::new(&[("a/web.yaml", good), ("b/web.yaml", bad)]);
    for from in ["a", "b"] {
        let simulation = mesh.at(from, "[]", "0s");
        for wanted in [Some("shop/web"), None] {
            assert_eq!(absent(&simulation, wanted), ["shop/web - - object-refused | "], "{from}");
        }
        let refused = &simulation.without_frontend(None)[0];
        assert_eq!(refused.cluster.as_str(), "b");
        let says = "metadata.annotations.service.cilium.io/global: true is not a text, in quotes";
        assert!(refused.reason.contains(says), "{}", refused.reason);
        assert!(refused.reason.contains("b/web.yaml:"), "{}", refused.reason);
    }
    assert_eq!(absent(&mesh.at("a", "[]", "0s"), Some("shop/api")).len(), 1);
}

fn zoned(name: &str) -> String {
    let zone = name.replace('n', "z");
    format!(
        "---\napiVersion: v1\nkind: Node\nmetadata: {{name: {name}, labels: {{topology.kubernetes.io/zone: {zone}}}}}\n"
    )
}

/// Nodes n1 and n2 of a, in zones z1 and z2, each with a backend; n3 in z3 has none.
#[test]
fn what_a_client_gets_depends_on_its_node() {
    let endpoints = "{addresses: [10.1.1.1], nodeName: n1, zone: z1, hints: {forZones: [{name: z1}]}}, \
        {addresses: [10.1.2.1], nodeName: n2, zone: z2, hints: {forZones: [{name: z2}]}}";
    let nodes = ["n1", "n2", "n3"].map(zoned).concat();
    let mesh = |annotations: &str, spec: &str| {
        let a = cluster(1, &Service { annotations, spec }, endpoints);
        let b = cluster(2, &plain(GLOBAL), "{addresses: [10.2.1.1], nodeName: n1}");
        Mesh::new(&[("a/web.yaml", a), ("a/nodes.yaml", nodes.clone()), ("b/web.yaml", b)])
    };
    let frontend = "10.101.0.10:80/TCP";
    let seen = |mesh: &Mesh, node: Option<&str>| {
        let simulation = mesh.of("a", node, "[]", "0s").unwrap();
        let wanted = ServiceQuery::parse("shop/web").unwrap();
        let locality = simulation.explain(Some(&wanted)).remove(0).explanation.locality;
        (lines_of(&simulation, "shop/web").remove(0), locality.unwrap_or_default())
    };
    let all = format!("{frontend} = 10.1.1.1:8080, 10.1.2.1:8080, 10.2.1.1:8080 |  | ");

    let stays = mesh(GLOBAL, "internalTrafficPolicy: Local");
    for (node, expected, says) in [
        (None, all.clone(), "it depends on the node which ones"),
        (
            Some("n1"),
            format!(
                "{frontend} = 10.1.1.1:8080 |  | 10.1.2.1:8080 other-node, 10.2.1.1:8080 other-node"
            ),
            "clients on node n1 get its backends, and those of other clusters",
        ),
        (
            Some("n3"),
            format!(
                "{frontend} =  |  | 10.1.1.1:8080 other-node, 10.1.2.1:8080 other-node, 10.2.1.1:8080 other-node"
            ),
            "clients on node n3 get its backends, and those of other clusters",
        ),
    ] {
        let (found, locality) = seen(&stays, node);
        assert_eq!(found, expected, "{node:?}");
        assert!(locality.contains(says), "{node:?}: {locality}");
    }
    // The setting is that of a's service: clients in b use all backends.
    assert_eq!(
        lines_of(&stays.of("b", Some("n1"), "[]", "0s").unwrap(), "shop/web"),
        ["10.102.0.10:80/TCP = 10.1.1.1:8080, 10.1.2.1:8080, 10.2.1.1:8080 |  | "]
    );

    let local = format!("{GLOBAL}, service.cilium.io/affinity: local");
    let auto = format!("{local}, service.kubernetes.io/topology-mode: Auto");
    for (annotations, spec) in [(&auto, ""), (&local, "trafficDistribution: PreferSameZone")] {
        let hinted = mesh(annotations, spec);
        for (node, expected, says) in [
            (
                Some("n2"),
                "10.1.2.1:8080 | 10.1.1.1:8080 hinted-elsewhere, 10.2.1.1:8080 later-tier | ",
                "clients in zone z2 get those that are meant for them",
            ),
            (
                Some("n3"),
                "10.1.1.1:8080, 10.1.2.1:8080 | 10.2.1.1:8080 later-tier | ",
                "no ready backend is for zone z3",
            ),
            (
                None,
                "10.1.1.1:8080, 10.1.2.1:8080 | 10.2.1.1:8080 later-tier | ",
                "it depends on the node",
            ),
        ] {
            let (found, locality) = seen(&hinted, node);
            assert_eq!(found, format!("{frontend} = {expected}"), "{node:?}");
            assert!(locality.contains(says), "{node:?}: {locality}");
        }
    }
    let error = stays.of("a", Some("n9"), "[]", "0s").unwrap_err().to_string();
    assert_eq!(error, "--node: cluster a has no node n9 (there are: n1, n2, n3)");
    assert_eq!(seen(&mesh(GLOBAL, ""), Some("n1")), (all, String::new()));
}

/// Two clusters report one address: the lowest ID has it.
#[test]
fn who_claims_a_backends_address_is_named() {
    let pod = |name: &str| {
        format!(
            "---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: shop, labels: {{app: web}}}}
spec: {{nodeName: n1}}
status: {{podIPs: [{{ip: 10.9.0.1}}], conditions: [{{type: Ready, status: 'True'}}]}}
"
        )
    };
    let of = |id: u8, name: &str, endpoints: &str| {
        let objects = cluster(id, &plain(GLOBAL), endpoints) + &pod(name);
        (format!("name: {name}\nid: {id}\n"), objects)
    };
    let (b_settings, b) = of(3, "b", "{addresses: [10.9.0.1]}");
    let (c_settings, c) = of(2, "c", "{addresses: [10.3.0.1]}");
    let mesh = Mesh::new(&[
        ("a/cluster.yaml", "name: a\nid: 1\n".into()),
        ("a/x.yaml", cluster(1, &plain(GLOBAL), &ready(1))),
        ("b/cluster.yaml", b_settings),
        ("b/x.yaml", b),
        ("c/cluster.yaml", c_settings),
        ("c/x.yaml", c),
    ]);
    let query = ServiceQuery::parse("shop/web").unwrap();
    let simulation = mesh.at("a", "[]", "0s");
    let explained = simulation.explain(Some(&query));
    let claimed: Vec<(String, Vec<String>)> = explained[0]
        .entries
        .iter()
        .map(|entry| (entry.address.to_string(), entry.claimed_by.clone()))
        .collect();
    let expected = [("10.1.0.1", vec![]), ("10.9.0.1", vec!["c", "b"]), ("10.3.0.1", vec![])];
    let expected =
        expected.map(|(ip, by)| (ip.to_owned(), by.into_iter().map(String::from).collect()));
    assert_eq!(claimed, expected);
    // Away for too long: its claim is the last.
    let events = r#"[{"at": "1s", "disconnect": "c"}]"#;
    let simulation = mesh.at("a", events, "16m");
    let explained = simulation.explain(Some(&query));
    let entry = explained[0].entries.iter().find(|entry| entry.cluster == "b").unwrap();
    assert_eq!(entry.claimed_by, ["b", "c"]);
}
