use mesh_model::ClusterLimit;
use mesh_source::{Format, ResourceVersion, decode};

use super::*;

/// Numbers label sets as they come.
#[derive(Default)]
struct Counter {
    known: Vec<Labels>,
    full: bool,
}

impl Allocate for Counter {
    type Error = String;

    fn identity(&mut self, labels: &Labels) -> Result<Identity, String> {
        if let Some(at) = self.known.iter().position(|known| known == labels) {
            return Ok(Identity::new(458_753 + u32::try_from(at).unwrap()));
        }
        if self.full {
            return Err("no more numbers".into());
        }
        self.known.push(labels.clone());
        self.identity(labels)
    }
}

struct Cluster {
    exporter: Exporter,
    counter: Counter,
}

impl Cluster {
    fn new() -> Self {
        let id = ClusterId::new(7, ClusterLimit::Max255).unwrap();
        let exporter = Exporter::new(ExporterConfig {
            name: ClusterName::new("alpha").unwrap(),
            id,
            announced: ClusterConfig { id, synced_canaries: true, ..ClusterConfig::default() },
            default_global_namespace: true,
            filter: LabelFilter::new([]).unwrap(),
        });
        Self { exporter, counter: Counter::default() }
    }

    fn apply(&mut self, yaml: &str) -> Vec<String> {
        for (_, object) in decode(Format::Yaml, yaml).unwrap().objects {
            let event = SourceEvent::Applied { resource_version: ResourceVersion(1), object };
            self.exporter.handle(event, &mut self.counter);
        }
        self.changed()
    }

    fn delete(&mut self, kind: Kind, namespace: &str, name: &str) -> Vec<String> {
        let key = ObjectKey { kind, namespace: namespace.into(), name: name.into() };
        let event = SourceEvent::Deleted { resource_version: ResourceVersion(1), key };
        self.exporter.handle(event, &mut self.counter);
        self.changed()
    }

    /// The keys that changed, without what all begin with.
    fn changed(&mut self) -> Vec<String> {
        let changed = self.exporter.take_changed().into_iter();
        changed.filter_map(|key| Some(key.strip_prefix("cilium/state/")?.to_owned())).collect()
    }

    /// What the own nodes are told below a word.
    fn local(&self, of: &str) -> Vec<String> {
        let prefix = format!("clustermesh/local/v1/{of}/");
        let desired = self.exporter.desired().iter().filter(|(key, _)| key.starts_with(&prefix));
        let text = |(key, value): (&String, &Vec<u8>)| {
            format!("{} {}", &key[prefix.len()..], String::from_utf8_lossy(value))
        };
        desired.map(text).collect()
    }

    fn value(&self, key: &str) -> Option<String> {
        let value = self.exporter.desired().get(&format!("cilium/state/{key}"))?;
        Some(String::from_utf8(value.clone()).unwrap())
    }
}

fn pod(name: &str, ip: &str, app: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: {app}}}}}\nspec: {{nodeName: n1, containers: [{{ports: [{{name: http, containerPort: 8080}}]}}]}}\nstatus: {{podIP: {ip}, conditions: [{{type: Ready, status: 'True'}}]}}\n---\n"
    )
}

fn node(ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: n1}}\nspec: {{podCIDR: 10.7.1.0/24}}\nstatus: {{addresses: [{{type: InternalIP, address: {ip}}}]}}\n---\n"
    )
}

fn namespace(global: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, annotations: {{clustermesh.cilium.io/global: '{global}'}}}}\n---\n"
    )
}

const SERVICE: &str = "apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, annotations: {service.cilium.io/global: 'true'}}
spec: {clusterIP: 10.97.0.1, ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [10.7.1.5]}]
ports: [{name: http, port: 8080}]
---
";

/// The services that a real Cilium exported from recorded objects come out byte for byte.
#[test]
fn services_of_the_recording() {
    #[derive(serde::Deserialize)]
    struct Fixture {
        source: Vec<Entry>,
    }
    #[derive(serde::Deserialize)]
    struct Entry {
        key: String,
        value: Option<String>,
    }
    let folder =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto/wire/tests/fixtures/cilium-1.20.2");
    let read = |name: &str| std::fs::read_to_string(format!("{folder}/{name}")).unwrap();
    let mut cluster = Cluster::new();
    cluster.apply(&read("services.objects.yaml"));
    let fixture: Fixture = serde_json::from_str(&read("services.json")).unwrap();
    let services = |key: &str| key.starts_with("cilium/state/services/");
    let recorded: BTreeMap<String, String> = fixture
        .source
        .into_iter()
        .filter(|entry| services(&entry.key))
        .map(|entry| (entry.key, entry.value.unwrap()))
        .collect();
    let exported: BTreeMap<String, String> = cluster
        .exporter
        .desired()
        .iter()
        .filter(|(key, _)| services(key))
        .map(|(key, value)| (key.clone(), String::from_utf8(value.clone()).unwrap()))
        .collect();
    assert_eq!(recorded.len(), 5);
    assert_eq!(exported, recorded);
}

#[test]
fn a_pod_is_an_identity_and_an_address() {
    let mut cluster = Cluster::new();
    let changed =
        cluster.apply(&format!("{}{}", node("172.31.7.1"), pod("cart-1", "10.7.1.5", "cart")));
    assert_eq!(changed, ["identities/v1/id/458753", "ip/v1/default/10.7.1.5", "nodes/v1/alpha/n1"]);
    assert_eq!(
        cluster.value("ip/v1/default/10.7.1.5").unwrap(),
        r#"{"IP":"10.7.1.5","Mask":null,"HostIP":"172.31.7.1","ID":458753,"Key":0,"Metadata":"","K8sNamespace":"shop","K8sPodName":"cart-1","K8sServiceAccount":"default","NamedPorts":[{"Name":"http","Port":8080,"Protocol":"TCP"}]}"#
    );
    assert_eq!(
        cluster.value("identities/v1/id/458753").unwrap(),
        "k8s:app=cart;k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=shop;k8s:io.cilium.k8s.policy.cluster=alpha;k8s:io.cilium.k8s.policy.serviceaccount=default;k8s:io.kubernetes.pod.namespace=shop;"
    );
    // A second pod with the same labels has the same identity.
    assert_eq!(cluster.apply(&pod("cart-2", "10.7.1.6", "cart")), ["ip/v1/default/10.7.1.6"]);
    // Another node address changes the pods on it, another address moves one, and the same again changes nothing.
    assert_eq!(
        cluster.apply(&node("172.31.7.2")),
        ["ip/v1/default/10.7.1.5", "ip/v1/default/10.7.1.6", "nodes/v1/alpha/n1"]
    );
    assert_eq!(
        cluster.apply(&pod("cart-2", "10.7.1.7", "cart")),
        ["ip/v1/default/10.7.1.6", "ip/v1/default/10.7.1.7"]
    );
    assert!(cluster.apply(&pod("cart-2", "10.7.1.7", "cart")).is_empty());
    assert_eq!(cluster.delete(Kind::Pod, "shop", "cart-1"), ["ip/v1/default/10.7.1.5"]);
    assert_eq!(cluster.value("ip/v1/default/10.7.1.5"), None);
}

#[test]
fn pods_without_an_address_of_their_own_are_not_exported() {
    let mut cluster = Cluster::new();
    for (from, to) in [
        ("nodeName: n1", "nodeName: n1, hostNetwork: true"),
        ("status: {", "status: {phase: Succeeded, "),
    ] {
        assert!(cluster.apply(&pod("p", "10.7.1.5", "x").replace(from, to)).is_empty(), "{to}");
        assert!(cluster.local("pods").is_empty(), "{to}");
    }
    // It has a node already: who it will be is known before where.
    let scheduled = pod("p", "10.7.1.5", "x").replace("podIP: 10.7.1.5, ", "");
    assert_eq!(cluster.apply(&scheduled), ["identities/v1/id/458753"]);
    assert!(cluster.apply(&scheduled.replace("nodeName: n1, ", "")).len() <= 1);
    assert_eq!(cluster.value("ip/v1/default/10.7.1.5"), None);
}

#[test]
fn its_node_is_told_of_a_pod_as_soon_as_it_has_one() {
    let mut cluster = Cluster::new();
    let waiting = pod("p", "10.7.1.5", "x").replace("podIP: 10.7.1.5, ", "");
    cluster.apply(&waiting.replace("nodeName: n1, ", ""));
    assert!(cluster.local("pods").is_empty());
    cluster.apply(&waiting.replace("namespace: shop,", "namespace: shop, uid: 5b0f,"));
    assert_eq!(
        cluster.local("pods"),
        [
            r#"n1/shop/p {"v":1,"namespace":"shop","name":"p","node":"n1","uid":"5b0f","identity":458753,"ips":[],"socketLB":true}"#
        ]
    );
    cluster.apply(&pod("p", "10.7.1.5", "x").replace(
        "namespace: shop,",
        "namespace: shop, annotations: {clustermesh.dev/socket-lb: 'off'},",
    ));
    let told = r#"n1/shop/p {"v":1,"namespace":"shop","name":"p","node":"n1","uid":"","identity":458753,"ips":["10.7.1.5"],"socketLB":false}"#;
    assert_eq!(cluster.local("pods"), [told]);
    // Others are not told of a namespace that does not take part; its own nodes are.
    cluster.apply(&namespace("false"));
    assert_eq!(cluster.value("ip/v1/default/10.7.1.5"), None);
    assert_eq!(cluster.local("pods"), [told]);
    assert_eq!(
        cluster.local("namespaces"),
        [
            r#"shop {"v":1,"name":"shop","labels":{"kubernetes.io/metadata.name":"shop"},"global":false}"#
        ]
    );
    cluster.delete(Kind::Pod, "shop", "p");
    cluster.delete(Kind::Namespace, "", "shop");
    assert!(cluster.local("pods").is_empty() && cluster.local("namespaces").is_empty());
}

#[test]
fn an_address_that_two_pods_have_is_the_first_ones_and_then_the_seconds() {
    let mut cluster = Cluster::new();
    cluster.apply(&pod("one", "10.7.1.5", "one"));
    let before = cluster.value("ip/v1/default/10.7.1.5").unwrap();
    assert_eq!(cluster.apply(&pod("two", "10.7.1.5", "two")), ["identities/v1/id/458754"]);
    assert_eq!(cluster.value("ip/v1/default/10.7.1.5").unwrap(), before);
    let changed = cluster.delete(Kind::Pod, "shop", "one");
    assert_eq!(changed, ["identities/v1/id/458753", "ip/v1/default/10.7.1.5"]);
    assert!(cluster.value("ip/v1/default/10.7.1.5").unwrap().contains("\"K8sPodName\":\"two\""));
}

#[test]
fn a_namespace_decides_for_what_is_in_it() {
    let mut cluster = Cluster::new();
    let service = "services/v1/alpha/shop/web";
    let all = ["identities/v1/id/458753", "ip/v1/default/10.7.1.5", service];
    assert_eq!(cluster.apply(&format!("{}{SERVICE}", pod("p", "10.7.1.5", "x"))), all);
    assert_eq!(cluster.apply(&namespace("false")), all);
    assert_eq!(cluster.value(service), None);
    assert_eq!(cluster.apply(&namespace("true")), all);
    assert!(
        cluster.apply(&namespace("nonsense")).is_empty(),
        "it says nothing, and the default is global"
    );
    assert!(cluster.delete(Kind::Namespace, "", "shop").is_empty());

    cluster.exporter.config.default_global_namespace = false;
    assert_eq!(cluster.apply(&namespace("nonsense")), all);
}

#[test]
fn a_service_is_what_its_slices_are() {
    let mut cluster = Cluster::new();
    let service = "services/v1/alpha/shop/web";
    assert_eq!(cluster.apply(SERVICE), [service]);
    assert!(
        cluster
            .value(service)
            .unwrap()
            .contains(r#""backends":{"10.7.1.5":{"http":{"Protocol":"TCP","Port":8080}}}"#)
    );

    // Not ready and not serving is no backend; not ready but serving is one.
    let conditions = |text: &str| {
        SERVICE.replace(
            "{addresses: [10.7.1.5]}",
            &format!("{{addresses: [10.7.1.5], conditions: {text}}}"),
        )
    };
    assert_eq!(cluster.apply(&conditions("{ready: false, serving: false}")), [service]);
    assert!(cluster.value(service).unwrap().contains(r#""backends":{}"#));
    assert_eq!(cluster.apply(&conditions("{ready: false, serving: true}")), [service]);
    assert!(cluster.value(service).unwrap().contains("10.7.1.5"));

    assert_eq!(cluster.delete(Kind::EndpointSlice, "shop", "web-1"), [service]);
    assert!(cluster.value(service).unwrap().contains(r#""backends":{}"#));
    assert_eq!(cluster.apply(&SERVICE.replace("'true'", "'false'")), [service]);
    assert_eq!(cluster.value(service), None);
    assert_eq!(cluster.apply(SERVICE), [service]);
    assert_eq!(cluster.delete(Kind::Service, "shop", "web"), [service]);
}

#[test]
fn what_a_listing_does_not_tell_is_gone() {
    let mut cluster = Cluster::new();
    cluster.apply(&format!("{}{}", pod("one", "10.7.1.5", "x"), pod("two", "10.7.1.6", "x")));
    assert!(!cluster.exporter.is_complete());
    let relist = |cluster: &mut Cluster, kind| {
        cluster.exporter.handle(SourceEvent::Listing { kind }, &mut cluster.counter);
    };
    let listed = |cluster: &mut Cluster, kind| {
        let event = SourceEvent::Listed { kind, resource_version: ResourceVersion(2) };
        cluster.exporter.handle(event, &mut cluster.counter);
    };
    relist(&mut cluster, Kind::Pod);
    assert!(cluster.apply(&pod("two", "10.7.1.6", "x")).is_empty());
    listed(&mut cluster, Kind::Pod);
    assert_eq!(cluster.changed(), ["ip/v1/default/10.7.1.5"]);
    Kind::ALL.into_iter().for_each(|kind| listed(&mut cluster, kind));
    assert!(cluster.exporter.is_complete());
}

#[test]
fn without_a_number_a_pod_keeps_what_it_said() {
    let mut cluster = Cluster::new();
    cluster.apply(&pod("p", "10.7.1.5", "x"));
    cluster.counter.full = true;
    assert!(cluster.apply(&pod("p", "10.7.1.6", "y")).is_empty());
    assert_eq!(cluster.exporter.problems().values().collect::<Vec<_>>(), ["no more numbers"]);
    cluster.counter.full = false;
    assert_eq!(cluster.apply(&pod("p", "10.7.1.6", "z")).len(), 4);
    assert!(cluster.exporter.problems().is_empty());

    // One that said nothing before is there all the same, and nobody knows who it is.
    cluster.counter.full = true;
    assert!(cluster.apply(&pod("q", "10.7.1.7", "q")).is_empty());
    let told = cluster.local("pods");
    assert!(told[1].starts_with("n1/shop/q") && !told[1].contains("identity"), "{told:?}");
    cluster.counter.full = false;
    cluster.exporter.retry(&mut cluster.counter);
    assert_eq!(cluster.changed(), ["identities/v1/id/458755", "ip/v1/default/10.7.1.7"]);
    assert!(cluster.local("pods")[1].contains(r#""identity":458755"#));
}
