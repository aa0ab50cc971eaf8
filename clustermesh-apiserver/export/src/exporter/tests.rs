use base64::{Engine as _, engine::general_purpose::STANDARD};
use mesh_model::ClusterLimit;
use mesh_source::{Format, ResourceVersion, decode};

use super::*;

mod cilium;
mod drain;
mod namespaces;
mod pods;
mod policies;
mod services;

/// Allocates IDs to label sets as they come.
#[derive(Default)]
struct Counter {
    known: Vec<Labels>,
    full: bool,
    /// Whether new label sets get their IDs later.
    later: bool,
}

impl Allocate for Counter {
    type Error = String;

    fn identity(&mut self, labels: &Labels) -> Result<Option<Identity>, String> {
        if let Some(at) = self.known.iter().position(|known| known == labels) {
            return Ok(Some(Identity::new(458_753 + u32::try_from(at).unwrap())));
        }
        if self.later {
            return Ok(None);
        }
        if self.full {
            return Err("no more IDs".into());
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
            announced: announced(id, ClusterLimit::Max255, None),
            default_global_namespace: true,
            filter: LabelFilter::new([]).unwrap(),
        });
        let mut cluster = Self { exporter, counter: Counter::default() };
        cluster.listed(Kind::Namespace);
        cluster
    }

    /// Reports that the list of a kind is complete.
    fn listed(&mut self, kind: Kind) {
        let event = SourceEvent::Listed { kind, resource_version: ResourceVersion(2) };
        self.exporter.handle(event, &mut self.counter);
    }

    fn apply(&mut self, yaml: &str) -> Vec<String> {
        for (_, object) in decode(Format::Yaml, yaml).whole().unwrap().objects {
            let event = SourceEvent::Applied { resource_version: ResourceVersion(1), object };
            self.exporter.handle(event, &mut self.counter);
        }
        self.publish();
        self.changed()
    }

    /// Publishes the allocated identities.
    fn publish(&mut self) {
        for (id, labels) in (458_753..).zip(&self.counter.known) {
            self.exporter.set_identity(Identity::new(id), Some(labels.clone()));
        }
    }

    fn delete(&mut self, kind: Kind, namespace: &str, name: &str) -> Vec<String> {
        let key = ObjectKey { kind, namespace: namespace.into(), name: name.into() };
        let event = SourceEvent::Deleted { resource_version: ResourceVersion(1), key };
        self.exporter.handle(event, &mut self.counter);
        self.publish();
        self.changed()
    }

    /// The changed keys without their common prefix.
    fn changed(&mut self) -> Vec<String> {
        for (key, value) in self.exporter.desired() {
            let wanted = self.exporter.fingerprint(&key);
            assert_eq!(Some(fingerprint(&value)), wanted, "{key} is made again as it was made");
        }
        let changed = self.exporter.take_changed().into_iter();
        changed.filter_map(|key| Some(key.strip_prefix("cilium/state/")?.to_owned())).collect()
    }

    /// The keys for local nodes below a word.
    fn local(&self, of: &str) -> Vec<String> {
        let prefix = format!("clustermesh/local/v1/{of}/");
        let desired = self.exporter.desired();
        let desired = desired.iter().filter(|(key, _)| key.starts_with(&prefix));
        let text = |(key, value): (&EtcdKey, &Value)| {
            format!("{} {}", &key[prefix.len()..], String::from_utf8_lossy(value))
        };
        desired.map(text).collect()
    }

    fn value(&self, key: &str) -> Option<String> {
        let value = self.exporter.value(&format!("cilium/state/{key}"))?;
        Some(String::from_utf8(value.to_vec()).unwrap())
    }
}

/// Recorded objects, and the keys and values that Cilium 1.20.2 made of them.
fn recording(name: &str) -> (String, BTreeMap<String, Vec<u8>>) {
    #[derive(serde::Deserialize)]
    struct Fixture {
        source: Vec<Entry>,
    }
    #[derive(serde::Deserialize)]
    struct Entry {
        key: String,
        value: Option<String>,
        value_b64: Option<String>,
    }
    let folder =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto/wire/tests/fixtures/cilium-1.20.2");
    let read = |name: String| std::fs::read_to_string(format!("{folder}/{name}")).unwrap();
    let fixture: Fixture = serde_json::from_str(&read(format!("{name}.json"))).unwrap();
    let entry = |Entry { key, value, value_b64 }| {
        let binary = value_b64.map(|text: String| STANDARD.decode(text).unwrap());
        (key, value.map(String::into_bytes).or(binary).unwrap())
    };
    let recorded = fixture.source.into_iter().map(entry).collect();
    (read(format!("{name}.objects.yaml")), recorded)
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

#[test]
fn a_pod_is_exported_as_an_identity_and_an_address() {
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
    // A new node address changes the pods on it, a new pod address replaces the old one, and equal objects change nothing.
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
fn pods_without_their_own_address_are_not_exported() {
    let mut cluster = Cluster::new();
    for (from, to) in [
        ("nodeName: n1", "nodeName: n1, hostNetwork: true"),
        ("status: {", "status: {phase: Succeeded, "),
    ] {
        assert!(cluster.apply(&pod("p", "10.7.1.5", "x").replace(from, to)).is_empty(), "{to}");
        assert!(cluster.local("pods").is_empty(), "{to}");
    }
    // It has a node but no address: its identity is known already.
    let scheduled = pod("p", "10.7.1.5", "x").replace("podIP: 10.7.1.5, ", "");
    assert_eq!(cluster.apply(&scheduled), ["identities/v1/id/458753"]);
    assert!(cluster.apply(&scheduled.replace("nodeName: n1, ", "")).is_empty());
    assert_eq!(cluster.value("ip/v1/default/10.7.1.5"), None);
}

#[test]
fn a_pod_is_exported_for_its_node_as_soon_as_it_is_scheduled() {
    let mut cluster = Cluster::new();
    let waiting = pod("p", "10.7.1.5", "x").replace("podIP: 10.7.1.5, ", "");
    cluster.apply(&waiting.replace("nodeName: n1, ", ""));
    assert!(cluster.local("pods").is_empty());
    cluster.apply(&waiting.replace("namespace: shop,", "namespace: shop, uid: 5b0f,"));
    assert_eq!(
        cluster.local("pods"),
        [
            r#"n1/shop/p {"v":1,"namespace":"shop","name":"p","node":"n1","uid":"5b0f","identity":458753,"ips":[],"socketLB":true,"namedPorts":[{"Name":"http","Port":8080,"Protocol":"TCP"}]}"#
        ]
    );
    cluster.apply(&pod("p", "10.7.1.5", "x").replace(
        "namespace: shop,",
        "namespace: shop, annotations: {clustermesh.dev/socket-lb: 'off'},",
    ));
    let exported = r#"n1/shop/p {"v":1,"namespace":"shop","name":"p","node":"n1","uid":"","identity":458753,"ips":["10.7.1.5"],"socketLB":false,"namedPorts":[{"Name":"http","Port":8080,"Protocol":"TCP"}]}"#;
    assert_eq!(cluster.local("pods"), [exported]);
    // A namespace outside the mesh is only exported for local nodes.
    cluster.apply(&namespace("false"));
    assert_eq!(cluster.value("ip/v1/default/10.7.1.5"), None);
    assert_eq!(cluster.local("pods"), [exported]);
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
fn an_address_of_two_pods_belongs_to_the_first_until_it_is_gone() {
    let mut cluster = Cluster::new();
    cluster.apply(&pod("one", "10.7.1.5", "one"));
    let before = cluster.value("ip/v1/default/10.7.1.5").unwrap();
    assert_eq!(cluster.apply(&pod("two", "10.7.1.5", "two")), ["identities/v1/id/458754"]);
    assert_eq!(cluster.value("ip/v1/default/10.7.1.5").unwrap(), before);
    let changed = cluster.delete(Kind::Pod, "shop", "one");
    assert_eq!(
        changed,
        ["ip/v1/default/10.7.1.5"],
        "the pod that has the identity keeps it a while"
    );
    assert!(cluster.value("ip/v1/default/10.7.1.5").unwrap().contains("\"K8sPodName\":\"two\""));
}

#[test]
fn a_namespace_decides_about_its_objects() {
    let mut cluster = Cluster::new();
    let service = "services/v1/alpha/shop/web";
    let slice = "endpointslices/v1/alpha/shop/web-1";
    let all = [slice, "identities/v1/id/458753", "ip/v1/default/10.7.1.5", service];
    assert_eq!(cluster.apply(&format!("{}{SERVICE}", pod("p", "10.7.1.5", "x"))), all);
    assert_eq!(cluster.apply(&namespace("false")), all);
    assert_eq!(cluster.value(service), None);
    assert_eq!(cluster.value(slice), None);
    // Local nodes still balance the service, over its local pods only.
    let local = cluster.local("services").join("");
    assert!(local.contains(r#""global":false,"shared":false"#), "{local}");
    assert_eq!(cluster.local("endpointslices").len(), 1);
    assert_eq!(cluster.apply(&namespace("true")), all);
    assert!(
        cluster.apply(&namespace("nonsense")).is_empty(),
        "it says nothing, and the default is global"
    );
    let notes: Vec<String> = cluster.exporter.notes().values().flatten().cloned().collect();
    assert_eq!(notes, [r#"clustermesh.cilium.io/global: "nonsense" is neither true nor false"#]);
    assert!(cluster.delete(Kind::Namespace, "", "shop").is_empty());

    cluster.exporter.config.default_global_namespace = false;
    assert_eq!(cluster.apply(&namespace("nonsense")), all);
}

#[test]
fn objects_that_a_list_lacks_are_removed() {
    let mut cluster = Cluster::new();
    cluster.apply(&format!("{}{}", pod("one", "10.7.1.5", "x"), pod("two", "10.7.1.6", "x")));
    assert!(!cluster.exporter.is_complete());
    let relist = |cluster: &mut Cluster, kind| {
        cluster.exporter.handle(SourceEvent::Listing { kind }, &mut cluster.counter);
    };
    relist(&mut cluster, Kind::Pod);
    assert!(cluster.apply(&pod("two", "10.7.1.6", "x")).is_empty());
    cluster.listed(Kind::Pod);
    assert_eq!(cluster.changed(), ["ip/v1/default/10.7.1.5"]);
    Kind::ALL.into_iter().for_each(|kind| cluster.listed(kind));
    assert!(cluster.exporter.is_complete());
}

#[test]
fn without_an_id_a_pod_keeps_its_last_record() {
    let mut cluster = Cluster::new();
    cluster.apply(&pod("p", "10.7.1.5", "x"));
    cluster.counter.full = true;
    assert!(cluster.apply(&pod("p", "10.7.1.6", "y")).is_empty());
    assert_eq!(cluster.exporter.problems().values().collect::<Vec<_>>(), ["no more IDs"]);
    cluster.counter.full = false;
    assert_eq!(cluster.apply(&pod("p", "10.7.1.6", "z")).len(), 3);
    assert!(cluster.exporter.problems().is_empty());

    // Whatever else changes, its record is that of before. Once it left the mesh, it is not exported.
    cluster.counter.full = true;
    let before = cluster.value("ip/v1/default/10.7.1.6");
    assert!(cluster.apply(&pod("p", "10.7.1.7", "other")).is_empty());
    assert_eq!(cluster.apply(&node("172.31.7.1")), ["nodes/v1/alpha/n1"]);
    assert!(cluster.apply(&pod("p", "10.7.1.8", "another")).is_empty());
    assert_eq!(cluster.value("ip/v1/default/10.7.1.6"), before);
    assert_eq!(cluster.delete(Kind::Pod, "shop", "p"), ["ip/v1/default/10.7.1.6"]);
    cluster.delete(Kind::Node, "", "n1");

    // A pod that was not exported before is exported without an identity.
    cluster.counter.full = true;
    assert!(cluster.apply(&pod("q", "10.7.1.7", "q")).is_empty());
    let exported = cluster.local("pods");
    assert!(
        exported[0].starts_with("n1/shop/q") && !exported[0].contains("identity"),
        "{exported:?}"
    );
    cluster.counter.full = false;
    cluster.exporter.retry(&mut cluster.counter);
    cluster.publish();
    assert_eq!(cluster.changed(), ["identities/v1/id/458755", "ip/v1/default/10.7.1.7"]);
    assert!(cluster.local("pods")[0].contains(r#""identity":458755"#));
}

#[test]
fn an_identity_is_published_as_long_as_it_is_allocated() {
    let mut cluster = Cluster::new();
    cluster.apply(&pod("p", "10.7.1.5", "old"));
    let [old, new] = [458_753, 458_754].map(Identity::new);
    assert!(cluster.exporter.uses(old));
    let changed = cluster.apply(&pod("p", "10.7.1.5", "new"));
    assert_eq!(changed, ["identities/v1/id/458754", "ip/v1/default/10.7.1.5"]);
    let wanted = changed.iter().map(|key| EtcdKey::from(format!("cilium/state/{key}")));
    let wanted = wanted.map(|key| (EtcdKey::clone(&key), cluster.exporter.fingerprint(&key)));
    let puts = crate::plan(&wanted.collect(), &crate::Actual::default(), true).puts;
    assert!(puts[0].ends_with("458754"), "readers know it before an address has it");
    assert!(!cluster.exporter.uses(old) && cluster.exporter.uses(new));
    assert!(cluster.value("identities/v1/id/458753").unwrap().contains("app=old"));
    cluster.delete(Kind::Pod, "shop", "p");
    assert!(!cluster.exporter.uses(new));

    // Its ID was freed.
    cluster.exporter.set_identity(old, None);
    assert_eq!(cluster.changed(), ["identities/v1/id/458753"]);
    // Identities of other clusters, and of namespaces outside the mesh, are not published.
    let of_new = ["identities/v1/id/458754"];
    cluster.counter.known.remove(0);
    cluster.exporter.take_changed();
    assert!(cluster.apply(&namespace("false")).contains(&of_new[0].to_owned()));
    assert_eq!(cluster.value(of_new[0]), None);
    let foreign = Labels::parse("k8s:io.cilium.k8s.policy.cluster=beta;");
    cluster.exporter.set_identity(Identity::new(458_800), Some(foreign));
    assert_eq!(cluster.value("identities/v1/id/458800"), None);
}

#[test]
fn pods_change_to_the_lower_of_two_ids() {
    let mut cluster = Cluster::new();
    cluster.apply(&pod("p", "10.7.1.5", "x"));
    let labels = cluster.counter.known[0].clone();
    let lower = Identity::new(458_752);
    cluster.exporter.set_identity(lower, Some(labels.clone()));
    struct Lower;
    impl Allocate for Lower {
        type Error = String;
        fn identity(&mut self, _: &Labels) -> Result<Option<Identity>, String> {
            Ok(Some(Identity::new(458_752)))
        }
    }
    assert!(cluster.exporter.is_disputed());
    cluster.exporter.retry(&mut Lower);
    assert!(!cluster.exporter.is_disputed());
    let address = cluster.value("ip/v1/default/10.7.1.5").unwrap();
    assert!(address.contains(r#""ID":458752"#), "{address}");
    assert!(cluster.exporter.uses(lower) && !cluster.exporter.uses(Identity::new(458_753)));

    // If an ID in use was freed, the pods look up their IDs again.
    cluster.exporter.set_identity(lower, None);
    assert!(cluster.exporter.is_disputed());
}

#[test]
fn a_pod_waits_for_an_id_that_comes_later_and_nothing_waits_for_the_pod() {
    let mut cluster = Cluster::new();
    cluster.counter.later = true;
    cluster.apply(&pod("p", "10.7.1.5", "x"));
    cluster.apply(&pod("q", "10.7.1.6", "x"));
    assert_eq!(cluster.value("ip/v1/default/10.7.1.5"), None);
    assert!(cluster.exporter.problems().is_empty(), "waiting is no mistake of the pod's");
    assert_eq!(cluster.exporter.waiting(), 1);
    // The label set gets its ID.
    let labels = cluster.exporter.identities.waiting.keys().next().unwrap().clone();
    cluster.counter.known.push(labels.clone());
    let made = cluster.exporter.makes;
    cluster.exporter.set_identity(Identity::new(458_753), Some(labels));
    assert!(cluster.exporter.has_given() && !cluster.exporter.is_disputed());
    cluster.exporter.reassign(&mut cluster.counter);
    assert_eq!(cluster.exporter.makes, made + 2);
    let address = cluster.value("ip/v1/default/10.7.1.6").unwrap();
    assert!(address.contains(r#""ID":458753"#), "{address}");
    assert_eq!(cluster.exporter.waiting(), 0);

    // Other labels: until they have an ID, the pod keeps the one that it has.
    cluster.apply(&pod("p", "10.7.1.5", "y"));
    let address = cluster.value("ip/v1/default/10.7.1.5").unwrap();
    assert!(address.contains(r#""ID":458753"#), "{address}");
    cluster.counter.later = false;
    cluster.exporter.retry(&mut cluster.counter);
    let address = cluster.value("ip/v1/default/10.7.1.5").unwrap();
    assert!(address.contains(r#""ID":458754"#), "{address}");
    assert_eq!(cluster.exporter.waiting(), 0);
}

/// All cores make the records of many objects that are known before all Namespaces are.
#[test]
fn many_objects_have_the_records_that_they_have_one_by_one() {
    let pods = (10..210)
        .map(|n| pod(&format!("p-{n:03}"), &format!("10.7.1.{n}"), &format!("app-{}", n / 10)));
    let objects = format!("{}{}", node("172.31.1.1"), pods.collect::<String>());
    for full in [false, true] {
        let mut one_by_one = Cluster::new();
        one_by_one.counter.full = full;
        one_by_one.apply(&objects);
        let mut at_once = Cluster::new();
        at_once.exporter = Exporter::new(at_once.exporter.config.clone());
        at_once.counter.full = full;
        at_once.apply(&objects);
        assert_eq!(at_once.exporter.key_count(), 1, "the cluster's config");
        at_once.listed(Kind::Namespace);
        at_once.publish();
        assert_eq!(at_once.exporter.desired(), one_by_one.exporter.desired());
        assert_eq!(at_once.exporter.problems(), one_by_one.exporter.problems());
        assert_eq!(at_once.exporter.problems().len(), if full { 200 } else { 0 });
        assert_eq!(at_once.exporter.makes, 201);
    }
}
