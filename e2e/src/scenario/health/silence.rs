//! An etcd that is not heard.

use super::super::{
    CLIENT, ECHO, agent_status, two_with_echo, wait_for_backends, wait_for_backends_in,
};
use crate::{
    load::Traffic,
    mesh::{Daemon, Mesh, eventually, wait_ready},
};

/// The budget in its agents' environment, and what it is by default.
const BUDGET: (&str, &str) = ("CLUSTERMESH_STALENESS_BUDGET_SECONDS", "4");

/// A peer whose etcd is away loses nothing while its budget lasts, is left out then, and is back when it is heard; what the
/// own cluster said is used for ever. No request fails at any of it.
pub fn a_silent_peer_is_believed_for_so_long(mesh: &impl Mesh) {
    let (one, other) = two_with_echo(mesh);
    let nodes = mesh.nodes(&one);
    let node = mesh.node_of(&one, CLIENT);
    for node in &nodes {
        let agent = Daemon::Agent(one.clone(), node.clone());
        mesh.kill(&agent);
        mesh.start_with(&agent, BUDGET);
    }
    wait_ready(mesh);
    wait_for_backends(mesh, &[&one, &other]);
    let traffic = Traffic::start(mesh, &one, CLIENT, ECHO);
    for cluster in [&one, &other] {
        mesh.kill(&Daemon::Etcd(cluster.clone()));
    }
    eventually("it is seen that nobody speaks", || {
        let problems = agent_status(mesh, &one, &node)["problems"].to_string();
        if problems.contains("not heard for") { Ok(()) } else { Err(problems) }
    });
    wait_for_backends_in(mesh, &one, &[&one]);
    // The other's agents have the default.
    wait_for_backends_in(mesh, &other, &[&one, &other]);

    for cluster in [&one, &other] {
        mesh.start(&Daemon::Etcd(cluster.clone()));
    }
    wait_for_backends(mesh, &[&one, &other]);
    wait_ready(mesh);
    let problems = agent_status(mesh, &one, &node)["problems"].to_string();
    assert!(!problems.contains("not heard"), "{problems}");
    traffic.stop_unharmed();
}
