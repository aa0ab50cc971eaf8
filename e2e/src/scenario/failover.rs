//! The local backends are removed, so only the other cluster answers. Then they are added again, and both answer.

use crate::echo_service::{CLIENT, ECHO, client_ips, two_clusters_with_echo, wait_for_backends};
use crate::{
    json,
    load::{Assert as _, Traffic},
    mesh::{Mesh, frontends},
};

/// No request of the load fails.
pub fn the_other_cluster_takes_over_and_gives_back(mesh: &impl Mesh) {
    let (one, other) = two_clusters_with_echo(mesh);
    let traffic = Traffic::start(mesh, &one, CLIENT, ECHO);

    mesh.apply(&one, "echo", Some(0));
    wait_for_backends(mesh, &[&other]);
    assert_eq!(answering(mesh, &one), [other.as_str()]);

    mesh.apply(&one, "echo", None);
    wait_for_backends(mesh, &[&one, &other]);
    assert_eq!(answering(mesh, &one), [one.as_str(), other.as_str()]);

    let report = traffic.stop_unharmed();
    report.assert_clients(&client_ips(mesh, &one));
    assert!(report.reopened > 0, "flows to the local pods were reopened: {report:#?}");
}

/// The clusters that answer a hundred calls.
fn answering(mesh: &impl Mesh, cluster: &str) -> Vec<String> {
    let address = frontends(mesh, cluster, ECHO, "TCP")[0].to_string();
    let call = ["clustermesh", "lab-pod", "call", &address, "--count", "100"];
    let calls = json::of(mesh.in_pod(cluster, CLIENT, &call));
    let calls = calls["calls"].as_array().expect("calls").iter();
    let mut clusters: Vec<String> =
        calls.map(|call| call["answer"]["cluster"].as_str().expect("a cluster").into()).collect();
    clusters.sort();
    clusters.dedup();
    clusters
}
