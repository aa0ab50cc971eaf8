//! Somebody hangs on a pod that is gone, and is told so.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Child, ChildStdout, Command, Stdio},
};

use mesh_lab::workload::hang::Event;

use super::{CLIENT, ECHO, ECHO_PORT, agent_status, two_with_echo, wait_for_backends};
use crate::mesh::{Mesh, frontends};

/// `errno`, as clients see it.
const ECONNABORTED: i32 = 103;

/// A connection that waits for what never comes.
struct Hanging {
    child: Child,
    told: BufReader<ChildStdout>,
}

/// UDP clients of a service that wait for a pod of the other cluster. The pod goes, and its cluster takes it back: each
/// hears of it, connects again, and is answered by a pod that is there. One that connected to the pod by its own address
/// is left alone.
pub fn sockets_to_vanished_backends_end(mesh: &impl Mesh) {
    let (one, other) = two_with_echo(mesh);
    mesh.apply(&one, "echo", Some(0));
    wait_for_backends(mesh, &[&other]);
    let services = frontends(mesh, &one, ECHO, "UDP");
    assert_eq!(services.len(), 2, "v4 and v6");
    let mut clients: Vec<Hanging> =
        services.iter().map(|to| Hanging::start(mesh, &one, *to)).collect();
    let pod = SocketAddr::new(mesh.pod_ips(&other, "echo")[0], ECHO_PORT);
    let mut itself = Hanging::start(mesh, &one, pod);
    for client in clients.iter_mut().chain([&mut itself]) {
        assert_eq!(client.answering(), other);
    }

    mesh.apply(&one, "echo", None);
    wait_for_backends(mesh, &[&one, &other]);
    mesh.apply(&other, "echo", Some(0));
    wait_for_backends(mesh, &[&one]);
    for client in &mut clients {
        assert_eq!(client.event(), Event::Ended(ECONNABORTED));
        assert_eq!(client.answering(), one);
    }
    assert_eq!(itself.child.try_wait().expect("a child"), None, "nobody ended its socket");
    let node = mesh.node_of(&one, CLIENT);
    let status = agent_status(mesh, &one, &node);
    assert_eq!(status["counters"]["udp_sockets_ended"], 2, "{status:#}");
}

/// The other cluster is cut off: TCP and UDP clients that wait for one of its pods hear of it, and are answered by ours.
pub fn sockets_to_a_cluster_that_is_cut_off_end(mesh: &impl Mesh) {
    let (one, other) = two_with_echo(mesh);
    mesh.apply(&one, "echo", Some(0));
    wait_for_backends(mesh, &[&other]);
    let tcp = frontends(mesh, &one, ECHO, "TCP");
    let mut clients: Vec<Hanging> =
        tcp.iter().map(|to| Hanging::by(mesh, &one, *to, &[])).collect();
    let udp = frontends(mesh, &one, ECHO, "UDP");
    clients.extend(udp.iter().map(|to| Hanging::start(mesh, &one, *to)));
    assert_eq!(clients.len(), 4, "TCP and UDP, v4 and v6");
    for client in &mut clients {
        assert_eq!(client.answering(), other);
    }
    mesh.apply(&one, "echo", None);
    wait_for_backends(mesh, &[&one, &other]);

    mesh.cut(&one, &other);
    for client in &mut clients {
        assert_eq!(client.event(), Event::Ended(ECONNABORTED));
        assert_eq!(client.answering(), one);
    }
    let node = mesh.node_of(&one, CLIENT);
    let counters = agent_status(mesh, &one, &node)["counters"].clone();
    let ended = ["tcp_sockets_ended", "udp_sockets_ended"].map(|name| counters[name].clone());
    assert_eq!(ended, [2, 2], "{counters:#}");
}

impl Hanging {
    fn start(mesh: &impl Mesh, cluster: &str, to: SocketAddr) -> Self {
        Self::by(mesh, cluster, to, &["--udp"])
    }

    fn by(mesh: &impl Mesh, cluster: &str, to: SocketAddr, flags: &[&str]) -> Self {
        let to = to.to_string();
        let hang = ["clustermesh", "lab-pod", "hang", &to];
        let mut command: Command = mesh.in_pod(cluster, CLIENT, &[&hang, flags].concat());
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the command runs");
        let told = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, told }
    }

    /// What happens next.
    fn event(&mut self) -> Event {
        let mut line = String::new();
        self.told.read_line(&mut line).expect("a line");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
    }

    /// The cluster that answers next.
    fn answering(&mut self) -> String {
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
