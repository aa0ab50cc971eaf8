//! An etcd loses its data, and begins a new history.

use crate::echo_service::{CLIENT, ECHO, client_ips, two_clusters_with_echo, wait_for_history};
use crate::{
    etcdctl,
    load::{Assert as _, Traffic},
    mesh::{Daemon, Mesh, eventually, wait_ready},
};

/// The revision of the new history when readers see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum History {
    /// Lower than that of the old history, so readers can detect it by the revision.
    Shorter,
    /// Higher than that of the old history, as if that continued.
    Longer,
}

/// No request fails, and in the end the kernels agree with the manifests, with the changes made meanwhile.
pub fn an_etcd_loses_its_data(mesh: &impl Mesh, history: History) {
    let (one, other) = two_clusters_with_echo(mesh);
    mesh.apply(&other, "spare", Some(2));
    mesh.apply(&one, "spare", None);
    if history == History::Shorter {
        age(mesh, &other, 50);
    }
    wait_for_history(mesh);
    let traffic = Traffic::start(mesh, &one, CLIENT, ECHO);

    let old = etcdctl::revision(mesh, &other);
    let (etcd, apiserver) = (Daemon::Etcd(other.clone()), Daemon::Apiserver(other.clone()));
    mesh.kill(&apiserver);
    mesh.kill(&etcd);
    mesh.wipe_etcd(&other);
    // A pod that is only in the old history.
    mesh.apply(&other, "spare", Some(1));
    // Readers are kept away until the new history has its revision.
    mesh.cut(&one, &format!("{other}/etcd"));
    mesh.start(&etcd);
    mesh.start(&apiserver);
    eventually("the etcd is filled", || {
        let key = format!("cilium/state/services/v1/{other}/{ECHO}");
        etcdctl::get(mesh, &other, &key).map(|_| ()).ok_or_else(|| format!("no {key}"))
    });
    if history == History::Longer {
        age(mesh, &other, old + 10 - etcdctl::revision(mesh, &other));
    }
    let new = etcdctl::revision(mesh, &other);
    assert_eq!(new > old, history == History::Longer, "{new} after {old}");
    mesh.heal();
    wait_ready(mesh);
    wait_for_history(mesh);
    let report = traffic.stop_unharmed();
    report.assert_clients(&client_ips(mesh, &one));
}

/// Adds revisions to a history, by writes to an unused key.
fn age(mesh: &impl Mesh, cluster: &str, revisions: i64) {
    for _ in 0..revisions {
        etcdctl::run(mesh, cluster, &["put", "age", "x"]);
    }
}
