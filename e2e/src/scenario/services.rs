//! Settings of Services, and the backends that their clients get, according to the kernel's tables and to the answers.

mod shop;

use shop::{Condition, Shop};

use crate::echo_service::{CLIENT, client_ips, wait_for_history};
use crate::{
    json,
    load::{Assert as _, Traffic, fresh},
    mesh::{Mesh, connect, eventually},
};

const GLOBAL: (&str, &str) = ("service.cilium.io/global", "true");
const AFFINITY: &str = "service.cilium.io/affinity";
const WEIGHTS: &str = "clustermesh.dev/weights";
const WEIGHTS_OF: &str = "clustermesh.dev/weights-of";
const TIERS: &str = "clustermesh.dev/tiers";
const MINIMUM: &str = "clustermesh.dev/minimum-healthy";

/// The number of requests: enough to distinguish shares.
const REQUESTS: u32 = 5_000;
const RATE: u32 = 1_800;

/// Connects all clusters, with two pods in each and a client in the first.
fn with_pods(mesh: &impl Mesh) -> Vec<String> {
    let clusters = mesh.clusters();
    for cluster in &clusters {
        mesh.apply(cluster, "echo", None);
    }
    mesh.apply(&clusters[0], "client", None);
    for other in &clusters[1..] {
        connect(mesh, &clusters[0], other);
    }
    clusters
}

/// Under load: affinity prefers a cluster's backends. Without a ready backend there, the others are used, until there is
/// one again. A terminating backend is used if no other is left. No request fails.
pub fn affinity_fails_over_and_back(mesh: &impl Mesh) {
    let clusters = with_pods(mesh);
    let (a, b) = (clusters[0].as_str(), clusters[1].as_str());
    let (mut mine, mut theirs) = (Shop::new("web", &[GLOBAL]), Shop::new("web", &[GLOBAL]));
    theirs.apply(mesh, b);
    mine.apply(mesh, a);
    mine.wait(mesh, a, "a/0 25, a/1 25, b/0 25, b/1 25");
    let traffic = Traffic::start(mesh, a, CLIENT, "shop/web");

    mine.annotate(mesh, a, &[GLOBAL, (AFFINITY, "local")]);
    mine.wait(mesh, a, "a/0 50, a/1 50");
    mine.set(mesh, a, [Condition::NotReady, Condition::Ready]);
    mine.wait(mesh, a, "a/1 100");
    mine.set(mesh, a, [Condition::NotReady, Condition::Terminating]);
    mine.wait(mesh, a, "b/0 50, b/1 50");
    theirs.set(mesh, b, [Condition::NotReady, Condition::NotReady]);
    mine.wait(mesh, a, "a/1 100");
    mine.set(mesh, a, [Condition::Ready, Condition::Ready]);
    theirs.set(mesh, b, [Condition::Ready, Condition::Ready]);
    mine.wait(mesh, a, "a/0 50, a/1 50");

    mine.annotate(mesh, a, &[GLOBAL, (AFFINITY, "remote")]);
    mine.wait(mesh, a, "b/0 50, b/1 50");
    theirs.set(mesh, b, [Condition::Terminating, Condition::NotReady]);
    mine.wait(mesh, a, "a/0 50, a/1 50");
    theirs.set(mesh, b, [Condition::Ready, Condition::NotReady]);
    mine.wait(mesh, a, "b/0 100");

    mine.annotate(mesh, a, &[GLOBAL, (AFFINITY, "none")]);
    mine.wait(mesh, a, "a/0 33.3, a/1 33.3, b/0 33.3");
    let report = traffic.stop_unharmed();
    report.assert_clients(&client_ips(mesh, a));
}

/// Three clusters: connections are distributed by weights, tiers and a minimum of healthy backends, within five standard
/// errors.
pub fn weights_tiers_and_a_minimum_spread_as_they_say(mesh: &impl Mesh) {
    let clusters = with_pods(mesh);
    let (a, b, c) = (clusters[0].as_str(), clusters[1].as_str(), clusters[2].as_str());
    let mut theirs = Shop::new("web", &[GLOBAL]);
    theirs.apply(mesh, b);
    Shop::new("web", &[GLOBAL]).apply(mesh, c);
    let mut mine = Shop::new("web", &[GLOBAL, (WEIGHTS, "a=3,b=1,c=0")]);
    mine.apply(mesh, a);
    let spread = |mine: &Shop, expected: &str| {
        mine.wait(mesh, a, expected);
        let address = mine.frontends(mesh, a)[0];
        let report = fresh(mesh, a, CLIENT, ("--tcp", address), REQUESTS, RATE);
        report.assert_unharmed();
        report.assert_shares(&shop::parse(expected));
    };
    spread(&mine, "a/0 37.5, a/1 37.5, b/0 12.5, b/1 12.5");

    // Half of c's backends are healthy, so it gets half of the connections. The rest goes to the others by their weights.
    let tiers = [GLOBAL, (TIERS, "b;a,c"), (WEIGHTS, "a=3"), (MINIMUM, "100%")];
    mine.annotate(mesh, a, &tiers);
    mine.wait(mesh, a, "b/0 50, b/1 50");
    theirs.set(mesh, b, [Condition::Ready, Condition::NotReady]);
    spread(&mine, "a/0 18.75, a/1 18.75, b/0 50, c/0 6.25, c/1 6.25");

    // A weight is the share of a cluster, whether it has three pods, two or one.
    theirs.set(mesh, b, [Condition::Ready, Condition::Ready]);
    mesh.apply(a, "echo", Some(3));
    let weights = (WEIGHTS, "a=90,b=10,c=0");
    mine.conditions = vec![Condition::Ready; 3];
    mine.annotate(mesh, a, &[GLOBAL, weights]);
    spread(&mine, "a/0 30, a/1 30, a/2 30, b/0 5, b/1 5");
    mine.annotate(mesh, a, &[GLOBAL, weights, (WEIGHTS_OF, "backends")]);
    mine.wait(mesh, a, "a/0 31.03, a/1 31.03, a/2 31.03, b/0 3.45, b/1 3.45");
    mine.annotate(mesh, a, &[GLOBAL, weights]);
    mine.set(mesh, a, [Condition::Ready, Condition::NotReady]);
    mine.wait(mesh, a, "a/0 90, b/0 5, b/1 5");
    mine.set(mesh, a, [Condition::Ready, Condition::Ready]);
    theirs.set(mesh, b, [Condition::Ready, Condition::NotReady]);

    // Half of the backends is enough now.
    mine.annotate(mesh, a, &[GLOBAL, (TIERS, "b;a,c"), (MINIMUM, "50%")]);
    mine.wait(mesh, a, "b/0 100");
    theirs.set(mesh, b, [Condition::NotReady, Condition::NotReady]);
    mine.wait(mesh, a, "a/0 25, a/1 25, c/0 25, c/1 25");
}

/// A service that is not global only uses backends of its cluster, even if other clusters have a service of that name. It
/// becomes global and back under load. The same name in another namespace is another service, and a headless service has no
/// frontend.
pub fn only_what_is_global_is_shared(mesh: &impl Mesh) {
    let clusters = with_pods(mesh);
    let (a, b) = (clusters[0].as_str(), clusters[1].as_str());
    Shop::new("web", &[GLOBAL]).apply(mesh, b);
    let mut mine = Shop::new("web", &[]);
    mine.apply(mesh, a);
    let elsewhere = Shop { namespace: "bank", ..Shop::new("web", &[GLOBAL]) };
    elsewhere.apply(mesh, a);
    let headless = Shop { headless: true, ..Shop::new("store", &[GLOBAL]) };
    headless.apply(mesh, a);
    headless.apply(mesh, b);
    let own = "a/0 50, a/1 50";
    let all = "a/0 25, a/1 25, b/0 25, b/1 25";
    mine.wait(mesh, a, own);
    elsewhere.wait(mesh, a, own);
    let traffic = Traffic::start(mesh, a, CLIENT, "shop/web");

    for _ in 0..3 {
        mine.annotate(mesh, a, &[GLOBAL]);
        mine.wait(mesh, a, all);
        mine.annotate(mesh, a, &[]);
        mine.wait(mesh, a, own);
    }
    // A service that is not shared still uses backends of other clusters.
    mine.annotate(mesh, a, &[GLOBAL, ("service.cilium.io/shared", "false")]);
    mine.wait(mesh, a, all);
    let theirs = Shop::new("web", &[GLOBAL]);
    theirs.wait_in(mesh, b, "b/0 50, b/1 50");
    let report = traffic.stop_unharmed();
    report.assert_clients(&client_ips(mesh, a));

    let address = elsewhere.frontends(mesh, a)[0];
    let calls = fresh(mesh, a, CLIENT, ("--tcp", address), 500, RATE);
    assert_eq!(calls.clusters.keys().collect::<Vec<_>>(), [a], "of another namespace");
    eventually("a headless service has no frontend", || {
        match headless.frontends(mesh, a).as_slice() {
            [] => Ok(()),
            some => Err(format!("{some:?}")),
        }
    });
}

/// With session affinity, all connections of a client go to one backend; without it, to all backends.
pub fn clients_come_back_to_their_backend(mesh: &impl Mesh) {
    let clusters = with_pods(mesh);
    let (a, b) = (clusters[0].as_str(), clusters[1].as_str());
    Shop::new("web", &[GLOBAL]).apply(mesh, b);
    let mut mine = Shop { session_affinity: Some(60), ..Shop::new("web", &[GLOBAL]) };
    mine.apply(mesh, a);
    let all = "a/0 25, a/1 25, b/0 25, b/1 25";
    mine.wait(mesh, a, all);
    mine.wait_for_affinity(mesh, a, 60);
    let address = mine.frontends(mesh, a)[0];
    let pods = |mine: &Shop| {
        let address = mine.frontends(mesh, a)[0];
        let report = fresh(mesh, a, CLIENT, ("--tcp", address), 1_000, RATE);
        report.assert_unharmed();
        report.pods.into_keys().collect::<Vec<_>>()
    };
    let first = pods(&mine);
    assert_eq!(first.len(), 1, "{first:?}");
    assert_eq!(pods(&mine), first);
    mine.session_affinity = None;
    mine.apply(mesh, a);
    mine.wait_for_affinity(mesh, a, 0);
    assert_eq!(mine.frontends(mesh, a)[0], address);
    assert_eq!(pods(&mine).len(), 4);
}

/// Two nodes in each cluster, each with one pod. With `internalTrafficPolicy: Local`, connections stay on their node, and
/// are refused if it has no ready pod. Topology hints keep them in the zone of their node, as long as all endpoints have
/// hints.
pub fn connections_end_near_where_they_begin(mesh: &impl Mesh) {
    let clusters = with_pods(mesh);
    let (a, b) = (clusters[0].as_str(), clusters[1].as_str());
    Shop::new("web", &[GLOBAL]).apply(mesh, b);
    let here = mesh.node_of(a, CLIENT);
    let nodes = mesh.nodes(a);
    let there = nodes.iter().find(|node| **node != here).expect("two nodes");
    // The pod that is on the client's node.
    let (near, far) = if mesh.node_of(a, "echo-0") == here { (0, 1) } else { (1, 0) };
    assert_eq!(
        [near, far].map(|n| mesh.node_of(a, &format!("echo-{n}"))),
        [&here, there].map(Clone::clone)
    );
    let only = |n: usize| format!("a/{n} 100");
    let all = "a/0 25, a/1 25, b/0 25, b/1 25";

    let mut mine = Shop::new("web", &[GLOBAL]);
    mine.apply(mesh, a);
    mine.wait(mesh, a, all);
    mine.spec = Some(("internalTrafficPolicy", "Local"));
    mine.apply(mesh, a);
    mine.wait_on(mesh, a, &here, &only(near));
    mine.wait_on(mesh, a, there, &only(far));
    let address = mine.frontends(mesh, a)[0];
    let report = fresh(mesh, a, CLIENT, ("--tcp", address), 500, RATE);
    report.assert_unharmed();
    assert_eq!(report.pods.into_keys().collect::<Vec<_>>(), [format!("a/echo-{near}")]);
    let mut conditions = [Condition::Ready; 2];
    conditions[near] = Condition::NotReady;
    mine.set(mesh, a, conditions);
    mine.wait_on(mesh, a, &here, "");
    mine.wait_on(mesh, a, there, &only(far));
    let call = ["clustermesh", "lab-pod", "call", &address.to_string(), "--count", "1"];
    let (code, _, complaint) = json::run(mesh.in_pod(a, CLIENT, &call));
    assert!(code != 0, "it is refused: {complaint}");
    mine.set(mesh, a, [Condition::Ready; 2]);
    mine.wait_on(mesh, a, &here, &only(near));
    // `check-history` agrees, for each node.
    wait_for_history(mesh);

    // The nodes have no zones yet.
    mine.hinted = true;
    mine.spec = Some(("trafficDistribution", "PreferSameZone"));
    let own = "a/0 50, a/1 50";
    mine.annotate(mesh, a, &[GLOBAL, (AFFINITY, "local")]);
    mine.wait(mesh, a, own);
    mesh.name_zones(a);
    mine.wait_on(mesh, a, &here, &only(near));
    mine.wait_on(mesh, a, there, &only(far));
    mine.set(mesh, a, conditions);
    mine.wait(mesh, a, &only(far));
    mine.set(mesh, a, [Condition::Ready; 2]);
    mine.wait_on(mesh, a, &here, &only(near));
    mine.hinted = false;
    mine.apply(mesh, a);
    mine.wait(mesh, a, own);
}
