//! The world of the tables, and what the reference and the product answer in it, as short texts.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    dead_code,
    reason = "a test, of which each file uses a part"
)]

use std::{cell::RefCell, rc::Rc, sync::OnceLock};

use mesh_labels::LabelFilter;
use mesh_policy_kernel::{Engine, KernelError};
use mesh_policy_reference::{Answer, World as Reference, generate};
use mesh_verdict::{Entry, Flow, Reason, SharedJudge, Side, Verdict, VerdictOptions, World, judge};
use serde_json::{Value, json};

/// Made once: it consists of regular expressions.
fn filter() -> &'static LabelFilter {
    static FILTER: OnceLock<LabelFilter> = OnceLock::new();
    FILTER.get_or_init(|| LabelFilter::new([]).unwrap())
}

/// The world as the product has it.
pub(crate) fn product(line: &Value) -> World {
    let filter = filter();
    let options: VerdictOptions = serde_json::from_value(line["options"].clone()).unwrap();
    let mut world = World::new(options.over(mesh_policy::Options::default()), filter.clone());
    let entries: Vec<Entry> = serde_json::from_value(line["endpoints"].clone()).unwrap();
    world.add(&entries, |index| index.to_string()).unwrap();
    for (cluster, range) in generate::pod_ranges() {
        world.add_pod_range(&cluster, range);
    }
    let of = |one: &Value| one["cluster"].as_str().unwrap().to_owned();
    for service in line["services"].as_array().unwrap() {
        world.add_service_object(&of(service), &service["object"], "").unwrap();
    }
    world.link_services();
    for policy in line["policies"].as_array().unwrap() {
        let checked = mesh_policy_rules::parse(&policy["object"], filter).unwrap();
        world.put_policy(&of(policy), checked.policy.unwrap());
    }
    world
}

/// The kernel's programs as a judge, one for all tests of a thread; `None` without the rights to load them.
pub(crate) fn kernel() -> Option<SharedJudge> {
    thread_local! {
        static KERNEL: Option<SharedJudge> = match Engine::new() {
            Ok(engine) => Some(Rc::new(RefCell::new(engine))),
            Err(KernelError::NotPermitted) => {
                println!("skipped: the kernel's programs, which only root may load");
                None
            }
            Err(error) => panic!("{error}"),
        };
    }
    KERNEL.with(Clone::clone)
}

/// Egress and ingress, each as `<kind> <policies> <rule>`, or `-` where nothing is enforced.
pub(crate) type Shown = [String; 2];

fn shown(state: &str, kind: Option<&str>, policies: &[String], rule: Option<&String>) -> String {
    let Some(kind) = kind else { return "-".into() };
    let is_denied = kind.ends_with("deny") || kind == "deny-rule";
    assert_eq!(state, if is_denied { "denied" } else { "allowed" }, "{kind}");
    let parts = std::iter::once(kind).chain(policies.iter().map(String::as_str));
    parts.chain(rule.map(String::as_str)).collect::<Vec<_>>().join(" ")
}

pub(crate) fn by_product(world: &World, flow: &Value) -> Result<Shown, String> {
    let flow: Flow = serde_json::from_value(flow.clone()).unwrap();
    let Verdict { egress, ingress, decided_by, .. } =
        judge(world, &flow, "").map_err(|problem| format!("{problem:?}"))?;
    let shown = |side, reason: Option<Reason>| {
        let side = match side {
            Side::Allowed => "allowed",
            Side::Denied => "denied",
            Side::NotEnforced => "not-enforced",
        };
        match reason {
            None => shown(side, None, &[], None),
            Some(one) => shown(side, Some(&one.kind), &one.policies, one.rule.as_ref()),
        }
    };
    Ok([shown(egress, decided_by.egress), shown(ingress, decided_by.ingress)])
}

pub(crate) fn by_reference(world: &Reference, flow: &Value) -> Result<Shown, String> {
    let decision = world.judge(flow).map_err(|error| error.to_string())?;
    let shown = |Answer { state, kind, policies, rule }: Answer| {
        shown(state.as_str(), kind.map(|kind| kind.as_str()), &policies, rule.as_ref())
    };
    Ok([shown(decision.egress), shown(decision.ingress)])
}

/// Cluster east has pods web, db, proxy, starting, liar and boaster in the namespace default (web and proxy on node-1, proxy in host
/// networking, starting without labels yet, liar and boaster with labels that say that they are elsewhere), prod-web and prod-client in prod, dev-client in dev. Cluster west has west-web
/// in default and west-client in prod. bank, shop, bank6 and west-api are outside.
fn endpoints() -> Value {
    let pod = |cluster: &str, namespace: &str, name: &str, node: &str, ip: &str, labels: Value| {
        json!({
            "kind": "pod", "cluster": cluster, "namespace": namespace, "name": name, "node": node, "ip": ip,
            "labels": labels,
            "ports": [{ "name": "http", "containerPort": 8080 }, { "name": "dns", "containerPort": 53, "protocol": "UDP" }],
        })
    };
    let mut web = pod(
        "east",
        "default",
        "web",
        "node-1",
        "10.1.0.1",
        json!({ "app": "web", "role": "front" }),
    );
    web["ips"] = json!(["fd00:1::1"]);
    let mut client =
        pod("east", "prod", "prod-client", "node-2", "10.1.1.2", json!({ "app": "client" }));
    client["serviceAccount"] = "shopper".into();
    let mut proxy =
        pod("east", "default", "proxy", "node-1", "172.31.0.1", json!({ "app": "proxy" }));
    proxy["hostNetwork"] = true.into();
    let mut starting = pod("east", "default", "starting", "node-2", "10.1.0.9", json!({}));
    starting["identityLabels"] = json!({ "reserved:init": "" });
    let labels = json!({ "app": "liar", "io.cilium.k8s.namespace.labels.env": "prod" });
    let liar = pod("east", "default", "liar", "node-2", "10.1.0.3", labels);
    let mut boaster = pod("east", "default", "boaster", "node-2", "10.1.0.4", json!({}));
    boaster["identityLabels"] = json!([
        "k8s:app=boaster",
        "k8s:io.kubernetes.pod.namespace=default",
        "k8s:io.cilium.k8s.policy.cluster=east",
        "container:io.cilium.k8s.policy.serviceaccount=shopper",
        "unspec:io.cilium.k8s.namespace.labels.env=prod",
    ]);
    json!([
        { "kind": "namespace", "cluster": "east", "name": "prod", "labels": { "env": "prod" } },
        { "kind": "namespace", "cluster": "east", "name": "dev", "labels": { "env": "dev" } },
        { "kind": "namespace", "cluster": "west", "name": "prod", "labels": { "env": "prod" } },
        web,
        pod("east", "default", "db", "node-2", "10.1.0.2", json!({ "app": "db" })),
        proxy,
        starting,
        liar,
        boaster,
        pod("east", "prod", "prod-web", "node-2", "10.1.1.1", json!({ "app": "web" })),
        client,
        pod("east", "dev", "dev-client", "node-2", "10.1.2.1", json!({ "app": "client" })),
        pod("west", "default", "west-web", "west-node", "10.2.0.1", json!({ "app": "web" })),
        pod("west", "prod", "west-client", "west-node", "10.2.1.1", json!({ "app": "client" })),
        { "kind": "node", "cluster": "east", "name": "node-1", "ip": "172.31.0.1" },
        { "kind": "node", "cluster": "east", "name": "node-2", "ip": "172.31.0.2", "kubeAPIServer": true },
        { "kind": "node", "cluster": "west", "name": "west-node", "ip": "172.31.1.1" },
        { "kind": "external", "name": "bank", "ip": "203.0.113.7" },
        { "kind": "external", "name": "shop", "ip": "203.0.113.99" },
        { "kind": "external", "name": "bank6", "ip": "2001:db8::7" },
        { "kind": "external", "name": "west-api", "ip": "198.51.100.1", "kubeAPIServerOf": "west" },
        { "kind": "external", "name": "east-api", "ip": "198.51.100.2", "kubeAPIServerOf": "east" },
    ])
}

fn services() -> Value {
    let service = |name: &str, spec: Value| {
        let metadata = json!({ "namespace": "default", "name": name, "labels": { "of": name } });
        json!({ "cluster": "east", "object": { "apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec } })
    };
    let ports = json!([{ "port": 80, "protocol": "TCP" }]);
    json!([
        service("db", json!({ "clusterIP": "10.200.0.1", "selector": { "app": "db" }, "ports": ports })),
        service("bank", json!({ "clusterIP": "10.200.0.2", "ports": ports })),
        { "cluster": "east", "object": {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": { "namespace": "default", "name": "bank-1", "labels": { "kubernetes.io/service-name": "bank" } },
            "endpoints": [{ "addresses": ["203.0.113.7"] }],
            "ports": [{ "name": "", "port": 80, "protocol": "TCP" }],
        } },
    ])
}

/// Policies of cluster east, with these specs.
pub(crate) fn np(name: &str, spec: Value) -> Value {
    let metadata = json!({ "namespace": "default", "name": name });
    json!({ "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec })
}

pub(crate) fn cnp(name: &str, spec: Value) -> Value {
    let metadata = json!({ "namespace": "default", "name": name });
    json!({ "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": metadata, "spec": spec })
}

pub(crate) fn ccnp(name: &str, spec: Value) -> Value {
    let metadata = json!({ "name": name });
    json!({ "apiVersion": "cilium.io/v2", "kind": "CiliumClusterwideNetworkPolicy", "metadata": metadata, "spec": spec })
}

/// Rows of a table: `<from> > <to> <port>/<protocol>` (or `icmp:<type>`, or the name of a port), what egress says, and what
/// ingress says. Both the reference and the product must say so.
pub(crate) type Rows<'a> = &'a [(&'a str, &'a str, &'a str)];

pub(crate) fn check(policies: &[Value], rows: Rows<'_>) {
    check_with(json!({}), policies, rows);
}

pub(crate) fn check_with(options: Value, policies: &[Value], rows: Rows<'_>) {
    let policies = policies.iter().map(|object| json!({ "cluster": "east", "object": object }));
    let line = json!({
        "policies": policies.collect::<Vec<_>>(), "endpoints": endpoints(), "services": services(), "options": options,
    });
    let reference = Reference::new(&line, &generate::pod_ranges()).unwrap();
    let product = product(&line);
    let by_kernel = kernel().map(|kernel| {
        let mut world = self::product(&line);
        world.set_judge(kernel);
        world
    });
    for (text, egress, ingress) in rows {
        let flow = flow(text);
        let wanted = Ok([(*egress).to_owned(), (*ingress).to_owned()]);
        assert_eq!(by_reference(&reference, &flow), wanted, "the reference: {text}");
        assert_eq!(by_product(&product, &flow), wanted, "the product: {text}");
        if let Some(world) = &by_kernel {
            assert_eq!(by_product(world, &flow), wanted, "the kernel: {text}");
        }
    }
}

fn flow(text: &str) -> Value {
    let parts: Vec<&str> = text.split(' ').collect();
    let [from, ">", to, port] = parts[..] else { panic!("{text}") };
    let mut flow = json!({ "from": from, "to": to });
    match (port.split_once('/'), port.split_once(':')) {
        (Some((number, protocol)), _) => {
            flow["port"] = number.parse::<u16>().unwrap().into();
            flow["protocol"] = protocol.into();
        }
        (None, Some((protocol, kind))) => {
            flow["protocol"] = if protocol == "icmp" { "ICMP" } else { "ICMPv6" }.into();
            flow["icmpType"] = kind.parse::<u8>().map_or_else(|_| json!(kind), Value::from);
        }
        (None, None) => flow["portName"] = port.into(),
    }
    flow
}
