//! The mesh of most scenarios: clusters that share the service of `deploy/examples/echo.yaml`, and a client.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use serde_json::Value;

use crate::{
    json,
    kernel::{Destination, Services},
    mesh::{Mesh, connect, eventually, frontends},
};

/// The service of `deploy/examples/echo.yaml`.
pub const ECHO: &str = "default/echo";
/// The port of its pods.
pub const ECHO_PORT: u16 = 8080;
/// The pod of `deploy/examples/client.yaml`.
pub const CLIENT: &str = "client";
/// The names and numbers of IP protocols.
pub const PROTOCOLS: [(&str, u8); 2] = [("TCP", 6), ("UDP", 17)];

/// Two connected clusters with a global service in each, and a client in the first.
pub fn two_clusters_with_echo(mesh: &impl Mesh) -> (String, String) {
    let [one, other] = mesh.clusters().try_into().expect("two clusters");
    for cluster in [&one, &other] {
        mesh.apply(cluster, "echo", None);
    }
    mesh.apply(&one, "client", None);
    connect(mesh, &one, &other);
    wait_for_backends(mesh, &[&one, &other]);
    (one, other)
}

/// Waits until every kernel agrees with the manifests, according to `clustermesh lab check-history`, which asks no daemon. A
/// mesh without a history is not waited for.
pub fn wait_for_history(mesh: &impl Mesh) {
    eventually("the kernels agree with the manifests", || {
        let Some(check) = mesh.check_history() else { return Ok(()) };
        match json::run(check) {
            (0, ..) => Ok(()),
            (_, history, complaint) => Err(format!("{history:#} {complaint}")),
        }
    });
}

/// Waits until every node of every cluster uses exactly the pods of `clusters` as backends.
pub fn wait_for_backends(mesh: &impl Mesh, clusters: &[&str]) {
    for cluster in mesh.clusters() {
        wait_for_backends_in(mesh, &cluster, clusters);
    }
}

/// Waits until every node of one cluster uses exactly the pods of `clusters` as backends.
pub fn wait_for_backends_in(mesh: &impl Mesh, cluster: &str, clusters: &[&str]) {
    let wanted = wanted(mesh, cluster, clusters);
    for node in mesh.nodes(cluster) {
        let pins = mesh.pins(cluster, &node);
        eventually(&format!("the kernel of {cluster}/{node} agrees with the manifests"), || {
            let found = crate::kernel::services(&pins);
            if found == wanted { Ok(()) } else { Err(format!("{found:#?}, not {wanted:#?}")) }
        });
    }
}

/// The services that the kernels of `cluster` must have according to the manifests, if `clusters` are in the mesh: each
/// address leads to all pods of its family.
pub fn wanted(mesh: &impl Mesh, cluster: &str, clusters: &[&str]) -> Services {
    let destinations = |v4: bool| -> BTreeSet<Destination> {
        let of = |name: &&str| {
            let cluster = id_of(name);
            let ips = mesh.pod_ips(name, "echo").into_iter().filter(move |ip| ip.is_ipv4() == v4);
            ips.map(move |ip| Destination { address: SocketAddr::new(ip, ECHO_PORT), cluster })
        };
        clusters.iter().flat_map(of).collect()
    };
    let mut services = Services::new();
    for (name, number) in PROTOCOLS {
        for frontend in frontends(mesh, cluster, ECHO, name) {
            services.insert((frontend, number), destinations(frontend.is_ipv4()));
        }
    }
    assert_eq!(services.len(), 4, "TCP and UDP, v4 and v6");
    services
}

/// The ID of a cluster: a, b, c have 1, 2, 3.
pub fn id_of(cluster: &str) -> u16 {
    u16::from(cluster.bytes().next().expect("a name") - b'a') + 1
}

/// A node's agent in `clustermesh status --output json`.
pub fn agent_status(mesh: &impl Mesh, cluster: &str, node: &str) -> Value {
    let (_, status, stderr) = json::run(mesh.clustermesh(&["status", "--context", cluster]));
    let agents = status["clusters"][0]["agents"].as_array().cloned().unwrap_or_default();
    let agent = agents.into_iter().find(|agent| agent["node"] == node);
    agent.unwrap_or_else(|| panic!("no agent on {cluster}/{node}: {status:#}\n{stderr}"))
}

/// The addresses of the client's pod, which servers in every cluster must see.
pub fn client_ips(mesh: &impl Mesh, cluster: &str) -> Vec<IpAddr> {
    let ips = mesh.pod_ips(cluster, CLIENT);
    assert_eq!(ips.len(), 2, "v4 and v6");
    ips
}
