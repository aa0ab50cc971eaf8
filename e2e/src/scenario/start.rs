//! An agent starts while the local cluster's etcd does not run.

use crate::echo_service::{CLIENT, ECHO, client_ips, two_clusters_with_echo, wait_for_history};
use crate::{
    json,
    load::{Assert as _, Traffic},
    mesh::{Daemon, Mesh, eventually, wait_ready},
};

/// It gets the other cluster's pods, but not the local services. Only the other cluster answers requests, without
/// interruption.
pub fn an_agent_starts_without_its_local_etcd(mesh: &impl Mesh) {
    let (one, other) = two_clusters_with_echo(mesh);
    mesh.apply(&one, "echo", Some(0));
    wait_for_history(mesh);
    let traffic = Traffic::start(mesh, &one, CLIENT, ECHO);
    let etcd = Daemon::Etcd(one.clone());
    mesh.kill(&etcd);
    for node in mesh.nodes(&one) {
        let agent = Daemon::Agent(one.clone(), node);
        mesh.kill(&agent);
        mesh.start(&agent);
    }
    eventually("the agents have synced the other cluster", || {
        let (_, status, _) = json::run(mesh.clustermesh(&["status", "--context", &one]));
        let agents = status["clusters"][0]["agents"].as_array().cloned().unwrap_or_default();
        let peers =
            agents.iter().flat_map(|agent| agent["peers"].as_array().cloned().unwrap_or_default());
        let synced = peers.filter(|peer| peer["name"] == other.as_str() && peer["ready"] == true);
        let synced = synced.count();
        if synced == mesh.nodes(&one).len() { Ok(()) } else { Err(format!("{synced}: {status:#}")) }
    });
    let (code, history, _) = json::run(mesh.check_history().expect("a history"));
    assert_eq!(code, 0, "without services there are no wrong frontends: {history:#}");
    mesh.start(&etcd);
    wait_ready(mesh);
    wait_for_history(mesh);
    let report = traffic.stop_unharmed();
    report.assert_clients(&client_ips(mesh, &one));
}
