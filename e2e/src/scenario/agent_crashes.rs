//! An agent is killed repeatedly while backends change.

use crate::echo_service::{CLIENT, ECHO, client_ips, two_clusters_with_echo, wait_for_backends};
use crate::{
    load::{Assert as _, Traffic},
    mesh::{Daemon, Mesh, wait_ready},
};

/// The agent on the client's node is killed ten times, every other time while it adds new backends to its tables. No
/// request fails, and after each restart the kernels agree with the manifests.
pub fn traffic_outlives_ten_kills_of_an_agent(mesh: &impl Mesh) {
    let (one, other) = two_clusters_with_echo(mesh);
    let agent = Daemon::Agent(one.clone(), mesh.nodes(&one)[0].clone());
    let traffic = Traffic::start(mesh, &one, CLIENT, ECHO);
    for round in 0..5 {
        let cluster = if round % 2 == 0 { &other } else { &one };
        mesh.apply(cluster, "echo", Some(4));
        restart(mesh, &agent, &[&one, &other]);
        mesh.apply(cluster, "echo", None);
        wait_for_backends(mesh, &[&one, &other]);
        restart(mesh, &agent, &[&one, &other]);
    }
    let report = traffic.stop_unharmed();
    report.assert_clients(&client_ips(mesh, &one));
    assert_eq!(report.clusters.len(), 2, "{report:#?}");
}

fn restart(mesh: &impl Mesh, agent: &Daemon, clusters: &[&str]) {
    mesh.kill(agent);
    mesh.start(agent);
    wait_ready(mesh);
    wait_for_backends(mesh, clusters);
}
