//! Faults between network namespaces. Needs root.

#![allow(clippy::expect_used, reason = "all of this is test code")]

use std::process::Command;

use mesh_e2e::{
    Mesh as _, Netns, json,
    mesh::{eventually, output},
    scenario,
};

/// Connects from a node to a port, and says whether it could.
fn connects(mesh: &Netns, (cluster, node): (&str, &str), to: &str, port: u16) -> bool {
    let script = format!("exec 3<>/dev/tcp/{to}/{port}");
    output(mesh.on_node(cluster, node, &["timeout", "1", "bash", "-c", &script])).is_ok()
}

/// Bytes that passed through the buckets of a lab's underlay.
fn trickled(lab: &str) -> u64 {
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

    // A node from a cluster: others still reach it. Done twice, it is one cut.
    mesh.cut("a/n1", "b");
    mesh.cut("b", "a/n1");
    assert!(!reach(("a", "n1"), etcd_of_b));
    assert!(!reach(("b", "n2"), etcd_of_a));
    assert!(reach(("a", "n2"), etcd_of_b) && reach(("a", "n2"), etcd_of_a));
    assert_eq!(mesh.state().cuts.len(), 1, "{:?}", mesh.state().cuts);
    mesh.heal();
    assert!(mesh.state().cuts.is_empty());
    eventually("what is healed is whole", || {
        if reach(("a", "n1"), etcd_of_b) { Ok(()) } else { Err("no connection".into()) }
    });

    // An etcd is a port of its node; its own node speaks to it over no link.
    mesh.cut("a", "a/etcd");
    assert!(!reach(("a", "n1"), etcd_of_a) && !reach(("a", "n2"), etcd_of_a));
    assert!(reach(("b", "n1"), etcd_of_a));
    mesh.heal();
    assert!(reach(("a", "n1"), etcd_of_a) && reach(("a", "n2"), etcd_of_a));

    // A rate lets pass, and counts what it let pass.
    let mut cut = mesh.lab("cut");
    cut.args(["a/n2", "b/n1", "--rate", "1mbit"]);
    assert_eq!(json::of(cut)["cut"]["rate"], "1mbit");
    assert!(reach(("a", "n2"), etcd_of_b));
    assert!(trickled("e2ecuts") > 0);
    mesh.heal();
    assert_eq!(trickled("e2ecuts"), 0, "no bucket is left");

    // What makes no sense is refused with what would.
    let mut cut = mesh.lab("cut");
    cut.args(["a", "c"]);
    let (code, _, complaint) = json::run(cut);
    assert_eq!(code, 1);
    assert!(complaint.contains("there is: a, b"), "{complaint}");
}

#[test]
fn pairs() {
    scenario::traffic_outlives_pairs_of_daemons(&Netns::up("e2epairs"));
}

#[test]
fn compaction() {
    scenario::a_cut_outlasts_the_history(&Netns::up("e2ecompact"));
}

#[test]
fn a_shorter_history() {
    scenario::an_etcd_begins_anew(&Netns::up("e2eshorter"), scenario::History::Shorter);
}

#[test]
fn a_longer_history() {
    scenario::an_etcd_begins_anew(&Netns::up("e2elonger"), scenario::History::Longer);
}

#[test]
fn leases() {
    scenario::an_expired_lease_is_silence(&Netns::up("e2eleases"));
}

#[test]
fn full() {
    let quota = (4 * 1024 * 1024).to_string();
    scenario::an_etcd_is_full(&Netns::with("e2efull", &["--etcd-quota", &quota]));
}

#[test]
fn without_its_own_etcd() {
    scenario::an_agent_starts_without_its_own_etcd(&Netns::up("e2ewithout"));
}
