//! Identity IDs while labels change, and while the journal or the etcd is lost.

use std::{collections::BTreeMap, fs};

use serde_json::Value;

use crate::echo_service::{CLIENT, ECHO, client_ips, two_clusters_with_echo, wait_for_history};
use crate::{
    etcdctl, json,
    load::{Assert as _, Traffic},
    mesh::{Daemon, Mesh, eventually, output, wait_ready},
};

/// The ID of each address.
type Identities = BTreeMap<String, u64>;

/// The identities of all pods change with the labels of their namespace. Each new ID is published before an address has it,
/// the old ones stay published, and no request fails. An etcd that lost its data gets the same IDs again.
pub fn pods_are_relabelled(mesh: &impl Mesh) {
    let (one, other) = two_clusters_with_echo(mesh);
    wait_for_history(mesh);
    let traffic = Traffic::start(mesh, &one, CLIENT, ECHO);
    let before = [&one, &other].map(|cluster| identities(mesh, cluster));
    for cluster in [&one, &other] {
        mesh.apply(cluster, "namespace", None);
    }
    for (cluster, before) in [&one, &other].into_iter().zip(&before) {
        let after = eventually("every address has another ID", || {
            let after = identities(mesh, cluster);
            let other = |(ip, id): (&String, &u64)| before.get(ip).is_some_and(|old| old != id);
            if after.len() == before.len() && after.iter().all(other) {
                Ok(after)
            } else {
                Err(format!("{after:?} after {before:?}"))
            }
        });
        for (ip, id) in &after {
            let address = etcdctl::get(mesh, cluster, &format!("cilium/state/ip/v1/default/{ip}"));
            let (address, identity) = (address.expect("it is there"), identity(mesh, cluster, *id));
            let known = identity.expect("a published ID")["create_revision"].as_i64();
            assert!(
                known < address["mod_revision"].as_i64(),
                "{ip} has an ID that is not published"
            );
        }
        for id in before.values() {
            assert!(identity(mesh, cluster, *id).is_some(), "{id} may be read still");
        }
        read_by_nodes(mesh, cluster, &after);
    }

    let before = identities(mesh, &other);
    let (etcd, apiserver) = (Daemon::Etcd(other.clone()), Daemon::Apiserver(other.clone()));
    mesh.kill(&apiserver);
    mesh.kill(&etcd);
    mesh.wipe_etcd(&other);
    mesh.start(&etcd);
    mesh.start(&apiserver);
    wait_ready(mesh);
    assert_eq!(identities(mesh, &other), before, "the IDs come from the journal");
    wait_for_history(mesh);
    let report = traffic.stop_unharmed();
    report.assert_clients(&client_ips(mesh, &one));
}

/// The apiserver detects a lost journal by the content of the etcd. It writes nothing, and allocates no IDs. Both remedies
/// lead to the same IDs.
pub fn a_journal_is_lost(mesh: &impl Mesh) {
    let (one, other) = two_clusters_with_echo(mesh);
    let traffic = Traffic::start(mesh, &one, CLIENT, ECHO);
    let before = identities(mesh, &other);
    let (journal, apiserver) = (mesh.journal(&other), Daemon::Apiserver(other.clone()));
    let backup = fs::read(&journal).expect("a journal");

    mesh.kill(&apiserver);
    let revision = etcdctl::revision(mesh, &other);
    fs::remove_file(&journal).expect("it is there");
    mesh.start(&apiserver);
    eventually("the apiserver says that its journal is lost", || {
        let (code, status, _) = json::run(mesh.clustermesh(&["status", "--context", &other]));
        let apiserver = &status["clusters"][0]["apiserver"];
        let problems = apiserver["problems"].to_string();
        let (gave, way_out) = ("not the one that allocated", "--adopt-identities");
        if code == 3 && problems.contains(gave) && problems.contains(way_out) {
            Ok(())
        } else {
            Err(format!("{code}: {apiserver}"))
        }
    });
    assert_eq!(etcdctl::revision(mesh, &other), revision, "nothing is written");

    mesh.kill(&apiserver);
    fs::write(&journal, backup).expect("a disk");
    mesh.start(&apiserver);
    wait_ready(mesh);
    assert_eq!(identities(mesh, &other), before);

    mesh.kill(&apiserver);
    fs::remove_file(&journal).expect("it is there");
    mesh.start_with(&apiserver, ("CLUSTERMESH_ADOPT_IDENTITIES", "true"));
    wait_ready(mesh);
    assert_eq!(identities(mesh, &other), before);
    mesh.kill(&apiserver);
    mesh.start(&apiserver);
    wait_ready(mesh);
    assert_eq!(identities(mesh, &other), before);
    wait_for_history(mesh);
    let report = traffic.stop_unharmed();
    report.assert_clients(&client_ips(mesh, &one));
}

fn identities(mesh: &impl Mesh, cluster: &str) -> Identities {
    let values = ["get", "--prefix", "--print-value-only", "cilium/state/ip/v1/default/"];
    let text = output(mesh.etcdctl(cluster, &values)).unwrap_or_default();
    let values = text.lines().filter(|line| !line.is_empty());
    let id = |line: &str| {
        let value: Value = serde_json::from_str(line).expect("JSON");
        let ip = value["IP"].as_str().expect("an address").to_owned();
        (ip, value["ID"].as_u64().expect("an ID"))
    };
    values.map(id).collect()
}

fn identity(mesh: &impl Mesh, cluster: &str, id: u64) -> Option<Value> {
    etcdctl::get(mesh, cluster, &format!("cilium/state/identities/v1/id/{id}"))
}

/// The IDs in records for local nodes are those in records for other clusters.
fn read_by_nodes(mesh: &impl Mesh, cluster: &str, identities: &Identities) {
    let values = ["get", "--prefix", "--print-value-only", "clustermesh/local/v1/pods/"];
    let text = etcdctl::run(mesh, cluster, &values);
    let mut exported = Identities::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let pod: Value = serde_json::from_str(line).expect("JSON");
        for ip in pod["ips"].as_array().expect("addresses") {
            let id = pod["identity"].as_u64().expect("an ID");
            exported.insert(ip.as_str().expect("an address").to_owned(), id);
        }
    }
    assert_eq!(exported, *identities);
}
