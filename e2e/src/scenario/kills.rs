//! Every daemon is killed, one after another.

use crate::echo_service::{CLIENT, ECHO, client_ips, two_clusters_with_echo, wait_for_backends};
use crate::{
    json,
    kernel::services,
    load::{Assert as _, Traffic},
    mesh::{Daemon, Mesh, connect, daemons, wait_ready},
};

/// Agents, apiservers and etcds of both clusters: no request fails while one is away, while it comes back, or after; and
/// the tables of every node are what they were.
pub fn traffic_outlives_every_daemon(mesh: &impl Mesh) {
    let (one, other) = two_clusters_with_echo(mesh);
    let traffic = Traffic::start(mesh, &one, CLIENT, ECHO);
    for daemon in daemons(mesh) {
        println!("killing {daemon}");
        mesh.kill(&daemon);
        let (code, _, _) = json::run(mesh.clustermesh(&["status"]));
        assert_ne!(code, 0, "the status shows that {daemon} is away");
        // Tables are looked at while it is away, not only afterwards.
        unchanged(mesh, &[&one, &other]);
        mesh.start(&daemon);
        wait_ready(mesh);
        wait_for_backends(mesh, &[&one, &other]);
    }
    // What a connection needs is still all there.
    connect(mesh, &one, &other);
    let report = traffic.stop_unharmed();
    report.assert_clients(&client_ips(mesh, &one));
    assert!(report.clusters.len() == 2, "{report:#?}");
    assert!(
        daemons(mesh).iter().any(|daemon| matches!(daemon, Daemon::Agent(..))),
        "agents were among the killed"
    );
}

/// Both clusters' pods are in every kernel, whichever daemon is away.
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
