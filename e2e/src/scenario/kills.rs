//! All daemons are killed, one after another.

use crate::echo_service::{CLIENT, ECHO, client_ips, two_clusters_with_echo, wait_for_backends};
use crate::{
    kernel::services,
    load::{Assert as _, Traffic},
    mesh::{Daemon, Mesh, connect, daemons, is_ready, wait_ready},
};

/// Agents, apiservers and etcds of both clusters are killed and started again. No request fails, and the tables of all
/// nodes are unchanged.
pub fn traffic_outlives_every_daemon(mesh: &impl Mesh) {
    let (one, other) = two_clusters_with_echo(mesh);
    let traffic = Traffic::start(mesh, &one, CLIENT, ECHO);
    for daemon in daemons(mesh) {
        println!("killing {daemon}");
        mesh.kill(&daemon);
        assert!(!is_ready(mesh), "the status shows that {daemon} is away");
        // Tables are looked at while it is away, not only afterwards.
        unchanged(mesh, &[&one, &other]);
        mesh.start(&daemon);
        wait_ready(mesh);
        wait_for_backends(mesh, &[&one, &other]);
    }
    // Everything that the connection needs still exists: connecting again is enough.
    connect(mesh, &one, &other);
    let report = traffic.stop_unharmed();
    report.assert_clients(&client_ips(mesh, &one));
    assert!(report.clusters.len() == 2, "{report:#?}");
    assert!(
        daemons(mesh).iter().any(|daemon| matches!(daemon, Daemon::Agent(..))),
        "agents were among the killed"
    );
}

/// The pods of both clusters are in every kernel.
fn unchanged(mesh: &impl Mesh, clusters: &[&str]) {
    let pods: usize = clusters.iter().map(|cluster| mesh.pod_ips(cluster, "echo").len() / 2).sum();
    for cluster in mesh.clusters() {
        for node in mesh.nodes(&cluster) {
            let found = services(&mesh.pins(&cluster, &node));
            assert_eq!(found.len(), 4, "{found:#?}");
            for (frontend, backends) in found {
                assert_eq!(backends.len(), pods, "{frontend:?} in {cluster}/{node}");
            }
        }
    }
}
