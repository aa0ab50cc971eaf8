//! Who gets how much, by hand.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod stage;

use std::{cell::Cell, collections::BTreeSet, net::IpAddr, sync::Arc};

use mesh_balance::{
    ClusterState::{Cut, Drained, InUse, Stale},
    ClusterView, GroupShare, Tier,
};
use mesh_model::{
    Affinity, ClusterId, ClusterName,
    Protocol::{Sctp, Tcp, Udp},
    ServiceName, ServiceTraffic, WeightsOf,
    lb::{Backend, BackendState, Change, Condition, Frontend, NodeHealth, ServiceDelta, Settings},
};
use stage::{Stage, backend, frontend, global, id, name, service};

fn affinity(affinity: Affinity) -> ServiceTraffic {
    ServiceTraffic { affinity, ..global() }
}

/// Of each backend of a cluster.
fn weights(weights: &[(&str, u32)]) -> ServiceTraffic {
    let weights = weights.iter().map(|(cluster, weight)| (name(cluster), *weight)).collect();
    ServiceTraffic { weights, ..global() }
}

/// Of clusters as a whole.
fn cluster_weights(of: &[(&str, u32)]) -> ServiceTraffic {
    ServiceTraffic { weights_of: WeightsOf::Clusters, ..weights(of) }
}

/// `a,b;c`
fn tiers(tiers: &str) -> ServiceTraffic {
    let tier = |tier: &str| tier.split(',').map(name).collect();
    ServiceTraffic { tiers: tiers.split(';').map(tier).collect(), ..global() }
}

#[test]
fn all_clusters_backends_are_used_alike() {
    let stage = Stage::with(global(), "a11 a12 b11 c11");
    assert_eq!(stage.shares(), "a11 25, a12 25, b11 25, c11 25");
}

#[test]
fn affinity_prefers_until_no_backend_there_is_left() {
    let mut stage = Stage::with(affinity(Affinity::Local), "a11 a12 b11 c11");
    assert_eq!(stage.shares(), "a11 50, a12 50");
    stage.remove("a11");
    assert_eq!(stage.shares(), "a12 100");
    stage.set("a12", Condition::Terminating);
    assert_eq!(
        stage.shares(),
        "b11 50, c11 50",
        "one that shuts down keeps no client from failing over"
    );
    stage.set("a11", Condition::Ready);
    assert_eq!(stage.shares(), "a11 100");
    for backend in ["a11", "b11", "c11"] {
        stage.set(backend, Condition::Terminating);
    }
    assert_eq!(stage.shares(), "a11 50, a12 50", "of those that shut down, the ones here");
    stage.remove("a11");
    stage.remove("a12");
    assert_eq!(stage.shares(), "b11 50, c11 50");

    let mut stage = Stage::with(affinity(Affinity::Remote), "a11 b11 c11");
    assert_eq!(stage.shares(), "b11 50, c11 50");
    stage.node("b1", false);
    assert_eq!(stage.shares(), "c11 100");
    stage.cluster("c", Cut, true);
    assert_eq!(stage.shares(), "a11 100");
    stage.node("b1", true);
    assert_eq!(stage.shares(), "b11 100");
    stage.set("b11", Condition::Terminating);
    assert_eq!(stage.shares(), "a11 100", "one that shuts down there keeps no client from here");
}

#[test]
fn a_cluster_that_is_drained_here_is_used_only_where_nothing_else_answers() {
    let mut stage = Stage::with(global(), "a11 b11");
    stage.cluster("b", Drained, true);
    assert_eq!(stage.shares(), "a11 100");
    stage.remove("a11");
    assert_eq!(stage.shares(), "b11 100");
    stage.set("a11", Condition::Ready);
    stage.cluster("b", InUse, true);
    assert_eq!(stage.shares(), "a11 50, b11 50");
}

#[test]
fn a_backend_gets_by_its_clusters_weight() {
    let mut stage = Stage::with(weights(&[("a", 3), ("b", 1)]), "a11 b11");
    assert_eq!(stage.shares(), "a11 75, b11 25");
    stage.set("b12", Condition::Ready);
    assert_eq!(stage.shares(), "a11 60, b11 20, b12 20");
    stage.set("c11", Condition::Ready);
    assert_eq!(stage.shares(), "a11 50, b11 16.7, b12 16.7, c11 16.7", "1 where none is given");
    stage.remove("a11");
    assert_eq!(stage.shares(), "b11 33.3, b12 33.3, c11 33.3");
}

/// However many backends it has; those that are not named count 1 each and are one group.
#[test]
fn a_cluster_gets_by_its_weight() {
    for (of, backends, expected) in [
        (
            &[("a", 90), ("b", 10)][..],
            "a11 a12 a13 b11 b12",
            "a11 30, a12 30, a13 30, b11 5, b12 5",
        ),
        (&[("a", 90), ("b", 10)], "a11 b11 b12", "a11 90, b11 5, b12 5"),
        (&[("a", 90), ("b", 10)], "b11 b12", "b11 50, b12 50"),
        // c counts 1, and with d 2: spread over the three backends of both.
        (&[("a", 2)], "a11 b11", "a11 66.7, b11 33.3"),
        (&[("a", 3)], "a11 a12 b11 b12", "a11 37.5, a12 37.5, b11 12.5, b12 12.5"),
        (&[("a", 2)], "a11 c11 d11 d12", "a11 50, c11 16.7, d11 16.7, d12 16.7"),
        // A named one is a group of its own, also with another's weight.
        (&[("a", 1), ("b", 1)], "a11 b11 b12 b13", "a11 50, b11 16.7, b12 16.7, b13 16.7"),
        (&[("a", 0)], "a11 b11 c11 c12", "b11 33.3, c11 33.3, c12 33.3"),
        // For want of others: each cluster as another.
        (&[("a", 0), ("b", 0)], "a11 b11 b12", "a11 50, b11 25, b12 25"),
    ] {
        let stage = Stage::with(cluster_weights(of), backends);
        assert_eq!(stage.shares(), expected, "{of:?}: {backends}");
    }
}

/// In a later tier too; and what no cluster can use there is no share of anything.
#[test]
fn shares_of_clusters_are_of_their_tiers_load() {
    let traffic = ServiceTraffic { tiers: tiers("b;a,c").tiers, ..cluster_weights(&[("a", 3)]) };
    let mut stage = Stage::with(traffic.clone(), "a11 a12 b11 c11 d11");
    assert_eq!(stage.shares(), "b11 100");
    stage.remove("b11");
    assert_eq!(stage.shares(), "a11 37.5, a12 37.5, c11 25");
    stage.cluster("c", Stale, false);
    assert_eq!(stage.shares(), "a11 50, a12 50");
    stage.node("a1", false);
    assert_eq!(stage.shares(), "d11 100");
    let local = ServiceTraffic { affinity: Affinity::Local, ..cluster_weights(&[("b", 3)]) };
    let mut stage = Stage::with(local, "a11 b11 b12 c11");
    assert_eq!(stage.shares(), "a11 100");
    stage.remove("a11");
    assert_eq!(stage.shares(), "b11 37.5, b12 37.5, c11 25");
}

/// The one pod that is left carries its cluster's share, unless a minimum defines how many are enough.
#[test]
fn a_cluster_that_is_not_healthy_enough_leaves_a_part_of_its_share() {
    let asked = cluster_weights(&[("a", 90), ("b", 10)]);
    let mut stage = Stage::with(asked.clone(), "a11 a12 a13 b11 b12");
    stage.set("a12", Condition::NotReady);
    stage.set("a13", Condition::NotReady);
    assert_eq!(stage.shares(), "a11 90, b11 5, b12 5");
    for (minimum, expected) in [
        (30, "a11 90, b11 5, b12 5"),
        // A third is half of two thirds: 45 beside 10.
        (67, "a11 81.7, b11 9.1, b12 9.1"),
        (100, "a11 75, b11 12.5, b12 12.5"),
    ] {
        stage.traffic(ServiceTraffic { minimum_healthy: Some(minimum), ..asked.clone() });
        assert_eq!(stage.shares(), expected, "{minimum} %");
    }
    stage.set("a12", Condition::Ready);
    stage.set("a13", Condition::Ready);
    assert_eq!(stage.shares(), "a11 30, a12 30, a13 30, b11 5, b12 5");
}

#[test]
fn weight_zero_is_used_when_no_other_backend_is_left() {
    let mut stage = Stage::with(weights(&[("a", 0), ("b", 5)]), "a11 a12 b11 c11");
    assert_eq!(stage.shares(), "b11 83.3, c11 16.7");
    stage.node("b1", false);
    stage.remove("c11");
    assert_eq!(stage.shares(), "a11 50, a12 50", "rather than a node that does not answer");
    stage.node("b1", true);
    assert_eq!(stage.shares(), "b11 100");
}

#[test]
fn tiers_come_one_after_another_and_the_unnamed_last() {
    let mut stage = Stage::with(tiers("b;a,d"), "a11 b11 c11 d11");
    assert_eq!(stage.shares(), "b11 100");
    stage.cluster("b", Cut, true);
    assert_eq!(stage.shares(), "a11 50, d11 50");
    stage.remove("a11");
    stage.set("d11", Condition::NotReady);
    assert_eq!(stage.shares(), "c11 100");
    let traffic = ServiceTraffic { affinity: Affinity::Local, ..tiers("b;a,d") };
    stage.cluster("b", InUse, true);
    stage.traffic(traffic);
    assert_eq!(stage.shares(), "b11 100", "tiers stand in place of affinity");
}

#[test]
fn what_a_tier_cannot_carry_goes_to_the_next() {
    let minimum = ServiceTraffic { minimum_healthy: Some(50), ..affinity(Affinity::Local) };
    let mut stage = Stage::with(minimum, "a11 a12 a13 a14 b11 b12");
    assert_eq!(stage.shares(), "a11 25, a12 25, a13 25, a14 25");
    stage.set("a14", Condition::NotReady);
    stage.set("a13", Condition::NotReady);
    assert_eq!(stage.shares(), "a11 50, a12 50", "half of them is enough");
    stage.set("a12", Condition::NotReady);
    assert_eq!(stage.shares(), "a11 50, b11 25, b12 25", "a quarter is half of what is enough");
    stage.node("a1", false);
    assert_eq!(stage.shares(), "b11 50, b12 50");
    stage.node("a1", true);
    stage.set("b11", Condition::NotReady);
    stage.set("b12", Condition::NotReady);
    assert_eq!(stage.shares(), "a11 100", "there is no other");
}

#[test]
fn those_without_weight_are_no_part_of_a_tiers_health() {
    let minimum = ServiceTraffic {
        minimum_healthy: Some(100),
        weights: [(name("b"), 0)].into(),
        ..tiers("a,b;c")
    };
    let stage = Stage::with(minimum, "a11 b11 b12 c11");
    assert_eq!(stage.shares(), "a11 100", "a is all of its tier that is meant to carry anything");
}

#[test]
fn tiers_that_cannot_carry_all_take_more_in_proportion() {
    let minimum = ServiceTraffic { minimum_healthy: Some(100), ..tiers("a;b") };
    let mut stage = Stage::with(minimum, "a11 a12 a13 a14 b11 b12 b13 b14 b15");
    for word in ["a12", "a13", "a14", "b13", "b14", "b15"] {
        stage.set(word, Condition::NotReady);
    }
    // 1/4 and 2/5 carry 13/20 together.
    assert_eq!(stage.shares(), "a11 38.5, b11 30.8, b12 30.8");
}

#[test]
fn those_that_shut_down_are_used_when_nothing_else_is_left() {
    let mut stage = Stage::with(global(), "a11 b11 c11");
    stage.set("a11", Condition::Terminating);
    assert_eq!(stage.shares(), "b11 50, c11 50");
    stage.remove("b11");
    stage.set("c11", Condition::Terminating);
    assert_eq!(stage.shares(), "a11 50, c11 50");
    stage.set("c11", Condition::NotReady);
    assert_eq!(stage.shares(), "a11 100");
    stage.set("b11", Condition::Ready);
    stage.node("b1", false);
    assert_eq!(stage.shares(), "a11 100", "it still serves, and b11 may not");
    stage.remove("a11");
    assert_eq!(stage.shares(), "b11 100");
}

#[test]
fn if_no_node_answers_all_are_kept_as_they_were() {
    let mut stage = Stage::with(affinity(Affinity::Remote), "b11 b21 c11");
    stage.set("c12", Condition::Terminating);
    let before = stage.shares();
    assert_eq!(before, "b11 33.3, b21 33.3, c11 33.3");
    stage.node("b1", false);
    stage.node("b2", false);
    stage.cluster("b", Cut, true);
    stage.set("c12", Condition::NotReady);
    assert_eq!(stage.shares(), "c11 100");
    stage.node("c1", false);
    assert_eq!(stage.shares(), before);
    stage.node("b2", true);
    assert_eq!(stage.shares(), before, "its cluster is still cut");
    stage.cluster("b", InUse, true);
    assert_eq!(stage.shares(), "b21 100");
}

/// A node that has never answered while others of its cluster do is not as good as these, and better than a dead one.
#[test]
fn an_unverified_node_is_used_where_no_other_is_left() {
    let mut stage = Stage::with(weights(&[("c", 0)]), "a11 b11 b21 b31 c11");
    stage.set_node("b1", NodeHealth::Unverified);
    stage.set_node("b2", NodeHealth::Dead);
    assert_eq!(stage.shares(), "a11 50, b31 50");
    let in_use = stage.balancer.nodes_in_use();
    let in_use: Vec<String> = in_use.map(|(id, node)| format!("{id}/{node}")).collect();
    assert!(in_use.contains(&"2/n1".into()), "it is asked, or it never answers: {in_use:?}");
    stage.set("a11", Condition::Terminating);
    stage.remove("b31");
    assert_eq!(stage.shares(), "c11 100");
    stage.remove("c11");
    assert_eq!(stage.shares(), "a11 100", "it still serves");
    assert_eq!(
        stage.words(),
        "a11 in-use nobody-ready, b11 fallback node-unverified, b21 fallback node-dead"
    );
    stage.remove("a11");
    assert_eq!(stage.words(), "b11 in-use no-verified-node, b21 fallback node-dead");
    stage.cluster("b", Cut, true);
    assert_eq!(stage.words(), "b11 in-use nobody-answers, b21 in-use nobody-answers");
    stage.cluster("b", InUse, true);
    stage.set_node("b1", NodeHealth::Alive);
    assert_eq!(stage.words(), "b11 in-use ready, b21 fallback node-dead");
}

/// The reason is the tier where nothing else keeps a backend from being used.
#[test]
fn what_is_used_in_another_tier_waits_for_its_tier() {
    let mut stage = Stage::with(affinity(Affinity::Local), "a11 b11");
    stage.set("a11", Condition::Terminating);
    stage.set("b11", Condition::Terminating);
    assert_eq!(stage.words(), "a11 in-use nobody-ready, b11 fallback later-tier");
    let traffic = ServiceTraffic {
        weights: [(name("a"), 0), (name("b"), 0)].into(),
        ..affinity(Affinity::Remote)
    };
    let stage = Stage::with(traffic, "a11 b11");
    assert_eq!(stage.words(), "a11 fallback later-tier, b11 in-use nobody-with-weight");
}

/// What a cluster reports of an address is a reason to look up what is there, and nothing else.
#[test]
fn placing_backends_costs_what_is_at_the_address() {
    let mut stage = Stage::with(global(), "a11");
    let (service, port_name) = (service(), Arc::from("http"));
    for n in 1..=200 {
        let backend = Backend { address: [10, 2, 9, n].into(), ..backend("b11") };
        let (service, port_name) = (Arc::clone(&service), Arc::clone(&port_name));
        let state = BackendState::default();
        stage.report(&ServiceDelta::BackendSet { service, port_name, backend, state });
    }
    let asked = Cell::new(0);
    let node_of = |ip: IpAddr| {
        asked.set(asked.get() + 1);
        (ip <= IpAddr::from([10, 2, 9, 50])).then_some("n1")
    };
    let changes = |stage: &mut Stage, at: Option<[u8; 4]>| {
        let changes = match at {
            Some(ip) => stage.balancer.place_at(id("b"), ip.into(), node_of),
            None => stage.balancer.place(id("b"), node_of),
        };
        stage.take(changes);
        asked.take()
    };
    assert_eq!(changes(&mut stage, Some([10, 2, 8, 1])), 0, "nothing is there");
    assert_eq!(changes(&mut stage, Some([10, 2, 9, 100])), 1);
    assert_eq!(changes(&mut stage, Some([10, 2, 9, 7])), 1);
    assert_eq!(changes(&mut stage, Some([10, 2, 9, 7])), 0, "it is known now");
    assert_eq!(changes(&mut stage, None), 199);
    assert_eq!(changes(&mut stage, None), 150);
    assert_eq!(stage.balancer.place(id("c"), node_of), []);
    stage.node("b1", false);
    assert_eq!(stage.last.len(), 50, "all that are on it");
    let backend = Backend { address: [10, 2, 9, 60].into(), ..backend("b11") };
    stage.report(&ServiceDelta::BackendRemoved { service, port_name, backend });
    assert_eq!(changes(&mut stage, Some([10, 2, 9, 60])), 0, "what is gone is not looked up");
}

#[test]
fn a_stale_cluster_is_left_out_even_if_it_is_the_last() {
    let mut stage = Stage::with(global(), "a11 b11");
    stage.cluster("b", Stale, false);
    assert_eq!(stage.shares(), "a11 100");
    stage.remove("a11");
    assert_eq!(stage.shares(), "");
    assert!(stage.tables[&frontend()].settings.pass_if_empty, "b may have something by now");
    stage.cluster("b", InUse, true);
    assert_eq!(stage.shares(), "b11 100");
    stage.remove("b11");
    assert_eq!(stage.tables[&frontend()].settings, Settings::default(), "no cluster has any");
    stage.cluster("c", InUse, false);
    assert!(stage.tables[&frontend()].settings.pass_if_empty);
    stage.cluster("c", InUse, true);
    assert!(!stage.tables[&frontend()].settings.pass_if_empty);
    let changes = stage.balancer.set_all_known(false);
    stage.take(changes);
    assert!(stage.tables[&frontend()].settings.pass_if_empty, "there is another cluster");
}

#[test]
fn a_service_that_is_not_global_has_its_own_clusters_backends_and_only_instead_of_kube_proxy() {
    let mut stage = Stage::with(ServiceTraffic::default(), "a11 b11");
    assert_eq!(stage.shares(), "no frontend");
    stage.traffic(global());
    assert_eq!(stage.shares(), "a11 50, b11 50");
    let first =
        Change::SetFrontend(frontend(), Settings { pass_if_empty: true, ..Settings::default() });
    assert_eq!(stage.last.first(), Some(&first), "kube-proxy has it until it leads somewhere");
    stage.traffic(ServiceTraffic::default());
    assert_eq!(stage.shares(), "no frontend");

    let mut stage = Stage::new(true);
    stage.traffic(ServiceTraffic { session_affinity: Some(30), ..ServiceTraffic::default() });
    stage.frontend(frontend(), "http");
    for word in ["a11", "b11"] {
        stage.set(word, Condition::Ready);
    }
    assert_eq!(stage.shares(), "a11 100");
    let plain = Settings { session_affinity: 30, plain: true, pass_if_empty: false };
    assert_eq!(stage.tables[&frontend()].settings, plain);
    stage.traffic(global());
    assert_eq!(stage.shares(), "a11 50, b11 50");
    let change = |word: &str| Change::AddBackend(frontend(), backend(word), Default::default());
    assert!(stage.last.contains(&change("b11")) && !stage.last.contains(&change("a11")));
    stage.traffic(ServiceTraffic::default());
    assert_eq!(stage.shares(), "a11 100");
}

#[test]
fn one_change_costs_one_change_and_one_set_of_weights() {
    let mut stage = Stage::with(weights(&[("a", 3)]), "a11 b11 b12");
    for _ in 0..3 {
        stage.set("b13", Condition::Ready);
        assert!(matches!(stage.last[..], [Change::AddBackend(..), Change::SetWeights(..)]));
        stage.set("b13", Condition::Ready);
        assert_eq!(stage.last, []);
        stage.remove("b13");
        assert!(matches!(stage.last[..], [Change::SetWeights(..), Change::RemoveBackend(..)]));
    }
    let mut stage = Stage::with(cluster_weights(&[("a", 3)]), "a11 b11 b12");
    stage.set("b13", Condition::Ready);
    assert!(matches!(stage.last[..], [Change::AddBackend(..)]), "shares are as before");
    stage.remove("b13");
    assert!(matches!(stage.last[..], [Change::RemoveBackend(..)]));
    stage.remove("a11");
    assert!(matches!(stage.last[..], [Change::SetWeights(..), Change::RemoveBackend(..)]));
    let mut stage = Stage::with(affinity(Affinity::Local), "a11 a12 b11");
    stage.set("b12", Condition::Ready);
    assert_eq!(stage.last, [], "no service uses it");
    stage.remove("a12");
    assert!(matches!(stage.last[..], [Change::RemoveBackend(..)]));
}

#[test]
fn nodes_in_use_are_worth_a_look_and_so_are_dead_ones() {
    let mut stage = Stage::with(affinity(Affinity::Local), "a11 a21 b11");
    let in_use = |stage: &Stage| {
        let mut nodes: Vec<String> =
            stage.balancer.nodes_in_use().map(|(id, node)| format!("{id}{node}")).collect();
        nodes.sort();
        nodes.join(" ")
    };
    assert_eq!(in_use(&stage), "1n1 1n2");
    stage.node("a2", false);
    assert_eq!(stage.shares(), "a11 100");
    assert_eq!(in_use(&stage), "1n1 1n2", "or no probe would see it come back");
    stage.remove("a11");
    assert_eq!(in_use(&stage), "1n2 2n1");
    stage.node("a2", true);
    assert_eq!(in_use(&stage), "1n2");
    stage.remove("a21");
    stage.remove("b11");
    assert_eq!(in_use(&stage), "");
}

#[test]
fn ports_meet_by_name_protocol_and_family() {
    let mut stage = Stage::with(global(), "");
    let frontend = |address: &str, port, protocol| Frontend {
        address: address.parse().unwrap(),
        port,
        protocol,
    };
    let frontends = [
        (
            frontend("10.101.0.9", 80, Tcp),
            "http",
            "10.1.1.1:8080/TCP, 10.2.1.1:80/TCP, 10.3.1.1:7000/TCP",
        ),
        (frontend("fd00:101::9", 80, Tcp), "http", "[fd00:10:2::1]:8080/TCP"),
        (frontend("10.101.0.9", 53, Udp), "dns", "10.1.1.1:5353/UDP"),
        (frontend("10.101.0.9", 53, Tcp), "dns", "10.1.1.1:53/TCP, 10.3.1.1:7000/TCP"),
        (
            frontend("10.101.0.9", 9000, Tcp),
            "",
            "10.1.1.1:53/TCP, 10.1.1.1:8080/TCP, 10.2.1.1:80/TCP, 10.2.1.1:9000/TCP, 10.3.1.1:7000/TCP",
        ),
        (frontend("10.101.0.9", 81, Tcp), "metrics", "10.3.1.1:7000/TCP"),
    ];
    for (frontend, port_name, _) in frontends {
        stage.frontend(frontend, port_name);
    }
    let backends = [
        ("10.1.1.1", 8080, Tcp, "http", "a"),
        ("10.2.1.1", 80, Tcp, "http", "b"),
        ("fd00:10:2::1", 8080, Tcp, "http", "b"),
        ("10.1.1.1", 5353, Udp, "dns", "a"),
        ("10.1.1.1", 53, Tcp, "dns", "a"),
        // It has a name, so no other leads there.
        ("10.2.1.1", 9000, Tcp, "", "b"),
        ("10.2.1.1", 9000, Tcp, "admin", "b"),
        ("10.3.1.1", 7000, Tcp, "", "c"),
    ];
    for (address, port, protocol, port_name, cluster) in backends {
        let backend =
            Backend { address: address.parse().unwrap(), port, protocol, cluster: id(cluster) };
        let (service, port_name) = (service(), port_name.into());
        let state = BackendState::default();
        stage.report(&ServiceDelta::BackendSet { service, port_name, backend, state });
    }
    for (frontend, port_name, expected) in frontends {
        let mut found: Vec<String> = stage.tables[&frontend]
            .backends
            .keys()
            .map(|b| b.to_string().split(' ').next().unwrap().to_owned())
            .collect();
        found.sort();
        assert_eq!(found.join(", "), expected, "{frontend} {port_name}");
    }
}

/// What the frontends `http`, `admin` and the unnamed one lead to, each as the last octets of backends.
fn by_port_name(stage: &Stage) -> String {
    let of = |port: u16| {
        let frontend = Frontend { port, ..frontend() };
        let found = stage.tables[&frontend].backends.keys();
        let found: BTreeSet<String> =
            found.map(|b| b.to_string().split(['.', ':']).nth(3).unwrap().to_owned()).collect();
        found.into_iter().collect::<Vec<_>>().join(" ")
    };
    format!("http {}, admin {}, unnamed {}", of(80), of(81), of(82))
}

/// A port without a name and one with any lead to each other, whichever is reported first and last, and never by a gap.
#[test]
fn where_only_one_side_has_a_name_ports_meet() {
    let mut stage = Stage::with(global(), "");
    for (port, port_name) in [(80, "http"), (81, "admin"), (82, "")] {
        stage.frontend(Frontend { port, ..frontend() }, port_name);
    }
    let mut step = |backend_of: &str, port_name: &str, condition: Option<Condition>| {
        let (service, port_name, backend) = (service(), port_name.into(), backend(backend_of));
        stage.report(&match condition {
            Some(condition) => {
                let state = BackendState { condition, ..BackendState::default() };
                ServiceDelta::BackendSet { service, port_name, backend, state }
            }
            None => ServiceDelta::BackendRemoved { service, port_name, backend },
        });
        by_port_name(&stage)
    };
    let ready = Some(Condition::Ready);
    for (backend, port_name, state, expected) in [
        ("a11", "http", ready, "http 1, admin , unnamed 1"),
        ("b12", "", ready, "http 1 2, admin 2, unnamed 1 2"),
        // It is named after all, and then by two names.
        ("b12", "admin", ready, "http 1, admin 2, unnamed 1 2"),
        ("b12", "http", ready, "http 1 2, admin 2, unnamed 1 2"),
        ("b12", "admin", None, "http 1 2, admin , unnamed 1 2"),
        ("b12", "http", None, "http 1 2, admin 2, unnamed 1 2"),
        ("b12", "", None, "http 1, admin , unnamed 1"),
        // What is reported under the frontend's own name comes first; else what is ready.
        ("a11", "admin", Some(Condition::NotReady), "http 1, admin , unnamed 1"),
        ("a11", "http", Some(Condition::NotReady), "http , admin , unnamed "),
        ("a11", "", ready, "http , admin , unnamed 1"),
        ("a11", "http", None, "http , admin , unnamed 1"),
        ("a11", "admin", None, "http 1, admin 1, unnamed 1"),
    ] {
        assert_eq!(step(backend, port_name, state), expected, "{backend} {port_name} {state:?}");
    }
}

/// A frontend that comes later finds what is there, and one that gets another name leads elsewhere at once.
#[test]
fn a_frontend_finds_the_ports_of_other_names_that_are_there() {
    let mut stage = Stage::with(global(), "a11");
    let (service, backend) = (service(), backend("b12"));
    let (port_name, state) = ("".into(), BackendState::default());
    stage.report(&ServiceDelta::BackendSet { service, port_name, backend, state });
    assert_eq!(stage.shares(), "a11 50, b12 50");
    let explained = stage.explain();
    let ports: Vec<&str> = explained.backends.iter().map(|b| &*b.port_name).collect();
    assert_eq!(ports, ["http", ""]);
    let because = &explained.backends[1].because;
    assert!(because.ends_with("its port has no name, so it also serves \"http\""), "{because}");

    stage.frontend(frontend(), "admin");
    assert_eq!(stage.shares(), "b12 100");
    assert_eq!(stage.words(), "a11 left-out other-port, b12 in-use ready");
    stage.frontend(frontend(), "");
    assert_eq!(stage.shares(), "a11 50, b12 50");
    let because = &stage.explain().backends[0].because;
    let named = "its port is named \"http\", and the frontend's has no name";
    assert!(because.ends_with(named), "{because}");
    // Nodes are looked after for both.
    stage.node("a1", false);
    assert_eq!(stage.shares(), "b12 100");
}

/// Backends without a port, or with SCTP alone, are listed beside the others, once each, with the reason that comes first.
#[test]
fn what_no_frontend_can_lead_to_has_its_reason() {
    let mut stage = Stage::with(global(), "a11");
    let no_port = |word: &str, port, protocol| Backend { port, protocol, ..backend(word) };
    let unusable = [
        no_port("a11", 0, Tcp),
        no_port("a12", 0, Tcp),
        no_port("a12", 38412, Sctp),
        no_port("b13", 38412, Sctp),
        Backend { address: "fd00:10:1::1".parse().unwrap(), ..no_port("a14", 0, Tcp) },
    ];
    let words = |stage: &Stage| -> Vec<String> {
        let state = BackendState { node: Some("n1".into()), ..BackendState::default() };
        let unusable = unusable.iter().map(|backend| (*backend, "", &state));
        let explained = stage.balancer.explain_beside(&frontend(), unusable).unwrap();
        let words = explained.backends.iter().map(|candidate| {
            let Backend { address, port, .. } = candidate.backend;
            let reason = candidate.reason.as_str();
            format!("{address}:{port} {} {reason}", candidate.usage.as_str())
        });
        words.collect()
    };
    let first = "10.1.1.1:8080 in-use ready";
    let listed = |b13: &str| {
        [
            first.into(),
            "10.1.1.2:0 left-out no-port".into(),
            format!("10.2.1.3:38412 left-out {b13}"),
        ]
    };
    assert_eq!(words(&stage), listed("sctp"));
    // It would not be used with a port either.
    stage.cluster("b", Stale, false);
    assert_eq!(words(&stage), listed("cluster-stale"));
}

#[test]
fn each_backend_has_its_reason() {
    let mut stage = Stage::with(affinity(Affinity::Local), "a11 a21 a31 b11 c11");
    stage.node("a2", false);
    stage.set("a31", Condition::Terminating);
    stage.set("b12", Condition::NotReady);
    stage.cluster("c", Stale, false);
    assert_eq!(
        stage.words(),
        "a11 in-use ready, a21 fallback node-dead, a31 fallback terminating, b11 fallback later-tier, \
         b12 left-out not-ready, c11 left-out cluster-stale"
    );
    stage.remove("a11");
    stage.cluster("c", Cut, true);
    assert_eq!(
        stage.words(),
        "a21 fallback node-dead, a31 fallback terminating, b11 in-use failover, b12 left-out not-ready, \
         c11 fallback cluster-cut"
    );
    stage.remove("b11");
    assert_eq!(
        stage.words(),
        "a21 fallback node-dead, a31 in-use nobody-ready, b12 left-out not-ready, c11 fallback cluster-cut"
    );
    stage.remove("a31");
    assert_eq!(
        stage.words(),
        "a21 in-use nobody-answers, b12 left-out not-ready, c11 fallback later-tier"
    );
    stage.cluster("c", InUse, true);
    stage.traffic(weights(&[("c", 0)]));
    assert_eq!(
        stage.words(),
        "a21 fallback node-dead, b12 left-out not-ready, c11 in-use nobody-with-weight"
    );
    stage.node("a2", true);
    assert_eq!(stage.words(), "a21 in-use ready, b12 left-out not-ready, c11 fallback weight-zero");
    stage.traffic(ServiceTraffic::default());
    assert_eq!(
        stage.words(),
        "a21 left-out not-taken, b12 left-out not-global, c11 left-out not-global"
    );
}

#[test]
fn an_explanation_has_the_arithmetic() {
    let traffic = ServiceTraffic {
        minimum_healthy: Some(50),
        weights: [(name("b"), 3)].into(),
        ..affinity(Affinity::Local)
    };
    let mut stage = Stage::with(traffic, "a11 a12 a13 a14 b11 c11");
    for word in ["a12", "a13", "a14"] {
        stage.set(word, Condition::NotReady);
    }
    let explained = stage.explain();
    let tiers: Vec<String> = explained
        .tiers
        .iter()
        .map(|tier| {
            let Tier { number, usable, meant, health, capacity, load, .. } = tier;
            format!("{number}: {usable} of {meant}, {health}, {capacity}, {load}")
        })
        .collect();
    assert_eq!(tiers, ["1: 1 of 4, 25 %, 50 %, 50 %", "2: 2 of 2, 100 %, 100 %, 50 %"]);
    let groups: Vec<String> = explained
        .groups
        .iter()
        .map(|group| {
            let GroupShare { tier, weight, backends, kernel_weight, share, .. } = group;
            format!("{tier}: {backends} of weight {weight}, {kernel_weight}, {share}")
        })
        .collect();
    assert_eq!(
        groups,
        [
            "1: 1 of weight 1, 500000000, 50 %",
            "2: 1 of weight 3, 375000000, 37.5 %",
            "2: 1 of weight 1, 125000000, 12.5 %"
        ]
    );
    let because: Vec<String> =
        explained.backends.into_iter().map(|candidate| candidate.because).collect();
    assert_eq!(
        because,
        [
            "ready: tier 1 carries 50 %, and it gets 50 % as one of 1 of weight 1",
            "it is not ready",
            "it is not ready",
            "it is not ready",
            "the tiers before this one cannot carry everything: tier 2 carries 50 %, and it gets 37.5 % as one of 1 of weight 3",
            "the tiers before this one cannot carry everything: tier 2 carries 50 %, and it gets 12.5 % as one of 1 of weight 1",
        ]
    );
}

#[test]
fn an_explanation_says_whose_weight_it_is() {
    let stage = Stage::with(cluster_weights(&[("a", 2)]), "a11 b11 c11 c12");
    let explained = stage.explain();
    let because: Vec<&str> = explained.backends.iter().map(|c| c.because.as_str()).collect();
    let other = "ready: tier 1 carries 100 %, and it gets 16.67 % as one of 3 of clusters that have weight 1 each";
    assert_eq!(
        because,
        [
            "ready: tier 1 carries 100 %, and it gets 50 % as one of 1 of a, which has weight 2",
            other,
            other,
            other,
        ]
    );
    let groups: Vec<String> = explained
        .groups
        .iter()
        .map(|group| format!("{} of weight {}: {}", group.backends, group.weight, group.share))
        .collect();
    assert_eq!(groups, ["1 of weight 2: 50 %", "3 of weight 1: 50 %"]);
}

#[test]
fn more_kinds_of_clusters_than_groups_share_the_last() {
    let cluster = |number: u32| ClusterId::from_wire(number).unwrap();
    let cluster_name = |number: u32| ClusterName::new(&format!("c{number}")).unwrap();
    let weights = (10..20).map(|number| (cluster_name(number), number)).collect();
    let mut stage = Stage::with(ServiceTraffic { weights, ..global() }, "");
    for number in 10..20 {
        let view = ClusterView { name: cluster_name(number), state: InUse, synced: true };
        let changes = stage.balancer.set_cluster(cluster(number), Some(view));
        stage.take(changes);
        let backend = Backend { cluster: cluster(number), ..backend(&format!("a1{number}")) };
        let (service, port_name) = (service(), "http".into());
        let state = BackendState::default();
        stage.report(&ServiceDelta::BackendSet { service, port_name, backend, state });
    }
    let shares = stage::shares(&stage.tables[&frontend()]);
    let share = |number: u32| {
        let found = shares.iter().find(|(backend, _)| backend.cluster == cluster(number));
        *found.unwrap().1
    };
    let close = |number: u32, expected: f64| (share(number) - expected).abs() < 1e-6;
    // 10 + … + 19 = 145. The heaviest have groups of their own, 12, 11 and 10 one together.
    assert!((13..20).all(|number| close(number, f64::from(number) / 145.0)), "{shares:?}");
    assert!((10..13).all(|number| close(number, 11.0 / 145.0)), "{shares:?}");
    assert_eq!(stage.explain().groups.len(), 8);
}

#[test]
fn a_new_cluster_touches_only_services_that_name_clusters() {
    let mut stage = Stage::with(global(), "a11 b11");
    let named = Arc::new(ServiceName::new("shop", "named"));
    let traffic = Arc::new(tiers("a;d"));
    stage.report(&ServiceDelta::ServiceSet { service: Arc::clone(&named), traffic });
    let other = Frontend { port: 81, ..frontend() };
    let port_name: Arc<str> = "http".into();
    stage.report(&ServiceDelta::FrontendAdded {
        service: Arc::clone(&named),
        port_name: Arc::clone(&port_name),
        frontend: other,
    });
    let changes = stage.balancer.set_cluster(id("d"), None);
    stage.take(changes);
    let state = BackendState::default();
    let backend = backend("d11");
    let service = Arc::clone(&named);
    stage.report(&ServiceDelta::BackendSet { service, port_name, backend, state });
    let group = |stage: &Stage| stage.tables[&other].backends[&backend].number();
    assert_eq!(group(&stage), 1, "of a cluster that was not named");
    stage.cluster("d", InUse, true);
    assert_eq!(group(&stage), 1, "its own tier, before the others'");
    assert!(stage.last.iter().all(|change| !format!("{change:?}").contains("port: 80,")));
}
