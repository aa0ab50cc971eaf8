//! A node reboots while no etcd is reachable.

use std::{collections::BTreeSet, fs, net::IpAddr, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use mesh_model::{ClusterId, ClusterLimit, ClusterName, Record};
use mesh_wire::{Layout, Peer, Role, decode};
use serde_json::Value;

use crate::echo_service::{
    CLIENT, ECHO, client_ips, two_clusters_with_echo, wait_for_backends, wanted,
};
use crate::{
    json,
    kernel::try_services,
    load::{Assert as _, Traffic},
    mesh::{Daemon, Mesh, eventually, output, wait_ready},
};

/// The kernel is empty, and neither the local etcd nor the other cluster's control plane runs. The agent starts from its
/// snapshots, and clients reach both clusters. When all daemons run again, only what they report is left.
pub fn a_node_starts_from_its_snapshot(mesh: &impl Mesh) {
    let (one, other) = two_clusters_with_echo(mesh);
    let node = mesh.nodes(&one)[0].clone();
    let (pins, state) = (mesh.pins(&one, &node), mesh.state_dir(&one, &node));
    for (cluster, role) in [(&one, Role::Local), (&other, Role::Remote)] {
        wait_for_snapshot(mesh, &state, cluster, role);
    }
    let wanted = wanted(mesh, &one, &[&one, &other]);
    let pods: Vec<IpAddr> =
        [&one, &other].into_iter().flat_map(|cluster| mesh.pod_ips(cluster, "echo")).collect();
    let known = holders(mesh, &one, &node, &pods);
    assert!(known.iter().all(|(_, what)| what.starts_with("pod ")), "{known:?}");

    // As after a reboot: no agent, no tables, no routes.
    let agent = Daemon::Agent(one.clone(), node.clone());
    mesh.kill(&agent);
    fs::remove_dir_all(&pins).expect("pins to remove");
    for family in ["-4", "-6"] {
        let flush = ["ip", family, "route", "flush", "proto", "201"];
        assert!(mesh.on_node(&one, &node, &flush).status().expect("ip runs").success());
    }
    let away =
        [Daemon::Etcd(one.clone()), Daemon::Etcd(other.clone()), Daemon::Apiserver(other.clone())];
    away.iter().for_each(|daemon| mesh.kill(daemon));

    mesh.start(&agent);
    eventually("the node has the backends of both clusters", || {
        let found = try_services(&pins)?;
        if found == wanted { Ok(()) } else { Err(format!("{found:#?}, not {wanted:#?}")) }
    });
    // Another task of the agent makes the routes.
    for family in ["-4", "-6"] {
        let show = ["ip", family, "route", "show", "proto", "201"];
        eventually(&format!("the node has a route ({family})"), || {
            match output(mesh.on_node(&one, &node, &show))? {
                none if none.trim().is_empty() => Err("none".into()),
                _ => Ok(()),
            }
        });
    }
    assert_eq!(remembered(mesh, &one, &node), [one.as_str(), other.as_str()]);
    assert_eq!(holders(mesh, &one, &node, &pods), known, "who had the addresses of pods");
    let traffic = Traffic::start(mesh, &one, CLIENT, ECHO);

    away.iter().for_each(|daemon| mesh.start(daemon));
    wait_ready(mesh);
    wait_for_backends(mesh, &[&one, &other]);
    eventually("nothing is left that was not reported", || {
        let left = remembered(mesh, &one, &node);
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    let report = traffic.stop_unharmed();
    report.assert_clients(&client_ips(mesh, &one));
    assert_eq!(report.clusters.len(), 2, "{report:#?}");
}

/// Which cluster has each address, and what it is, as an agent knows it.
fn holders(mesh: &impl Mesh, cluster: &str, node: &str, pods: &[IpAddr]) -> Vec<(String, String)> {
    let holder = |pod: &IpAddr| {
        let pod = pod.to_string();
        let show = ["identity", "show", &pod, "--context", cluster, "--node", node];
        let answer = json::of(mesh.clustermesh(&show));
        let address = &answer["addresses"][0];
        let text = |field: &str| address[field].as_str().unwrap_or_default().to_owned();
        (text("cluster"), format!("{} {}", text("kind"), address["identity"]))
    };
    pods.iter().map(holder).collect()
}

/// Waits until the snapshot of a cluster has all its pods, as backends and as addresses.
fn wait_for_snapshot(mesh: &impl Mesh, state: &Path, cluster: &str, role: Role) {
    let file = state.join("snapshots").join(cluster).with_extension("jsonl");
    let pods: BTreeSet<IpAddr> = mesh.pod_ips(cluster, "echo").into_iter().collect();
    eventually(&format!("{} has the pods", file.display()), || {
        let text = fs::read_to_string(&file).map_err(|error| error.to_string())?;
        let kept = [backends(&text, cluster, role), addresses(&text)];
        let all = kept.iter().all(|kept| kept.is_superset(&pods));
        if all { Ok(()) } else { Err(format!("{kept:?} of {pods:?}: {text}")) }
    });
}

/// The addresses that have an identity in a snapshot.
fn addresses(text: &str) -> BTreeSet<IpAddr> {
    let head = text.lines().nth(1).expect("a head");
    let head: Value = serde_json::from_str(head).expect("a line of JSON");
    let all = head["addresses"].as_array().into_iter().flatten();
    all.filter_map(|one| one[0].as_str()?.parse().ok()).collect()
}

/// The backends in a snapshot: in local records for the local cluster, in slices for another one.
fn backends(text: &str, cluster: &str, role: Role) -> BTreeSet<IpAddr> {
    let line = |line: &str| serde_json::from_str::<Value>(line).expect("a line of JSON");
    let mut lines = text.lines().skip(1).map(line);
    let id = lines.next().and_then(|head| head["id"].as_u64()).expect("an id");
    let limit = ClusterLimit::Max255;
    let peer = Peer {
        name: ClusterName::new(cluster).expect("a name"),
        role,
        id: ClusterId::new(u32::try_from(id).expect("an id"), limit).expect("an id"),
        limit,
        layout: Layout::State,
    };
    let records = lines.filter_map(|line| {
        let value = match line["value_b64"].as_str() {
            Some(text) => STANDARD.decode(text).expect("base64"),
            None => line["value"].as_str()?.into(),
        };
        decode(&peer, line["key"].as_str()?.as_bytes(), &value).expect("a record")
    });
    let slices = records.filter_map(|record| match record {
        Record::EndpointSlice(slice) if role == Role::Remote => Some(slice),
        Record::LocalEndpointSlice(slice) if role == Role::Local => Some(slice),
        _ => None,
    });
    let endpoints = slices.flat_map(|slice| slice.endpoints);
    endpoints.flat_map(|one| one.addresses).map(|ip| ip.parse().expect("an address")).collect()
}

/// The clusters whose records an agent only has from a snapshot.
fn remembered(mesh: &impl Mesh, cluster: &str, node: &str) -> Vec<String> {
    let peers = crate::echo_service::agent_status(mesh, cluster, node)["peers"].clone();
    let peers = peers.as_array().cloned().unwrap_or_default();
    let old = peers.iter().filter(|peer| peer["remembered"] == Value::Bool(true));
    old.map(|peer| peer["name"].as_str().expect("a name").to_owned()).collect()
}
