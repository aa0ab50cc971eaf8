//! Many agents probe one node: the real state machine of each, in one process and in a time of its own.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::{tests::*, *};

/// The askers, and the node.
struct Crowd {
    askers: Vec<Prober>,
    /// When each asker acts next.
    agenda: BinaryHeap<Reverse<(Instant, usize)>>,
    node: Node,
    nonces: u64,
    began: Instant,
}

/// A node that answers, and what it counts.
struct Node {
    /// Its kernel answers; else an agent that is away from time to time.
    kernel: bool,
    away: std::ops::Range<Duration>,
    /// Nothing of it arrives.
    cut: std::ops::Range<Duration>,
    /// Answers in this second, and in the last full one.
    second: u64,
    given: u32,
    last: u32,
    /// Questions in each tenth of a second.
    asked: Vec<u32>,
    icmp: Icmp,
}

/// The limits of a kernel's port-unreachable messages: for all together `icmp_msgs_per_sec`, 1,000 after a burst of 50,
/// and for each `icmp_ratelimit`, one a second after a burst of six.
struct Icmp {
    credit: f64,
    at: Duration,
    each: HashMap<usize, (f64, Duration)>,
}

impl Icmp {
    fn may_refuse(&mut self, asker: usize, at: Duration) -> bool {
        self.credit = (self.credit + (at - self.at).as_secs_f64() * 1_000.0).min(50.0);
        self.at = at;
        let (credit, last) = self.each.entry(asker).or_insert((6.0, at));
        *credit = (*credit + (at - *last).as_secs_f64()).min(6.0);
        *last = at;
        let may = self.credit >= 1.0 && *credit >= 1.0;
        if may {
            self.credit -= 1.0;
            *credit -= 1.0;
        }
        may
    }
}

impl Node {
    fn new(kernel: bool, away: std::ops::Range<Duration>) -> Self {
        let icmp = Icmp { credit: 50.0, at: Duration::ZERO, each: HashMap::new() };
        Self {
            kernel,
            away,
            cut: Duration::ZERO..Duration::ZERO,
            second: 0,
            given: 0,
            last: 0,
            asked: Vec::new(),
            icmp,
        }
    }

    fn reply(&mut self, asker: usize, at: Duration) -> Option<Reply> {
        let tenth = usize::try_from(at.as_millis() / 100).unwrap();
        self.asked.resize(self.asked.len().max(tenth + 1), 0);
        if self.cut.contains(&at) {
            return None;
        }
        self.asked[tenth] += 1;
        if !self.kernel && self.away.contains(&at) {
            return self.icmp.may_refuse(asker, at).then_some(Reply::Refused);
        }
        if at.as_secs() != self.second {
            self.last = if at.as_secs() == self.second + 1 { self.given } else { 0 };
            (self.second, self.given) = (at.as_secs(), 0);
        }
        self.given += 1;
        let rate = self.last;
        Some(Reply::Answered(match self.kernel {
            true => Answerer::Kernel { rate },
            false => Answerer::Agent { rate },
        }))
    }

    /// Questions a second in a time, from one tenth of a second to another.
    fn rate(&self, from: usize, until: usize) -> f64 {
        let asked: u32 = self.asked[from..until].iter().sum();
        f64::from(asked) * 10.0 / (until - from) as f64
    }
}

impl Crowd {
    /// This many askers, which begin within a second.
    fn new(askers: usize, node: Node) -> Self {
        let began = Instant::now();
        let mut crowd =
            Self { askers: Vec::new(), agenda: BinaryHeap::new(), node, nonces: 1, began };
        for asker in 0..askers {
            let from = began
                + Duration::from_secs(1) * u32::try_from(asker).unwrap()
                    / u32::try_from(askers).unwrap();
            let mut prober = Prober::new(name("a"), from);
            prober.set_targets(&name("b"), &[target(2, 1, true)], from);
            crowd.askers.push(prober);
            crowd.agenda.push(Reverse((from, asker)));
        }
        crowd
    }

    fn run(&mut self, until: Duration) {
        let until = self.began + until;
        while let Some(Reverse((now, asker))) = self.agenda.peek().copied()
            && now < until
        {
            self.agenda.pop();
            let nonces = &mut self.nonces;
            let prober = &mut self.askers[asker];
            let nonce = || {
                // Random enough, and the same each time (xorshift).
                *nonces ^= *nonces << 13;
                *nonces ^= *nonces >> 7;
                *nonces ^= *nonces << 17;
                *nonces
            };
            for question in prober.due(now, nonce) {
                if let Some(reply) = self.node.reply(asker, now - self.began) {
                    prober.replied(question.probe, reply, now);
                }
            }
            let next = prober.next_timeout().unwrap().max(now + millis(1));
            self.agenda.push(Reverse((next, asker)));
        }
    }

    fn deaths(&self) -> u64 {
        self.askers.iter().map(|prober| prober.report().counts.deaths).sum()
    }

    fn detection(&self) -> Duration {
        self.askers.iter().map(|prober| prober.report().detection).max().unwrap()
    }
}

/// From 2,400 addresses, while the node's agent is away for 6 s. Where the node's kernel does not answer, its
/// port-unreachable messages are not enough for all: that is how it was.
#[test]
fn no_asker_takes_a_node_for_dead_whose_agent_restarts() {
    let away = || millis(6_000)..millis(12_000);
    let mut crowd = Crowd::new(2_400, Node::new(true, away()));
    crowd.run(millis(14_000));
    assert_eq!(crowd.deaths(), 0);
    let mut without = Crowd::new(2_400, Node::new(false, away()));
    without.run(millis(14_000));
    assert!(without.deaths() > 1_000, "{}", without.deaths());
}

#[test]
fn all_askers_together_come_to_ten_thousand_a_second() {
    let mut crowd = Crowd::new(25_000, Node::new(true, Duration::ZERO..Duration::ZERO));
    crowd.run(millis(15_000));
    assert!(crowd.node.rate(5, 15) > 50_000.0, "they begin as fast as they may");
    // In the time in which each asks once.
    for from in 50..125 {
        let rate = crowd.node.rate(from, from + 25);
        assert!(rate <= 10_000.0, "{rate} at {from}");
    }
    let rate = crowd.node.rate(100, 150);
    assert!(rate >= 9_000.0, "and no less: {rate}");
    // At moments of their own: no tenth of a second has much more than its part.
    for from in 100..150 {
        let rate = crowd.node.rate(from, from + 1);
        assert!(rate <= 13_000.0, "{rate} at {from}");
    }
    assert_eq!((crowd.deaths(), crowd.detection()), (0, millis(3_100)));
}

/// The detection time in status, by the number of askers.
#[test]
fn detection_takes_longer_where_many_ask() {
    for (askers, longest) in [(100, 400), (1_000, 500), (3_500, 1_000)] {
        let mut crowd = Crowd::new(askers, Node::new(true, Duration::ZERO..Duration::ZERO));
        crowd.run(millis(15_000));
        let detection = crowd.detection();
        assert!(detection <= millis(longest), "{askers}: {detection:?}");
        let rate = crowd.node.rate(100, 150);
        assert!(rate <= 10_000.0, "{askers}: {rate}");
    }
}

/// It reports that it answered none, and is not flooded for that.
#[test]
fn a_node_that_was_cut_off_is_not_flooded_when_it_is_back() {
    let mut crowd = Crowd::new(5_000, Node::new(true, Duration::ZERO..Duration::ZERO));
    crowd.node.cut = millis(10_000)..millis(20_000);
    crowd.run(millis(35_000));
    let rate = |second: usize| crowd.node.rate(second * 10, second * 10 + 10);
    assert_eq!(rate(15), 0.0);
    for second in 20..35 {
        let most = if second < 22 { 25_000.0 } else { 12_500.0 };
        assert!(rate(second) <= most, "{} in {second}", rate(second));
    }
}
