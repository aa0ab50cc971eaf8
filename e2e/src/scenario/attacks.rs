//! A hostile cluster reports what it must not.

mod certificates;
mod claims;
mod floods;
mod row;
mod rows;
mod values;

use std::collections::BTreeMap;

use serde_json::Value;

use self::{
    row::{Expected, Form, Row},
    rows::rows,
};
use crate::echo_service::{CLIENT, ECHO, client_ips, wait_for_backends_in, wait_for_history};
use crate::{
    etcdctl, json,
    kernel::{Services, services},
    load::{Assert as _, Traffic},
    mesh::{Daemon, Mesh, connect, eventually, output},
};

/// The clusters in the attack table.
struct Victims {
    /// The honest clusters.
    honest: [String; 2],
    /// The hostile cluster.
    hostile: String,
    /// An address of a pod in each honest cluster.
    pods: [String; 2],
    /// An address of a node in each honest cluster.
    nodes: [String; 2],
    /// An address in the range of the hostile cluster's nodes that no node has.
    hostile_node: String,
    /// An address of a service in the first honest cluster.
    service: String,
}

/// What must not change: the tables and routes of each node.
type Ground = BTreeMap<String, (Services, String)>;

/// Two honest clusters and a hostile one, whose etcd an attacker controls. The honest agents refuse each row of the attack
/// table, count it and report it, and their traffic is not affected.
pub fn false_records_are_rejected(mesh: &impl Mesh) {
    under_attack(mesh, |victims, unharmed| {
        // First with services v1, then with endpoint slices.
        for form in [Form::Services, Form::Slices] {
            let (key, value) = rows::config_of(victims, form);
            etcdctl::put(mesh, &victims.hostile, &key, value.as_bytes());
            for row in rows(victims, form) {
                println!("{}", row.name);
                if row.changes_config() {
                    followed(mesh, victims);
                }
                attack(mesh, victims, &row, form);
                unharmed(row.name);
            }
        }
    });
}

/// The same for records that exceed the budgets.
pub fn floods_are_stopped(mesh: &impl Mesh) {
    under_attack(mesh, |victims, unharmed| floods::are_stopped(mesh, victims, unharmed));
}

/// The same for records without a canary, for too many canaries, and without a grant.
pub fn what_is_not_confirmed_or_granted_is_left_out(mesh: &impl Mesh) {
    under_attack(mesh, |victims, unharmed| {
        floods::unconfirmed_records_count(mesh, victims, unharmed);
        floods::canaries_are_refused(mesh, victims, unharmed);
        floods::no_grant_means_no_routes(mesh, victims, unharmed);
    });
}

/// The same for certificates of others.
pub fn strangers_are_refused(mesh: &impl Mesh) {
    under_attack(mesh, |victims, unharmed| certificates::are_refused(mesh, victims, unharmed));
}

/// Attacks a mesh with traffic. The attacks must call the function after each attack: it checks that nothing changed.
fn under_attack(mesh: &impl Mesh, attacks: impl FnOnce(&Victims, &dyn Fn(&str))) {
    let [one, other, hostile] = mesh.clusters().try_into().expect("three clusters");
    for cluster in [&one, &other] {
        mesh.apply(cluster, "echo", None);
    }
    mesh.apply(&one, "client", None);
    connect(mesh, &one, &other);
    connect(mesh, &one, &hostile);
    connect(mesh, &other, &hostile);
    wait_for_history(mesh);
    for cluster in [&one, &other] {
        wait_for_backends_in(mesh, cluster, &[&one, &other]);
    }
    // Stop the apiserver, which would repair what the attacker writes.
    mesh.halt(&Daemon::Apiserver(hostile.clone()));
    let first = |ips: Vec<std::net::IpAddr>| ips[0].to_string();
    let pod = |cluster: &str| first(mesh.pod_ips(cluster, "echo"));
    let node = |cluster: &str| first(mesh.node_ips(cluster, &mesh.nodes(cluster)[0]));
    let victims = Victims {
        pods: [pod(&one), pod(&other)],
        nodes: [node(&one), node(&other)],
        hostile_node: beside(&node(&hostile)),
        service: crate::mesh::frontends(mesh, &one, ECHO, "TCP")[0].ip().to_string(),
        honest: [one.clone(), other.clone()],
        hostile,
    };
    let ground = ground(mesh, &victims);
    let traffic = Traffic::start(mesh, &one, CLIENT, ECHO);
    attacks(&victims, &|what: &str| {
        assert_eq!(self::ground(mesh, &victims), ground, "{what} changed something");
    });
    let report = traffic.stop_unharmed();
    report.assert_clients(&client_ips(mesh, &one));
    assert_eq!(report.clusters.len(), 2, "only the honest clusters answered: {report:#?}");
}

/// An IPv4 address next to this one.
fn beside(ip: &str) -> String {
    let (network, _) = ip.rsplit_once('.').expect("an IPv4 address");
    format!("{network}.9")
}

/// Writes a row, waits until every honest agent has reacted as expected, and takes it back.
fn attack(mesh: &impl Mesh, victims: &Victims, row: &Row, form: Form) {
    let hostile = victims.hostile.as_str();
    let before = counted(mesh, victims);
    let value = |key| etcdctl::run(mesh, hostile, &["get", "--print-value-only", key]);
    let saved: Vec<(&str, String)> = row.restored().map(|key| (key, value(key))).collect();
    let markers = match row.expected {
        Expected::Nothing => rows::markers(hostile, form).into(),
        Expected::Rejected(_) | Expected::Refused(_) => Vec::new(),
    };
    for (key, value) in row.writes.iter().chain(&markers) {
        etcdctl::put_bytes(mesh, hostile, key, value);
    }
    eventually(row.name, || {
        for (agent, peer) in &hostile_status(mesh, victims) {
            let count = peer["rejected"].as_u64().unwrap_or_default();
            let more = count - before.get(agent).copied().unwrap_or_default();
            let last = peer["lastRejected"].as_str().unwrap_or_default();
            let ladder = peer["ladder"].to_string();
            let so = match row.expected {
                Expected::Rejected(reason) => more > 0 && last.contains(reason),
                Expected::Refused(reason) => ladder.contains(reason),
                // The markers came after it on every watch, and only they were rejected.
                Expected::Nothing => more == markers.len() as u64,
            };
            if !so {
                return Err(format!("{agent}: {more} more rejected, last {last:?}; {ladder}"));
            }
        }
        Ok(())
    });
    let written = row.writes.iter().chain(&markers).map(|(key, _)| key.as_slice());
    for key in written.filter(|key| !row::is_kept(key)) {
        etcdctl::delete_bytes(mesh, hostile, key);
    }
    for (key, value) in saved {
        etcdctl::put(mesh, hostile, key, value.trim_end().as_bytes());
    }
}

/// Waits until the connection is restored after an earlier row.
fn followed(mesh: &impl Mesh, victims: &Victims) {
    eventually("the hostile cluster is followed", || {
        let seen = hostile_status(mesh, victims);
        match seen.iter().find(|(_, peer)| peer["ready"] != true) {
            None => Ok(()),
            Some(peer) => Err(format!("{peer:#?}")),
        }
    });
}

/// The hostile cluster in the status of each honest agent.
fn hostile_status(mesh: &impl Mesh, victims: &Victims) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for cluster in &victims.honest {
        let (_, status, _) = json::run(mesh.clustermesh(&["status", "--context", cluster]));
        let agents = status["clusters"][0]["agents"].as_array().cloned().unwrap_or_default();
        assert_eq!(agents.len(), mesh.nodes(cluster).len(), "{status:#}");
        for agent in agents {
            let name = format!("{cluster}/{}", agent["node"]).replace('"', "");
            let mut peers = agent["peers"].as_array().into_iter().flatten();
            let peer = peers.find(|peer| peer["name"] == victims.hostile);
            found.push((name, peer.cloned().unwrap_or_default()));
        }
    }
    found
}

/// The number of records that each honest agent has rejected so far.
fn counted(mesh: &impl Mesh, victims: &Victims) -> BTreeMap<String, u64> {
    let seen = hostile_status(mesh, victims).into_iter();
    seen.map(|(agent, peer)| (agent, peer["rejected"].as_u64().unwrap_or_default())).collect()
}

fn ground(mesh: &impl Mesh, victims: &Victims) -> Ground {
    let mut ground = Ground::new();
    for cluster in &victims.honest {
        for node in mesh.nodes(cluster) {
            let routes = ["-4", "-6"].map(|family| {
                let routes = mesh.on_node(cluster, &node, &["ip", family, "route", "show"]);
                output(routes).expect("routes")
            });
            let tables = services(&mesh.pins(cluster, &node));
            ground.insert(format!("{cluster}/{node}"), (tables, routes.concat()));
        }
    }
    ground
}
