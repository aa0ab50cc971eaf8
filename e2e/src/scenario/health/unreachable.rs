//! An etcd is unreachable.

use crate::echo_service::{
    CLIENT, ECHO, agent_status, two_clusters_with_echo, wait_for_backends, wait_for_backends_in,
};
use crate::{
    kernel,
    load::Traffic,
    mesh::{Daemon, Mesh, eventually, output, wait_ready},
};

/// The staleness budget in the agents' environment.
const BUDGET: (&str, &str) = ("CLUSTERMESH_STALENESS_BUDGET_SECONDS", "4");

/// The backends of a peer whose etcd is unreachable stay in use until the staleness budget ends, and are used again when
/// the etcd is reachable. Those of the local cluster never become stale. No request fails.
pub fn an_unreachable_peer_is_valid_for_its_staleness_budget(mesh: &impl Mesh) {
    let (one, other) = two_clusters_with_echo(mesh);
    let nodes = mesh.nodes(&one);
    let node = mesh.node_of(&one, CLIENT);
    for node in &nodes {
        let agent = Daemon::Agent(one.clone(), node.clone());
        mesh.kill(&agent);
        mesh.start_with(&agent, BUDGET);
    }
    wait_ready(mesh);
    wait_for_backends(mesh, &[&one, &other]);
    let traffic = Traffic::start(mesh, &one, CLIENT, ECHO);
    for cluster in [&one, &other] {
        mesh.kill(&Daemon::Etcd(cluster.clone()));
    }
    eventually("it is reported as unreachable", || {
        let problems = agent_status(mesh, &one, &node)["problems"].to_string();
        if problems.contains("unreachable for") { Ok(()) } else { Err(problems) }
    });
    wait_for_backends_in(mesh, &one, &[&one]);
    // The agents of the other cluster have the default budget.
    wait_for_backends_in(mesh, &other, &[&one, &other]);

    for cluster in [&one, &other] {
        mesh.start(&Daemon::Etcd(cluster.clone()));
    }
    wait_for_backends(mesh, &[&one, &other]);
    wait_ready(mesh);
    let problems = agent_status(mesh, &one, &node)["problems"].to_string();
    assert!(!problems.contains("unreachable for"), "{problems}");
    traffic.stop_unharmed();
}

/// The bits of the state word: "not sure", and "services that are not global pass".
const UNSURE: u32 = 1;
const PLAIN_PASSES: u32 = 2;
/// A command that makes the table by which agents detect a kube-proxy in nftables mode.
const KUBE_PROXY: [&str; 5] = ["nft", "add", "table", "ip", "kube-proxy"];

/// If the local apiserver has not reported for five seconds, agents set that state for the programs: connections to
/// services without a backend pass, and on nodes with a kube-proxy also those to services that are not global. When it
/// reports again, everything is as before.
pub fn the_local_apiserver_is_unreachable(mesh: &impl Mesh) {
    let (one, _) = two_clusters_with_echo(mesh);
    let [first, second] = mesh.nodes(&one).try_into().expect("two nodes");
    let made = output(mesh.on_node(&one, &second, &KUBE_PROXY));
    assert_eq!(made, Ok(String::new()));
    let wait_for = |wanted: [u32; 2]| {
        eventually(&format!("the programs know {wanted:?}"), || {
            let states = [&first, &second].map(|node| kernel::local_state(&mesh.pins(&one, node)));
            // Ignore the bits of other states.
            let states = states.map(|state| state & (UNSURE | PLAIN_PASSES));
            if states == wanted { Ok(()) } else { Err(format!("{states:?}")) }
        });
    };
    wait_for([0, 0]);
    let traffic = Traffic::start(mesh, &one, CLIENT, ECHO);
    mesh.kill(&Daemon::Apiserver(one.clone()));
    wait_for([UNSURE, UNSURE | PLAIN_PASSES]);
    let problems = agent_status(mesh, &one, &second)["problems"].to_string();
    assert!(problems.contains("are left to the kube-proxy"), "{problems}");
    mesh.start(&Daemon::Apiserver(one.clone()));
    wait_for([0, 0]);
    wait_ready(mesh);
    traffic.stop_unharmed();
}
