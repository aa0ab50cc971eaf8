//! Who gets what by where it is: connections that stay on their node, and topology hints.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod stage;

use mesh_balance::{ClusterState::InUse, Reason, Rules, Usage};
use mesh_model::{
    Affinity, ServiceTraffic,
    lb::{Condition, NodeHealth},
};
use stage::{Stage, backend, frontend, global, id};

fn stays() -> ServiceTraffic {
    ServiceTraffic { internal_traffic_local: true, ..global() }
}

fn hinted() -> ServiceTraffic {
    ServiceTraffic { topology_hints: true, ..global() }
}

/// No node is given for the clients.
fn anywhere() -> Stage {
    Stage::of(Rules { local: id("a"), node: None, replace_kube_proxy: false })
}

/// `a11 z1, a21 z2`
fn set(stage: &mut Stage, backends: &str) {
    for entry in backends.split(", ") {
        let (backend, hints) = entry.split_once(' ').unwrap_or((entry, ""));
        stage.hint(backend, hints);
    }
}

/// Node n1 of cluster a. A node of another cluster may have its name.
#[test]
fn a_connection_that_stays_on_its_node_gets_ready_backends_of_that_node() {
    let mut stage = Stage::with(stays(), "a11 a12 a21 b11 c21");
    assert_eq!(stage.shares(), "a11 50, a12 50");
    stage.set("a11", Condition::NotReady);
    assert_eq!(stage.shares(), "a12 100");
    // As kube-proxy: one that shuts down, where none of the node is ready.
    stage.set("a12", Condition::Terminating);
    assert_eq!(stage.shares(), "a12 100");
    stage.remove("a12");
    assert_eq!(stage.shares(), "");
    stage.set("a21", Condition::Terminating);
    assert_eq!(stage.shares(), "", "never elsewhere");
    stage.set("a13", Condition::Ready);
    assert_eq!(stage.shares(), "a13 100");
    // It asks for something else, and back.
    stage.traffic(global());
    assert_eq!(stage.shares(), "a13 33.3, b11 33.3, c21 33.3");
    stage.traffic(stays());
    assert_eq!(stage.shares(), "a13 100");
}

/// Whatever the Service asks of clusters, and however nodes are.
#[test]
fn a_connection_that_stays_on_its_node_never_goes_elsewhere() {
    let remote = ServiceTraffic { affinity: Affinity::Remote, ..stays() };
    let minimum =
        ServiceTraffic { affinity: Affinity::Local, minimum_healthy: Some(100), ..stays() };
    let weight_zero = ServiceTraffic { weights: [(stage::name("a"), 0)].into(), ..stays() };
    for traffic in [stays(), remote, minimum, weight_zero] {
        let mut stage = Stage::with(traffic, "a21 a22 b11 c11");
        assert_eq!(stage.shares(), "");
        stage.node("a2", false);
        stage.node("b1", false);
        assert_eq!(stage.shares(), "");
        stage.set("a11", Condition::Ready);
        assert_eq!(stage.shares(), "a11 100");
        stage.set_node("a1", NodeHealth::Dead);
        assert_eq!(stage.shares(), "a11 100", "there is no other");
    }
}

/// As Cilium: services v1 have no nodes.
#[test]
fn other_clusters_backends_without_a_node_are_for_all_nodes() {
    let mut stage = Stage::with(stays(), "a11 a21 b11");
    stage.set_without_node("b12");
    assert_eq!(stage.shares(), "a11 50, b12 50");
    stage.set_without_node("a12");
    assert_eq!(stage.shares(), "a11 50, b12 50", "its node would be known");
    stage.remove("a11");
    assert_eq!(stage.shares(), "b12 100");
    assert_eq!(
        stage.words(),
        "a12 left-out other-node, a21 left-out other-node, b12 in-use ready, b11 left-out other-node"
    );
    // Where an address is may be known all the same.
    let changes = stage.balancer.place(id("b"), |_| Some("n1"));
    stage.take(changes);
    assert_eq!(stage.shares(), "b12 100");
    stage.traffic(ServiceTraffic { affinity: Affinity::Local, ..stays() });
    stage.set("a11", Condition::Ready);
    assert_eq!(stage.shares(), "a11 100");
}

#[test]
fn it_is_refused_as_soon_as_all_clusters_are_known() {
    let mut stage = Stage::with(stays(), "a21");
    let is_refused = |stage: &Stage| !stage.tables[&frontend()].settings.pass_if_empty;
    assert!(is_refused(&stage));
    for cluster in ["a", "b"] {
        stage.cluster(cluster, InUse, false);
        assert!(!is_refused(&stage), "{cluster} may have one");
        stage.cluster(cluster, InUse, true);
        assert!(is_refused(&stage));
    }
}

#[test]
fn a_backend_elsewhere_is_left_out_with_its_node() {
    let mut stage = Stage::with(stays(), "a11 a21 b11");
    stage.set("a22", Condition::NotReady);
    assert_eq!(
        stage.words(),
        "a11 in-use ready, a21 left-out other-node, a22 left-out other-node, b11 left-out other-node"
    );
    let explained = stage.explain();
    let because = |at: usize| explained.backends[at].because.as_str();
    let asked = "internalTrafficPolicy is Local, so connections stay on their node";
    assert_eq!(because(1), format!("{asked}, and it is on node n2"));
    assert_eq!(because(3), format!("{asked}, and it is on node n1 of cluster b"));
    assert_eq!(
        explained.locality.as_deref(),
        Some(
            "internalTrafficPolicy is Local: clients on node n1 get its backends, and those of other clusters that are reported without a node"
        )
    );
}

#[test]
fn without_a_node_all_clients_are_treated_alike() {
    let mut stage = anywhere().and(stays(), "a11 a21 b11");
    assert_eq!(stage.shares(), "a11 33.3, a21 33.3, b11 33.3");
    let locality = stage.explain().locality.unwrap();
    assert!(locality.ends_with("so it depends on the node which ones"), "{locality}");
    stage.traffic(hinted());
    set(&mut stage, "a11 z1, a21 z2");
    stage.zone(Some("z1"));
    assert_eq!(stage.shares(), "a11 33.3, a21 33.3, b11 33.3");
    let locality = stage.explain().locality.unwrap();
    assert!(locality.contains("it depends on the node"), "{locality}");
    stage.traffic(global());
    assert_eq!(stage.explain().locality, None);
}

/// As kube-proxy: every ready backend of the cluster has hints, and one is for here.
#[test]
fn hints_are_followed_where_all_have_them_and_one_is_for_here() {
    for (backends, zone, expected, says) in [
        ("a11 z1, a21 z2", Some("z1"), "a11 100", "clients in zone z1 get those"),
        ("a11 z1, a21 z2, a31 z1,z2", Some("z2"), "a21 50, a31 50", "clients in zone z2 get those"),
        ("a11 z1, a21 z2", Some("z3"), "a11 50, a21 50", "no ready backend is for zone z3"),
        ("a11 z1, a21 z2", None, "a11 50, a21 50", "node n1 has no zone"),
        ("a11 z1, a21", Some("z1"), "a11 50, a21 50", "not every ready backend"),
        ("a11, a21", Some("z1"), "a11 50, a21 50", "not every ready backend"),
        // Hints for nodes come before those for zones, and do not count where one lacks them.
        ("a11 n1,z1, a12 n2,z1, a21 n2,z2", Some("z1"), "a11 100", "clients on node n1 get those"),
        ("a21 n2,z1, a31 n3,z2", Some("z1"), "a21 100", "clients in zone z1 get those"),
        ("a11 n1,z1, a21 z1, a31 z2", Some("z1"), "a11 50, a21 50", "in zone z1 get those"),
        ("a11 n1, a21 n2", None, "a11 100", "clients on node n1 get those"),
    ] {
        // `, ` divides backends, `,` hints.
        let mut stage = Stage::with(hinted(), "");
        stage.zone(zone);
        set(&mut stage, backends);
        assert_eq!(stage.shares(), expected, "{backends}, zone {zone:?}");
        let locality = stage.explain().locality.unwrap();
        assert!(locality.contains(says), "{backends}, zone {zone:?}: {locality}");
        // In whatever order it is known.
        let mut stage = Stage::with(global(), "");
        set(&mut stage, backends);
        stage.zone(zone);
        stage.traffic(hinted());
        assert_eq!(stage.shares(), expected, "{backends}, zone {zone:?}");
        stage.traffic(global());
        let all = backends.split(", ").count();
        assert_eq!(stage.tables[&frontend()].backends.len(), all, "nothing is asked for");
    }
}

#[test]
fn hints_follow_what_can_be_used_now() {
    let mut stage = Stage::with(hinted(), "");
    stage.zone(Some("z1"));
    set(&mut stage, "a11 z1, a21 z2, a22 z2");
    assert_eq!(stage.shares(), "a11 100");
    stage.node("a1", false);
    assert_eq!(stage.shares(), "a21 50, a22 50", "its zone has none that answers");
    stage.node("a1", true);
    assert_eq!(stage.shares(), "a11 100");
    // One without hints: none are followed, but it does not count while it is not ready.
    stage.set("a31", Condition::NotReady);
    assert_eq!(stage.shares(), "a11 100");
    stage.set("a31", Condition::Ready);
    assert_eq!(stage.shares(), "a11 25, a21 25, a22 25, a31 25");
    stage.remove("a31");
    assert_eq!(stage.shares(), "a11 100");
    stage.zone(Some("z2"));
    assert_eq!(stage.shares(), "a21 50, a22 50");
    stage.remove("a21");
    stage.remove("a22");
    assert_eq!(stage.shares(), "a11 100");
}

/// Hints are the local cluster's: what is left of it takes part in the mesh as all of it would.
#[test]
fn hints_narrow_the_local_cluster_alone() {
    let mut stage = Stage::with(hinted(), "b11");
    stage.zone(Some("z1"));
    set(&mut stage, "a11 z1, a21 z2, c11 z2, c12");
    assert_eq!(stage.shares(), "a11 25, b11 25, c11 25, c12 25");
    stage.traffic(ServiceTraffic { affinity: Affinity::Local, ..hinted() });
    assert_eq!(stage.shares(), "a11 100");
    assert_eq!(
        stage.words(),
        "a11 in-use ready, a21 fallback hinted-elsewhere, b11 fallback later-tier, \
         c11 fallback later-tier, c12 fallback later-tier"
    );
    let left = &stage.explain().backends[1];
    assert_eq!((left.backend, left.usage), (backend("a21"), Usage::Fallback));
    assert_eq!(left.reason, Reason::HintedElsewhere);
    assert_eq!(
        left.because,
        "its hints are for clients elsewhere, and others are for those in zone z1"
    );
    // A tier's health is that of the backends for this node's clients.
    let minimum =
        ServiceTraffic { affinity: Affinity::Local, minimum_healthy: Some(100), ..hinted() };
    stage.traffic(minimum);
    assert_eq!(stage.shares(), "a11 100");
    set(&mut stage, "a12 z1");
    stage.node("a1", false);
    assert_eq!(stage.shares(), "a21 33.3, b11 22.2, c11 22.2, c12 22.2", "1 of 3 that are meant");
}
