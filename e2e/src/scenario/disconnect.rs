//! Two clusters are disconnected.

use crate::echo_service::{
    CLIENT, ECHO, client_ips, two_clusters_with_echo, wait_for_backends, wait_for_backends_in,
};
use crate::{
    json,
    kernel::{backend_entries, services},
    load::{Assert as _, fresh},
    mesh::{Mesh, connect, eventually, frontends, peer_files},
};

/// Commands that list our routes, by their protocol `mesh_routes::PROTOCOL`.
const ROUTES: [&str; 2] = ["ip -4 route show proto 201", "ip -6 route show proto 201"];

/// Routes, backends and files are removed on both sides, and the local pods answer all the time. After connecting again,
/// everything is back.
pub fn disconnect_takes_everything_back(mesh: &impl Mesh) {
    let (one, other) = two_clusters_with_echo(mesh);
    let before = routes(mesh);
    let crossing = |routes: &str, towards: &str| {
        let foreign = mesh.pod_ips(towards, "echo");
        routes.lines().any(|route| {
            let range = route.split_whitespace().next().and_then(|range| range.parse().ok());
            range.is_some_and(|range: ipnet::IpNet| foreign.iter().any(|ip| range.contains(ip)))
        })
    };
    for (cluster, node, routes) in &before {
        let towards = if *cluster == one { &other } else { &one };
        assert!(crossing(routes, towards), "{cluster}/{node} has a route to {towards}: {routes}");
    }
    assert!(!peer_files(mesh, &one).is_empty() && !peer_files(mesh, &other).is_empty());

    let pair = ["--context", &one, "--destination-context", &other];
    let disconnect = [&["disconnect"], &pair[..]].concat();
    json::of(mesh.clustermesh(&disconnect));
    for cluster in [&one, &other] {
        wait_for_backends_in(mesh, cluster, &[cluster]);
        assert_eq!(peer_files(mesh, cluster), Vec::<String>::new());
    }
    for (cluster, node, _) in &before {
        let towards = if *cluster == one { &other } else { &one };
        eventually(&format!("{cluster}/{node} has no route to {towards}"), || {
            let now = routes(mesh);
            let now = &now.iter().find(|(c, n, _)| (c, n) == (cluster, node)).expect("a node").2;
            if crossing(now, towards) { Err(now.clone()) } else { Ok(()) }
        });
        let pins = mesh.pins(cluster, node);
        let backends: usize = services(&pins).values().map(|backends| backends.len()).sum();
        // Entries of backends are removed a moment later, because a program may still use one.
        eventually("only backends of services are left", || match backend_entries(&pins) {
            left if left == backends => Ok(()),
            left => Err(format!("{left}, not {backends}")),
        });
    }
    // Disconnecting again changes nothing.
    let again = json::of(mesh.clustermesh(&disconnect));
    assert_eq!(again["changes"], serde_json::json!([]));

    let address = frontends(mesh, &one, ECHO, "TCP")[0];
    let report = fresh(mesh, &one, CLIENT, ("--tcp", address), 1_000, 1_000);
    report.assert_unharmed();
    assert_eq!(report.clusters.keys().collect::<Vec<_>>(), [&one]);

    connect(mesh, &one, &other);
    wait_for_backends(mesh, &[&one, &other]);
    let report = fresh(mesh, &one, CLIENT, ("--tcp", address), 1_000, 1_000);
    report.assert_unharmed();
    report.assert_clients(&client_ips(mesh, &one));
    assert_eq!(report.clusters.len(), 2);
}

/// Our routes on each node.
fn routes(mesh: &impl Mesh) -> Vec<(String, String, String)> {
    let mut all = Vec::new();
    for cluster in mesh.clusters() {
        for node in mesh.nodes(&cluster) {
            let mut text = String::new();
            for command in ROUTES {
                let words: Vec<&str> = command.split(' ').collect();
                let output = mesh.on_node(&cluster, &node, &words).output().expect("ip runs");
                assert!(output.status.success(), "{output:?}");
                text.push_str(&String::from_utf8_lossy(&output.stdout));
            }
            all.push((cluster.clone(), node, text));
        }
    }
    all
}
