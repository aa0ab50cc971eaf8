//! An agent is restarted repeatedly, and established connections are not affected.

use std::time::Instant;

use crate::{
    echo_service::{CLIENT, ECHO, client_ips, two_clusters_with_echo, wait_for_backends},
    json,
    load::{Assert as _, Traffic},
    mesh::{Daemon, Mesh, eventually, wait_ready},
};

/// How an agent is restarted.
#[derive(Clone, Copy, Debug)]
enum Restart {
    /// It was stopped, and starts with its state.
    Stopped,
    /// It was killed, and starts with its state.
    Killed,
    /// It was killed, and the other cluster's etcd does not run when it starts.
    PeerAway,
    /// It was killed while it added new backends to its tables. These are removed again after its start.
    Growing,
}

const RESTARTS: [Restart; 4] =
    [Restart::Stopped, Restart::Killed, Restart::PeerAway, Restart::Growing];

/// Restarts the agent on the client's node. No request fails, and each of 50 connections and 50 connected UDP sockets to
/// backends survives all restarts.
pub fn restarts_end_no_connection(mesh: &impl Mesh, restarts: usize) {
    let (one, other) = two_clusters_with_echo(mesh);
    let agent = Daemon::Agent(one.clone(), mesh.nodes(&one)[0].clone());
    let kept = ["--datagram-flows", "50"];
    let traffic = Traffic::start_with(mesh, &one, CLIENT, ECHO, &kept);
    let began = Instant::now();
    for (number, restart) in (1..=restarts).zip(RESTARTS.into_iter().cycle()) {
        restart.make(mesh, &agent, [&one, &other]);
        let (how, seconds) = (restart.as_str(), began.elapsed().as_secs());
        println!("restart {number} of {restarts} ({how}), {seconds} s");
    }
    let report = traffic.stop_unharmed();
    println!("{restarts} restarts took {} s", began.elapsed().as_secs());
    report.assert_clients(&client_ips(mesh, &one));
    assert_eq!((report.ended, report.reopened), (0, 0), "no flow ended: {report:#?}");
    let least = restarts as u64;
    assert!(report.over_flows > least && report.over_datagram_flows > least, "{report:#?}");
    assert_eq!(report.clusters.len(), 2, "{report:#?}");
}

impl Restart {
    fn as_str(self) -> &'static str {
        match self {
            Self::Stopped => "the agent was stopped",
            Self::Killed => "the agent was killed",
            Self::PeerAway => "the agent was killed, and the other cluster's etcd before it",
            Self::Growing => "the agent was killed while backends were added",
        }
    }

    fn make(self, mesh: &impl Mesh, agent: &Daemon, [one, other]: [&str; 2]) {
        let etcd = Daemon::Etcd(other.to_owned());
        match self {
            Self::Stopped => mesh.stop(agent),
            Self::Killed => mesh.kill(agent),
            Self::PeerAway => {
                mesh.kill(&etcd);
                mesh.kill(agent);
            }
            Self::Growing => {
                mesh.apply(other, "echo", Some(4));
                mesh.kill(agent);
            }
        }
        mesh.start(agent);
        eventually("the agent answers", || {
            let show = ["service", "show", ECHO, "--context", one];
            match json::run(mesh.clustermesh(&show)) {
                (0, ..) => Ok(()),
                (_, _, complaint) => Err(complaint),
            }
        });
        if matches!(self, Self::PeerAway) {
            // It has taken its tables over, and has the peer's records from its snapshot.
            wait_for_backends(mesh, &[one, other]);
            mesh.start(&etcd);
        }
        wait_ready(mesh);
        wait_for_backends(mesh, &[one, other]);
        if matches!(self, Self::Growing) {
            mesh.apply(other, "echo", None);
            wait_for_backends(mesh, &[one, other]);
        }
    }
}
