//! Nodes and API servers fail.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use mesh_e2e::{
    Kind, Mesh, Traffic,
    echo_service::{CLIENT, ECHO, client_ips, two_clusters_with_echo, wait_for_backends},
    kernel,
    load::Assert as _,
    mesh::{eventually, wait_ready, within},
    scenario::wait_until_probed,
};
use nix::sys::signal::Signal;

const WORKER: &str = "a-worker";

/// The backends of the service that a node's kernel uses.
fn backends(mesh: &Kind, cluster: &str, node: &str) -> BTreeSet<IpAddr> {
    let services = kernel::services(&mesh.pins(cluster, node));
    services.into_values().flatten().map(|destination| destination.address.ip()).collect()
}

/// Pods of the service on a node.
fn pods_on(mesh: &Kind, node: &str) -> BTreeSet<IpAddr> {
    let pods = mesh.objects("a", "pods", "default");
    let here = pods.iter().filter(|pod| pod["spec"]["nodeName"] == node);
    let ips = here.flat_map(|pod| pod["status"]["podIPs"].as_array().cloned().unwrap_or_default());
    ips.filter_map(|ip| ip["ip"].as_str()?.parse().ok()).collect()
}

/// A node of the other cluster is killed under load. New connections avoid its pods long before Kubernetes notices, and it is
/// used again when it is back, with other pods and an agent that begins with nothing in the kernel.
#[test]
fn a_killed_node() {
    let mesh = Kind::up(&["b", "a"]);
    let (one, other) = two_clusters_with_echo(&mesh);
    wait_until_probed(&mesh, &one, &other);
    let lost = pods_on(&mesh, WORKER);
    let node = mesh.node_of(&one, CLIENT);
    let used = backends(&mesh, &one, &node);
    assert!(!lost.is_empty() && lost.is_subset(&used), "{lost:?} of {used:?}");

    let during = Traffic::start(&mesh, &one, CLIENT, ECHO);
    mesh.kill_node(WORKER);
    let began = Instant::now();
    eventually("pods of the dead node are not used", || {
        let used = backends(&mesh, &one, &node);
        if used.is_disjoint(&lost) { Ok(()) } else { Err(format!("{used:?}")) }
    });
    println!("avoided after {:?}", began.elapsed());
    let after = Traffic::start(&mesh, &one, CLIENT, ECHO);
    thread::sleep(Duration::from_secs(3));
    let report = after.stop_unharmed();
    report.assert_clients(&client_ips(&mesh, &one));
    // Requests on their way to the node are lost with it.
    assert!(during.stop().answered > 0);

    mesh.start_node(WORKER);
    within(Duration::from_secs(120), "its pods run again, at other addresses", || {
        let now = pods_on(&mesh, WORKER);
        if !now.is_empty() && now.is_disjoint(&lost) { Ok(()) } else { Err(format!("{now:?}")) }
    });
    mesh.settle(&other);
    wait_ready(&mesh);
    wait_for_backends(&mesh, &[&one, &other]);
    let traffic = Traffic::start(&mesh, &one, CLIENT, ECHO);
    thread::sleep(Duration::from_secs(2));
    assert_eq!(traffic.stop_unharmed().clusters.len(), 2);
}

/// The API server of a cluster hangs while its pods and those of the other cluster change. What was known stays in use, changes
/// of the other cluster arrive, and its own as soon as it is back.
#[test]
fn an_api_server_that_is_away() {
    let mesh = Kind::up(&["a", "b"]);
    let (one, other) = two_clusters_with_echo(&mesh);
    let node = mesh.node_of(&one, CLIENT);
    let (mine, theirs) = (mesh.pod_ips(&one, "echo"), mesh.pod_ips(&other, "echo"));
    let traffic = Traffic::start(&mesh, &one, CLIENT, ECHO);
    assert_eq!(mesh.signal_on_node("b-control-plane", "kube-apiserver", Signal::SIGSTOP), 1);
    let began = Instant::now();

    mesh.apply(&one, "echo", Some(3));
    let all: BTreeSet<IpAddr> =
        mesh.pod_ips(&one, "echo").into_iter().chain(theirs.iter().copied()).collect();
    assert!(all.len() > mine.len() + theirs.len(), "{all:?}");
    eventually("the new pod of a is used, and those of b still are", || {
        let used = backends(&mesh, &one, &node);
        if used == all { Ok(()) } else { Err(format!("{used:?}, not {all:?}")) }
    });
    // Longer than our apiserver waits for an answer, and shorter than the control plane waits for kubelets.
    thread::sleep(Duration::from_secs(20).saturating_sub(began.elapsed()));
    assert_eq!(backends(&mesh, &one, &node), all, "nothing is removed by silence");

    assert_eq!(mesh.signal_on_node("b-control-plane", "kube-apiserver", Signal::SIGCONT), 1);
    mesh.apply(&other, "echo", Some(1));
    mesh.apply(&one, "echo", Some(2));
    wait_for_backends(&mesh, &[&one, &other]);
    let report = traffic.stop_unharmed();
    report.assert_clients(&client_ips(&mesh, &one));
    wait_ready(&mesh);
}
