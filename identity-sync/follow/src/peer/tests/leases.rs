//! A lease that expired removes nothing: what was deleted with it stays until its writer confirms the deletion.
//!
//! As a Cilium 1.20.2 does it (recorded): all that it writes is attached to leases of 900 s, a thousand keys each. A
//! container that restarts puts everything on new leases, and the keys that it no longer has are deleted with the old
//! one. One that loses a lease notices with the next put on it, or when it keeps its leases alive, every 300 s.

use super::*;

/// Keys of the recording, and how many of them are on the first lease.
const KEYS: u32 = 1_507;
const FIRST_LEASE: u32 = 1_000;
const MINUTE: Duration = Duration::from_secs(60);

fn node_key(n: u32) -> String {
    format!("cilium/state/nodes/v1/alpha/n{n}")
}

fn records(range: std::ops::Range<u32>) -> BTreeSet<RecordKey> {
    range.map(|n| RecordKey::Node(format!("n{n}"))).collect()
}

/// A Cilium with so many nodes.
struct Cilium {
    etcd: FakeEtcd,
    follower: PeerFollower,
    local: Local,
    now: Instant,
    beats: u32,
}

impl Cilium {
    fn new() -> Self {
        let mut etcd = FakeEtcd::new(1);
        etcd.put(CONFIG_KEY, &config(7, ""));
        (0..KEYS).for_each(|n| etcd.put(&node_key(n), &node(&format!("n{n}"))));
        put_canaries(&mut etcd);
        let (follower, local, now) = settled(&mut etcd);
        assert!(follower.status().is_synced());
        Self { etcd, follower, local, now, beats: 0 }
    }

    /// A lease is gone, and these nodes with it, in one revision.
    fn lose(&mut self, nodes: impl Iterator<Item = u32>, others: &[String]) {
        let keys: Vec<String> = nodes.map(node_key).chain(others.iter().cloned()).collect();
        self.etcd.change(&keys.iter().map(|key| (key.as_str(), None)).collect::<Vec<_>>());
        self.take();
    }

    fn put(&mut self, nodes: impl Iterator<Item = u32>) {
        for n in nodes {
            self.etcd.put(&node_key(n), &node(&format!("n{n}")));
        }
        self.take();
    }

    /// A minute goes by, with a heartbeat at its end.
    fn beat(&mut self) {
        self.beats += 1;
        self.etcd.pass(&mut self.follower, &mut self.now, MINUTE);
        self.etcd.put(HEARTBEAT, &self.beats.to_string());
        self.take();
    }

    fn take(&mut self) {
        settle(&mut self.etcd, &mut self.follower, &mut self.local, &mut self.now);
    }

    fn known(&self) -> BTreeSet<RecordKey> {
        self.local.records.keys().cloned().collect()
    }

    fn held(&self) -> usize {
        self.follower.status().held
    }
}

#[test]
fn a_lost_lease_takes_nothing_along_that_lives() {
    let canaries: Vec<String> = COUNTED.iter().map(|kind| canary(*kind)).collect();
    for lost in [0..FIRST_LEASE, FIRST_LEASE..KEYS] {
        for canaries in [&canaries[..], &[]] {
            // Those that are put again last were there no more: an object had gone without its writer knowing.
            let dead = lost.end - 7..lost.end;
            for noticed_after in 0..5 {
                let mut cilium = Cilium::new();
                cilium.lose(lost.clone(), canaries);
                assert_eq!(cilium.known(), records(0..KEYS));
                assert_eq!(cilium.held(), lost.len());
                assert_eq!(cilium.local.doubted, records(lost.clone()));
                (0..noticed_after).for_each(|_| cilium.beat());
                assert_eq!(cilium.known(), records(0..KEYS));
                // It notices, and puts what it has again, a half before the other.
                let half = lost.start + 200;
                cilium.put(lost.start..half);
                assert_eq!(cilium.known(), records(0..KEYS));
                cilium.beat();
                cilium.put(half..dead.start);
                assert_eq!((cilium.known(), cilium.held()), (records(0..KEYS), 7));
                assert_eq!(cilium.local.doubted, records(dead.clone()));
                let living: BTreeSet<RecordKey> =
                    records(0..KEYS).difference(&records(dead.clone())).cloned().collect();
                if canaries.is_empty() {
                    for _ in 0..5 {
                        cilium.beat();
                        assert_eq!(cilium.known(), records(0..KEYS), "it is not sure yet");
                    }
                    cilium.beat();
                } else {
                    put_canaries(&mut cilium.etcd);
                    cilium.take();
                }
                assert_eq!(
                    (cilium.known(), cilium.held()),
                    (living, 0),
                    "{lost:?} {noticed_after}"
                );
                assert!(cilium.follower.status().is_synced());
            }
        }
    }
}

#[test]
fn what_a_restarted_container_has_no_more_goes_after_six_heartbeats() {
    let mut cilium = Cilium::new();
    // Quarter of an hour after the restart the old lease ends: two nodes of it had not been put again.
    cilium.lose(5..7, &[]);
    for beat in 0..6 {
        assert_eq!((cilium.known(), cilium.held()), (records(0..KEYS + beat), 2));
        assert!(!cilium.follower.status().is_synced());
        // Its run goes on: keys that are put again were not deleted.
        cilium.put(KEYS + beat..KEYS + beat + 1);
        cilium.beat();
    }
    let dead = records(5..7);
    let living: BTreeSet<RecordKey> = records(0..KEYS + 6).difference(&dead).cloned().collect();
    assert_eq!((cilium.known(), cilium.held()), (living, 0));
    assert!(cilium.follower.status().is_synced());
}

#[test]
fn a_writer_that_is_gone_loses_nothing() {
    let mut cilium = Cilium::new();
    let others: Vec<String> = COUNTED.iter().map(|kind| canary(*kind)).collect();
    cilium.lose(0..KEYS, &others);
    for _ in 0..24 * 60 {
        cilium.etcd.pass(&mut cilium.follower, &mut cilium.now, MINUTE);
        cilium.local.take(&mut cilium.follower);
    }
    // Nor over another connection.
    cilium.etcd.cut(&mut cilium.follower, cilium.now);
    cilium.take();
    assert_eq!((cilium.known(), cilium.held()), (records(0..KEYS), KEYS as usize));
    // Back again, it confirms its keys by its canaries.
    cilium.put(3..KEYS);
    assert_eq!(cilium.known(), records(0..KEYS));
    put_canaries(&mut cilium.etcd);
    cilium.take();
    assert_eq!((cilium.known(), cilium.held()), (records(3..KEYS), 0));
}

#[test]
fn what_went_by_unseen_may_have_been_a_lost_lease() {
    let mut cilium = Cilium::new();
    // While the reader is away a lease is lost, and the etcd forgets what happened.
    cilium.etcd.cut(&mut cilium.follower, cilium.now);
    let lost: Vec<String> = (0..500).map(node_key).collect();
    cilium.etcd.change(&lost.iter().map(|key| (key.as_str(), None)).collect::<Vec<_>>());
    cilium.etcd.compact();
    cilium.take();
    assert_eq!(cilium.known(), records(0..KEYS));
    (0..4).for_each(|_| cilium.beat());
    cilium.put(7..500);
    for _ in 0..2 {
        assert_eq!(cilium.known(), records(0..KEYS));
        cilium.beat();
    }
    assert_eq!(cilium.known(), records(7..KEYS));
    assert!(cilium.follower.status().is_synced());
}

#[test]
fn of_more_than_is_remembered_each_creation_may_be_one() {
    let mut etcd = FakeEtcd::new(1);
    etcd.put(CONFIG_KEY, &config(7, ""));
    (0..6_000).for_each(|n| etcd.put(&node_key(n), &node(&format!("n{n}"))));
    put_canaries(&mut etcd);
    let (follower, local, now) = settled(&mut etcd);
    let mut cilium = Cilium { etcd, follower, local, now, beats: 0 };
    cilium.lose(0..5_000, &[]);
    assert_eq!(cilium.held(), 4_096);
    (0..5).for_each(|_| cilium.beat());
    cilium.put(4_990..5_000);
    (0..5).for_each(|_| cilium.beat());
    assert_eq!(cilium.known().len(), 6_000);
    cilium.beat();
    println!(
        "{:?} {:?}",
        cilium.follower.status(),
        cilium.follower.next_timeout().map(|t| t - cilium.now)
    );
    println!("{:?}", cilium.follower.completeness);
    assert!((cilium.known(), cilium.held()) == (records(4_990..6_000), 0));
}

/// What may happen to a cluster on leases, and to its reader.
#[derive(Clone, Debug)]
enum Step {
    Put(u8),
    Delete(u8),
    /// A lease with these keys is lost. Its writer does not know yet, and of some of them the objects are gone.
    Lose(u16, u16),
    /// The writer notices.
    Notice(bool),
    Beat,
    Cut,
    Compact,
    Answer(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..16u8).prop_map(Step::Put),
        2 => (0..16u8).prop_map(Step::Delete),
        1 => any::<(u16, u16)>().prop_map(|(lost, dead)| Step::Lose(lost, dead)),
        1 => any::<bool>().prop_map(Step::Notice),
        4 => Just(Step::Beat),
        1 => Just(Step::Cut),
        1 => Just(Step::Compact),
        8 => any::<usize>().prop_map(Step::Answer),
    ];
    proptest::collection::vec(step, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    /// Whatever happens, nothing that its writer has is missing once it was known, and in the end all is as it has it.
    #[test]
    fn nothing_that_lives_is_removed(steps in steps()) {
        let mut etcd = FakeEtcd::new(1);
        let mut living: BTreeSet<u8> = (0..16).collect();
        etcd.put(CONFIG_KEY, &config(7, ""));
        let key = |n: u8| node_key(n.into());
        let put = |etcd: &mut FakeEtcd, n: u8| etcd.put(&key(n), &node(&format!("n{n}")));
        living.iter().for_each(|n| put(&mut etcd, *n));
        put_canaries(&mut etcd);
        let (mut follower, mut local, mut now) = settled(&mut etcd);
        // What the writer does not know to be gone from the etcd, and its heartbeats since.
        let mut lost: BTreeSet<u8> = BTreeSet::new();
        let mut beats = 0;
        // Removed by its own will at any time: a reader that lags may see that late.
        let mut removed: BTreeSet<u8> = BTreeSet::new();
        let number = |key: &RecordKey| match key {
            RecordKey::Node(name) => name[1..].parse::<u8>().unwrap(),
            other => panic!("{other:?}"),
        };
        let mut known: BTreeSet<u8> = living.clone();
        let notice = |etcd: &mut FakeEtcd, lost: &mut BTreeSet<u8>, living: &BTreeSet<u8>, canaries| {
            for n in std::mem::take(lost) {
                if living.contains(&n) {
                    etcd.put(&key(n), &node(&format!("n{n}")));
                }
            }
            if canaries {
                put_canaries(etcd);
            }
        };
        for step in steps {
            match step {
                Step::Put(n) => {
                    living.insert(n);
                    lost.remove(&n);
                    put(&mut etcd, n);
                }
                Step::Delete(n) => {
                    if living.remove(&n) {
                        removed.insert(n);
                    }
                    lost.remove(&n);
                    etcd.delete(&key(n));
                }
                // One loss at a time: two of which a reader that lags sees one are beyond it.
                Step::Lose(mask, dead) if lost.is_empty() && etcd.is_known() => {
                    let of = |mask: u16| (0..16).filter(move |n| mask & 1 << n != 0);
                    lost = of(mask).collect();
                    // One key alone is a deletion like any other.
                    if lost.len() < 2 {
                        lost.clear();
                        continue;
                    }
                    for n in of(dead).filter(|n| lost.contains(n)) {
                        living.remove(&n);
                        removed.insert(n);
                    }
                    let keys: Vec<String> = lost.iter().map(|n| key(*n)).collect();
                    etcd.change(&keys.iter().map(|key| (key.as_str(), None)).collect::<Vec<_>>());
                    beats = 0;
                }
                Step::Lose(..) => {}
                Step::Notice(canaries) => notice(&mut etcd, &mut lost, &living, canaries),
                Step::Beat => {
                    now += MINUTE;
                    etcd.take_actions(&mut follower, now);
                    beats += 1;
                    if beats >= 5 {
                        notice(&mut etcd, &mut lost, &living, false);
                    }
                    etcd.put(HEARTBEAT, "now");
                }
                Step::Cut => etcd.cut(&mut follower, now),
                Step::Compact => etcd.compact(),
                Step::Answer(choice) => {
                    now += Duration::from_millis(7);
                    etcd.answer(&mut follower, now, choice);
                }
            }
            local.take(&mut follower);
            let there: BTreeSet<u8> = local.records.keys().map(number).collect();
            for gone in known.difference(&there) {
                prop_assert!(removed.contains(gone), "n{gone} is gone, and its writer has it");
            }
            known = there;
        }
        notice(&mut etcd, &mut lost, &living, false);
        for _ in 0..8 {
            etcd.put(HEARTBEAT, "now");
            etcd.pass(&mut follower, &mut now, MINUTE);
            local.take(&mut follower);
        }
        let there: BTreeSet<u8> = local.records.keys().map(number).collect();
        prop_assert_eq!(there, living);
        prop_assert!(follower.status().is_synced(), "{:?}", follower.status());
    }
}
