use std::{collections::BTreeMap, fs, path::Path};

use super::*;

const WAIT: Duration = Duration::from_secs(900);

fn open(folder: &Path) -> Arc<Cluster> {
    let keeping = IdentityRecording { wait: WAIT, adopt: false };
    Cluster::open(&ClusterDirectory::new(folder), &[], keeping, Metrics::default()).unwrap()
}

/// A replica that has compared its numbers with an empty etcd.
fn replica(folder: &Path) -> Arc<Cluster> {
    let cluster = open(folder);
    cluster.recognise(&Found::default()).unwrap();
    cluster.scan();
    cluster
}

/// A cluster's directory with a pod of each app in a file of its own.
fn directory(apps: &[(&str, u8)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let settings = "name: a\nid: 1\nmaxConnectedClusters: 255\npodCIDRs: [10.1.0.0/16]\nserviceCIDRs: [10.101.0.0/16]\nnodeCIDRs: [172.31.1.0/24]\nendpoints: []\n";
    fs::write(folder.path().join("cluster.yaml"), settings).unwrap();
    fs::create_dir(folder.path().join("manifests")).unwrap();
    for (app, last) in apps {
        write(folder.path(), app, &pod(app, *last));
    }
    folder
}

fn pod(app: &str, last: u8) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p{last}, namespace: shop, labels: {{app: {app}}}}}\nspec: {{nodeName: n1}}\nstatus: {{podIP: 10.1.1.{last}}}\n"
    )
}

fn write(folder: &Path, name: &str, text: &str) {
    let manifests = folder.join("manifests");
    fs::write(manifests.join(".new"), text).unwrap();
    fs::rename(manifests.join(".new"), manifests.join(format!("{name}.yaml"))).unwrap();
}

fn state(cluster: &Cluster) -> BTreeMap<String, String> {
    cluster.with_exporter(|exporter| {
        let text = |value: &Vec<u8>| String::from_utf8_lossy(value).into_owned();
        exporter.desired().iter().map(|(key, value)| (key.clone(), text(value))).collect()
    })
}

fn identities_of(cluster: &Cluster) -> Vec<String> {
    let state = state(cluster);
    let apps = state.iter().filter(|(key, _)| key.starts_with("cilium/state/identities/"));
    let apps = apps.map(|(_, value)| {
        value.split(';').next().unwrap_or_default().trim_start_matches("k8s:app=").to_owned()
    });
    let mut apps: Vec<String> = apps.collect();
    apps.sort();
    apps
}

fn revision(cluster: &Cluster) -> u64 {
    cluster.position().unwrap().source["Pod"].parse().unwrap()
}

#[test]
fn two_replicas_export_the_same_and_say_how_far_they_are() {
    let folder = directory(&[("a", 1), ("b", 2)]);
    let (one, other) = (replica(folder.path()), replica(folder.path()));
    assert_eq!(state(&one), state(&other));
    assert_eq!(revision(&one), revision(&other));

    let before = revision(&one);
    write(folder.path(), "c", &pod("c", 3));
    one.scan();
    assert_eq!((revision(&one), revision(&other)), (before + 1, before));
    // The other finds out that there is something to see, without being told by the folder.
    other.tick(true, Instant::now());
    assert_eq!(revision(&other), before + 1);
    assert_eq!(state(&one), state(&other));

    // A later life goes on from there.
    drop(one);
    assert_eq!(revision(&replica(folder.path())), before + 1);
    // The old content again is a later revision.
    write(folder.path(), "c", "");
    other.scan();
    assert_eq!(revision(&other), before + 2);
}

#[test]
fn a_replica_that_missed_something_is_not_taken_for_one_that_did_not() {
    let folder = directory(&[("a", 1)]);
    let (one, other) = (replica(folder.path()), replica(folder.path()));
    let before = revision(&other);
    write(folder.path(), "a", &pod("a", 9));
    one.scan();
    write(folder.path(), "a", "a: [");
    one.scan();
    assert_eq!(revision(&one), before + 1, "what cannot be understood is no content");
    for _ in 0..3 {
        other.tick(true, Instant::now());
        one.tick(true, Instant::now());
    }
    assert_ne!(state(&one), state(&other), "nobody can know what the file held");
    assert_eq!((revision(&one), revision(&other)), (before + 1, before));
    write(folder.path(), "a", &pod("a", 10));
    other.scan();
    one.scan();
    assert_eq!(state(&one), state(&other));
    assert_eq!((revision(&one), revision(&other)), (before + 2, before + 2));
}

#[test]
fn an_identity_outlives_its_last_pod() {
    let folder = directory(&[("a", 1), ("b", 2)]);
    let cluster = replica(folder.path());
    write(folder.path(), "a", &pod("new", 1));
    cluster.scan();
    cluster.tick(true, Instant::now());
    assert_eq!(identities_of(&cluster), ["a", "b", "new"]);
    // And its mark, in another life.
    drop(cluster);
    let cluster = replica(folder.path());
    cluster.tick(true, Instant::now());
    assert_eq!(identities_of(&cluster), ["a", "b", "new"]);
}

#[test]
fn an_identity_that_nobody_uses_goes_when_it_has_waited() {
    let folder = directory(&[("a", 1), ("b", 2)]);
    let keeping = IdentityRecording { wait: Duration::ZERO, adopt: false };
    let directory = ClusterDirectory::new(folder.path());
    let cluster = Cluster::open(&directory, &[], keeping, Metrics::default()).unwrap();
    cluster.recognise(&Found::default()).unwrap();
    let tick = |synced| cluster.tick(synced, Instant::now());
    tick(true);
    cluster.scan();
    write(folder.path(), "a", "");
    cluster.scan();
    tick(false);
    tick(false);
    assert_eq!(identities_of(&cluster), ["a", "b"], "the etcd may have an address with it");
    tick(true);
    assert_eq!(identities_of(&cluster), ["b"]);
}

#[test]
fn nothing_is_numbered_before_the_journal_was_compared() {
    let folder = directory(&[("a", 1)]);
    let cluster = open(folder.path());
    cluster.scan();
    assert!(identities_of(&cluster).is_empty());
    assert_eq!(cluster.source_state(), (Vec::new(), true), "that is no problem of a pod's");
    let foreign = Found { uuid: Some(uuid::Uuid::from_u128(7)), ..Found::default() };
    assert!(cluster.recognise(&foreign).is_err());
    assert!(identities_of(&cluster).is_empty());
    cluster.recognise(&Found::default()).unwrap();
    assert_eq!(identities_of(&cluster), ["a"]);
}

#[test]
fn what_only_the_etcd_knows_is_published_at_once_and_goes_in_time() {
    let folder = directory(&[("a", 1)]);
    let cluster = replica(folder.path());
    let labels =
        "k8s:app=old;k8s:io.cilium.k8s.policy.cluster=a;k8s:io.kubernetes.pod.namespace=shop;";
    let labels = mesh_model::Labels::parse(labels);
    let identities = vec![(mesh_model::Identity::new(65_600), labels)];
    let found = Found { identities, revision: 40, ..Found::default() };
    cluster.recognise(&found).unwrap();
    assert_eq!(identities_of(&cluster), ["a", "old"], "so that nobody removes it from the etcd");
    cluster.tick(true, Instant::now());
    assert_eq!(identities_of(&cluster), ["a", "old"]);
    assert_eq!(revision(&cluster), 41, "what is now is later than what readers know");
}

#[test]
fn a_journal_that_is_gone_is_said_and_stops_nothing_else() {
    let folder = directory(&[("a", 1)]);
    let cluster = replica(folder.path());
    let path = ClusterDirectory::new(folder.path()).journal();
    let journal = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    write(folder.path(), "a", &pod("a", 7));
    write(folder.path(), "b", &pod("b", 2));
    cluster.scan();
    let (problems, _) = cluster.source_state();
    assert!(problems.iter().any(|p| p.starts_with("Pod shop/p2: ")), "{problems:?}");
    assert!(problems.iter().all(|p| p.contains("is gone: restore it")), "{problems:?}");
    assert!(state(&cluster).contains_key("cilium/state/ip/v1/default/10.1.1.7"));
    assert_eq!(cluster.position(), None, "nobody could compare it");

    fs::write(&path, journal).unwrap();
    cluster.tick(true, Instant::now());
    cluster.tick(true, Instant::now() + Duration::from_secs(60));
    assert_eq!(cluster.source_state().0, Vec::<String>::new());
    assert_eq!(identities_of(&cluster), ["a", "b"]);
    assert!(cluster.position().is_some());
}

#[test]
fn a_typo_in_an_annotation_is_said_and_stops_nothing() {
    let folder = directory(&[("a", 1)]);
    let cluster = replica(folder.path());
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop, annotations: {service.cilium.io/global: 'true', clustermesh.dev/minimum-healthy: 'half'}}\nspec: {clusterIP: 10.101.0.10, ports: [{port: 80}]}\n";
    write(folder.path(), "service", service);
    cluster.scan();
    let (problems, _) = cluster.source_state();
    let says =
        "Service shop/web: clustermesh.dev/minimum-healthy: \"half\" is no share: it is 1% to 100%";
    assert_eq!(problems, [says]);
    let keys = state(&cluster);
    assert!(keys.contains_key("cilium/state/services/v1/a/shop/web"));
    assert!(keys["clustermesh/local/v1/services/shop/web"].ends_with(r#""shared":true}"#));
    assert!(keys["cilium/cluster-config/a"].contains("services-and-endpointslices"));
}

/// A service with an endpoint on each of two nodes, of which one has an object.
fn on_two_nodes() -> tempfile::TempDir {
    let folder = directory(&[("a", 1)]);
    write(
        folder.path(),
        "nodes",
        "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\n---\napiVersion: v1\nkind: Node\nmetadata: {name: n2, annotations: {clustermesh.dev/drain: 'true'}}\n",
    );
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop, annotations: {service.cilium.io/global: 'true'}}\nspec: {clusterIP: 10.101.0.10, ports: [{port: 80}]}\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\nports: [{port: 80}]\nendpoints: [{addresses: [10.1.1.1], nodeName: n1}, {addresses: [10.1.2.1], nodeName: n2}, {addresses: [10.1.3.1], nodeName: n3}]\n";
    write(folder.path(), "service", service);
    folder
}

fn backends(cluster: &Cluster) -> Vec<&'static str> {
    let service = state(cluster)["cilium/state/services/v1/a/shop/web"].clone();
    ["10.1.1.1", "10.1.2.1", "10.1.3.1"].into_iter().filter(|ip| service.contains(ip)).collect()
}

#[test]
fn a_node_is_drained_until_it_is_undrained_through_any_restart() {
    use crate::drain::{Asked, Change, Changed};
    let folder = on_two_nodes();
    let cluster = replica(folder.path());
    let other = replica(folder.path());
    assert_eq!(backends(&cluster), ["10.1.1.1", "10.1.3.1"], "the annotation says so");
    let node = |node: &str| Asked { cluster: "a".into(), node: node.into() };
    let before = revision(&cluster);

    let (changed, drained) = cluster.change_drain(Change::Drain, &node("n1")).unwrap();
    assert_eq!((changed, drained.cluster, drained.endpoints), (Changed::Now, false, 2));
    assert_eq!(backends(&cluster), ["10.1.3.1"]);
    let (changed, _) = cluster.change_drain(Change::Drain, &node("n1")).unwrap();
    assert_eq!(changed, Changed::Before);
    // Of another replica it is the same file, and a later revision for readers.
    assert_eq!(revision(&cluster), before + 1);
    other.scan();
    assert_eq!((backends(&other), revision(&other)), (vec!["10.1.3.1"], before + 1));
    drop((cluster, other));

    let cluster = replica(folder.path());
    assert_eq!(backends(&cluster), ["10.1.3.1"]);
    let all = Asked { cluster: String::new(), node: String::new() };
    cluster.change_drain(Change::Drain, &all).unwrap();
    assert!(backends(&cluster).is_empty());
    cluster.change_drain(Change::Undrain, &all).unwrap();
    assert_eq!(backends(&cluster), ["10.1.3.1"], "the node stays drained");
    let (changed, drained) = cluster.change_drain(Change::Undrain, &node("n1")).unwrap();
    assert_eq!((changed, drained.endpoints), (Changed::Now, 1));
    assert_eq!(backends(&cluster), ["10.1.1.1", "10.1.3.1"]);
    let (changed, _) = cluster.change_drain(Change::Undrain, &node("n1")).unwrap();
    assert_eq!(changed, Changed::Before);
}

#[test]
fn what_cannot_be_drained_or_undrained_says_why_and_changes_nothing() {
    use crate::drain::{Asked, Change};
    let folder = on_two_nodes();
    let path = ClusterDirectory::new(folder.path()).drain_file();
    let unread = open(folder.path());
    let cluster = replica(folder.path());
    let refused = |cluster: &Cluster, change, name: &str, node: &str| {
        let asked = Asked { cluster: name.into(), node: node.into() };
        let error = cluster.change_drain(change, &asked).unwrap_err().to_string();
        (error, fs::read_to_string(&path).unwrap_or_default())
    };
    for (of, change, name, node, says) in [
        (&cluster, Change::Drain, "b", "n1", "this is cluster a, and not b"),
        (&cluster, Change::Drain, "", "n9", "cluster a has no node n9"),
        (&cluster, Change::Undrain, "", "n9", "cluster a has no node n9"),
        (&cluster, Change::Undrain, "a", "n2", "node n2 is drained by its annotation"),
        (&unread, Change::Drain, "a", "n1", "which nodes there are is not known"),
    ] {
        let (error, file) = refused(of, change, name, node);
        assert!(error.contains(says), "{error}");
        assert_eq!(file, "", "{says}");
    }
    // A node that only its endpoints are on is one.
    let asked = |node: &str| Asked { cluster: String::new(), node: node.into() };
    cluster.change_drain(Change::Drain, &asked("n3")).unwrap();
    cluster.change_drain(Change::Drain, &asked("")).unwrap();
    let (error, _) = refused(&cluster, Change::Undrain, "", "n3");
    assert!(error.contains("all of cluster a is drained, node n3 with it"), "{error}");

    // A broken file keeps what was in force, is named, and is nobody's to overwrite.
    fs::write(&path, "nodes: [").unwrap();
    cluster.scan();
    assert!(backends(&cluster).is_empty());
    let (problems, _) = cluster.source_state();
    assert!(problems.iter().any(|p| p.contains("drain.yaml: ")), "{problems:?}");
    let (error, file) = refused(&cluster, Change::Undrain, "", "");
    assert!(error.ends_with("mend or remove it first"), "{error}");
    assert_eq!(file, "nodes: [");
    // Nor is it known after a restart what it was: nothing is exported that could contradict it.
    let restarted = replica(folder.path());
    let keys = state(&restarted);
    assert!(!keys.keys().any(|key| key.contains("/shop/") || key.contains("/ip/")), "{keys:?}");
    assert!(!restarted.source_state().1);

    fs::write(&path, "nodes: [n9]").unwrap();
    cluster.scan();
    assert_eq!(cluster.source_state().0, ["drain.yaml: there is no node n9"]);
    assert_eq!(backends(&cluster), ["10.1.1.1", "10.1.3.1"]);
}
