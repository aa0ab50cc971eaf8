//! A pod without socket load balancing: its connections are not translated.

use crate::echo_service::{CLIENT, ECHO, ECHO_PORT};
use crate::{
    json,
    mesh::{Daemon, Mesh, eventually, frontends, wait_ready},
};

/// The pod of `e2e/manifests/alone.yaml`.
const ALONE: &str = "alone";

/// The pod reaches pods by their addresses, but not by a service's address, while another pod reaches both. This stays so
/// when its agent is killed, while the control plane does not run, and when the agent runs again.
pub fn a_pod_opts_out_of_socket_lb(mesh: &impl Mesh) {
    let cluster = &mesh.clusters()[0];
    for manifest in ["echo", CLIENT, ALONE] {
        mesh.apply(cluster, manifest, None);
    }
    wait_ready(mesh);
    let services = ["TCP", "UDP"].map(|protocol| {
        frontends(mesh, cluster, ECHO, protocol)
            .into_iter()
            .map(move |service| (protocol, service.to_string()))
    });
    let services: Vec<(&str, String)> = services.into_iter().flatten().collect();
    assert!(services.len() >= 2, "{services:?}");
    let pod = mesh.pod_ips(cluster, "echo-0")[0];
    let direct = std::net::SocketAddr::new(pod, ECHO_PORT).to_string();
    for (protocol, service) in &services {
        eventually("another pod reaches the service", || {
            calls(mesh, cluster, CLIENT, protocol, service)
        });
    }
    let alone = || {
        calls(mesh, cluster, ALONE, "TCP", &direct)?;
        for (protocol, service) in &services {
            if calls(mesh, cluster, ALONE, protocol, service).is_ok() {
                return Err(format!("{service}/{protocol} answers"));
            }
        }
        Ok(())
    };
    eventually("the pod's connections are not translated", alone);

    let agent = Daemon::Agent(cluster.clone(), mesh.node_of(cluster, ALONE));
    let (apiserver, etcd) = (Daemon::Apiserver(cluster.clone()), Daemon::Etcd(cluster.clone()));
    for daemon in [&apiserver, &etcd, &agent] {
        mesh.kill(daemon);
    }
    assert_eq!(alone(), Ok(()), "without an agent");
    mesh.start(&agent);
    eventually("the agent has its pods again", || {
        let list = ["pod", "list", "--context", cluster];
        let (_, pods, complaint) = json::run(mesh.clustermesh(&list));
        let known =
            pods["pods"].as_array().is_some_and(|pods| pods.iter().any(|p| p["name"] == ALONE));
        if known { Ok(()) } else { Err(format!("{pods:#} {complaint}")) }
    });
    assert_eq!(alone(), Ok(()), "while the control plane is away");
    mesh.start(&etcd);
    mesh.start(&apiserver);
    wait_ready(mesh);
    assert_eq!(alone(), Ok(()), "with an agent that synced again");
    for (protocol, service) in &services {
        assert_eq!(calls(mesh, cluster, CLIENT, protocol, service), Ok(()));
    }
}

/// Sends one request from a pod.
fn calls(
    mesh: &impl Mesh,
    cluster: &str,
    pod: &str,
    protocol: &str,
    to: &str,
) -> Result<(), String> {
    let mut call = vec!["clustermesh", "lab-pod", "call", to, "--count", "1"];
    if protocol == "UDP" {
        call.push("--udp");
    }
    match json::run(mesh.in_pod(cluster, pod, &call)) {
        (0, ..) => Ok(()),
        (code, printed, complaint) => Err(format!("{code}: {printed:#} {complaint}")),
    }
}
