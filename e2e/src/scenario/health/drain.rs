//! Backends are drained, and no request fails.

use std::collections::BTreeSet;

use super::{led_to, on_node, unharmed, wait_until_led_to};
use crate::echo_service::{CLIENT, ECHO, client_ips, two_clusters_with_echo, wait_for_backends};
use crate::{
    json, kernel,
    load::{Assert as _, Traffic},
    mesh::{Mesh, eventually, wait_ready},
};

/// A Deployment is scaled to zero and back, in one cluster and in the other. Its pods first become terminating and get no
/// new connections; they end after their connections have been served.
pub fn a_deployment_is_drained(mesh: &impl Mesh) {
    let (one, other) = two_clusters_with_echo(mesh);
    let traffic = Traffic::start(mesh, &one, CLIENT, ECHO);
    for (leaves, stays) in [(&other, &one), (&one, &other)] {
        mesh.apply(leaves, "echo", Some(0));
        wait_for_backends(mesh, &[stays]);
        mesh.apply(leaves, "echo", None);
        wait_for_backends(mesh, &[&one, &other]);
    }
    // Add the pods one after another, more than before.
    for replicas in [1, 3, 2] {
        mesh.apply(&other, "echo", Some(replicas));
        wait_for_backends(mesh, &[&one, &other]);
    }
    let report = traffic.stop_unharmed();
    report.assert_clients(&client_ips(mesh, &one));
    assert!(report.over_flows > 0 && report.reopened > 0, "flows were reopened: {report:#?}");
}

/// A node, and then its whole cluster, is drained for maintenance and undrained. New connections avoid it, established ones
/// continue, and no request fails. Drained backends are used if no other backend is left.
pub fn a_node_and_a_cluster_are_drained(mesh: &impl Mesh) {
    let (one, other) = two_clusters_with_echo(mesh);
    let node = mesh.node_of(&one, CLIENT);
    let [first, second] = mesh.nodes(&other).try_into().expect("two nodes");
    let everybody = led_to(mesh, &one, &node);
    let [on_first, on_second] = [&first, &second].map(|node| on_node(mesh, &other, node));
    let without = |gone: &BTreeSet<_>| everybody.difference(gone).copied().collect();
    let traffic = Traffic::start(mesh, &one, CLIENT, ECHO);

    let place = format!("{other}/{second}");
    let preview = json::of(mesh.clustermesh(&["drain", &place, "--dry-run"]));
    assert!(preview["changed"] == true && preview["dryRun"] == true, "{preview:#}");
    json::of(mesh.clustermesh(&["drain", &place, "--wait"]));
    assert_eq!(led_to(mesh, &one, &node), without(&on_second), "all agents have it by now");
    // The agents of the cluster show the reason.
    let nodes = ["node", "list", "--context", &other, "--cluster", &other];
    let (_, nodes, _) = json::run(mesh.clustermesh(&nodes));
    let nodes = nodes["items"].as_array().cloned().unwrap_or_default();
    let status =
        |name: &str| nodes.iter().find(|node| node["name"] == name).map(|n| n["status"].clone());
    assert_eq!((status(&first), status(&second)), (Some("ready".into()), Some("drained".into())));
    json::of(mesh.clustermesh(&["drain", &other]));
    let theirs = on_first.union(&on_second).copied().collect();
    wait_until_led_to(mesh, &one, &node, &without(&theirs));
    // Agents of other clusters show it, too.
    eventually("a peer that its operator drained is called drained", || {
        let (_, status, _) = json::run(mesh.clustermesh(&["status", "--context", &one]));
        let agents = status["clusters"][0]["agents"].as_array().cloned().unwrap_or_default();
        let mut peers =
            agents.iter().flat_map(|agent| agent["peers"].as_array().into_iter().flatten());
        let is_drained = |peer: &serde_json::Value| {
            peer["drained"] == true && peer["drainedNodes"] == serde_json::json!([second])
        };
        let known = peers.any(|peer| peer["name"] == *other && is_drained(peer));
        if known { Ok(()) } else { Err(format!("{status:#}")) }
    });
    let of_other = ["node", "list", "--context", &one, "--cluster", &other];
    let (_, nodes, _) = json::run(mesh.clustermesh(&of_other));
    let nodes = nodes["items"].as_array().cloned().unwrap_or_default();
    assert!(nodes.len() == 2 && nodes.iter().all(|node| node["status"] == "drained"), "{nodes:#?}");
    let report = unharmed(mesh, &one);
    assert_eq!(report.clusters.keys().collect::<Vec<_>>(), [&one]);

    json::of(mesh.clustermesh(&["undrain", &other]));
    wait_until_led_to(mesh, &one, &node, &without(&on_second));
    json::of(mesh.clustermesh(&["undrain", &place]));
    wait_for_backends(mesh, &[&one, &other]);
    wait_ready(mesh);
    assert_eq!(kernel::cut(&mesh.pins(&one, &node)), BTreeSet::new(), "it was never dead");
    let report = traffic.stop_unharmed();
    report.assert_clients(&client_ips(mesh, &one));
    assert_eq!(report.clusters.keys().collect::<BTreeSet<_>>(), BTreeSet::from([&one, &other]));
}
