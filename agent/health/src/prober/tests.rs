use mesh_model::ClusterName;
use proptest::{prelude::*, test_runner::TestCaseError};

use super::*;
use crate::report::ClusterHealth;

/// A network, and who probes it.
pub(super) struct World {
    pub(super) prober: Prober,
    pub(super) now: Instant,
    began: Instant,
    nonces: u64,
    /// What answers at a time: cluster, node, IPv4. A node `etcd` is the cluster's etcd.
    answers: Box<Network>,
    /// Of the nodes that answer: those without an agent, whose kernel refuses as often as it may.
    refuses: Box<Network>,
    /// Of the nodes that answer: those whose kernel does, and not an agent.
    kernel: Box<Network>,
    kernels: BTreeMap<IpAddr, Kernel>,
    nodes: BTreeMap<IpAddr, (String, String)>,
    /// So many questions from now on are not answered.
    lost: u64,
    /// How often each etcd has answered.
    etcds: BTreeMap<ClusterName, u64>,
    pub(super) sent: Vec<Duration>,
    pub(super) changes: Vec<(Duration, String)>,
}

type Network = dyn Fn(&str, &str, bool, Duration) -> bool;

/// What limits a kernel's messages to one address, `icmp_ratelimit`: one a second, after a burst of six.
struct Kernel {
    credit: Duration,
    last: Duration,
}

impl Kernel {
    fn may_refuse(&mut self, at: Duration) -> bool {
        self.credit = (self.credit + (at - self.last)).min(millis(6_000));
        self.last = at;
        let left = self.credit.checked_sub(millis(1_000));
        self.credit = left.unwrap_or(self.credit);
        left.is_some()
    }
}

pub(super) const STEP: Duration = Duration::from_millis(10);

pub(super) fn name(cluster: &str) -> ClusterName {
    ClusterName::new(cluster).unwrap()
}

pub(super) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(super) fn target(cluster: u8, node: u8, in_use: bool) -> Target {
    Target {
        node: format!("n{node}").into(),
        addresses: vec![[172, 31, cluster, node].into()],
        in_use,
    }
}

impl World {
    /// `a` is the local cluster.
    pub(super) fn new(answers: impl Fn(&str, &str, bool, Duration) -> bool + 'static) -> Self {
        let now = Instant::now();
        Self {
            prober: Prober::new(name("a"), now),
            now,
            began: now,
            nonces: 0,
            answers: Box::new(answers),
            refuses: Box::new(|_, _, _, _| false),
            kernel: Box::new(|_, _, _, _| false),
            kernels: BTreeMap::new(),
            nodes: BTreeMap::new(),
            lost: 0,
            etcds: BTreeMap::new(),
            sent: Vec::new(),
            changes: Vec::new(),
        }
    }

    pub(super) fn refusing(
        mut self,
        refuses: impl Fn(&str, &str, bool, Duration) -> bool + 'static,
    ) -> Self {
        self.refuses = Box::new(refuses);
        self
    }

    pub(super) fn answered_by_kernels(mut self) -> Self {
        self.kernel = Box::new(|_, _, _, _| true);
        self
    }

    pub(super) fn set(&mut self, cluster: &str, targets: &[Target]) {
        for target in targets {
            for address in &target.addresses {
                self.nodes.insert(*address, (cluster.into(), target.node.to_string()));
            }
        }
        self.prober.set_targets(&name(cluster), targets, self.now);
    }

    /// Clusters of two nodes that are in use each, the local one's other node among them.
    pub(super) fn with(mut self, clusters: &[(&str, u8)]) -> Self {
        for (number, (cluster, nodes)) in (1..).zip(clusters) {
            // Each at a moment of its own.
            for n in 1..=*nodes {
                let targets: Vec<Target> = (1..=n).map(|n| target(number, n, true)).collect();
                self.set(cluster, &targets);
                self.run(self.now - self.began + millis(70));
            }
        }
        self
    }

    pub(super) fn run(&mut self, until: Duration) -> Vec<String> {
        let from = self.changes.len();
        while self.now - self.began < until {
            let at = self.now - self.began;
            if self.prober.next_timeout().is_some_and(|due| due <= self.now) {
                self.turn(at);
            }
            for verdict in self.prober.take_verdicts() {
                let word = match verdict {
                    Verdict::Node { cluster, node, address, alive, .. } => {
                        let family = if address.is_ipv4() { "" } else { "/v6" };
                        format!("{cluster}/{node}{family} {}", if alive { "back" } else { "dead" })
                    }
                    Verdict::Unverified { cluster, node, unverified } => {
                        let word = if unverified { "unverified" } else { "as others" };
                        format!("{cluster}/{node} {word}")
                    }
                    Verdict::Cluster { cluster, cut, .. } => {
                        format!("{cluster} {}", if cut { "cut" } else { "healed" })
                    }
                    Verdict::Sockets(_) => continue,
                };
                self.changes.push((at, word));
            }
            self.now += STEP;
        }
        self.changes[from..].iter().map(|(_, word)| word.clone()).collect()
    }

    fn turn(&mut self, at: Duration) {
        for etcd in self.prober.etcds_awaited() {
            let count = *self.etcds.entry(etcd.clone()).or_default();
            self.prober.observe_etcd(&etcd, true, count, self.now);
        }
        for etcd in self.prober.etcds_to_ask(self.now) {
            let count = self.etcds.entry(etcd.clone()).or_default();
            let before = *count;
            *count += u64::from((self.answers)(etcd.as_str(), "etcd", true, at));
            self.prober.etcd_asked(&etcd, true, before, self.now);
        }
        let nonce = || {
            self.nonces += 1;
            self.nonces
        };
        for Question { probe, .. } in self.prober.due(self.now, nonce) {
            self.sent.push(at);
            let (cluster, node) = &self.nodes[&probe.address];
            let v4 = probe.address.is_ipv4();
            if self.lost > 0 || !(self.answers)(cluster, node, v4, at) {
                self.lost = self.lost.saturating_sub(1);
                continue;
            }
            let kernel = self.kernels.entry(probe.address);
            let kernel = kernel.or_insert(Kernel { credit: millis(6_000), last: at });
            if (self.refuses)(cluster, node, v4, at) {
                if kernel.may_refuse(at) {
                    self.prober.replied(probe, Reply::Refused, self.now);
                }
                continue;
            }
            let by = match (self.kernel)(cluster, node, v4, at) {
                true => Answerer::Kernel { rate: 1 },
                false => Answerer::Agent { rate: 1 },
            };
            self.prober.replied(probe, Reply::Answered(by), self.now);
        }
    }

    pub(super) fn lose_next(&mut self, questions: u64) {
        self.lost = questions;
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.now - self.began
    }

    /// When something was reported first.
    pub(super) fn when(&self, word: &str) -> Duration {
        let found = self.changes.iter().find(|(_, found)| found == word);
        found.unwrap_or_else(|| panic!("{word}: {:?}", self.changes)).0
    }

    pub(super) fn health(&self, cluster: &str) -> ClusterHealth {
        self.prober.report().clusters[&name(cluster)].clone()
    }
}

#[test]
fn a_node_that_loses_three_probes_is_dead_within_its_detection_time() {
    let cut = |at: Duration| (2_050..7_000).contains(&at.as_millis());
    let mut world =
        World::new(move |cluster, node, _, at| (cluster, node) != ("b", "n1") || !cut(at))
            .with(&[("a", 1), ("b", 2)]);
    assert_eq!(world.run(millis(2_500)), Vec::<String>::new());
    assert_eq!(world.run(millis(7_000)), ["b/n1 dead"], "its cluster's other node answers");
    let detection = world.prober.report().detection;
    assert_eq!(world.prober.report().in_use, 3);
    assert_eq!(detection, millis(800), "three probes, 200 ms apart, and their answers");
    let noticed = world.when("b/n1 dead") - millis(2_050);
    assert!((millis(400)..=detection).contains(&noticed), "{noticed:?}");
    let health = world.health("b");
    assert_eq!((health.answering, health.dead.len(), health.cut), (1, 1, false));
    assert_eq!(world.run(millis(9_000)), ["b/n1 back"]);
    assert!(world.when("b/n1 back") <= millis(7_000 + 600), "three answers");
    assert_eq!(world.run(millis(60_000)), Vec::<String>::new());
}

#[test]
fn what_never_answered_is_never_dead() {
    let mut world = World::new(|cluster, _, _, at| cluster == "a" && at < millis(3_000))
        .with(&[("b", 2), ("c", 1)]);
    assert_eq!(world.run(millis(60_000)), Vec::<String>::new());
    assert_eq!(world.health("b").never_answered, 2);
    let late = world.sent.iter().filter(|at| **at > millis(10_000)).count();
    assert!(late <= 3 * 5 + 3, "nor is it asked five times a second: {late}");
}

#[test]
fn a_cluster_that_does_not_answer_with_its_etcd_is_cut_at_once_and_back_at_once() {
    let cut = |at: Duration| (5_130..20_000).contains(&at.as_millis());
    let mut world = World::new(move |cluster, _, _, at| cluster != "b" || !cut(at)).with(&[
        ("a", 1),
        ("b", 3),
        ("c", 2),
    ]);
    assert_eq!(world.run(millis(20_000)), ["b cut"]);
    assert!(world.when("b cut") - millis(5_130) <= millis(1_000));
    assert_eq!(world.run(millis(60_000)), ["b healed"]);
    assert!(world.when("b healed") <= millis(21_000));
    assert_eq!(world.prober.report().counts.cuts, 1);
}

/// Also where all its nodes lost a probe a moment before, and its etcd answered: that answer is no evidence about the
/// cut.
#[test]
fn a_cluster_whose_kernels_answer_is_cut_within_half_a_second() {
    for (phase, blip) in (0..200).step_by(10).flat_map(|at| [(at, 0), (at, 190)]) {
        let began = 5_000 + phase;
        let mut world = World::new(move |cluster, node, _, at| {
            let lost = (4_500..4_500 + blip).contains(&at.as_millis()) && node != "etcd";
            cluster != "b" || at < millis(began) && !lost
        })
        .answered_by_kernels()
        .with(&[("a", 1), ("b", 2)]);
        assert_eq!(world.run(millis(10_000)), ["b cut"]);
        let noticed = world.when("b cut") - millis(began);
        assert!((millis(300)..=millis(450)).contains(&noticed), "{noticed:?}, blip of {blip} ms");
    }
}

#[test]
fn with_its_etcd_alive_it_is_its_nodes_that_are_dead() {
    let cut = |at: Duration| (5_000..10_000).contains(&at.as_millis());
    let mut world =
        World::new(move |cluster, node, _, at| cluster != "b" || node == "etcd" || !cut(at))
            .with(&[("a", 1), ("b", 2)]);
    assert_eq!(world.run(millis(10_000)), ["b/n1 dead", "b/n2 dead"]);
    assert_eq!(world.run(millis(12_000)), ["b/n1 back", "b/n2 back"]);
}

#[test]
fn its_etcd_may_go_later() {
    let mut world = World::new(|cluster, node, _, at| {
        cluster != "b" || at < millis(if node == "etcd" { 20_000 } else { 5_000 })
    })
    .with(&[("a", 1), ("b", 2)]);
    assert_eq!(world.run(millis(20_000)), ["b/n1 dead", "b/n2 dead"]);
    assert_eq!(world.run(millis(40_000)), ["b cut"]);
}

#[test]
fn what_stays_dead_is_reported_when_its_cluster_is_back() {
    let mut world = World::new(|cluster, node, _, at| {
        cluster != "b" || at < millis(5_000) || (at >= millis(10_000) && node != "n2")
    })
    .with(&[("a", 1), ("b", 3)]);
    assert_eq!(world.run(millis(10_000)), ["b cut"]);
    assert_eq!(world.run(millis(20_000)), ["b/n2 dead", "b healed"], "no client is led to n2");
}

#[test]
fn when_nothing_answers_at_all_it_is_us() {
    for in_use in [true, false] {
        let cut = |at: Duration| (5_010..60_000).contains(&at.as_millis());
        let mut world = World::new(move |_, _, _, at| !cut(at)).with(&[("a", 1), ("b", 2)]);
        world.set("c", &[target(3, 1, in_use)]);
        assert_eq!(world.run(millis(59_000)), Vec::<String>::new());
        assert!(world.prober.report().isolated);
        assert_eq!(world.run(millis(120_000)), Vec::<String>::new(), "healed without a trace");
        assert!(!world.prober.report().isolated);
    }
}

/// An operator who cuts an uplink does it peer by peer. What came first was reported to be dead, and is not.
#[test]
fn what_stops_one_after_another_until_nothing_is_left_is_us_too() {
    for order in [["a", "b", "c"], ["c", "b", "a"], ["b", "a", "c"]] {
        let mut world = World::new(move |cluster, _, _, at| {
            let turn = order.iter().position(|name| *name == cluster).unwrap();
            let cut = 5_000 + 800 * u128::try_from(turn).unwrap();
            !(cut..60_000).contains(&at.as_millis())
        })
        .with(&[("a", 1), ("b", 2), ("c", 1)]);
        let found = world.run(millis(59_000));
        let first = if order[0] == "a" { ["a/n1 dead", "a/n1 back"] } else { ["cut", "healed"] };
        let of_first: Vec<&String> = found.iter().filter(|w| w.starts_with(order[0])).collect();
        assert!(of_first.iter().zip(first).all(|(word, end)| word.ends_with(end)), "{found:?}");
        assert_eq!(of_first.len(), 2, "{:?}", world.changes);
        assert!(world.prober.report().isolated);
        assert!(["a", "b", "c"].iter().all(|name| !world.health(name).cut), "{found:?}");
        assert!(["a", "b", "c"].iter().all(|name| world.health(name).dead.is_empty()), "{found:?}");
        assert_eq!(world.run(millis(120_000)), Vec::<String>::new(), "healed without a trace");
    }
}

#[test]
fn what_does_not_answer_when_others_do_again_is_dead() {
    let mut world = World::new(|cluster, _, _, at| {
        at < millis(5_000) || (at >= millis(15_000) && cluster != "b")
    })
    .with(&[("a", 1), ("b", 2), ("c", 1)]);
    assert_eq!(world.run(millis(15_000)), Vec::<String>::new());
    assert_eq!(world.run(millis(20_000)), ["b cut"]);
}

/// With one peer and nothing else to ask, it is not known which of both is cut off. What is here is used, and where nothing is, the
/// tables keep what they have.
#[test]
fn the_only_one_there_is_is_cut() {
    let mut world = World::new(|_, _, _, at| at < millis(5_000)).with(&[("a", 0), ("b", 2)]);
    assert_eq!(world.run(millis(20_000)), ["b cut"]);
    assert!(world.when("b cut") <= millis(6_000));
}

#[test]
fn the_local_cluster_is_never_cut() {
    let mut world = World::new(|cluster, _, _, at| cluster != "a" || at < millis(5_000))
        .with(&[("a", 2), ("b", 1)]);
    assert_eq!(world.run(millis(20_000)), ["a/n1 dead", "a/n2 dead"]);
}

#[test]
fn one_family_may_die_alone() {
    let mut world = World::new(|cluster, _, v4, at| cluster != "b" || v4 || at < millis(5_000));
    let both = |n: u8| Target {
        addresses: vec![[172, 31, 2, n].into(), format!("fd00:172::2:{n}").parse().unwrap()],
        ..target(2, n, true)
    };
    world.set("a", &[target(1, 1, true)]);
    world.set("b", &[both(1), both(2)]);
    assert_eq!(world.run(millis(10_000)), ["b/n1/v6 dead", "b/n2/v6 dead"]);
    assert!(!world.health("b").cut);
}

#[test]
fn three_hundred_probes_a_second_and_no_more() {
    let lost = |cluster: &str, node: &str| cluster == "b" && node == "n7";
    let mut world =
        World::new(move |cluster, node, _, at| !lost(cluster, node) || at < millis(20_000));
    for (number, cluster) in [(2, "b"), (3, "c"), (4, "d"), (5, "e")] {
        let targets: Vec<Target> = (1..=200).map(|n| target(number, n, true)).collect();
        world.set(cluster, &targets);
    }
    assert_eq!(world.run(millis(40_000)), ["b/n7 dead"]);
    for from in (0..39).map(|second| millis(second * 1_000)) {
        let sent = world.sent.iter().filter(|at| **at >= from && **at < from + millis(1_000));
        // What is left of the burst after a pause may come on top once.
        assert!(sent.count() <= 300 + 60, "{from:?}");
    }
    assert!(world.sent.len() >= 40 * 280, "but as many as may be: {}", world.sent.len());
    let detection = world.prober.report().detection;
    assert!(detection > millis(3_000) && detection < millis(4_000), "{detection:?}");
    assert!(world.when("b/n7 dead") - millis(20_000) <= detection);
}

#[test]
fn an_agent_that_was_away_itself_misses_nothing() {
    let mut world = World::new(|_, _, _, _| true).with(&[("a", 1), ("b", 2)]);
    world.run(millis(2_000));
    // Its probes went out, and it did not look at what came back.
    let nonce = || 0;
    world.now += millis(300);
    world.prober.due(world.now, nonce);
    for _ in 0..5 {
        world.now += millis(3_000);
        world.prober.due(world.now, nonce);
    }
    assert_eq!(world.prober.take_verdicts(), []);
    assert!(world.prober.report().clusters.values().all(|cluster| cluster.missing == 0));
}

#[test]
fn an_answer_must_have_the_nonce_and_come_from_where_it_was_asked() {
    let now = Instant::now();
    let mut prober = Prober::new(name("a"), now);
    prober.set_targets(&name("b"), &[target(2, 1, true)], now);
    let mut next = 0;
    let mut nonce = || {
        next += 1;
        next
    };
    let [Question { probe, .. }] = prober.due(now, &mut nonce).try_into().unwrap();
    assert!(prober.due(now, &mut nonce).is_empty());
    let answer = Reply::Answered(Answerer::Agent { rate: 1 });
    let answering = |prober: &Prober| prober.report().clusters[&name("b")].answering;
    prober.replied(Probe { nonce: 99, ..probe }, answer, now);
    prober.replied(Probe { address: [172, 31, 2, 2].into(), ..probe }, answer, now);
    assert_eq!(answering(&prober), 0);
    prober.replied(probe, answer, now);
    prober.replied(probe, answer, now);
    assert_eq!((answering(&prober), prober.report().counts.answered), (1, 1), "counted once");
}

/// 600 ms there and back: each answer is late for its own probe, and early for the third after it.
#[test]
fn a_long_way_is_no_loss() {
    let now = Instant::now();
    let mut prober = Prober::new(name("a"), now);
    prober.set_targets(&name("b"), &[target(2, 1, true)], now);
    let (mut next, mut on_their_way) = (0, Vec::new());
    for step in 0..1_000 {
        let now = now + STEP * step;
        on_their_way.retain(|(at, probe)| {
            let arrives = *at + millis(600) <= now;
            if arrives {
                prober.replied(*probe, Reply::Answered(Answerer::Agent { rate: 1 }), now);
            }
            !arrives
        });
        let nonce = || {
            next += 1;
            next
        };
        on_their_way
            .extend(prober.due(now, nonce).into_iter().map(|question| (now, question.probe)));
    }
    assert_eq!(prober.take_verdicts(), []);
    assert_eq!(prober.report().clusters[&name("b")].answering, 1);
}

#[test]
fn what_is_not_probed_any_more_is_not_dead_any_more() {
    let mut world = World::new(|cluster, _, _, at| cluster == "a" || at < millis(2_000)).with(&[
        ("a", 1),
        ("b", 2),
        ("c", 1),
    ]);
    assert_eq!(world.run(millis(5_000)).len(), 2, "b and c are cut");
    world.set("b", &[]);
    assert_eq!(world.run(millis(5_100)), Vec::<String>::new(), "its etcd does not answer yet");
    world.prober.remove(&name("b"), world.now);
    world.prober.remove(&name("c"), world.now);
    assert_eq!(world.run(millis(6_000)), ["b healed", "c healed"]);
}

#[test]
fn a_previous_runs_cut_lasts_until_something_answers() {
    let mut world = World::new(|cluster, node, _, at| match (cluster, node) {
        ("b", "etcd") => false,
        ("b", _) => at >= millis(20_000),
        ("c", "etcd") => at >= millis(30_000),
        ("c", _) => false,
        _ => true,
    });
    for cluster in ["b", "c"] {
        world.prober.inherit_cut(&name(cluster));
    }
    let mut world = world.with(&[("a", 1), ("b", 2), ("c", 2)]);
    assert_eq!(world.run(millis(19_990)), Vec::<String>::new());
    assert!(world.health("b").cut);
    assert_eq!(world.run(millis(30_000)), ["b healed"], "a node answers");
    assert_eq!(world.run(millis(40_000)), ["c healed"], "none of its nodes ever answered");
}

/// Six deaths and five returns a minute are the most for a node (`detector`); of a cluster it is the same.
#[test]
fn a_link_that_flaps_is_damped_whatever_its_period() {
    for period in [500, 1_300, 1_500, 2_000, 5_000, 9_000, 20_000, 45_000_u64] {
        let up = move |at: Duration| (at.as_millis() / u128::from(period)).is_multiple_of(2);
        let mut world = World::new(move |cluster, _, _, at| cluster != "b" || up(at))
            .with(&[("a", 1), ("b", 2)]);
        world.run(Duration::from_secs(300));
        let changes: Vec<Duration> = world.changes.iter().map(|(at, _)| *at).collect();
        let within = |from: Duration| {
            changes.iter().filter(|at| **at >= from && **at < from + millis(60_000)).count()
        };
        let most = changes.iter().map(|from| within(*from)).max().unwrap_or_default();
        assert!(most <= 11, "{period}: {:?}", world.changes);
        if period >= 1_000 {
            assert!(world.changes.iter().any(|(_, word)| word == "b cut"), "{period}");
        }
        if (1_000..10_000).contains(&period) {
            assert!(world.prober.report().counts.damped > 0, "{period}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// However long and whenever: not one word, neither meanwhile nor when it is over.
    #[test]
    fn the_local_uplink_is_cut_without_a_verdict(from in 5_000..6_000_u64, length in 100..6_000_u64) {
        let cut = millis(from)..millis(from + length);
        let mut world = World::new(move |_, _, _, at| !cut.contains(&at))
            .with(&[("a", 2), ("b", 2), ("c", 1)]);
        prop_assert_eq!(world.run(millis(20_000)), Vec::<String>::new());
    }

    /// Whatever goes and comes when: what is reported is consistent, and a minute after all is healed all is as before.
    #[test]
    fn after_healing_everything_is_as_before(
        cuts in proptest::collection::vec((0..6_usize, 0..30_000_u64, 100..20_000_u64), 0..12)
    ) {
        heals(cuts)?;
    }
}

/// A node that does not answer from the beginning is unverified, until it answers.
#[test]
fn a_node_that_is_cut_when_it_is_first_probed_is_as_others_once_it_answers() {
    heals(vec![(2, 0, 1_941)]).unwrap();
}

/// With places that are cut from a time on, in milliseconds, for so many: each word comes when its opposite holds, and at the
/// end all is healed.
fn heals(cuts: Vec<(usize, u64, u64)>) -> Result<(), TestCaseError> {
    const PLACES: [(&str, &str); 6] =
        [("a", "n1"), ("b", "n1"), ("b", "n2"), ("b", "etcd"), ("c", "n1"), ("c", "etcd")];
    const OPPOSITES: [(&str, &str); 3] =
        [("dead", "back"), ("cut", "healed"), ("unverified", "as others")];
    let lost = move |cluster: &str, node: &str, at: Duration| {
        cuts.iter().any(|(place, from, length)| {
            PLACES[*place] == (cluster, node)
                && (millis(*from)..millis(from + length)).contains(&at)
        })
    };
    let mut world = World::new(move |cluster, node, _, at| !lost(cluster, node, at)).with(&[
        ("a", 1),
        ("b", 2),
        ("c", 1),
    ]);
    world.run(millis(50_000 + 70_000));
    // What is wrong, by who and with which word.
    let mut wrong = BTreeSet::new();
    for (_, word) in &world.changes {
        let (who, what) = word.split_once(' ').unwrap();
        let (fault, _) =
            OPPOSITES.iter().find(|(one, other)| [*one, *other].contains(&what)).unwrap();
        let is_news = match what == *fault {
            true => wrong.insert((who, *fault)),
            false => wrong.remove(&(who, *fault)),
        };
        prop_assert!(is_news, "{:?}", &world.changes);
    }
    prop_assert!(wrong.is_empty(), "{:?}", &world.changes);
    Ok(())
}
