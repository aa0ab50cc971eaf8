//! Clients that wait for a removed or unreachable pod get an error.

use std::net::SocketAddr;

use mesh_lab::workload::hang::Event;

use super::hanging::{Hanging, on_the_other};
use crate::{
    echo_service::{
        CLIENT, ECHO, ECHO_PORT, agent_status, two_clusters_with_echo, wait_for_backends,
    },
    mesh::{Mesh, frontends},
};

/// The `errno` that clients get.
const ECONNABORTED: i32 = 103;

/// UDP clients of a service wait for a pod of the other cluster. The pod is removed: each client gets an error, connects
/// again, and an existing pod answers. A client that connected to the pod's own address is not affected.
pub fn sockets_to_vanished_backends_end(mesh: &impl Mesh) {
    let (one, other) = two_clusters_with_echo(mesh);
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
    assert!(itself.waits(), "its socket was not ended");
    let node = mesh.node_of(&one, CLIENT);
    let status = agent_status(mesh, &one, &node);
    assert_eq!(status["counters"]["udp_sockets_ended"], 2, "{status:#}");
}

/// The other cluster is unreachable for long. TCP and UDP clients that wait for one of its pods get an error, connect
/// again, and local pods answer.
pub fn sockets_to_a_cluster_that_is_cut_off_end(mesh: &impl Mesh) {
    let (one, other) = two_clusters_with_echo(mesh);
    let mut clients = on_the_other(mesh, &one, &other);

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
