//! Faults between network namespaces. Needs root.

#![allow(clippy::expect_used, reason = "all of this is test code")]

use std::{
    net::IpAddr,
    process::Command,
    time::{Duration, Instant},
};

use mesh_e2e::{
    Mesh as _, Netns, Traffic, echo_service, json,
    mesh::{eventually, output},
    scenario,
};
use mesh_lab::Liveness;

/// Whether a node can connect to a port of an address.
fn connects(mesh: &Netns, (cluster, node): (&str, &str), to: &str, port: u16) -> bool {
    let script = format!("exec 3<>/dev/tcp/{to}/{port}");
    output(mesh.on_node(cluster, node, &["timeout", "1", "bash", "-c", &script])).is_ok()
}

/// Bytes that passed the rate limits in a lab's underlay.
fn rate_limited_bytes(lab: &str) -> u64 {
    let tc = |args: &[&str]| {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &format!("cm-{lab}-underlay"), "tc"]).args(args);
        output(command).expect("tc answers")
    };
    let after = |line: &str, word: &str| {
        line.split_whitespace().skip_while(|other| *other != word).nth(1).map(str::to_owned)
    };
    let disciplines = tc(&["qdisc", "show"]);
    let buckets = disciplines.lines().filter(|line| line.contains("qdisc htb"));
    let links = buckets.filter_map(|line| after(line, "dev"));
    let classes = links.map(|link| tc(&["-s", "class", "show", "dev", &link]));
    let sent = |text: String| {
        let bytes = text.lines().filter_map(|line| after(line, "Sent"));
        bytes.filter_map(|bytes| bytes.parse::<u64>().ok()).sum::<u64>()
    };
    classes.map(sent).sum()
}

#[test]
fn cuts() {
    let mesh = Netns::up("e2ecuts");
    let (etcd_of_a, etcd_of_b) = ("172.31.1.1", "172.31.2.1");
    let reach = |from, to| connects(&mesh, from, to, 2379);
    assert!(reach(("a", "n1"), etcd_of_b));

    // Partition a node from a cluster: others still reach the cluster. Repeating it changes nothing.
    mesh.cut("a/n1", "b");
    mesh.cut("b", "a/n1");
    assert!(!reach(("a", "n1"), etcd_of_b));
    assert!(!reach(("b", "n2"), etcd_of_a));
    assert!(reach(("a", "n2"), etcd_of_b) && reach(("a", "n2"), etcd_of_a));
    assert_eq!(mesh.state().cuts.len(), 1, "{:?}", mesh.state().cuts);
    mesh.heal();
    assert!(mesh.state().cuts.is_empty());
    eventually("the healed link works", || {
        if reach(("a", "n1"), etcd_of_b) { Ok(()) } else { Err("no connection".into()) }
    });

    // Partition an etcd, which is a port of its node.
    mesh.cut("a", "a/etcd");
    assert!(!reach(("a", "n1"), etcd_of_a) && !reach(("a", "n2"), etcd_of_a));
    assert!(reach(("b", "n1"), etcd_of_a));
    mesh.heal();
    assert!(reach(("a", "n1"), etcd_of_a) && reach(("a", "n2"), etcd_of_a));

    // With a rate limit, traffic passes and is counted.
    let mut cut = mesh.lab("cut");
    cut.args(["a/n2", "b/n1", "--rate", "1mbit"]);
    assert_eq!(json::of(cut)["cut"]["rate"], "1mbit");
    assert!(reach(("a", "n2"), etcd_of_b));
    assert!(rate_limited_bytes("e2ecuts") > 0);
    mesh.heal();
    assert_eq!(rate_limited_bytes("e2ecuts"), 0, "no rate limit is left");

    // An unknown cluster is refused with the known ones.
    let mut cut = mesh.lab("cut");
    cut.args(["a", "c"]);
    let (code, _, complaint) = json::run(cut);
    assert_eq!(code, 1);
    assert!(complaint.contains("there is: a, b"), "{complaint}");
}

/// How long `etcdctl` on a node takes to read a key of another cluster's etcd, with the certificate of the node's agents.
fn reading(mesh: &Netns, (reader, node): (&str, &str), source: &str) -> Duration {
    let ip = mesh.node_ips(source, "n1").into_iter().find(IpAddr::is_ipv4).expect("IPv4");
    let peers = mesh.peer_folder(reader);
    let file = |suffix: &str| peers.join(format!("{source}.etcd-client{suffix}"));
    let [ca, cert, key] = ["-ca.crt", ".crt", ".key"].map(|end| file(end).display().to_string());
    let endpoint = format!("--endpoints=https://{ip}:2379");
    let flags = ["--cacert", &ca, "--cert", &cert, "--key", &key, "get", "cilium/.heartbeat"];
    let mut read = mesh.on_node(reader, node, &[&["etcdctl", &endpoint], &flags[..]].concat());
    read.env("ETCDCTL_API", "3");
    let begun = Instant::now();
    let printed = output(read).expect("etcdctl reads the key");
    assert!(printed.contains("cilium/.heartbeat"), "{printed}");
    begun.elapsed()
}

/// Whether a node has rules of the lab, and the number of relays that delay an etcd.
fn traces(mesh: &Netns, node: &str) -> (bool, usize) {
    let tables = output(mesh.on_node("a", node, &["nft", "list", "tables"])).expect("tables");
    (tables.contains("clustermesh-lab"), mesh.state().relays.len())
}

#[test]
fn slow_and_lossy() {
    let mesh = Netns::up("e2eslow");
    echo_service::two_clusters_with_echo(&mesh);
    let traffic = Traffic::start(&mesh, "a", echo_service::CLIENT, echo_service::ECHO);
    let cut = |places: [&str; 2], flags: [&str; 2]| {
        let mut cut = mesh.lab("cut");
        cut.args(places).args(flags);
        json::of(cut)
    };
    let settled = || {
        let mut check = mesh.lab("check-history");
        check.arg("--wait");
        json::of(check);
    };

    // A handshake and a request take two round trips. No server can answer faster.
    cut(["b", "a/etcd"], ["--delay", "150ms"]);
    let late = cut(["a/etcd", "b"], ["--delay", "200ms"]);
    assert_eq!(late["cut"]["delay"], 200, "{late:#}");
    assert_eq!(
        late["cuts"].as_array().map(Vec::len),
        Some(1),
        "repeating it changes the same cut: {late:#}"
    );
    let round_trip = Duration::from_millis(400);
    assert!(reading(&mesh, ("b", "n2"), "a") >= 2 * round_trip);
    assert_eq!(traces(&mesh, "n1"), (true, 1));
    // Changes still arrive, and none is lost.
    mesh.apply("a", "echo", Some(3));
    settled();

    // The agents of the etcd's cluster have a lossy link to it too.
    cut(["a", "a/etcd"], ["--loss", "20%"]);
    cut(["a", "b/etcd"], ["--loss", "20%"]);
    for replicas in [1, 2] {
        mesh.apply("a", "echo", Some(replicas));
        mesh.apply("b", "echo", Some(3 - replicas));
    }
    settled();
    let relay = mesh.state().relays.pop().expect("a relay").process;
    mesh.heal();
    assert_eq!(traces(&mesh, "n1"), (false, 0), "no rule and no relay are left");
    assert_eq!(relay.liveness(), Liveness::Died, "the relay's process is gone");
    mesh.apply("a", "echo", Some(3));
    settled();
    traffic.stop_unharmed();
}

#[test]
fn pairs_of_daemons() {
    scenario::traffic_outlives_pairs_of_daemons(&Netns::up("e2epairs"));
}

#[test]
fn compaction_during_a_partition() {
    scenario::a_partition_outlasts_a_compaction(&Netns::up("e2ecompact"));
}

#[test]
fn a_shorter_history() {
    scenario::an_etcd_loses_its_data(&Netns::up("e2eshorter"), scenario::History::Shorter);
}

#[test]
fn a_longer_history() {
    scenario::an_etcd_loses_its_data(&Netns::up("e2elonger"), scenario::History::Longer);
}

#[test]
fn an_expired_lease() {
    scenario::an_expired_lease_removes_nothing(&Netns::up("e2eleases"));
}

#[test]
fn a_full_etcd() {
    let quota = (4 * 1024 * 1024).to_string();
    scenario::an_etcd_is_full(&Netns::with("e2efull", &["--etcd-quota", &quota]));
}

#[test]
fn without_its_local_etcd() {
    scenario::an_agent_starts_without_its_local_etcd(&Netns::up("e2ewithout"));
}
