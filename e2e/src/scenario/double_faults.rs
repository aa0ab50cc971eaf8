//! Two daemons are killed at a time.

use crate::echo_service::{CLIENT, ECHO, client_ips, two_clusters_with_echo, wait_for_history};
use crate::{
    load::{Assert as _, Traffic},
    mesh::{Daemon, Mesh, wait_ready},
};

/// Pairs of daemons that could compensate for each other are killed together, and started again, the second one first. No
/// request fails, and every kernel is unchanged.
pub fn traffic_outlives_pairs_of_daemons(mesh: &impl Mesh) {
    let (one, other) = two_clusters_with_echo(mesh);
    let (etcd, apiserver) =
        (|c: &str| Daemon::Etcd(c.into()), |c: &str| Daemon::Apiserver(c.into()));
    let agent = |c: &str, at: usize| Daemon::Agent(c.into(), mesh.nodes(c)[at].clone());
    let pairs = [
        // One cluster without its control plane; two clusters without theirs.
        [etcd(&other), apiserver(&other)],
        [etcd(&one), etcd(&other)],
        [apiserver(&one), apiserver(&other)],
        // An agent that starts while an etcd does not run: the local cluster's, or the other's.
        [agent(&one, 0), etcd(&one)],
        [agent(&one, 0), etcd(&other)],
        // All agents of a cluster, and both ends of a connection.
        [agent(&one, 0), agent(&one, 1)],
        [agent(&one, 0), agent(&other, 0)],
    ];
    let traffic = Traffic::start(mesh, &one, CLIENT, ECHO);
    for pair in &pairs {
        println!("killing {} and {}", pair[0], pair[1]);
        pair.iter().for_each(|daemon| mesh.kill(daemon));
        wait_for_history(mesh);
        // The first daemon starts while the other one does not run.
        mesh.start(&pair[0]);
        wait_for_history(mesh);
        mesh.start(&pair[1]);
        wait_ready(mesh);
        wait_for_history(mesh);
    }
    let report = traffic.stop_unharmed();
    report.assert_clients(&client_ips(mesh, &one));
}
