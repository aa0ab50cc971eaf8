//! Nodes whose kernel answers, and those of which it is not known.

use super::{tests::*, *};
use crate::question::Versions;

/// Probes one node and answers as a test sets, at any speed.
struct One {
    prober: Prober,
    began: Instant,
    now: Instant,
    nonces: u64,
    on_their_way: Vec<(Instant, Probe, Reply)>,
}

impl One {
    fn new() -> Self {
        let now = Instant::now();
        let mut prober = Prober::new(name("a"), now);
        prober.set_targets(&name("b"), &[target(2, 1, true)], now);
        Self { prober, began: now, now, nonces: 0, on_their_way: Vec::new() }
    }

    /// Goes on for a while; `reply` returns the answer to a question at a time, and when it comes.
    fn run(
        &mut self,
        length: Duration,
        mut reply: impl FnMut(Question, Duration) -> Option<(Duration, Reply)>,
    ) -> Vec<(Duration, Question)> {
        let until = self.now + length;
        let mut asked = Vec::new();
        while self.now < until {
            self.on_their_way.retain(|(at, probe, reply)| {
                let arrived = *at <= self.now;
                if arrived {
                    self.prober.replied(*probe, *reply, self.now);
                }
                !arrived
            });
            let nonce = || {
                self.nonces += 1;
                self.nonces
            };
            for question in self.prober.due(self.now, nonce) {
                let at = self.now - self.began;
                asked.push((at, question));
                if let Some((after, reply)) = reply(question, at) {
                    self.on_their_way.push((self.now + after, question.probe, reply));
                }
            }
            self.now += STEP;
        }
        asked
    }

    fn is_answering(&self) -> bool {
        self.prober.report().clusters[&name("b")].answering == 1
    }
}

const BY_KERNEL: Reply = Reply::Answered(Answerer::Kernel { rate: 1 });
const BY_AGENT: Reply = Reply::Answered(Answerer::Agent { rate: 1 });
const BY_PREVIOUS: Reply = Reply::Answered(Answerer::PreviousAgent);

#[test]
fn kernels_are_asked_twice_as_often_as_agents() {
    for (reply, expected, detection) in
        [(BY_KERNEL, 100, 400), (BY_AGENT, 50, 800), (BY_PREVIOUS, 50, 800)]
    {
        let mut one = One::new();
        one.run(millis(1_000), |_, _| Some((Duration::ZERO, reply)));
        let asked = one.run(millis(10_000), |_, _| Some((Duration::ZERO, reply)));
        assert_eq!(asked.len(), expected, "{reply:?}");
        assert_eq!(one.prober.report().detection, millis(detection), "{reply:?}");
    }
}

/// Far away, answers come after the next question has left. They are waited for, so nothing is ever suspected.
#[test]
fn what_is_far_away_is_waited_for() {
    for away in [20, 90, 150, 250] {
        let mut one = One::new();
        let reply = |_, _| Some((millis(away), BY_KERNEL));
        one.run(millis(5_000), reply);
        for _ in 0..1_000 {
            one.run(STEP, reply);
            assert!(one.prober.undecided.is_empty(), "{away}");
        }
        let longest = millis(100 + 200).saturating_add(millis(away * 3 / 2).max(millis(100)));
        assert!(one.prober.report().detection <= longest + STEP * 2, "{away}");
        assert_eq!(one.prober.take_verdicts(), []);
    }
}

/// Both versions are sent as long as `CMp2` has not come, and a minute after it came last.
#[test]
fn a_node_of_the_previous_release_is_asked_in_both_versions() {
    let versions = |asked: &[(Duration, Question)]| -> BTreeSet<u32> {
        asked.iter().map(|(_, question)| question.versions.datagrams()).collect()
    };
    let mut one = One::new();
    let asked = one.run(millis(1_000), |_, _| None);
    assert_eq!(versions(&asked), [2].into());
    let asked = one.run(millis(9_000), |_, _| Some((Duration::ZERO, BY_PREVIOUS)));
    assert_eq!(versions(&asked), [2].into());
    assert!(one.is_answering());
    // It is upgraded.
    one.run(millis(1_000), |_, _| Some((Duration::ZERO, BY_AGENT)));
    let asked = one.run(millis(100_000), |_, _| Some((Duration::ZERO, BY_AGENT)));
    assert_eq!(versions(&asked), [1].into());
    // And back: its agent knows the previous version only.
    let only_previous = |question: Question, _| {
        question.versions.has_previous().then_some((Duration::ZERO, BY_PREVIOUS))
    };
    let asked = one.run(millis(59_000), only_previous);
    assert_eq!(versions(&asked), [1].into());
    assert!(!one.is_answering());
    one.run(millis(2_000), only_previous);
    assert!(one.is_answering());
}

/// Where no agent listens one datagram is enough, in either version in turn: there is one message a second for both.
#[test]
fn where_no_agent_listens_one_datagram_is_sent_at_a_time() {
    let mut one = One::new();
    one.run(millis(2_000), |_, _| Some((Duration::ZERO, Reply::Refused)));
    let asked = one.run(millis(30_000), |_, _| Some((Duration::ZERO, Reply::Refused)));
    assert_eq!(asked.len(), 20);
    let pairs = asked.windows(2).filter(|pair| pair[0].1.versions != pair[1].1.versions);
    assert_eq!(pairs.count(), 19, "in turn");
    assert!(asked.iter().all(|(_, question)| question.versions.datagrams() == 1));
    // An agent of the previous release is back.
    let only_previous = |question: Question, _| {
        question.versions.has_previous().then_some((Duration::ZERO, BY_PREVIOUS))
    };
    let asked = one.run(millis(60_000), only_previous);
    assert!(asked.len() > 250, "as often as an agent: {}", asked.len());
    assert_eq!(one.prober.take_verdicts(), []);
}

/// Its own clock shows that it was late: probes that were on their way are ignored, and sent again immediately.
#[test]
fn a_prober_that_stands_still_misses_nothing() {
    for stall in [250, 400, 700, 1_500, 10_000] {
        let mut world = World::new(|_, _, _, _| true).answered_by_kernels().with(&[
            ("a", 1),
            ("b", 2),
            ("c", 1),
        ]);
        assert_eq!(world.run(millis(5_000)), Vec::<String>::new());
        for _ in 0..8 {
            // Answers that arrive while it is stalled are lost.
            let cluster = world.prober.clusters.values();
            let sent: u64 = cluster.map(|cluster| cluster.paths.len() as u64).sum();
            world.lose_next(sent);
            let until = world.elapsed() + millis(120);
            assert_eq!(world.run(until), Vec::<String>::new());
            world.now += millis(stall);
        }
        let until = world.elapsed() + millis(5_000);
        assert_eq!(world.run(until), Vec::<String>::new(), "{stall}");
        assert!(world.prober.report().counts.stalls >= 8);
    }
}

/// A prober that stalls again and again still detects dead nodes.
#[test]
fn standing_still_is_no_excuse_for_ever() {
    let mut world = World::new(|cluster, _, _, at| cluster != "b" || at < millis(5_000))
        .answered_by_kernels()
        .with(&[("a", 1), ("b", 1), ("c", 1)]);
    assert_eq!(world.run(millis(5_000)), Vec::<String>::new());
    let mut found = Vec::new();
    for _ in 0..40 {
        let until = world.elapsed() + STEP;
        found.extend(world.run(until));
        world.now += millis(300);
    }
    assert_eq!(found, ["b cut"]);
}

/// A node that has never answered, while as many of its cluster have, is used last. The state of the others decides.
#[test]
fn what_never_answered_while_others_do_is_unverified() {
    // n3 never answers, n4 late, and n5 has no address.
    let up = |cluster: &str, node: &str, at: Duration| match (cluster, node) {
        ("b", "n3") => false,
        ("b", "n4") => at >= millis(9_000),
        _ => true,
    };
    let mut world = World::new(move |cluster, node, _, at| up(cluster, node, at)).with(&[("a", 1)]);
    let nowhere = Target { node: "n5".into(), addresses: Vec::new(), in_use: true };
    let mut targets: Vec<Target> = (1..=4).map(|n| target(2, n, true)).collect();
    world.set("b", &targets[..2]);
    assert_eq!(world.run(millis(2_000)), Vec::<String>::new());
    world.set("b", &targets);
    let found = world.run(millis(5_000));
    assert_eq!(found, ["b/n3 unverified", "b/n4 unverified"]);
    assert!(world.when("b/n3 unverified") >= millis(2_000 + 10 * 200), "ten probes");
    // A third one would be more than have answered.
    targets.push(nowhere);
    world.set("b", &targets);
    assert_eq!(world.run(millis(5_100)), ["b/n3 as others", "b/n4 as others"]);
    let found = world.run(millis(30_000));
    assert_eq!(found, ["b/n3 unverified", "b/n5 unverified"], "n4 answered");
    let health = world.health("b");
    assert_eq!((health.answering, health.never_answered, health.unverified.len()), (3, 1, 2));
    // Nodes that are not probed any more are nothing.
    targets.retain(|target| *target.node != *"n5");
    world.set("b", &targets);
    assert_eq!(world.run(millis(30_100)), ["b/n5 as others"]);
    world.prober.remove(&name("b"), world.now);
    assert_eq!(world.run(millis(30_200)), ["b/n3 as others"]);
}

/// Behind a firewall only one node answers: that is no evidence about the others. Nor are probes that were lost while
/// nothing answered.
#[test]
fn where_most_never_answered_or_nothing_could_nothing_is_unverified() {
    let mut world = World::new(|cluster, node, _, _| cluster == "a" || node == "n1")
        .with(&[("a", 1), ("b", 4)]);
    assert_eq!(world.run(millis(60_000)), Vec::<String>::new());
    let mut world = World::new(|cluster, _, _, at| cluster == "a" || at >= millis(20_000))
        .with(&[("a", 1), ("b", 2)]);
    assert_eq!(world.run(millis(60_000)), Vec::<String>::new(), "each is asked once more");
}

#[test]
fn versions_of_questions() {
    assert_eq!(Versions::Both.datagrams(), 2);
    assert!(Versions::Both.has_present() && Versions::Both.has_previous());
    assert!(Versions::Present.has_present() && !Versions::Present.has_previous());
    assert!(!Versions::Previous.has_present() && Versions::Previous.has_previous());
}
