//! Clients that wait for an answer that never comes.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Child, ChildStdout, Command, Stdio},
};

use mesh_lab::workload::hang::Event;

use crate::{
    echo_service::{CLIENT, ECHO, wait_for_backends},
    mesh::{Mesh, frontends},
};

/// A connection that waits for an answer.
pub(super) struct Hanging {
    child: Child,
    events: BufReader<ChildStdout>,
}

/// Connects once to each frontend, so that all connections wait for pods of the other cluster, although both clusters have
/// pods.
pub(super) fn on_the_other(mesh: &impl Mesh, one: &str, other: &str) -> Vec<Hanging> {
    mesh.apply(one, "echo", Some(0));
    wait_for_backends(mesh, &[other]);
    let mut clients = to_every_frontend(mesh, one);
    for client in &mut clients {
        assert_eq!(client.answering(), other);
    }
    mesh.apply(one, "echo", None);
    wait_for_backends(mesh, &[one, other]);
    clients
}

/// Connects once to each frontend of the service: TCP and UDP, in both families.
fn to_every_frontend(mesh: &impl Mesh, cluster: &str) -> Vec<Hanging> {
    let tcp = frontends(mesh, cluster, ECHO, "TCP");
    let mut clients: Vec<Hanging> =
        tcp.iter().map(|to| Hanging::by(mesh, cluster, *to, &[])).collect();
    let udp = frontends(mesh, cluster, ECHO, "UDP");
    clients.extend(udp.iter().map(|to| Hanging::start(mesh, cluster, *to)));
    assert_eq!(clients.len(), 4, "TCP and UDP, v4 and v6");
    clients
}

impl Hanging {
    pub(super) fn start(mesh: &impl Mesh, cluster: &str, to: SocketAddr) -> Self {
        Self::by(mesh, cluster, to, &["--udp"])
    }

    fn by(mesh: &impl Mesh, cluster: &str, to: SocketAddr, flags: &[&str]) -> Self {
        let to = to.to_string();
        let hang = ["clustermesh", "lab-pod", "hang", &to];
        let mut command: Command = mesh.in_pod(cluster, CLIENT, &[&hang, flags].concat());
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the command runs");
        let events = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, events }
    }

    /// Whether it still waits.
    pub(super) fn waits(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    /// Waits for the next event.
    pub(super) fn event(&mut self) -> Event {
        let mut line = String::new();
        self.events.read_line(&mut line).expect("a line");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
    }

    /// Waits for the next answer. Returns the cluster that answered.
    pub(super) fn answering(&mut self) -> String {
        match self.event() {
            Event::Answered(answer) => answer.cluster,
            Event::Ended(errno) => panic!("it ended: {errno}"),
        }
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
