//! Clusters, nodes and ways that fail: who is avoided, who is kept, and that all is as before when it is over. What is
//! asserted is order and counts: times are `clustermesh bench cut`'s business.

mod silence;

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use serde_json::Value;

use super::{
    CLIENT, ECHO, agent_status, client_ips, two_with_echo, wait_for_backends, wait_for_history,
};
use crate::{
    json, kernel,
    load::{Assert as _, Traffic},
    mesh::{Mesh, eventually, output, within},
};
pub use silence::a_silent_peer_is_believed_for_so_long;

/// The agent's metrics, by what every node has.
const METRICS: &str = r"exec 3<>/dev/tcp/127.0.0.1/9981; printf 'GET /metrics HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n' >&3; cat <&3";
/// A node that comes and goes has so many deaths and returns a minute, and no more.
const MOST_CHANGES_A_MINUTE: u64 = 11;

/// A cluster is cut off: by one write it is out of use, from then on no new connection fails, and it is back by itself.
pub fn a_cluster_is_cut_off(mesh: &impl Mesh) {
    let (one, other) = two_with_echo(mesh);
    let node = mesh.node_of(&one, CLIENT);
    let pins = mesh.pins(&one, &node);
    let traffic = Traffic::start(mesh, &one, CLIENT, ECHO);
    wait_for_backends(mesh, &[&one, &other]);
    wait_until_probed(mesh, &one, &other);
    assert_eq!(kernel::cut(&pins), BTreeSet::new());
    traffic.stop_unharmed();

    // Under load, of which a second may be lost: that is what it takes to notice.
    let traffic = Traffic::start(mesh, &one, CLIENT, ECHO);
    mesh.cut(&one, &other);
    eventually("the cluster is cut", || {
        let cut = kernel::cut(&pins);
        if cut == BTreeSet::from([2]) { Ok(()) } else { Err(format!("{cut:?}")) }
    });
    let after = Traffic::start(mesh, &one, CLIENT, ECHO);
    let said = data_path(mesh, &one, &node, &other);
    assert!(said["state"] == "failed" && detail(&said).contains("cut"), "{said:#}");
    let report = after.stop_unharmed();
    assert_eq!(report.clusters.keys().collect::<Vec<_>>(), [&one], "nobody else is asked");
    traffic.stop().assert_enough();
    assert_eq!(metric(mesh, &one, &node, "health_cluster_cuts"), 1, "one write for all of it");
    assert_eq!(metric(mesh, &one, &node, "health_node_relapses"), 0);

    mesh.heal();
    wait_for_backends(mesh, &[&one, &other]);
    eventually("it is in use again", || {
        let cut = kernel::cut(&pins);
        if cut.is_empty() { Ok(()) } else { Err(format!("{cut:?}")) }
    });
    wait_for_history(mesh);
    let traffic = Traffic::start(mesh, &one, CLIENT, ECHO);
    let report = traffic.stop_unharmed();
    report.assert_clients(&client_ips(mesh, &one));
    assert_eq!(report.clusters.keys().collect::<Vec<_>>(), [&one, &other]);
}

/// A node dies: its pods are used only when nobody else is left. Then they are: somebody who may be alive is better than
/// nobody.
pub fn a_node_is_dead(mesh: &impl Mesh) {
    let (one, other) = two_with_echo(mesh);
    let node = mesh.node_of(&one, CLIENT);
    let pins = mesh.pins(&one, &node);
    let [first, second] = mesh.nodes(&other).try_into().expect("two nodes");
    wait_until_probed(mesh, &one, &other);
    let everybody = led_to(mesh, &one, &node);
    let lost = on_node(mesh, &other, &second);
    assert!(!lost.is_empty() && lost.is_subset(&everybody), "{lost:?} of {everybody:?}");

    mesh.cut(&one, &format!("{other}/{second}"));
    let left: BTreeSet<SocketAddr> = everybody.difference(&lost).copied().collect();
    wait_until_led_to(mesh, &one, &node, &left);
    assert_eq!(kernel::cut(&pins), BTreeSet::new(), "its cluster has another");
    let said = data_path(mesh, &one, &node, &other);
    assert!(detail(&said).contains(&second), "{said:#}");
    let traffic = Traffic::start(mesh, &one, CLIENT, ECHO);
    traffic.stop_unharmed();

    // Nobody else is left: all pods of this cluster are gone, and the other's other node is dead too.
    mesh.apply(&one, "echo", Some(0));
    let theirs = on_node(mesh, &other, &first);
    wait_until_led_to(mesh, &one, &node, &theirs);
    mesh.cut(&one, &other);
    let all: BTreeSet<SocketAddr> = theirs.union(&lost).copied().collect();
    wait_until_led_to(mesh, &one, &node, &all);

    mesh.heal();
    mesh.apply(&one, "echo", None);
    wait_for_backends(mesh, &[&one, &other]);
    let traffic = Traffic::start(mesh, &one, CLIENT, ECHO);
    traffic.stop_unharmed();
}

/// A link that comes and goes makes so many changes a minute and no more, and is used again when it has been quiet.
pub fn a_flapping_link_is_damped(mesh: &impl Mesh) {
    let (one, other) = two_with_echo(mesh);
    let node = mesh.node_of(&one, CLIENT);
    let pins = mesh.pins(&one, &node);
    wait_until_probed(mesh, &one, &other);
    let mut flaps = 0;
    let began = std::time::Instant::now();
    // Until it has come back twice, and a while longer.
    while metric(mesh, &one, &node, "health_node_relapses") < 4 || flaps < 8 {
        mesh.cut(&one, &other);
        std::thread::sleep(Duration::from_millis(1_000));
        mesh.heal();
        std::thread::sleep(Duration::from_millis(1_000));
        flaps += 1;
        assert!(flaps < 15, "{flaps} flaps, and no relapse");
    }
    let cuts = metric(mesh, &one, &node, "health_cluster_cuts");
    let minutes = began.elapsed().as_secs() / 60 + 1;
    assert!(cuts < flaps, "{cuts} of {flaps} were acted upon");
    assert!(cuts * 2 <= MOST_CHANGES_A_MINUTE * minutes + 1, "{cuts} cuts in {minutes} minutes");
    // It stays away for as long as it must, and is back.
    within(Duration::from_secs(30), "it is in use again", || {
        let cut = kernel::cut(&pins);
        if cut.is_empty() { Ok(()) } else { Err(format!("{cut:?}")) }
    });
    wait_for_backends(mesh, &[&one, &other]);
    Traffic::start(mesh, &one, CLIENT, ECHO).stop_unharmed();
}

/// Our own way out is cut: nobody is taken for dead, nothing is changed, and it goes on when it is healed.
pub fn our_own_uplink_is_cut(mesh: &impl Mesh) {
    let (one, other) = two_with_echo(mesh);
    let node = mesh.node_of(&one, CLIENT);
    wait_until_probed(mesh, &one, &other);
    wait_until_probed(mesh, &one, &one);
    let before = metric(mesh, &one, &node, "agent_table_changes");
    let everybody = led_to(mesh, &one, &node);
    let place = format!("{one}/{node}");
    for another in mesh.nodes(&one).into_iter().filter(|another| *another != node) {
        mesh.cut(&place, &format!("{one}/{another}"));
    }
    mesh.cut(&place, &other);
    eventually("the node knows that it is alone", || {
        let said = data_path(mesh, &one, &node, &other);
        let alone = detail(&said).contains("it may be this node that is cut off");
        if alone { Ok(()) } else { Err(format!("{said:#}")) }
    });
    assert_eq!(led_to(mesh, &one, &node), everybody, "everything is kept");
    assert_eq!(kernel::cut(&mesh.pins(&one, &node)), BTreeSet::new());
    assert_eq!(metric(mesh, &one, &node, "agent_table_changes"), before, "nothing is written");
    assert_eq!(metric(mesh, &one, &node, "health_node_deaths"), 0);

    mesh.heal();
    eventually("all answer again", || {
        let [own, theirs] = [&one, &other].map(|of| data_path(mesh, &one, &node, of));
        if own["state"] == "ok" && theirs["state"] == "ok" {
            Ok(())
        } else {
            Err(format!("{own:#} {theirs:#}"))
        }
    });
    assert_eq!(metric(mesh, &one, &node, "agent_table_changes"), before, "nor had it to be");
    Traffic::start(mesh, &one, CLIENT, ECHO).stop_unharmed();
}

/// Where connections to the service are led by a node's kernel, in either protocol.
fn led_to(mesh: &impl Mesh, cluster: &str, node: &str) -> BTreeSet<SocketAddr> {
    let services = kernel::services(&mesh.pins(cluster, node));
    services.into_values().flatten().map(|destination| destination.address).collect()
}

fn wait_until_led_to(mesh: &impl Mesh, cluster: &str, node: &str, wanted: &BTreeSet<SocketAddr>) {
    eventually(&format!("{cluster}/{node} leads to {wanted:?}"), || {
        let found = led_to(mesh, cluster, node);
        if found == *wanted { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

/// The pods of the service on a node.
fn on_node(mesh: &impl Mesh, cluster: &str, node: &str) -> BTreeSet<SocketAddr> {
    let shown = json::of(mesh.clustermesh(&["service", "show", ECHO, "--context", cluster]));
    let frontends = shown["services"][0]["frontends"].as_array().cloned().unwrap_or_default();
    let backends = frontends.iter().flat_map(|f| f["backends"].as_array().cloned());
    let backends = backends.flatten();
    let here = backends.filter(|b| b["cluster"] == cluster && b["node"] == node);
    here.map(|backend| crate::mesh::socket_address(&backend)).collect()
}

fn data_path(mesh: &impl Mesh, cluster: &str, node: &str, peer: &str) -> Value {
    let agent = agent_status(mesh, cluster, node);
    let peers = agent["peers"].as_array().cloned().unwrap_or_default();
    let found = peers.into_iter().find(|found| found["name"] == peer);
    let ladder = found.and_then(|found| found["ladder"].as_array().cloned()).unwrap_or_default();
    ladder.last().cloned().unwrap_or_default()
}

fn detail(step: &Value) -> String {
    step["detail"].as_str().unwrap_or_default().to_owned()
}

/// Only who answered once can be dead.
fn wait_until_probed(mesh: &impl Mesh, cluster: &str, peer: &str) {
    for node in mesh.nodes(cluster) {
        eventually("its nodes answer probes", || {
            let said = data_path(mesh, cluster, &node, peer);
            if said["state"] == "ok" { Ok(()) } else { Err(format!("{said:#}")) }
        });
    }
}

/// A number that a node's agent counts.
fn metric(mesh: &impl Mesh, cluster: &str, node: &str, name: &str) -> u64 {
    let text = output(mesh.on_node(cluster, node, &["bash", "-c", METRICS])).expect("metrics");
    let name = format!("clustermesh_{name}");
    let value = text.lines().find_map(|line| {
        let (metric, value) = line.split_once(' ')?;
        (metric == name || metric == format!("{name}_total")).then_some(value)
    });
    value.unwrap_or_else(|| panic!("no {name} in {text}")).trim().parse().expect("a number")
}
