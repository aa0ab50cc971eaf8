use std::path::Path;

use ipnet::IpNet;
use mesh_certs::ClusterPki;
use mesh_model::{ClusterId, ClusterLimit, ClusterName};
use mesh_source::cluster_directory::{ClusterDirectory, ClusterSettings};

use super::*;
use crate::connect::check::check;

pub(crate) fn make(
    root: &Path,
    name: &str,
    id: u32,
    change: impl FnOnce(&mut ClusterSettings),
) -> PathBuf {
    let folder = root.join(name);
    let directory = ClusterDirectory::new(&folder);
    fs::create_dir_all(directory.manifests()).unwrap();
    let net = |text: String| text.parse::<IpNet>().unwrap();
    let mut settings = ClusterSettings {
        name: ClusterName::new(name).unwrap(),
        id: ClusterId::new(id, ClusterLimit::Max255).unwrap(),
        limit: ClusterLimit::Max255,
        pod_cidrs: vec![net(format!("10.{id}.0.0/16"))],
        service_cidrs: vec![net("10.96.0.0/16".into())],
        node_cidrs: vec![net(format!("172.31.{id}.0/24"))],
        endpoints: vec![vec![(format!("172.31.{id}.1").parse().unwrap(), 2379)]],
        default_global_namespace: true,
    };
    change(&mut settings);
    fs::write(directory.settings_file(), settings.to_yaml().unwrap()).unwrap();
    let lifetime = Duration::from_secs(365 * 24 * 3600);
    let addresses = ["172.31.9.1".parse().unwrap()];
    ClusterPki::new(&directory.pki()).create(name, "clustermesh", &addresses, lifetime).unwrap();
    folder
}

pub(crate) fn connect(one: &Path, other: &Path) -> anyhow::Result<Vec<Step>> {
    let (one, other) = (Side::read(one, false)?, Side::read(other, false)?);
    check(&one.facts, &other.facts, false)?;
    plan_connect(&one, &other)
}

fn carry_out(steps: Vec<Step>) {
    steps.into_iter().for_each(|step| step.carry_out().unwrap());
}

#[test]
fn each_replica_is_an_endpoint_of_its_own() {
    let root = tempfile::tempdir().unwrap();
    let a = make(root.path(), "a", 1, |_| {});
    let b = make(root.path(), "b", 2, |settings| {
        let at = |ip: &str| (ip.parse().unwrap(), 2379);
        settings.endpoints = vec![vec![at("192.0.2.1"), at("2001:db8::1")], vec![at("192.0.2.2")]];
    });
    carry_out(connect(&a, &b).unwrap());
    let side = Side::read(&a, false).unwrap();
    let peer = side.peer(&ClusterName::new("b").unwrap()).unwrap();
    let (first, second) = ("b.mesh.cilium.io", "b-replica-2.mesh.cilium.io");
    assert_eq!(peer.endpoints, [first, second].map(|host| format!("https://{host}:2379")));
    let ips = |host: &str| {
        let alias = peer.host_aliases.iter().find(|alias| alias.hostname == host).unwrap();
        alias.ips.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(ips(first), ["192.0.2.1", "2001:db8::1"]);
    assert_eq!(ips(second), ["192.0.2.2"]);
}

#[test]
fn connected_once_and_taken_back() {
    let root = tempfile::tempdir().unwrap();
    let (a, b) = (make(root.path(), "a", 1, |_| {}), make(root.path(), "b", 2, |_| {}));
    let steps = connect(&a, &b).unwrap();
    assert_eq!(steps.len(), 5);
    assert!(Side::read(&a, false).unwrap().facts.peers.is_empty(), "a plan changes nothing");
    carry_out(steps);
    assert!(connect(&a, &b).unwrap().is_empty(), "done already");

    let side = Side::read(&a, false).unwrap();
    let peer = side.peer(&ClusterName::new("b").unwrap()).unwrap();
    assert_eq!(peer.endpoints, ["https://b.mesh.cilium.io:2379"]);
    let grant = peer.clustermesh.as_ref().unwrap();
    assert_eq!((grant.id, &grant.pod_cidrs[..]), (Some(2), &["10.2.0.0/16".parse().unwrap()][..]));
    let files = CredentialFiles {
        ca: a.join("peers").join(peer.trusted_ca_file.clone().unwrap()),
        certificate: a.join("peers").join(peer.cert_file.clone().unwrap()),
        key: a.join("peers").join(peer.key_file.clone().unwrap()),
    };
    assert_eq!(peer.cert_file.as_deref(), Some(Path::new("b.etcd-client.crt")), "wherever a is");
    assert_eq!(files.load(SystemTime::now()).unwrap().subject(), "CN=remote-a");
    assert_eq!(Side::read(&b, false).unwrap().users.users[0].name, "remote-a");
    let key = "BEGIN PRIVATE KEY";
    let in_b = fs::read_dir(b.join("peers")).into_iter().flatten().flatten();
    assert!(in_b.map(|e| fs::read_to_string(e.path()).unwrap()).all(|text| !text.contains(key)));

    // If b has a new CA, the credentials are replaced, and nothing else.
    fs::remove_dir_all(b.join("pki")).unwrap();
    ClusterPki::new(&b.join("pki")).create("b", "clustermesh", &[], RENEW_BEFORE * 2).unwrap();
    assert_eq!(connect(&a, &b).unwrap().len(), 3);

    let (one, other) = (Side::read(&a, false).unwrap(), Side::read(&b, false).unwrap());
    carry_out(plan_disconnect(&one, &other).unwrap());
    assert_eq!(fs::read_dir(a.join("peers")).unwrap().count(), 0);
    let (one, other) = (Side::read(&a, false).unwrap(), Side::read(&b, false).unwrap());
    assert!(other.users.users.is_empty());
    assert!(plan_disconnect(&one, &other).unwrap().is_empty());
}

#[test]
fn what_an_operator_granted_outlives_connecting_again() {
    let root = tempfile::tempdir().unwrap();
    let (a, b) = (make(root.path(), "a", 1, |_| {}), make(root.path(), "b", 2, |_| {}));
    carry_out(connect(&a, &b).unwrap());
    let path = a.join("peers/b");
    let text = fs::read_to_string(&path).unwrap();
    let granted =
        text.replace("externalBackends: false", "externalBackends: true\n  budget: {keys: 7}");
    assert_ne!(granted, text);
    fs::write(&path, granted).unwrap();
    let grant = || Side::read(&a, false).unwrap().facts.peers.remove(0).1.clustermesh.unwrap();
    let before = grant();
    // Another setting changed: the peer file is written again.
    let settings = b.join("cluster.yaml");
    let moved = fs::read_to_string(&settings).unwrap().replace("172.31.2.1", "172.31.2.9");
    fs::write(&settings, moved).unwrap();
    carry_out(connect(&a, &b).unwrap());
    assert!(fs::read_to_string(&path).unwrap().contains("172.31.2.9"));
    assert_eq!(grant(), before);
    assert!(before.external_backends && before.budget.is_some());
}

#[test]
fn what_cannot_be_connected_is_refused_before_anything_changes() {
    let net = |text: &str| text.parse::<IpNet>().unwrap();
    type Change = Box<dyn FnOnce(&mut ClusterSettings)>;
    let cases: [(Change, &str); 9] = [
        (Box::new(|s| s.name = ClusterName::new("a").unwrap()), "both clusters are called a"),
        (
            Box::new(|s| s.id = ClusterId::new(1, ClusterLimit::Max255).unwrap()),
            "both have the ID 1",
        ),
        (Box::new(|s| s.limit = ClusterLimit::Max511), "maxConnectedClusters"),
        (Box::new(move |s| s.pod_cidrs = vec![net("10.1.128.0/17")]), "overlaps the pod range"),
        (Box::new(move |s| s.node_cidrs = vec![net("10.1.7.0/24")]), "overlaps the node range"),
        (
            Box::new(move |s| s.pod_cidrs = vec![net("10.96.0.0/17")]),
            "the service range 10.96.0.0/16 of a overlaps the pod range",
        ),
        (
            Box::new(move |s| s.node_cidrs = vec![net("10.96.0.0/17")]),
            "the service range 10.96.0.0/16 of a overlaps the node range",
        ),
        (Box::new(|s| s.endpoints.clear()), "names no `endpoints`"),
        (Box::new(|s| s.pod_cidrs.clear()), "names no `podCIDRs`"),
    ];
    for (change, says) in cases {
        let root = tempfile::tempdir().unwrap();
        let a = make(root.path(), "a", 1, |_| {});
        let b = make(root.path(), "b", 2, change);
        let error = connect(&a, &b).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    let root = tempfile::tempdir().unwrap();
    let a = make(root.path(), "a", 1, |_| {});
    assert!(connect(&a, &a).unwrap_err().to_string().contains("both clusters are called"));
    // The two do not overlap, but one overlaps a third cluster that the other has as a peer.
    let b = make(root.path(), "b", 2, |_| {});
    let c = make(root.path(), "c", 3, |s| s.pod_cidrs = vec![net("10.2.4.0/24")]);
    let d = make(root.path(), "d", 2, |s| s.pod_cidrs = vec![net("10.4.0.0/16")]);
    carry_out(connect(&a, &b).unwrap());
    let error = connect(&a, &d).unwrap_err().to_string();
    assert!(error.contains("d has the ID 2, which b has already, a peer of a"), "{error}");
    let error = connect(&a, &c).unwrap_err().to_string();
    assert!(error.contains("overlaps 10.2.0.0/16 of b, which is a peer of a already"), "{error}");
}

#[test]
fn a_cluster_that_was_rebuilt_takes_the_place_of_the_one_before() {
    let root = tempfile::tempdir().unwrap();
    let (a, b) = (make(root.path(), "a", 1, |_| {}), make(root.path(), "b", 2, |_| {}));
    let start = |folder: &Path| {
        let (id, limit) = (ClusterId::new(2, ClusterLimit::Max255).unwrap(), ClusterLimit::Max255);
        let journal = ClusterDirectory::new(folder).journal();
        fs::create_dir_all(journal.parent().unwrap()).unwrap();
        mesh_alloc::Journal::open(&journal, id, limit, Duration::ZERO, SystemTime::now())
            .unwrap()
            .uuid()
    };
    let before = start(&b);
    carry_out(connect(&a, &b).unwrap());
    let key = || fs::read_to_string(a.join("peers/b.etcd-client.key")).unwrap();
    let old_key = key();

    // b was rebuilt; first it has not been started yet, then it has.
    fs::remove_dir_all(b.join("state")).unwrap();
    fs::remove_file(b.join("users.yaml")).unwrap();
    let refused = connect(&a, &b).unwrap_err().to_string();
    assert!(refused.contains("start its apiserver once"), "{refused}");
    let found = start(&b);
    let refused = connect(&a, &b).unwrap_err().to_string();
    assert!(refused.contains(&before.to_string()) && refused.contains("--replace"), "{refused}");
    assert_eq!(key(), old_key);

    let replace = || {
        let (one, other) = (Side::read(&a, false).unwrap(), Side::read(&b, false).unwrap());
        check(&one.facts, &other.facts, true).unwrap();
        plan_connect(&one, &other).unwrap()
    };
    let steps = replace();
    assert_eq!(steps.len(), 5, "users, key, certificate, CA, file: {steps:#?}");
    carry_out(steps);
    assert!(replace().is_empty() && connect(&a, &b).unwrap().is_empty(), "done already");
    assert_ne!(key(), old_key, "although its CA is still the same");
    let side = Side::read(&a, false).unwrap();
    let grant = side.peer(&ClusterName::new("b").unwrap()).unwrap().clustermesh.clone().unwrap();
    assert_eq!(grant.uuid, Some(found));
}
