//! A lease expires.

use crate::echo_service::{CLIENT, ECHO, client_ips, two_clusters_with_echo, wait_for_history};
use crate::{
    etcdctl,
    load::{Assert as _, Traffic},
    mesh::{Daemon, Mesh, eventually, wait_ready},
};

/// The writer's heartbeat disappears with its lease, while the writer runs and while it does not. Nothing is removed. A
/// writer that runs puts the heartbeat again.
pub fn an_expired_lease_removes_nothing(mesh: &impl Mesh) {
    let (one, other) = two_clusters_with_echo(mesh);
    let traffic = Traffic::start(mesh, &one, CLIENT, ECHO);
    let apiserver = Daemon::Apiserver(other.clone());

    revoke(mesh, &other);
    wait_for_history(mesh);
    mesh.kill(&apiserver);
    mesh.start(&apiserver);
    wait_ready(mesh);
    eventually("the writer has put a heartbeat again", || match beat(mesh, &other) {
        Some(_) => Ok(()),
        None => Err("no heartbeat".into()),
    });

    mesh.kill(&apiserver);
    revoke(mesh, &other);
    wait_for_history(mesh);
    // A reader that starts now finds no heartbeat, but all records.
    for node in mesh.nodes(&one) {
        let agent = Daemon::Agent(one.clone(), node);
        mesh.kill(&agent);
        mesh.start(&agent);
    }
    wait_for_history(mesh);
    mesh.start(&apiserver);
    wait_ready(mesh);
    wait_for_history(mesh);
    let report = traffic.stop_unharmed();
    report.assert_clients(&client_ips(mesh, &one));
}

/// Revokes the heartbeat's lease, which deletes the heartbeat.
fn revoke(mesh: &impl Mesh, cluster: &str) {
    let lease = beat(mesh, cluster).expect("a heartbeat has a lease");
    etcdctl::run(mesh, cluster, &["lease", "revoke", &format!("{lease:x}")]);
    assert_ne!(beat(mesh, cluster), Some(lease), "it is gone");
}

/// The lease of the heartbeat; `None` if there is no heartbeat.
fn beat(mesh: &impl Mesh, cluster: &str) -> Option<i64> {
    etcdctl::get(mesh, cluster, "cilium/.heartbeat")?["lease"].as_i64()
}
