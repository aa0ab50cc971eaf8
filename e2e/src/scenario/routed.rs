//! Clusters whose nodes reach each other only through a router, as in most clouds: no other node is on the link.

use std::process::Command;

use crate::{
    echo_service::{
        CLIENT, ECHO, agent_status, client_ips, two_clusters_with_echo, wait_for_history,
    },
    load::{Assert as _, Traffic},
    mesh::{Daemon, Mesh, eventually, output, wait_ready},
};

/// The router's addresses.
const ROUTER: [&str; 2] = ["172.31.255.254", "fd00:172::fffe"];
/// The routing protocol ID of the agent's routes.
const PROTOCOL: &str = "201";

/// The kernel refuses routes with a next hop that is not on a link, but the network routes to the pods itself. This is no
/// problem, and clients keep their addresses. An agent with `--own-routes=false` makes no routes.
pub fn a_router_between_all_nodes(mesh: &impl Mesh, underlay: &str) {
    let (one, other) = two_clusters_with_echo(mesh);
    put_router_between(mesh, underlay);
    let nodes = mesh.nodes(&one);
    let node = nodes.first().expect("a node");
    let path = || {
        let status = agent_status(mesh, &one, node);
        let peers = status["peers"].as_array().cloned().unwrap_or_default();
        let peer = peers.into_iter().find(|peer| peer["name"] == other.as_str());
        let ladder = peer.map(|peer| peer["ladder"].clone()).unwrap_or_default();
        let steps = ladder.as_array().cloned().unwrap_or_default();
        let step = steps.into_iter().find(|step| step["name"] == "data-path").unwrap_or_default();
        (step["state"].clone(), step["detail"].as_str().unwrap_or_default().to_owned(), status)
    };
    eventually(
        "the network routes to all pods of the other cluster, and there is no problem",
        || {
            let (state, detail, status) = path();
            let routed = detail.contains("4 of 4 pod ranges are routed by the network");
            let problems = status["problems"].to_string();
            match state == "ok" && routed && !problems.contains("route to") {
                true => Ok(()),
                false => Err(format!("{state}: {detail} {problems}")),
            }
        },
    );
    assert_eq!(routes(mesh, &one, node), "", "the kernel refuses them");
    wait_ready(mesh);
    let traffic = Traffic::start(mesh, &one, CLIENT, ECHO);
    // An agent that leaves routes to the network does not try to make them.
    let agent = Daemon::Agent(one.clone(), node.clone());
    mesh.stop(&agent);
    mesh.start_with(&agent, ("CLUSTERMESH_ROUTES", "off"));
    wait_ready(mesh);
    eventually("it reports no route that is not in place", || {
        let (state, detail, _) = path();
        let untried = !detail.contains("routed by the network");
        if state == "ok" && untried { Ok(()) } else { Err(format!("{state}: {detail}")) }
    });
    // On a common link again, it still makes no routes, but an agent that makes routes does.
    for name in &nodes {
        on_link(mesh, &one, name);
    }
    eventually("the other node's agent makes its routes", || {
        match nodes.get(1).map(|other| routes(mesh, &one, other)) {
            Some(routes) if routes.contains(" via ") => Ok(()),
            routes => Err(format!("{routes:?}")),
        }
    });
    assert_eq!(routes(mesh, &one, node), "");
    wait_for_history(mesh);
    let report = traffic.stop_unharmed();
    report.assert_clients(&client_ips(mesh, &one));
}

/// The agent's routes of both families.
fn routes(mesh: &impl Mesh, cluster: &str, node: &str) -> String {
    let of = |family: &str| {
        let show = ["ip", family, "route", "show", "proto", PROTOCOL];
        output(mesh.on_node(cluster, node, &show)).expect("routes")
    };
    ["-4", "-6"].map(of).concat().trim().to_owned()
}

/// Gives each node a link with the router only, and routes everything over it.
fn put_router_between(mesh: &impl Mesh, underlay: &str) {
    let sysctls = [
        "net.ipv6.conf.br0.disable_ipv6=0",
        "net.ipv6.conf.br0.accept_dad=0",
        "net.ipv6.conf.all.forwarding=1",
        "net.ipv4.ip_forward=1",
        "net.ipv4.conf.all.send_redirects=0",
        "net.ipv4.conf.br0.send_redirects=0",
    ];
    let router = |command: &str| {
        let words = ["netns", "exec", underlay].into_iter().chain(command.split(' '));
        run(Command::new("ip"), &words.collect::<Vec<_>>());
    };
    for sysctl in sysctls {
        router(&format!("sysctl -qw {sysctl}"));
    }
    router("ip address add 172.31.255.254/16 dev br0");
    router("ip address add fd00:172::fffe/64 dev br0 nodad");
    for cluster in mesh.clusters() {
        for name in mesh.nodes(&cluster) {
            for (ip, pods) in
                mesh.node_ips(&cluster, &name).iter().zip(pod_ranges(mesh, &cluster, &name))
            {
                router(&format!("ip route add {pods} via {ip} dev br0"));
            }
        }
    }
    for cluster in mesh.clusters() {
        for name in mesh.nodes(&cluster) {
            off_link(mesh, &cluster, &name);
        }
    }
}

/// A node's pod ranges, in the order of its addresses. The lab numbers both in the same way.
fn pod_ranges(mesh: &impl Mesh, cluster: &str, node: &str) -> Vec<String> {
    let number = |at: Option<usize>| at.map(|at| at + 1).expect("one of the lab's");
    let cluster_id = number(mesh.clusters().iter().position(|name| name == cluster));
    let node_id = number(mesh.nodes(cluster).iter().position(|name| name == node));
    let v4 = format!("10.{cluster_id}.{node_id}.0/24");
    let v6 = format!("fd00:10:{cluster_id}:{node_id}::/64");
    let of = |ip: &std::net::IpAddr| if ip.is_ipv4() { v4.clone() } else { v6.clone() };
    mesh.node_ips(cluster, node).iter().map(of).collect()
}

fn off_link(mesh: &impl Mesh, cluster: &str, node: &str) {
    for ip in mesh.node_ips(cluster, node) {
        let on_node = |command: &str| ip_on(mesh, cluster, node, command);
        let router = match ip.is_ipv4() {
            true => {
                on_node(&format!("-4 address add {ip}/32 dev eth0"));
                ROUTER[0]
            }
            false => ROUTER[1],
        };
        let family = if ip.is_ipv4() { "-4" } else { "-6" };
        on_node(&format!("{family} route add {router} dev eth0"));
        on_node(&format!("{family} route replace default via {router} dev eth0"));
        match ip.is_ipv4() {
            true => on_node(&format!("-4 address delete {ip}/16 dev eth0")),
            false => on_node(&format!("-6 address change {ip}/64 dev eth0 noprefixroute")),
        }
        // The routes would stay in the kernel, and then nothing would show that they cannot be made.
        on_node(&format!("{family} route flush proto {PROTOCOL}"));
    }
}

fn on_link(mesh: &impl Mesh, cluster: &str, node: &str) {
    for ip in mesh.node_ips(cluster, node) {
        let command = match ip.is_ipv4() {
            true => format!("-4 address add {ip}/16 dev eth0"),
            false => format!("-6 address change {ip}/64 dev eth0"),
        };
        ip_on(mesh, cluster, node, &command);
    }
}

fn ip_on(mesh: &impl Mesh, cluster: &str, node: &str, command: &str) {
    let words: Vec<&str> = ["ip"].into_iter().chain(command.split(' ')).collect();
    let done = output(mesh.on_node(cluster, node, &words));
    done.unwrap_or_else(|error| panic!("ip {command}: {error}"));
}

fn run(mut command: Command, args: &[&str]) {
    command.args(args);
    output(command).expect("it is done");
}
