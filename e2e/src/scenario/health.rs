//! Clusters, nodes and ways that fail: who is avoided, who is kept, and that all is as before when it is over. What is
//! asserted is order and counts: times are `clustermesh bench cut`'s business.

mod blips;
mod drain;
mod unreachable;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use mesh_lab::workload::load::Report;
use serde_json::Value;

use crate::echo_service::{
    CLIENT, ECHO, agent_status, client_ips, two_clusters_with_echo, wait_for_backends,
    wait_for_history,
};
use crate::{
    json, kernel,
    load::{Assert as _, Traffic},
    mesh::{Daemon, Mesh, eventually, output, wait_ready, within},
};
pub use blips::three_blips_end_no_socket;
pub use drain::{a_deployment_is_drained, a_node_and_a_cluster_are_drained};
pub use unreachable::{
    an_unreachable_peer_is_valid_for_its_staleness_budget, the_local_apiserver_is_unreachable,
};

/// The agent's metrics, by what every node has.
const METRICS: &str = r"exec 3<>/dev/tcp/127.0.0.1/9981; printf 'GET /metrics HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n' >&3; cat <&3";
/// For how long it is watched that nothing fails.
const WATCHED: Duration = Duration::from_secs(2);
/// A node that comes and goes has so many deaths and returns a minute, and no more.
const MOST_CHANGES_A_MINUTE: u64 = 11;

/// A cluster is cut off: by one write it is out of use, from then on no new connection fails, and it is back by itself.
pub fn a_cluster_is_cut_off(mesh: &impl Mesh) {
    let (one, other) = two_clusters_with_echo(mesh);
    let node = mesh.node_of(&one, CLIENT);
    let pins = mesh.pins(&one, &node);
    let traffic = Traffic::start(mesh, &one, CLIENT, ECHO);
    wait_for_backends(mesh, &[&one, &other]);
    wait_until_probed(mesh, &one, &other);
    eventually("the other node here and two there are asked often, in both families", || {
        let often = metric(mesh, &one, &node, "probed_addresses_in_use");
        if often == 3 * 2 { Ok(()) } else { Err(format!("{often} addresses")) }
    });
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
    let reported = data_path(mesh, &one, &node, &other);
    assert!(
        reported["state"] == "failed" && detail(&reported).contains("unreachable"),
        "{reported:#}"
    );
    thread::sleep(WATCHED);
    let report = after.stop_unharmed();
    assert_eq!(report.clusters.keys().collect::<Vec<_>>(), [&one], "no other cluster is asked");
    let report = traffic.stop();
    assert!(report.answered > 0, "{report:#?}");
    assert_eq!(
        metric(mesh, &one, &node, "peer_unreachable_events_total"),
        1,
        "one write for all of it"
    );
    assert_eq!(metric(mesh, &one, &node, "node_relapses_total"), 0);

    mesh.heal();
    wait_for_backends(mesh, &[&one, &other]);
    eventually("it is in use again", || {
        let cut = kernel::cut(&pins);
        if cut.is_empty() { Ok(()) } else { Err(format!("{cut:?}")) }
    });
    wait_for_history(mesh);
    let report = unharmed(mesh, &one);
    report.assert_clients(&client_ips(mesh, &one));
    assert_eq!(report.clusters.keys().collect::<Vec<_>>(), [&one, &other]);
}

/// A node dies: its pods are used only when no other backend is left. Then they are: a backend that may be alive is
/// better than none.
pub fn a_node_is_dead(mesh: &impl Mesh) {
    let (one, other) = two_clusters_with_echo(mesh);
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
    let reported = data_path(mesh, &one, &node, &other);
    assert!(detail(&reported).contains(&second), "{reported:#}");
    unharmed(mesh, &one);

    // No other backend is left: all pods of this cluster are gone, and the other's other node is dead too.
    mesh.apply(&one, "echo", Some(0));
    let theirs = on_node(mesh, &other, &first);
    wait_until_led_to(mesh, &one, &node, &theirs);
    mesh.cut(&one, &other);
    let all: BTreeSet<SocketAddr> = theirs.union(&lost).copied().collect();
    wait_until_led_to(mesh, &one, &node, &all);

    mesh.heal();
    mesh.apply(&one, "echo", None);
    wait_for_backends(mesh, &[&one, &other]);
    unharmed(mesh, &one);
}

/// The agents of a cluster are away: its nodes are there, and no table changes. One that is cut meanwhile is found.
pub fn agents_are_away(mesh: &impl Mesh) {
    let (one, other) = two_clusters_with_echo(mesh);
    let node = mesh.node_of(&one, CLIENT);
    wait_until_probed(mesh, &one, &other);
    let everybody = led_to(mesh, &one, &node);
    let [_, second] = mesh.nodes(&other).try_into().expect("two nodes");
    let lost = on_node(mesh, &other, &second);
    let agents: Vec<Daemon> =
        mesh.nodes(&other).into_iter().map(|node| Daemon::Agent(other.clone(), node)).collect();
    let count = |name: &str| metric(mesh, &one, &node, name);
    let says = |wanted: &str| {
        let reported = data_path(mesh, &one, &node, &other);
        if detail(&reported).contains(wanted) { Ok(()) } else { Err(format!("{reported:#}")) }
    };
    // Their kernels answer.
    agents.iter().for_each(|agent| mesh.kill(agent));
    let before = count("probes_answered_total");
    within(Duration::from_secs(60), "their kernels answer", || {
        let answered = count("probes_answered_total") - before;
        if answered >= 100 { Ok(()) } else { Err(answered.to_string()) }
    });
    assert_eq!(says("2 of 2 probed nodes answer"), Ok(()));
    assert!(says("no agent").is_err());
    assert_eq!((count("node_deaths_total"), led_to(mesh, &one, &node)), (0, everybody.clone()));

    // And where kernels do not, as those of nodes without our programs.
    for agent in &agents {
        mesh.start_with(agent, ("CLUSTERMESH_PROBE_ANSWER", "agent"));
    }
    wait_ready(mesh);
    agents.iter().for_each(|agent| mesh.kill(agent));
    eventually("its nodes answer without an agent", || says("; 2 have no agent"));
    // Far more than the kernels' burst of six, and each node is missed after three.
    let before = count("probes_refused_total");
    within(Duration::from_secs(60), "refusals are counted", || {
        let counted = count("probes_refused_total") - before;
        if counted >= 16 { Ok(()) } else { Err(counted.to_string()) }
    });
    assert_eq!(count("node_deaths_total"), 0);
    assert_eq!(led_to(mesh, &one, &node), everybody);

    mesh.cut(&one, &format!("{other}/{second}"));
    let left: BTreeSet<SocketAddr> = everybody.difference(&lost).copied().collect();
    wait_until_led_to(mesh, &one, &node, &left);
    mesh.heal();
    wait_until_led_to(mesh, &one, &node, &everybody);

    let deaths = count("node_deaths_total");
    agents.iter().for_each(|agent| mesh.start(agent));
    eventually("its agents answer", || {
        says("2 of 2 probed nodes answer")?;
        says("no agent").map_or(Ok(()), |()| Err("not yet".into()))
    });
    assert_eq!(count("node_deaths_total"), deaths);
    unharmed(mesh, &one);
}

/// A link that comes and goes makes so many changes a minute and no more, and is used again when it has been quiet.
pub fn a_flapping_link_is_damped(mesh: &impl Mesh) {
    let (one, other) = two_clusters_with_echo(mesh);
    let node = mesh.node_of(&one, CLIENT);
    let pins = mesh.pins(&one, &node);
    wait_until_probed(mesh, &one, &other);
    let mut flaps = 0;
    let began = Instant::now();
    // Until it has come back twice, and a while longer.
    while metric(mesh, &one, &node, "node_relapses_total") < 4 || flaps < 8 {
        mesh.cut(&one, &other);
        thread::sleep(Duration::from_millis(1_000));
        mesh.heal();
        thread::sleep(Duration::from_millis(1_000));
        flaps += 1;
        assert!(flaps < 15, "{flaps} flaps, and no relapse");
    }
    let cuts = metric(mesh, &one, &node, "peer_unreachable_events_total");
    let minutes = began.elapsed().as_secs() / 60 + 1;
    assert!(cuts < flaps, "{cuts} of {flaps} were acted upon");
    assert!(cuts * 2 <= MOST_CHANGES_A_MINUTE * minutes + 1, "{cuts} cuts in {minutes} minutes");
    // It stays away for as long as it must, and is back.
    within(Duration::from_secs(30), "it is in use again", || {
        let cut = kernel::cut(&pins);
        if cut.is_empty() { Ok(()) } else { Err(format!("{cut:?}")) }
    });
    wait_for_backends(mesh, &[&one, &other]);
    unharmed(mesh, &one);
}

/// The local uplink is cut: no node is taken for dead, nothing is changed, and it goes on when it is healed.
pub fn the_local_uplink_is_cut(mesh: &impl Mesh) {
    let (one, other) = two_clusters_with_echo(mesh);
    let node = mesh.node_of(&one, CLIENT);
    wait_until_probed(mesh, &one, &other);
    wait_until_probed(mesh, &one, &one);
    let everybody = led_to(mesh, &one, &node);
    // In one stroke, then peer by peer.
    let strokes: [&dyn Fn(); 2] = [&|| in_one_stroke(mesh, &one, &node, true), &|| {
        let place = format!("{one}/{node}");
        for another in mesh.nodes(&one).into_iter().filter(|another| *another != node) {
            mesh.cut(&place, &format!("{one}/{another}"));
        }
        mesh.cut(&place, &other);
    }];
    for (round, stroke) in strokes.into_iter().enumerate() {
        let written = || metric(mesh, &one, &node, "table_changes_total");
        let before = written();
        stroke();
        eventually("the node knows that it is alone", || {
            let reported = data_path(mesh, &one, &node, &other);
            let alone = detail(&reported).contains("this node may be isolated");
            if alone { Ok(()) } else { Err(format!("{reported:#}")) }
        });
        wait_until_led_to(mesh, &one, &node, &everybody);
        assert_eq!(kernel::cut(&mesh.pins(&one, &node)), BTreeSet::new());
        if round == 0 {
            assert_eq!(written(), before, "nothing is written");
            assert_eq!(metric(mesh, &one, &node, "node_deaths_total"), 0);
            in_one_stroke(mesh, &one, &node, false);
        }
        let before = written();
        mesh.heal();
        for of in [&one, &other] {
            eventually("all answer again", || {
                let reported = data_path(mesh, &one, &node, of);
                if reported["state"] == "ok" { Ok(()) } else { Err(format!("{reported:#}")) }
            });
        }
        assert_eq!(written(), before, "nothing was taken that had to be given back");
        assert_eq!(led_to(mesh, &one, &node), everybody);
        unharmed(mesh, &one);
    }
}

/// Lets nothing pass over a node's link to others, or all again.
fn in_one_stroke(mesh: &impl Mesh, cluster: &str, node: &str, cut: bool) {
    let rules = match cut {
        true => {
            "table inet stroke {
  chain in { type filter hook prerouting priority -400; iifname \"eth0\" drop; }
  chain out { type filter hook postrouting priority 400; oifname \"eth0\" drop; }
}"
        }
        false => "delete table inet stroke",
    };
    assert_eq!(output(mesh.on_node(cluster, node, &["nft", rules])), Ok(String::new()));
}

/// A load for a while, of which nothing is lost.
fn unharmed(mesh: &impl Mesh, cluster: &str) -> Report {
    let traffic = Traffic::start(mesh, cluster, CLIENT, ECHO);
    thread::sleep(WATCHED);
    traffic.stop_unharmed()
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
            let reported = data_path(mesh, cluster, &node, peer);
            if reported["state"] == "ok" { Ok(()) } else { Err(format!("{reported:#}")) }
        });
    }
}

/// A number that a node's agent counts.
fn metric(mesh: &impl Mesh, cluster: &str, node: &str, name: &str) -> u64 {
    let text = output(mesh.on_node(cluster, node, &["bash", "-c", METRICS])).expect("metrics");
    let name = format!("clustermesh_agent_{name} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&name));
    value.unwrap_or_else(|| panic!("no {name} in {text}")).trim().parse().expect("a number")
}
