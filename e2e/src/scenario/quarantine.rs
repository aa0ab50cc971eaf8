//! A peer exceeds its budget.

use std::fs;

use mesh_wire::peer_file::{Budget, Grant, PeerFile};
use serde_json::Value;

use crate::echo_service::{
    CLIENT, ECHO, agent_status, client_ips, two_clusters_with_echo, wait_for_backends,
};
use crate::{
    etcdctl, json,
    kernel::services,
    load::{Assert as _, Traffic},
    mesh::{Mesh, eventually, wait_ready},
};

/// First a peer makes too many changes, then it has too many records. Its known pods stay in use, nothing new is accepted
/// from it, changes of the local cluster are accepted, and the status shows the quarantine. After the quarantine is lifted,
/// or with a larger budget, agents have what the peer reports.
pub fn a_peer_over_its_budget_costs_nothing_more(mesh: &impl Mesh) {
    let (one, other) = two_clusters_with_echo(mesh);
    let traffic = Traffic::start(mesh, &one, CLIENT, ECHO);

    // Ten changes in ten seconds; eight pods have twelve new addresses.
    set_budget(mesh, &one, &other, Budget { changes_per_second: Some(1), ..Budget::default() });
    wait_ready(mesh);
    let before = mesh.pod_ips(&other, "echo");
    mesh.apply(&other, "echo", Some(8));
    wait_for_quarantine(mesh, &one, &other, "changes");
    let (code, _, _) = json::run(mesh.clustermesh(&["status", "--context", &one]));
    assert_eq!(code, 3, "the status shows the quarantine");
    mesh.apply(&one, "echo", Some(3));
    wait_for_backends_of(mesh, &one, &one);
    for node in mesh.nodes(&one) {
        let known = backends_of(mesh, &one, &node, &other);
        assert!(before.iter().all(|ip| known.contains(ip)), "{known:?} lacks some of {before:?}");
        assert!(known.len() < mesh.pod_ips(&other, "echo").len(), "{known:?}");
    }
    lift(mesh, &one, &other);
    wait_ready(mesh);
    wait_for_backends(mesh, &[&one, &other]);

    // A budget of exactly the existing records. The peer's services are slices, which the status does not count.
    let tree = format!("cilium/state/endpointslices/v1/{other}/");
    let slices = etcdctl::run(mesh, &other, &["get", "--prefix", "--keys-only", &tree]);
    let slices = slices.lines().filter(|line| line.starts_with(&tree)).count();
    let seen = peer(mesh, &one, &mesh.nodes(&one)[0], &other);
    let seen = ["nodes", "identities", "addresses"].map(|kind| seen[kind].as_u64());
    let records = seen.into_iter().map(|count| count.expect("a number")).sum::<u64>()
        + u64::try_from(slices).expect("few");
    set_budget(mesh, &one, &other, Budget { keys: Some(records), ..Budget::default() });
    wait_ready(mesh);
    mesh.apply(&other, "client", None);
    wait_for_quarantine(mesh, &one, &other, "records");
    lift(mesh, &one, &other);
    wait_for_quarantine(mesh, &one, &other, "records");
    set_budget(mesh, &one, &other, Budget::default());
    wait_ready(mesh);
    wait_for_backends(mesh, &[&one, &other]);

    let report = traffic.stop_unharmed();
    report.assert_clients(&client_ips(mesh, &one));
    assert_eq!(report.clusters.len(), 2, "{report:#?}");
}

/// Changes the grant of `peer` in the peer file of `cluster`. Returns the previous grant.
pub(super) fn set_grant(
    mesh: &impl Mesh,
    cluster: &str,
    peer: &str,
    change: impl FnOnce(Option<Grant>) -> Option<Grant>,
) -> Option<Grant> {
    let folder = mesh.peer_folder(cluster);
    let text = fs::read_to_string(folder.join(peer)).expect("a peer file");
    let mut file = PeerFile::parse(&text).expect("a peer file");
    let before = file.clustermesh.clone();
    file.clustermesh = change(file.clustermesh);
    let temporary = folder.join(format!(".{peer}.scenario"));
    fs::write(&temporary, file.to_yaml().expect("YAML")).expect("a file");
    fs::rename(&temporary, folder.join(peer)).expect("a file");
    before
}

/// Sets the budget of `peer` in the peer file of `cluster`.
pub(super) fn set_budget(mesh: &impl Mesh, cluster: &str, peer: &str, budget: Budget) {
    set_grant(mesh, cluster, peer, |grant| {
        Some(Grant { budget: Some(budget), ..grant.expect("a grant") })
    });
    for node in mesh.nodes(cluster) {
        eventually(&format!("{cluster}/{node} follows {peer} anew"), || {
            let seen = self::peer(mesh, cluster, &node, peer);
            let ready = seen["ready"] == Value::Bool(true) && seen["quarantined"].is_null();
            if ready { Ok(()) } else { Err(seen.to_string()) }
        });
    }
}

pub(super) fn lift(mesh: &impl Mesh, cluster: &str, peer: &str) {
    let lift = ["quarantine", "lift", peer, "--context", cluster];
    let lifted = json::of(mesh.clustermesh(&lift));
    let agents = lifted["agents"].as_array().expect("agents");
    assert_eq!(agents.len(), mesh.nodes(cluster).len());
    assert!(agents.iter().all(|agent| agent["lifted"] == Value::Bool(true)), "{lifted}");
}

/// Waits until every node of a cluster has a peer in quarantine, for a reason that contains `word`.
pub(super) fn wait_for_quarantine(mesh: &impl Mesh, cluster: &str, peer: &str, word: &str) {
    for node in mesh.nodes(cluster) {
        eventually(&format!("{cluster}/{node} has {peer} in quarantine"), || {
            let seen = self::peer(mesh, cluster, &node, peer);
            let reason = seen["quarantined"].as_str().unwrap_or_default();
            let shown = seen["ladder"].to_string().contains("over its budget");
            if reason.contains(word) && shown { Ok(()) } else { Err(seen.to_string()) }
        });
    }
}

/// Waits until a cluster's nodes have all pods of the cluster `of`.
fn wait_for_backends_of(mesh: &impl Mesh, cluster: &str, of: &str) {
    let pods = mesh.pod_ips(of, "echo");
    for node in mesh.nodes(cluster) {
        eventually(&format!("{cluster}/{node} has the pods of {of}"), || {
            let known = backends_of(mesh, cluster, &node, of);
            if pods.iter().all(|ip| known.contains(ip)) {
                Ok(())
            } else {
                Err(format!("{known:?}"))
            }
        });
    }
}

/// The addresses of a cluster's backends in a node's kernel.
fn backends_of(mesh: &impl Mesh, cluster: &str, node: &str, of: &str) -> Vec<std::net::IpAddr> {
    let number = mesh.clusters().iter().position(|name| name == of).expect("a cluster") + 1;
    let all = services(&mesh.pins(cluster, node)).into_values().flatten();
    let mut ips: Vec<std::net::IpAddr> = all
        .filter(|backend| usize::from(backend.cluster) == number)
        .map(|backend| backend.address.ip())
        .collect();
    ips.sort();
    ips.dedup();
    ips
}

/// A peer in the status of a node's agent.
fn peer(mesh: &impl Mesh, cluster: &str, node: &str, name: &str) -> Value {
    let peers = agent_status(mesh, cluster, node)["peers"].clone();
    let peers = peers.as_array().cloned().unwrap_or_default();
    peers.into_iter().find(|peer| peer["name"] == name).unwrap_or_default()
}
