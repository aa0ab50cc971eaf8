//! A cluster cannot reach another for so long that the other's etcd has forgotten what it missed.

use std::time::Duration;

use crate::echo_service::{CLIENT, ECHO, client_ips, two_clusters_with_echo, wait_for_history};
use crate::{
    etcdctl, json,
    load::{Assert as _, Traffic},
    mesh::{Mesh, wait_ready, within},
};

/// How long a connection takes to be given up that only loses its packets: a ping and its deadline, 10 s each.
const GIVEN_UP: Duration = Duration::from_secs(30);

/// What was added and what was removed meanwhile is in every kernel once the cut is healed, although the etcd no longer has
/// the history of it; no request fails before, meanwhile, or after.
pub fn a_partition_outlasts_a_compaction(mesh: &impl Mesh) {
    let (one, other) = two_clusters_with_echo(mesh);
    mesh.apply(&other, "spare", None);
    mesh.apply(&one, "spare", None);
    wait_for_history(mesh);
    let traffic = Traffic::start(mesh, &one, CLIENT, ECHO);

    mesh.cut(&one, &format!("{other}/etcd"));
    within(GIVEN_UP, "every node of the one cluster knows that the other is unreachable", || {
        let (_, status, _) = json::run(mesh.clustermesh(&["status", "--context", &one]));
        let agents = status["clusters"][0]["agents"].as_array().cloned().unwrap_or_default();
        let ready =
            agents.iter().flat_map(|agent| agent["peers"].as_array().cloned().unwrap_or_default());
        let reached = ready.filter(|peer| peer["name"] == other.as_str() && peer["ready"] == true);
        match reached.count() {
            0 if !agents.is_empty() => Ok(()),
            reached => Err(format!("{reached} of {} still reach it", agents.len())),
        }
    });
    // More of what has traffic, less of what has none: what is cut off cannot know that a pod is gone.
    mesh.apply(&other, "echo", Some(3));
    mesh.apply(&other, "spare", Some(0));
    etcdctl::compact(mesh, &other);
    mesh.apply(&other, "spare", Some(2));
    etcdctl::compact(mesh, &other);
    let (code, history, _) = json::run(mesh.check_history());
    assert_eq!(code, 3, "a cluster that reaches nothing knows nothing: {history:#}");

    mesh.heal();
    wait_ready(mesh);
    wait_for_history(mesh);
    let report = traffic.stop_unharmed();
    report.assert_clients(&client_ips(mesh, &one));
}
