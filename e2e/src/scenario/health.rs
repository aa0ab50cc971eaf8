//! Clusters, nodes and links fail: which backends are avoided or kept, and that everything is as before afterwards. The
//! scenarios check order and counts; `clustermesh bench cut` measures times.

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
    CLIENT, ECHO, agent_status, client_ips, id_of, two_clusters_with_echo, wait_for_backends,
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

/// A bash script that reads the agent's metrics. Every node has bash.
const METRICS: &str = r"exec 3<>/dev/tcp/127.0.0.1/9981; printf 'GET /metrics HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n' >&3; cat <&3";
/// How long to check that nothing fails.
const WATCHED: Duration = Duration::from_secs(2);
/// The maximum number of changes of a flapping node in a minute.
const MOST_CHANGES_A_MINUTE: u64 = 11;

/// A cluster becomes unreachable. With one write to the kernel it is no longer used, and from then on no new connection
/// fails. It is used again when it is reachable.
pub fn a_cluster_is_cut_off(mesh: &impl Mesh) {
    let (one, other) = two_clusters_with_echo(mesh);
    let node = mesh.node_of(&one, CLIENT);
    let pins = mesh.pins(&one, &node);
    let traffic = Traffic::start(mesh, &one, CLIENT, ECHO);
    wait_for_backends(mesh, &[&one, &other]);
    wait_until_probed(mesh, &one, &other);
    let others = (mesh.nodes(&one).len() - 1 + mesh.nodes(&other).len()) as u64;
    eventually("the other nodes here and those there are asked often, in both families", || {
        let often = metric(mesh, &one, &node, "probed_addresses_in_use");
        if often == others * 2 { Ok(()) } else { Err(format!("{often} addresses of {others}")) }
    });
    assert_eq!(kernel::cut(&pins), BTreeSet::new());
    traffic.stop_unharmed();

    // Under load. Requests may fail for a second, until the cut is detected.
    let traffic = Traffic::start(mesh, &one, CLIENT, ECHO);
    mesh.cut(&one, &other);
    eventually("the cluster is cut", || {
        let cut = kernel::cut(&pins);
        if cut == BTreeSet::from([id_of(&other)]) { Ok(()) } else { Err(format!("{cut:?}")) }
    });
    let after = Traffic::start(mesh, &one, CLIENT, ECHO);
    let reported = data_path(mesh, &one, &node, &other);
    assert!(
        reported["state"] == "failed" && detail(&reported).contains("unreachable"),
        "{reported:#}"
    );
    thread::sleep(WATCHED);
    let report = after.stop_unharmed();
    assert_eq!(
        report.clusters.keys().collect::<Vec<_>>(),
        [&one],
        "only the local cluster answers"
    );
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

/// A node dies. Its pods are used only if no other backend is left: a backend that may be alive is better than none.
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

    // Leave no other backend: remove all pods of this cluster, and kill the other cluster's other node.
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

/// The agents of a cluster do not run. Its nodes are still alive, and no table changes. A node that is cut meanwhile is
/// detected.
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
    // The kernels of the nodes answer.
    agents.iter().for_each(|agent| mesh.kill(agent));
    let before = count("probes_answered_total");
    within(Duration::from_secs(60), "their kernels answer", || {
        let answered = count("probes_answered_total") - before;
        if answered >= 100 { Ok(()) } else { Err(answered.to_string()) }
    });
    assert_eq!(says("2 of 2 probed nodes answer"), Ok(()));
    assert!(says("no agent").is_err());
    assert_eq!((count("node_deaths_total"), led_to(mesh, &one, &node)), (0, everybody.clone()));

    // The same if kernels do not answer, like those of nodes without our programs.
    for agent in &agents {
        mesh.start_with(agent, ("CLUSTERMESH_PROBE_ANSWER", "agent"));
    }
    wait_ready(mesh);
    agents.iter().for_each(|agent| mesh.kill(agent));
    eventually("its nodes answer without an agent", || says("; 2 have no agent"));
    // Far more than the kernels' burst of six, and a node counts as dead after three.
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

/// A flapping link causes a limited number of changes in a minute, and is used again when it has been stable.
pub fn a_flapping_link_is_damped(mesh: &impl Mesh) {
    let (one, other) = two_clusters_with_echo(mesh);
    let node = mesh.node_of(&one, CLIENT);
    let pins = mesh.pins(&one, &node);
    wait_until_probed(mesh, &one, &other);
    let mut flaps = 0;
    let began = Instant::now();
    // Until it has recovered twice, and a while longer.
    while metric(mesh, &one, &node, "node_relapses_total") < 4 || flaps < 8 {
        mesh.cut(&one, &other);
        thread::sleep(Duration::from_millis(1_000));
        mesh.heal();
        thread::sleep(Duration::from_millis(1_000));
        flaps += 1;
        assert!(flaps < 15, "{flaps} flaps without damping");
    }
    let cuts = metric(mesh, &one, &node, "peer_unreachable_events_total");
    let minutes = began.elapsed().as_secs() / 60 + 1;
    assert!(cuts < flaps, "{cuts} of {flaps} were acted upon");
    assert!(cuts * 2 <= MOST_CHANGES_A_MINUTE * minutes + 1, "{cuts} cuts in {minutes} minutes");
    // It is not used until the damping ends, and then it is used again.
    within(Duration::from_secs(30), "it is in use again", || {
        let cut = kernel::cut(&pins);
        if cut.is_empty() { Ok(()) } else { Err(format!("{cut:?}")) }
    });
    wait_for_backends(mesh, &[&one, &other]);
    unharmed(mesh, &one);
}

/// The local uplink fails. No node counts as dead, nothing is changed, and everything works again when the uplink does.
pub fn the_local_uplink_is_cut(mesh: &impl Mesh) {
    let (one, other) = two_clusters_with_echo(mesh);
    let node = mesh.node_of(&one, CLIENT);
    wait_until_probed(mesh, &one, &other);
    wait_until_probed(mesh, &one, &one);
    let everybody = led_to(mesh, &one, &node);
    // First all at once, then peer by peer.
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
        eventually("the node detects that it is isolated", || {
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
        assert_eq!(written(), before, "nothing was changed");
        assert_eq!(led_to(mesh, &one, &node), everybody);
        unharmed(mesh, &one);
    }
}

/// Drops all packets on a node's link, or ends that.
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

/// Runs a load for a while. No request may fail.
fn unharmed(mesh: &impl Mesh, cluster: &str) -> Report {
    let traffic = Traffic::start(mesh, cluster, CLIENT, ECHO);
    thread::sleep(WATCHED);
    traffic.stop_unharmed()
}

/// The backends that a node's kernel uses for the service, which must be the same for both protocols.
fn led_to(mesh: &impl Mesh, cluster: &str, node: &str) -> BTreeSet<SocketAddr> {
    let services = kernel::services(&mesh.pins(cluster, node));
    services.into_values().flatten().map(|destination| destination.address).collect()
}

fn wait_until_led_to(mesh: &impl Mesh, cluster: &str, node: &str, wanted: &BTreeSet<SocketAddr>) {
    eventually(&format!("{cluster}/{node} uses the backends {wanted:?}"), || {
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

/// Waits until all nodes of a peer have answered: only a node that has answered can be dead.
pub fn wait_until_probed(mesh: &impl Mesh, cluster: &str, peer: &str) {
    for node in mesh.nodes(cluster) {
        eventually("its nodes answer probes", || {
            let reported = data_path(mesh, cluster, &node, peer);
            if reported["state"] == "ok" { Ok(()) } else { Err(format!("{reported:#}")) }
        });
    }
}

/// The value of a metric of a node's agent.
fn metric(mesh: &impl Mesh, cluster: &str, node: &str, name: &str) -> u64 {
    let text = output(mesh.on_node(cluster, node, &["bash", "-c", METRICS])).expect("metrics");
    let name = format!("clustermesh_agent_{name} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&name));
    value.unwrap_or_else(|| panic!("no {name} in {text}")).trim().parse().expect("a number")
}
