//! A cluster whose control plane has two replicas, each with its own etcd.

use std::{collections::BTreeSet, path::PathBuf};

use serde_json::Value;

use crate::echo_service::{
    CLIENT, ECHO, agent_status, client_ips, two_clusters_with_echo, wait_for_backends,
    wait_for_history,
};
use crate::{
    etcdctl, json,
    load::{Assert as _, Traffic},
    mesh::{Daemon, Mesh, eventually, output, wait_ready, within},
};

/// Longer than readers wait for a replica without signs of life, or for one that is behind.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(90);

/// Waits until both replicas have the same keys. Returns the IDs of their etcds.
fn same_content(mesh: &impl Mesh, cluster: &str) -> Vec<String> {
    let keys = |replica| {
        let mut keys = String::new();
        for prefix in ["cilium/state/", "cilium/cluster-config/", "clustermesh/local/v1/pods/"] {
            let listed = output(mesh.etcdctl_at(cluster, replica, &["get", "--prefix", prefix]));
            keys.push_str(&listed.expect("the etcd answers"));
        }
        keys
    };
    eventually("both replicas hold the same", || {
        let [one, other] = [1, 2].map(keys);
        if one == other { Ok(one.lines().map(str::to_owned).collect()) } else { Err(other) }
    })
}

/// The ID of the etcd in which each agent of a cluster follows another cluster.
fn followed(mesh: &impl Mesh, cluster: &str, other: &str) -> Vec<String> {
    let of = |node: String| {
        let agent = agent_status(mesh, cluster, &node);
        let peers = agent["peers"].as_array().cloned().unwrap_or_default();
        let peer = peers.into_iter().find(|peer| peer["name"] == other).expect("the peer");
        peer["etcdClusterId"].as_str().unwrap_or_default().to_owned()
    };
    mesh.nodes(cluster).into_iter().map(of).collect()
}

/// The ID of an etcd, from its own answers.
fn etcd_id(mesh: &impl Mesh, cluster: &str, replica: u8) -> String {
    let status = mesh.etcdctl_at(cluster, replica, &["endpoint", "status", "--write-out=json"]);
    let status: Value = serde_json::from_str(&output(status).expect("an answer")).expect("JSON");
    let id = status[0]["Status"]["header"]["cluster_id"].as_u64().expect("an id");
    format!("{id:x}")
}

/// Makes all agents of a cluster follow the other one in its first replica. Without this, the choice of the replica is
/// random. Returns the IDs of both etcds.
fn all_read_the_first(mesh: &impl Mesh, cluster: &str, other: &str) -> [String; 2] {
    let ids = [1, 2].map(|replica| etcd_id(mesh, other, replica));
    assert_ne!(ids[0], ids[1], "two etcds");
    kill(mesh, other, 2);
    arrive(mesh, cluster, other, &ids[0]);
    start(mesh, other, 2);
    wait_ready(mesh);
    assert_eq!(BTreeSet::from_iter(followed(mesh, cluster, other)), [ids[0].clone()].into());
    ids
}

/// The number of writes of each agent to its tables, from a metric.
fn writes(mesh: &impl Mesh, cluster: &str) -> Vec<u64> {
    let of = |node: String| {
        let fetch = ["bash", "-c", METRICS];
        let text = output(mesh.on_node(cluster, &node, &fetch)).expect("metrics");
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("clustermesh_agent_table_changes_total "));
        line.expect("the metric").trim().parse().expect("a number")
    };
    mesh.nodes(cluster).into_iter().map(of).collect()
}

/// A bash script that reads the agent's metrics. Every node has bash.
const METRICS: &str = r"exec 3<>/dev/tcp/127.0.0.1/9981; printf 'GET /metrics HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n' >&3; cat <&3";

/// The replica that all agents read is killed: etcd and apiserver. Its readers change to the other replica without
/// unnecessary writes, and changes made meanwhile arrive.
pub fn a_replica_is_killed(mesh: &impl Mesh) {
    let (one, other) = two_clusters_with_echo(mesh);
    same_content(mesh, &other);
    let ids = all_read_the_first(mesh, &one, &other);
    let traffic = Traffic::start(mesh, &one, CLIENT, ECHO);
    let before = writes(mesh, &one);
    kill(mesh, &other, 1);
    arrive(mesh, &one, &other, &ids[1]);
    wait_for_backends(mesh, &[&one, &other]);
    assert_eq!(writes(mesh, &one), before, "nothing changed, and nothing was written");

    mesh.apply(&other, "echo", Some(3));
    wait_for_backends(mesh, &[&one, &other]);
    let after = writes(mesh, &one);
    assert!(after.iter().zip(&before).all(|(after, before)| after > before), "{after:?}");
    mesh.apply(&other, "echo", Some(2));
    wait_for_backends(mesh, &[&one, &other]);

    // The replica is started again, and the other one is killed. It has the changes that it missed before an agent reads
    // there.
    start(mesh, &other, 1);
    eventually("it is ready", || ready(mesh, &other));
    same_content(mesh, &other);
    let before = writes(mesh, &one);
    kill(mesh, &other, 2);
    arrive(mesh, &one, &other, &ids[0]);
    wait_for_backends(mesh, &[&one, &other]);
    assert_eq!(writes(mesh, &one), before, "nothing changed, and nothing was written");
    start(mesh, &other, 2);
    wait_ready(mesh);
    wait_for_history(mesh);
    let report = traffic.stop_unharmed();
    report.assert_clients(&client_ips(mesh, &one));
}

/// Agents do not accept the data of a replica whose apiserver was frozen, because it is older. They change back to the
/// other replica.
pub fn a_replica_that_is_behind_removes_nothing(mesh: &impl Mesh) {
    let (one, other) = two_clusters_with_echo(mesh);
    let ids = all_read_the_first(mesh, &one, &other);
    let traffic = Traffic::start(mesh, &one, CLIENT, ECHO);
    // The second replica does not have the third pod.
    mesh.kill(&Daemon::ApiserverOf(other.clone(), 2));
    mesh.apply(&other, "echo", Some(3));
    wait_for_backends(mesh, &[&one, &other]);
    // The position is put every five seconds.
    let position = || {
        etcdctl::get(mesh, &other, "cilium/.heartbeat.position")
            .map(|kv| kv["mod_revision"].clone())
    };
    let last = position();
    eventually("the position is put", || {
        if position() == last { Err("not yet".into()) } else { Ok(()) }
    });
    let before = writes(mesh, &one);
    mesh.kill(&Daemon::Etcd(other.clone()));
    eventually("they look at the second", || {
        let found = followed(mesh, &one, &other);
        if found.iter().all(|id| *id == ids[1]) { Ok(()) } else { Err(format!("{found:?}")) }
    });
    // Wait longer than a list takes.
    for _ in 0..10 {
        wait_for_backends(mesh, &[&one, &other]);
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    assert_eq!(writes(mesh, &one), before, "missing records were not removed");
    // The first replica runs again. As the writer of the second one does not run, agents leave it.
    mesh.start(&Daemon::Etcd(other.clone()));
    arrive(mesh, &one, &other, &ids[0]);
    mesh.start(&Daemon::ApiserverOf(other.clone(), 2));
    wait_ready(mesh);
    same_content(mesh, &other);
    wait_for_history(mesh);
    let report = traffic.stop_unharmed();
    report.assert_clients(&client_ips(mesh, &one));
}

/// Both replicas read new pods at the same time, and give them the same IDs.
pub fn replicas_agree_on_identities(mesh: &impl Mesh) {
    let (one, other) = two_clusters_with_echo(mesh);
    let traffic = Traffic::start(mesh, &one, CLIENT, ECHO);
    let manifests = mesh.peer_folder(&other).with_file_name("manifests");
    for round in 0..5 {
        let pods: String = (0..40).map(|n| pod(round, n)).collect();
        write(manifests.join("race.yaml"), &pods);
        eventually("all are exported by both", || {
            let content = same_content(mesh, &other);
            let found =
                content.iter().filter(|line| line.contains(&format!("app=race-{round}-"))).count();
            if found == 40 { Ok(()) } else { Err(format!("{found} of 40")) }
        });
        ids_are_one_to_one(mesh, &other);
    }
    // Both are killed meanwhile, and start from the journal.
    let pods: String = (0..40).map(|n| pod(5, n)).collect();
    write(manifests.join("race.yaml"), &pods);
    for daemon in [Daemon::Apiserver(other.clone()), Daemon::ApiserverOf(other.clone(), 2)] {
        mesh.kill(&daemon);
        mesh.start(&daemon);
    }
    wait_ready(mesh);
    same_content(mesh, &other);
    ids_are_one_to_one(mesh, &other);
    wait_for_history(mesh);
    let report = traffic.stop_unharmed();
    report.assert_clients(&client_ips(mesh, &one));
}

/// Every label set has one ID, and every ID one label set.
fn ids_are_one_to_one(mesh: &impl Mesh, cluster: &str) {
    let prefix = "cilium/state/identities/v1/id/";
    for replica in [1, 2] {
        let listed = output(mesh.etcdctl_at(cluster, replica, &["get", "--prefix", prefix]));
        let listed = listed.expect("the etcd answers");
        let values: Vec<&str> = listed.lines().skip(1).step_by(2).collect();
        let different: BTreeSet<&str> = values.iter().copied().collect();
        assert_eq!(values.len(), different.len(), "{listed}");
    }
}

fn kill(mesh: &impl Mesh, cluster: &str, replica: u8) {
    replica_of(cluster, replica).iter().for_each(|daemon| mesh.kill(daemon));
}

fn start(mesh: &impl Mesh, cluster: &str, replica: u8) {
    replica_of(cluster, replica).iter().for_each(|daemon| mesh.start(daemon));
}

/// The daemons of a replica, the apiserver first, so that it does not put a last key when its etcd is killed.
fn replica_of(cluster: &str, replica: u8) -> [Daemon; 2] {
    let cluster = cluster.to_owned();
    match replica {
        1 => [Daemon::Apiserver(cluster.clone()), Daemon::Etcd(cluster)],
        _ => [Daemon::ApiserverOf(cluster.clone(), replica), Daemon::EtcdOf(cluster, replica)],
    }
}

/// Waits until all agents of a cluster follow another one in this etcd, and are synced.
fn arrive(mesh: &impl Mesh, cluster: &str, other: &str, id: &str) {
    within(PATIENCE, "they follow the other replica", || {
        for node in mesh.nodes(cluster) {
            let agent = agent_status(mesh, cluster, &node);
            let peers = agent["peers"].as_array().cloned().unwrap_or_default();
            let peer = peers.into_iter().find(|peer| peer["name"] == other).expect("the peer");
            if peer["etcdClusterId"] != id || peer["ready"] != true {
                return Err(format!("{cluster}/{node}: {peer:#}"));
            }
        }
        Ok(())
    });
}

/// Whether every replica of a cluster is ready.
fn ready(mesh: &impl Mesh, cluster: &str) -> Result<(), String> {
    let (_, status, _) = json::run(mesh.clustermesh(&["status", "--context", cluster]));
    let cluster = &status["clusters"][0];
    let replicas = cluster["replicas"].as_array().cloned().unwrap_or_default();
    let all = replicas.iter().chain([&cluster["apiserver"]]);
    match all.clone().all(|replica| replica["ready"] == true) {
        true => Ok(()),
        false => Err(format!("{cluster:#}")),
    }
}

fn pod(round: usize, n: usize) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: race-{round}-{n}, namespace: default, labels: {{app: race-{round}-{n}}}}}\nspec: {{nodeName: n1, containers: []}}\nstatus: {{podIP: 10.2.1.{}}}\n",
        100 + n
    )
}

fn write(path: PathBuf, text: &str) {
    let hidden = path.with_file_name(".race");
    std::fs::write(&hidden, text).expect("a file");
    std::fs::rename(&hidden, &path).expect("a file");
}
