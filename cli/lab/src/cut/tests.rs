use std::collections::BTreeMap;

use super::{latency_proxy::Late, *};
use crate::state::{ClusterState, LabState, NodeState};

fn lab() -> LabState {
    let node = |cluster: &str, number: u8| NodeState {
        name: format!("n{number}"),
        number,
        netns: format!("{cluster}-n{number}"),
        ips: vec![[172, 31, if cluster == "a" { 1 } else { 2 }, number].into()],
        cgroup: "/".into(),
        admin_socket: "/".into(),
    };
    let cluster = |(id, name): (u8, &str)| ClusterState {
        name: name.into(),
        id,
        directory: "/".into(),
        nodes: vec![node(name, 1), node(name, 2)],
        replicas: if name == "b" { 2 } else { 1 },
        pods: Vec::new(),
        last_service: 0,
        services: BTreeMap::new(),
    };
    let clusters = [(1, "a"), (2, "b")].map(cluster).into();
    LabState { clusters, ..LabState::default() }
}

fn rules(
    one: &str,
    other: &str,
    port: Option<u16>,
    passes: Option<Impairment>,
) -> Result<Rules, String> {
    let cut = Cut { places: in_order([one, other]), port, impairment: passes };
    let mut rules = Rules::default();
    let link = |cluster: &str, node: &str| format!("{cluster}{node}");
    rules.add(&lab(), link, &cut).map_err(|error| error.to_string())?;
    Ok(rules)
}

#[test]
fn whole_places_hear_nothing() {
    let found = rules("b/n1", "a", None, None).unwrap();
    assert_eq!(
        found.bridge,
        [
            "iifname an1 oifname bn1 drop",
            "iifname bn1 oifname an1 drop",
            "iifname an2 oifname bn1 drop",
            "iifname bn1 oifname an2 drop",
        ]
    );
    // All pairs of different nodes of one cluster.
    assert_eq!(rules("a", "a/n2", None, None).unwrap().bridge.len(), 2);
}

#[test]
fn an_etcd_is_a_port_of_its_node() {
    let found = rules("b/n2", "a/etcd", None, None).unwrap();
    assert_eq!(
        found.bridge,
        [
            "iifname an1 oifname bn2 tcp sport 2379 drop",
            "iifname bn2 oifname an1 tcp dport 2379 drop",
        ]
    );
    // The etcd of a second replica is on the second node.
    let found = rules("a/n1", "b/etcd2", None, None).unwrap();
    assert_eq!(found.bridge[0], "iifname an1 oifname bn2 tcp dport 2379 drop");
    // The etcd's node connects to it locally, over no link.
    let found = rules("a", "a/etcd", None, None).unwrap();
    assert_eq!((found.bridge.len(), found.nodes.len()), (2, 1));
    assert_eq!(found.nodes[0].1[1], "iifname lo tcp dport 2379 drop");
}

#[test]
fn a_port_is_cut_both_ways_and_a_rate_is_a_class() {
    let found = rules("a/n1", "b/n1", Some(53), None).unwrap();
    assert_eq!(found.bridge.len(), 4);
    assert!(found.bridge[1].ends_with("th dport 53 drop"), "{:?}", found.bridge);
    let found = rules("a/n1", "b/n1", None, Some(Impairment::rate("1mbit").unwrap())).unwrap();
    assert_eq!(found.bridge[0], "iifname an1 oifname bn1 meta priority set 1:1");
    assert_eq!(
        found.rates,
        [("bn1".into(), vec!["1mbit".into()]), ("an1".into(), vec!["1mbit".into()])]
    );
}

#[test]
fn what_cannot_be_cut_is_refused_with_the_reason() {
    for (one, other, port, reason) in [
        ("a/n1", "a/n1", None, "the same location"),
        ("a/etcd", "b/etcd", None, "etcds do not talk"),
        ("a/etcd", "b", Some(2379), "leave --port out"),
        ("a", "c", None, "there is: a, b"),
        ("a", "b/n3", None, "there is: b, b/n1, b/n2, b/etcd, b/etcd2"),
    ] {
        let error = rules(one, other, port, None).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }
    for bad in ["", "mbit", "0mbit", "1", "1 mbit", "1mbit; reboot", "-1bit"] {
        assert!(Impairment::rate(bad).is_err(), "{bad}");
    }
    assert!(Impairment::rate("512kbit").is_ok());
    for bad in ["", "30", "0%", "100%", "-1%", "1.5%", "30% drop"] {
        assert!(Impairment::loss(bad).is_err(), "{bad}");
    }
    assert_eq!(Impairment::loss("30%").unwrap(), Impairment::Loss(30));
    for bad in ["", "200", "0ms", "11s", "99999999999s", "1m", "-1ms"] {
        assert!(Impairment::delay(bad).is_err(), "{bad}");
    }
    assert_eq!(Impairment::delay("2s").unwrap(), Impairment::Delay(2_000));
}

#[test]
fn a_loss_is_a_share_of_what_a_cut_drops() {
    let found = rules("a", "a/etcd", None, Some(Impairment::Loss(30))).unwrap();
    assert_eq!(
        found.bridge[1],
        "iifname an1 oifname an2 tcp sport 2379 numgen random mod 100 < 30 drop"
    );
    assert_eq!(found.nodes[0].1[1], "iifname lo tcp dport 2379 numgen random mod 100 < 30 drop");
}

#[test]
fn an_etcd_hears_late_through_a_relay() {
    let delay = || Some(Impairment::Delay(200));
    let found = rules("b", "a/etcd", None, delay()).unwrap();
    assert_eq!((found.bridge.len(), found.nodes.len()), (0, 0));
    let [late] = found.late.as_slice() else { panic!("{:?}", found.late) };
    let from: Vec<String> = late.from.iter().map(ToString::to_string).collect();
    assert_eq!((late.netns.as_str(), late.own), ("a-n1", false));
    assert_eq!(from, ["172.31.2.1", "172.31.2.2"]);
    let text = latency_proxy::table([late].into_iter());
    for line in [
        "ip saddr 172.31.2.2 tcp dport 2379 redirect to :23790",
        "ip saddr 172.31.2.1 tcp dport 2379 reject with tcp reset",
        "ip daddr 172.31.2.1 tcp sport 2379 reject with tcp reset",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    // The etcd's node is delayed too, but the relay's connections are not.
    let found = rules("a", "a/etcd", None, delay()).unwrap();
    assert!(found.late[0].own);
    let text = latency_proxy::table(found.late.iter());
    assert!(text.contains("oifname lo ip saddr != 127.0.0.2 tcp dport 2379 redirect to"), "{text}");
    // A healed cut leaves nothing behind.
    let none: [&Late; 0] = [];
    assert!(!latency_proxy::table(none.into_iter()).contains("chain"));
    let error = rules("a", "b", None, delay()).unwrap_err();
    assert!(error.contains("name one"), "{error}");
}
