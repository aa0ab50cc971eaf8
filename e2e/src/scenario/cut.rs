//! A cluster cannot reach another one for so long that the other's etcd has compacted the missed changes.

use std::time::Duration;

use crate::echo_service::{CLIENT, ECHO, client_ips, two_clusters_with_echo, wait_for_history};
use crate::{
    etcdctl, json,
    load::{Assert as _, Traffic},
    mesh::{Mesh, wait_ready, within},
};

/// How long a connection lives if all its packets are lost: a ping and its deadline, 10 s each.
const GIVEN_UP: Duration = Duration::from_secs(30);

/// After the partition ends, every kernel has the changes made meanwhile, although the etcd has compacted them. No request
/// fails before, during or after the partition.
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
    // Add pods that get traffic, and remove pods without traffic: a partitioned cluster cannot know that a pod is gone.
    mesh.apply(&other, "echo", Some(3));
    mesh.apply(&other, "spare", Some(0));
    etcdctl::compact(mesh, &other);
    mesh.apply(&other, "spare", Some(2));
    etcdctl::compact(mesh, &other);
    let (code, history, _) = json::run(mesh.check_history().expect("a history"));
    assert_eq!(code, 3, "the partitioned cluster does not have the changes: {history:#}");

    mesh.heal();
    wait_ready(mesh);
    wait_for_history(mesh);
    let report = traffic.stop_unharmed();
    report.assert_clients(&client_ips(mesh, &one));
}
