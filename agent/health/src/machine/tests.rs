use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use mesh_model::{ClusterId, Protocol};

use super::*;
use crate::{order::EtcdLink, question::Answerer, targets::Target, verdict::Ending};

/// A mesh of clusters a (the local one), b and c, and an agent that asks them.
struct World {
    machine: Machine,
    now: Instant,
    began: Instant,
    answers: Box<Network>,
    etcds: BTreeMap<ClusterName, Arc<Mutex<EtcdOf>>>,
    kernel: Arc<Mutex<Vec<(u16, bool)>>>,
    nonces: u64,
    on_their_way: Vec<(Instant, Probe)>,
    /// What was reported, as words.
    words: Vec<(Duration, String)>,
    /// When a word was written.
    written: Vec<(Duration, u16, bool)>,
}

/// Whether a cluster's nodes and etcd answer at a time.
type Network = dyn Fn(&str, Duration) -> bool;

#[derive(Debug, Default)]
struct EtcdOf {
    state: EtcdState,
    asked: Option<Instant>,
    questions: u64,
}

#[derive(Debug)]
struct Link(Arc<Mutex<EtcdOf>>);

struct Words(Arc<Mutex<Vec<(u16, bool)>>>);

impl EtcdLink for Link {
    fn state(&self) -> EtcdState {
        self.0.lock().unwrap().state
    }

    fn ask(&self) -> bool {
        let mut etcd = self.0.lock().unwrap();
        etcd.asked.get_or_insert(Instant::now());
        etcd.questions += 1;
        true
    }
}

impl PeerStates for Words {
    fn cut(&self) -> Vec<ClusterId> {
        let mut cut = BTreeSet::new();
        for (id, is_cut) in &*self.0.lock().unwrap() {
            if *is_cut {
                cut.insert(*id)
            } else {
                cut.remove(id)
            };
        }
        cut.into_iter().map(|number| id(number.into())).collect()
    }

    fn set_cut(&mut self, cluster: ClusterId, cut: bool) {
        self.0.lock().unwrap().push((cluster.get(), cut));
    }
}

const ROUND_TRIP: Duration = Duration::from_millis(1);
const STEP: Duration = Duration::from_millis(1);

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn name(cluster: &str) -> ClusterName {
    ClusterName::new(cluster).unwrap()
}

fn id(number: u32) -> ClusterId {
    ClusterId::from_wire(number).unwrap()
}

fn number(cluster: &str) -> u8 {
    cluster.as_bytes()[0] - b'a' + 1
}

fn cluster_of(probe: Probe) -> String {
    let octets = probe.address.to_string();
    let number: u8 = octets.split('.').nth(2).unwrap().parse().unwrap();
    char::from(b'a' + number - 1).to_string()
}

fn ids(of: &[(&str, u32)]) -> Order {
    let ids = of.iter().map(|(cluster, number)| (name(cluster), id(*number))).collect();
    Order::Clusters { ids, all: true }
}

impl World {
    /// Three nodes a cluster, which are asked at moments of their own: `phase` shifts them.
    fn new(phase: u64, answers: impl Fn(&str, Duration) -> bool + 'static) -> Self {
        let now = Instant::now();
        let kernel = Arc::default();
        let mut machine = Machine::new(name("a"), EndingPolicy::default(), now);
        machine.order(Order::States(Box::new(Words(Arc::clone(&kernel)))), now);
        machine.order(ids(&[("a", 1), ("b", 2), ("c", 3)]), now);
        let mut world = Self {
            machine,
            now,
            began: now,
            answers: Box::new(answers),
            etcds: BTreeMap::new(),
            kernel,
            nonces: 0,
            on_their_way: Vec::new(),
            words: Vec::new(),
            written: Vec::new(),
        };
        for (turn, cluster) in (0..).zip(["a", "b", "c"]) {
            let etcd = Arc::<Mutex<EtcdOf>>::default();
            etcd.lock().unwrap().state.connected = true;
            let link = Box::new(Link(Arc::clone(&etcd)));
            world.etcds.insert(name(cluster), etcd);
            world.machine.order(Order::Follow(name(cluster), link), world.now);
            for nodes in 1..=3 {
                let target = |n: u8| Target {
                    node: format!("n{n}").into(),
                    addresses: vec![[172, 31, number(cluster), n].into()],
                    in_use: true,
                };
                let targets = (1..=nodes).map(target).collect();
                world.machine.order(Order::Probe(name(cluster), targets), world.now);
                let pause = (phase * 7 + turn * 13 + u64::from(nodes) * 29) % 97;
                world.run_for(millis(pause));
            }
        }
        world
    }

    fn at(&self) -> Duration {
        self.now - self.began
    }

    fn run_for(&mut self, length: Duration) {
        self.run(self.at() + length);
    }

    fn run(&mut self, until: Duration) {
        while self.at() < until {
            let at = self.at();
            for (cluster, etcd) in &self.etcds {
                let mut etcd = etcd.lock().unwrap();
                if etcd.asked.take().is_some() && (self.answers)(cluster.as_str(), at) {
                    etcd.state.answers += 1;
                }
            }
            let (machine, now) = (&mut self.machine, self.now);
            let mut arrived = false;
            self.on_their_way.retain(|(arrives, probe)| {
                let is_there = *arrives <= now;
                if is_there {
                    machine.reply(*probe, Reply::Answered(Answerer::Kernel { rate: 1 }), now);
                }
                arrived |= is_there;
                !is_there
            });
            if arrived || self.machine.next_timeout().is_some_and(|due| due <= now) {
                let nonces = &mut self.nonces;
                let nonce = || {
                    *nonces += 1;
                    *nonces
                };
                for question in self.machine.due(now, nonce) {
                    if (self.answers)(&cluster_of(question.probe), at) {
                        self.on_their_way.push((now + ROUND_TRIP, question.probe));
                    }
                }
            }
            self.note(at);
            self.now += STEP;
        }
    }

    fn note(&mut self, at: Duration) {
        let writes = self.kernel.lock().unwrap();
        let known = self.written.len();
        self.written.extend(writes[known..].iter().map(|(id, cut)| (at, *id, *cut)));
        drop(writes);
        for verdict in self.machine.take_verdicts() {
            let of = |scope: &Scope| match scope {
                Scope::Cluster(cluster) => cluster.to_string(),
                Scope::Node { cluster, node, .. } => format!("{cluster}/{node}"),
            };
            let word = match verdict {
                Verdict::Sockets(Ending::End { scope, protocol }) => {
                    let protocol = if protocol == Protocol::Tcp { "tcp" } else { "udp" };
                    format!("end {protocol} {}", of(&scope))
                }
                Verdict::Sockets(Ending::Spare { scope }) => format!("spare {}", of(&scope)),
                Verdict::Cluster { cluster, cut, .. } => {
                    format!("{cluster} {}", if cut { "cut" } else { "healed" })
                }
                Verdict::Node { cluster, node, alive, .. } => {
                    format!("{cluster}/{node} {}", if alive { "back" } else { "dead" })
                }
                Verdict::Unverified { cluster, node, .. } => format!("{cluster}/{node} unverified"),
            };
            self.words.push((at, word));
        }
    }

    fn reported(&self) -> Vec<&str> {
        self.words.iter().map(|(_, word)| word.as_str()).collect()
    }

    fn when(&self, word: &str) -> Duration {
        let found = self.words.iter().find(|(_, found)| found == word);
        found.unwrap_or_else(|| panic!("{word}: {:?}", self.words)).0
    }

    /// What the kernel has now.
    fn cut(&self) -> Vec<u16> {
        Words(Arc::clone(&self.kernel)).cut().into_iter().map(ClusterId::get).collect()
    }
}

/// From the moment at which nothing of a cluster answers any more to the write, whenever in its probes' intervals that is.
#[test]
fn a_cut_is_written_within_half_a_second() {
    let mut took: Vec<Duration> = (0..400)
        .map(|round| {
            let cut = millis(1_500 + round * 17 % 101);
            let mut world = World::new(round, move |cluster, at| cluster != "b" || at < cut);
            world.run(cut + millis(1_500));
            assert_eq!(world.reported(), ["b cut"]);
            assert_eq!(world.written.len(), 1, "one write");
            let (at, id, is_cut) = world.written[0];
            assert_eq!((id, is_cut), (2, true));
            assert_eq!(at, world.when("b cut"), "written before it is reported");
            at - cut
        })
        .collect();
    took.sort_unstable();
    let (p99, most) = (took[took.len() * 99 / 100], took[took.len() - 1]);
    assert!(p99 <= millis(500), "{p99:?}");
    assert!(most <= millis(1_000), "{most:?}");
}

/// Three blips of two seconds within two minutes: new connections leave each time, and nothing is ended, whatever
/// damping requires.
#[test]
fn three_blips_end_no_socket() {
    let blips = [5_000, 25_000, 45_000_u64];
    let is_out =
        move |at: Duration| blips.iter().any(|b| (millis(*b)..millis(b + 2_000)).contains(&at));
    let mut world = World::new(0, move |cluster, at| cluster != "b" || !is_out(at));
    world.run(millis(125_000));
    assert_eq!(world.reported(), ["b cut", "b healed", "b cut", "b healed", "b cut", "b healed"]);
    assert_eq!(world.machine.report().counts.damped, 6, "three nodes, twice");
    assert_eq!(world.cut(), [0; 0]);
}

#[test]
fn sockets_to_a_cut_cluster_end_when_nothing_has_answered_for_long() {
    let out = millis(5_000)..millis(30_000);
    let mut world = World::new(3, move |cluster, at| cluster != "b" || !out.contains(&at));
    world.run(millis(40_000));
    let words = world.reported();
    assert_eq!(words, ["b cut", "end udp b", "end tcp b", "spare b", "b healed"]);
    let since = |word: &str| world.when(word) - millis(5_000);
    // The last answer came up to an interval before; then its etcd is asked once more.
    assert!(
        since("end udp b") >= millis(2_900) && since("end udp b") <= millis(3_100),
        "{words:?}"
    );
    assert!(since("end tcp b") >= millis(14_900) && since("end tcp b") <= millis(15_600));
    assert!(world.when("spare b") <= millis(30_200), "at the first answer");
}

/// UDP alone, of the node alone: a TCP connection outlives that its node is busy.
#[test]
fn sockets_to_a_dead_node_end_over_udp() {
    let mut world = World::new(5, |_, _| true);
    world.run(millis(3_000));
    world.answers = Box::new(|cluster, _| cluster != "b");
    // Its etcd answers.
    let etcd = Arc::clone(&world.etcds[&name("b")]);
    for _ in 0..4_000 {
        world.run_for(millis(10));
        let mut etcd = etcd.lock().unwrap();
        etcd.state.answers = etcd.questions;
    }
    let mut words = world.reported();
    words.sort_unstable();
    let nodes = ["b/n1 dead", "b/n2 dead", "b/n3 dead"];
    assert_eq!(words, [&nodes[..], &["end udp b/n1", "end udp b/n2", "end udp b/n3"]].concat());
}

/// A cluster whose etcd answers where its nodes do not is not one whose connections are ended.
#[test]
fn an_etcds_answer_is_an_answer() {
    let mut world = World::new(5, |cluster, at| cluster != "b" || at < millis(3_000));
    world.run(millis(10_000));
    assert_eq!(world.reported(), ["b cut", "end udp b"]);
    let etcd = Arc::clone(&world.etcds[&name("b")]);
    for _ in 0..3_000 {
        world.run_for(millis(10));
        let mut etcd = etcd.lock().unwrap();
        etcd.state.answers = etcd.questions;
    }
    assert!(!world.reported().contains(&"end tcp b"), "{:?}", world.words);
}

/// Where nothing else answers either, it may be the local uplink, and TCP connections outlive that.
#[test]
fn where_nothing_else_answers_tcp_connections_stay() {
    let mut world = World::new(5, |cluster, at| match cluster {
        "b" => at < millis(3_000),
        _ => at < millis(8_000) || at >= millis(30_000),
    });
    world.run(millis(29_000));
    assert!(!world.reported().iter().any(|word| word.starts_with("end tcp")), "{:?}", world.words);
    world.run(millis(35_000));
    assert!(world.reported().contains(&"end tcp b"), "{:?}", world.words);
}

/// IDs become others' between a cluster's last answer and the write, and after it.
#[test]
fn ids_swap_while_a_cut_is_being_written() {
    let swapped = || ids(&[("a", 1), ("b", 3), ("c", 2)]);
    for swap in (0..700).step_by(20) {
        let mut world = World::new(swap, |cluster, at| cluster != "b" || at < millis(2_000));
        world.run(millis(2_000 + swap));
        let is_written = !world.written.is_empty();
        world.machine.order(swapped(), world.now);
        world.run(millis(4_000));
        assert_eq!(world.cut(), [3], "{swap}: b has ID 3 now");
        let words: Vec<(u16, bool)> =
            world.written.iter().map(|(_, id, cut)| (*id, *cut)).collect();
        match is_written {
            true => assert_eq!(words, [(2, true), (3, true), (2, false)]),
            false => assert_eq!(words, [(3, true)]),
        }
        // And back, while it heals.
        world.answers = Box::new(|_, _| true);
        world.run_for(millis(swap));
        world.machine.order(ids(&[("a", 1), ("b", 2), ("c", 3)]), world.now);
        world.run_for(millis(4_000));
        assert_eq!(world.cut(), [0; 0], "{swap}");
    }
}

#[test]
fn a_previous_runs_cut_lasts_until_the_cluster_answers() {
    let (kernel, now) = (Arc::new(Mutex::new(vec![(2, true), (9, true)])), Instant::now());
    let mut machine = Machine::new(name("a"), EndingPolicy::default(), now);
    machine.order(Order::States(Box::new(Words(Arc::clone(&kernel)))), now);
    assert_eq!(machine.take_verdicts(), []);
    let known = |all| Order::Clusters { ids: [(name("b"), id(2))].into(), all };
    machine.order(known(false), now);
    let cut = |cut| Verdict::Cluster { cluster: name("b"), cut, last_answer: None };
    assert_eq!(machine.take_verdicts(), [cut(true)], "the core must know");
    machine.order(known(true), now);
    assert_eq!(kernel.lock().unwrap().split_off(2), [(9, false)], "no cluster has that ID");
    machine.order(Order::Forget(name("b")), now);
    assert_eq!(machine.take_verdicts(), [cut(false)]);
    assert_eq!(kernel.lock().unwrap().split_off(2), [(2, false)]);
}

#[test]
fn an_audit_puts_right_what_another_wrote() {
    let mut world = World::new(0, |cluster, at| cluster != "b" || at < millis(1_000));
    world.run(millis(3_000));
    assert_eq!(world.cut(), [2]);
    world.kernel.lock().unwrap().extend([(2, false), (3, true)]);
    world.machine.order(Order::Audit, world.now);
    assert_eq!(world.cut(), [2]);
    let words = world.machine.report().words;
    assert_eq!((words.audits, words.repairs), (1, 2));
    world.machine.order(Order::Audit, world.now);
    let words = world.machine.report().words;
    assert_eq!((words.audits, words.repairs), (2, 2), "nothing is left to do");
    // The tables of another layout have the same.
    let other = Arc::default();
    world.machine.order(Order::States(Box::new(Words(Arc::clone(&other)))), world.now);
    assert_eq!(*other.lock().unwrap(), [(2, true)]);
}
