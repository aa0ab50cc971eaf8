//! Daemons are stopped by a signal, as in an upgrade.

use crate::echo_service::{CLIENT, ECHO, client_ips, two_clusters_with_echo, wait_for_backends};
use crate::{
    kernel::services,
    load::{Assert as _, Traffic},
    mesh::{Daemon, Mesh, wait_ready},
};

/// Agents that stop leave the kernel unchanged: no request fails while they do not run, and the agents that start later
/// take the tables over.
pub fn agents_that_are_stopped_leave_everything(mesh: &impl Mesh) {
    let (one, other) = two_clusters_with_echo(mesh);
    let traffic = Traffic::start(mesh, &one, CLIENT, ECHO);
    let agents: Vec<Daemon> =
        mesh.nodes(&one).into_iter().map(|node| Daemon::Agent(one.clone(), node)).collect();
    let tables = || -> Vec<_> {
        mesh.nodes(&one).iter().map(|node| services(&mesh.pins(&one, node))).collect()
    };
    let before = tables();
    assert!(before.iter().all(|services| services.len() == 4), "{before:#?}");
    for round in 0..2 {
        agents.iter().for_each(|agent| mesh.stop(agent));
        assert_eq!(tables(), before, "round {round}");
        // No agent runs that could apply this change.
        std::thread::sleep(std::time::Duration::from_secs(1));
        assert_eq!(tables(), before, "round {round}");
        agents.iter().for_each(|agent| mesh.start(agent));
        wait_ready(mesh);
        wait_for_backends(mesh, &[&one, &other]);
        assert_eq!(tables(), before, "round {round}");
    }
    let report = traffic.stop_unharmed();
    report.assert_clients(&client_ips(mesh, &one));
}
