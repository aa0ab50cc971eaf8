use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::{
    fake::FakeEtcd,
    machine::{KeyRange, ListError, WatchId},
};

const DATA: RangeId = RangeId(7);

fn configs() -> (Vec<RangeConfig>, RangeConfig) {
    let head = RangeConfig {
        id: RangeId(0),
        span: KeyRange::prefix("head/"),
        page: 2,
        names_history: false,
    };
    (
        vec![head],
        RangeConfig { id: DATA, span: KeyRange::prefix("data/"), page: 3, names_history: false },
    )
}

/// Answers everything, also the lists that wait for their turn.
fn settle(etcd: &mut FakeEtcd, follower: &mut Follower, now: &mut Instant) {
    etcd.settle(follower, now);
    while let Some(at) = follower.next_timeout() {
        *now = at.max(*now);
        etcd.settle(follower, now);
    }
}

/// What a reader makes of the events.
#[derive(Default)]
struct Local {
    keys: BTreeMap<Vec<u8>, (Vec<u8>, u32)>,
    round: u32,
    listed: bool,
    begins: u32,
    too_large: Vec<Vec<u8>>,
}

impl Local {
    fn take(&mut self, follower: &mut Follower) {
        for event in follower.take_events() {
            match event {
                Event::Begin(DATA) => {
                    self.round += 1;
                    self.begins += 1;
                }
                Event::Put(DATA, kv) => {
                    self.keys.insert(kv.key, (kv.value, self.round));
                }
                Event::TooLarge(DATA, key) => {
                    if let Some((_, round)) = self.keys.get_mut(&key) {
                        *round = self.round;
                    }
                    self.too_large.push(key);
                }
                Event::Delete(DATA, key, _) => {
                    self.keys.remove(&key);
                }
                Event::Done(DATA, _) => {
                    self.keys.retain(|_, (_, round)| *round == self.round);
                    self.listed = true;
                }
                _ => {}
            }
        }
    }

    fn values(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        self.keys.iter().map(|(key, (value, _))| (key.clone(), value.clone())).collect()
    }
}

fn remote(etcd: &FakeEtcd) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let all = etcd.all(&configs().1.span, etcd.revision);
    all.into_iter().map(|kv| (kv.key, kv.value)).collect()
}

fn follower(now: Instant) -> Follower {
    let (head, data) = configs();
    let mut follower = Follower::new(head, 1, now);
    follower.follow(vec![data]);
    follower
}

fn settled(etcd: &mut FakeEtcd, now: &mut Instant) -> (Follower, Local) {
    let mut follower = follower(*now);
    let mut local = Local::default();
    etcd.settle(&mut follower, now);
    local.take(&mut follower);
    (follower, local)
}

#[test]
fn the_same_history_is_resumed_and_not_listed() {
    let (mut etcd, mut now) = (FakeEtcd::new(1), Instant::now());
    etcd.put("head/a", "");
    (0..10).for_each(|n| etcd.put(&format!("data/{n}"), "v"));
    let (mut follower, mut local) = settled(&mut etcd, &mut now);
    assert_eq!(local.values(), remote(&etcd));

    etcd.cut(&mut follower, now);
    etcd.put("data/new", "v");
    etcd.delete("data/3");
    etcd.put("head/a", "again");
    etcd.settle(&mut follower, &mut now);
    local.take(&mut follower);
    assert_eq!((local.values(), local.begins), (remote(&etcd), 1));
    assert_eq!(follower.status().reconnects, 1);
}

#[test]
fn another_history_is_listed() {
    for (id, shorter) in [(1, true), (1, false), (2, true), (2, false)] {
        let (mut etcd, mut now) = (FakeEtcd::new(1), Instant::now());
        etcd.put("head/a", "");
        (0..10).for_each(|n| etcd.put(&format!("data/{n}"), "v"));
        let (mut follower, mut local) = settled(&mut etcd, &mut now);

        etcd.cut(&mut follower, now);
        etcd.restart(id);
        // Created later than in the other history.
        etcd.put("other", "");
        etcd.put("head/a", "");
        (0..if shorter { 1 } else { 50 }).for_each(|n| etcd.put(&format!("data/{n}"), "w"));
        etcd.settle(&mut follower, &mut now);
        local.take(&mut follower);
        assert_eq!((local.values(), local.begins), (remote(&etcd), 2), "{id} {shorter}");
    }
}

#[test]
fn compaction_while_away_lists_once_more() {
    let (mut etcd, mut now) = (FakeEtcd::new(1), Instant::now());
    etcd.put("head/a", "");
    etcd.put("data/1", "v");
    let (mut follower, mut local) = settled(&mut etcd, &mut now);
    etcd.cut(&mut follower, now);
    etcd.delete("data/1");
    etcd.put("data/2", "v");
    etcd.compact();
    etcd.settle(&mut follower, &mut now);
    local.take(&mut follower);
    assert_eq!((local.values(), local.begins), (remote(&etcd), 2));
}

#[test]
fn compaction_in_the_middle_of_a_list_begins_it_again() {
    let (mut etcd, mut now) = (FakeEtcd::new(1), Instant::now());
    (0..10).for_each(|n| etcd.put(&format!("data/{n}"), "v"));
    let (mut follower, mut local) = (follower(now), Local::default());
    // The first page of the data.
    while local.keys.is_empty() {
        etcd.answer(&mut follower, now, 0);
        local.take(&mut follower);
    }
    assert!(!local.listed);
    etcd.delete("data/0");
    etcd.put("data/9", "w");
    etcd.compact();
    etcd.settle(&mut follower, &mut now);
    local.take(&mut follower);
    assert_eq!((local.values(), local.begins), (remote(&etcd), 2));
}

#[test]
fn compaction_in_the_middle_of_a_watch_lists_once_more() {
    let (mut etcd, mut now) = (FakeEtcd::new(1), Instant::now());
    etcd.put("data/1", "v");
    etcd.put("data/2", "v");
    let (mut follower, mut local) = settled(&mut etcd, &mut now);
    // The connection is up; what was not delivered yet is compacted away, a deletion among it.
    etcd.put("data/3", "v");
    etcd.delete("data/1");
    etcd.put("data/4", "v");
    etcd.compact();
    etcd.settle(&mut follower, &mut now);
    local.take(&mut follower);
    assert_eq!((local.values(), local.begins), (remote(&etcd), 2));
    assert_eq!(follower.status().reconnects, 0);
}

#[test]
fn progress_saves_a_list() {
    let (mut etcd, mut now) = (FakeEtcd::new(1), Instant::now());
    etcd.put("data/1", "v");
    let (mut follower, mut local) = settled(&mut etcd, &mut now);
    // Nothing of ours, but a note that it was nothing.
    (0..100).for_each(|_| etcd.put("elsewhere", ""));
    etcd.settle(&mut follower, &mut now);
    etcd.compact();
    etcd.cut(&mut follower, now);
    etcd.settle(&mut follower, &mut now);
    local.take(&mut follower);
    assert_eq!((local.values(), local.begins), (remote(&etcd), 1), "it goes on after the note");
}

#[test]
fn a_value_too_large_is_named_and_hides_no_other() {
    let (mut etcd, mut now) = (FakeEtcd::new(1), Instant::now());
    etcd.page_bytes = 50;
    for n in 0..9 {
        etcd.put(&format!("data/{n}"), &"x".repeat(if n == 4 { 51 } else { 20 }));
    }
    let (_, local) = settled(&mut etcd, &mut now);
    assert_eq!(local.too_large, [b"data/4"]);
    assert_eq!(local.keys.len(), 8);
}

#[test]
fn fragments_of_a_revision_are_not_lost_between_connections() {
    let (mut etcd, mut now) = (FakeEtcd::new(1), Instant::now());
    etcd.fragments = true;
    let (mut follower, mut local) = settled(&mut etcd, &mut now);
    etcd.change(&[("data/1", Some("v")), ("data/2", Some("v")), ("data/3", Some("v"))]);
    // One of the three arrives before the cut.
    while !local.keys.contains_key(b"data/1".as_slice()) {
        etcd.answer(&mut follower, now, 0);
        local.take(&mut follower);
    }
    assert_eq!(local.keys.len(), 1);
    etcd.cut(&mut follower, now);
    etcd.settle(&mut follower, &mut now);
    local.take(&mut follower);
    assert_eq!((local.keys.len(), local.begins), (3, 1));
}

#[test]
fn an_etcd_that_contradicts_itself_is_left() {
    let now = Instant::now();
    let kv = |key: &str| KeyValue {
        key: key.into(),
        value: Vec::new(),
        create_revision: 2,
        mod_revision: 2,
    };
    let header = |cluster_id| Header { cluster_id, revision: 2 };
    let lies: [(Header, Vec<KeyValue>, bool, &str); 5] = [
        (header(0), vec![], false, "names no cluster ID"),
        (header(1), vec![kv("other/1")], false, "not asked for"),
        (header(1), vec![kv("head/2"), kv("head/1")], false, "out of order"),
        (header(1), vec![kv("head/1"), kv("head/1")], false, "out of order"),
        (header(1), vec![], true, "an empty page"),
    ];
    for (header, keys, more, says) in lies {
        let mut follower = follower(now);
        assert_eq!(follower.poll(now), Some(Action::Connect));
        follower.handle(now, Input::Connected);
        let Some(Action::List { request, .. }) = follower.poll(now) else { panic!("no list") };
        follower.handle(now, Input::Page { request, header, keys, more });
        assert_eq!(follower.poll(now), Some(Action::Disconnect), "{says}");
        assert_eq!(follower.poll(now), None);
        let failure = follower.status().failure.clone().unwrap();
        assert!(failure.reason.contains(says), "{failure}");
        assert!(follower.next_timeout().unwrap() > now);
    }
    // Two answers from two etcds on one connection.
    let mut follower = follower(now);
    assert_eq!(follower.poll(now), Some(Action::Connect));
    follower.handle(now, Input::Connected);
    let Some(Action::List { request, .. }) = follower.poll(now) else { panic!("no list") };
    follower.handle(
        now,
        Input::Page { request, header: header(1), keys: vec![kv("head/1")], more: true },
    );
    let Some(Action::List { request, .. }) = follower.poll(now) else { panic!("no list") };
    follower.handle(now, Input::Page { request, header: header(2), keys: vec![], more: false });
    assert_eq!(follower.poll(now), Some(Action::Disconnect));
}

#[test]
fn waits_grow_and_differ_between_readers() {
    let waits = |seed| {
        let mut now = Instant::now();
        let mut follower = Follower::new(configs().0, seed, now);
        let mut waits = Vec::new();
        for _ in 0..12 {
            assert_eq!(follower.poll(now), Some(Action::Connect));
            follower
                .handle(now, Input::Disconnected(Failure::new(ConnectionPhase::Tcp, "refused")));
            let until = follower.next_timeout().unwrap();
            waits.push(until - now);
            assert_eq!(follower.poll(now), None);
            now = until;
        }
        waits
    };
    let (one, two) = (waits(1), waits(2));
    assert_ne!(one, two);
    let Policy { first, longest } = Policy::CONNECTION;
    assert!(one[0] <= 2 * first && one[11] >= longest / 2 && one[11] <= longest, "{one:?}");
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8),
    Delete(u8),
    Several(Vec<(u8, Option<u8>)>),
    Compact,
    Cut,
    Restart(u64),
    Answer(usize),
    Relist,
    Wait,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = 0u8..12;
    let step = prop_oneof![
        8 => (key.clone(), any::<u8>()).prop_map(|(k, v)| Step::Put(k, v)),
        4 => key.clone().prop_map(Step::Delete),
        2 => prop::collection::vec((key, any::<Option<u8>>()), 1..5).prop_map(Step::Several),
        2 => Just(Step::Compact),
        2 => Just(Step::Cut),
        1 => (1u64..3).prop_map(Step::Restart),
        20 => any::<usize>().prop_map(Step::Answer),
        1 => Just(Step::Relist),
        3 => Just(Step::Wait),
    ];
    prop::collection::vec(step, 0..150)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever happens on the way, in the end the reader has what the etcd has; and on the way it never holds a value
    /// that was not written.
    #[test]
    fn local_becomes_remote(steps in steps(), fragments: bool, page_bytes in 1usize..6) {
        let mut now = Instant::now();
        let mut etcd = FakeEtcd::new(1);
        etcd.fragments = fragments;
        etcd.page_bytes = page_bytes;
        etcd.put("head/a", "");
        let mut follower = follower(now);
        let mut local = Local::default();
        let key = |n: u8| format!("data/{n:02}");
        let value = |n: u8| (n % 10).to_string();
        let mut written = std::collections::BTreeSet::new();
        let mut restarts = 0;
        for step in steps {
            match step {
                Step::Put(k, v) => {
                    written.insert((key(k).into_bytes(), value(v).into_bytes()));
                    etcd.put(&key(k), &value(v));
                }
                Step::Delete(k) => etcd.delete(&key(k)),
                Step::Several(changes) => {
                    let changes: BTreeMap<String, Option<String>> =
                        changes.into_iter().map(|(k, v)| (key(k), v.map(value))).collect();
                    written.extend(changes.iter().filter_map(|(k, v)| {
                        Some((k.clone().into_bytes(), v.clone()?.into_bytes()))
                    }));
                    let changes: Vec<_> = changes.iter().map(|(k, v)| (k.as_str(), v.as_deref())).collect();
                    etcd.change(&changes);
                }
                Step::Compact => etcd.compact(),
                Step::Cut => etcd.cut(&mut follower, now),
                Step::Restart(id) => {
                    etcd.cut(&mut follower, now);
                    etcd.restart(id);
                    etcd.fragments = fragments;
                    // The head's keys are created elsewhere than before, or nothing could distinguish the two.
                    restarts += 1;
                    (0..restarts).for_each(|_| etcd.put("other", ""));
                    etcd.put("head/a", "");
                }
                Step::Answer(choice) => {
                    etcd.answer(&mut follower, now, choice);
                }
                Step::Relist => follower.relist(DATA),
                Step::Wait => now += Duration::from_secs(20),
            }
            local.take(&mut follower);
            for (key, value) in local.values() {
                prop_assert!(written.contains(&(key, value)));
            }
        }
        settle(&mut etcd, &mut follower, &mut now);
        local.take(&mut follower);
        prop_assert!(local.listed);
        prop_assert_eq!(local.values(), remote(&etcd));
    }
}

/// Answers the head of whatever connection there is, and refuses everything else by `refuse`.
fn connections_in_a_minute(refuse: impl Fn(&Action) -> Option<Input>) -> usize {
    let mut now = Instant::now();
    let end = now + Duration::from_secs(60);
    let mut follower = follower(now);
    let header = Header { cluster_id: 1, revision: 2 };
    let mut connections = 0;
    while now < end {
        while let Some(action) = follower.poll(now) {
            if let Some(input) = refuse(&action) {
                follower.handle(now, input);
                continue;
            }
            match action {
                Action::Connect => {
                    connections += 1;
                    follower.handle(now, Input::Connected);
                }
                Action::List { request, .. } => {
                    let input = Input::Page { request, header, keys: Vec::new(), more: false };
                    follower.handle(now, input);
                }
                Action::Watch { watch, .. } => follower.handle(now, Input::Watching(watch)),
                Action::CancelWatch(_) | Action::Disconnect => {}
            }
        }
        now += Duration::from_millis(10);
    }
    connections
}

#[test]
fn a_connection_is_of_use_when_all_ranges_are_watched() {
    let data = |span: &KeyRange| span.start.starts_with(b"data");
    let error = || ListError::Broken("etcdserver: too many requests".into());
    let lists = connections_in_a_minute(|action| match action {
        Action::List { request, span, .. } if data(span) => {
            Some(Input::ListFailed { request: *request, error: error() })
        }
        _ => None,
    });
    // Newer etcds do not report which watch they refuse.
    let refused = |watch| Input::Canceled {
        watch,
        compacted: false,
        reason: "rpc error: code = PermissionDenied desc = etcdserver: permission denied".into(),
    };
    let watches = [WatchId(-1), WatchId(3)].map(|id| {
        connections_in_a_minute(move |action| match action {
            Action::Watch { watch, span, .. } if data(span) => {
                Some(refused(if id.0 < 0 { id } else { *watch }))
            }
            _ => None,
        })
    });
    // With pauses of at most ten seconds that double from 50 ms.
    for connections in [lists, watches[0], watches[1]] {
        assert!((8..=20).contains(&connections), "{connections} in a minute");
    }
    assert_eq!(connections_in_a_minute(|_| None), 1);
}

#[test]
fn a_connection_that_was_of_use_is_made_again_at_once() {
    let (mut etcd, mut now) = (FakeEtcd::new(1), Instant::now());
    let (mut follower, _) = settled(&mut etcd, &mut now);
    for _ in 0..20 {
        etcd.cut(&mut follower, now);
        let pause = follower.next_timeout().unwrap() - now;
        assert!(pause <= 2 * Policy::CONNECTION.first, "{pause:?}");
        etcd.settle(&mut follower, &mut now);
    }
}

#[test]
fn the_head_has_bounds() {
    for (keys, refused) in [(1_024, false), (1_025, true)] {
        let (mut etcd, mut now) = (FakeEtcd::new(1), Instant::now());
        (0..keys).for_each(|n| etcd.put(&format!("head/{n}"), ""));
        let mut follower = follower(now);
        let mut failed = false;
        for _ in 0..1_000 {
            now += Duration::from_millis(100);
            etcd.answer(&mut follower, now, 0);
            let failure = follower.status().failure.as_ref();
            failed |= failure.is_some_and(|f| f.reason.contains("more than 1024 canaries"));
        }
        assert_eq!(failed, refused, "{keys}");
    }
    // By a watch too.
    let (mut etcd, mut now) = (FakeEtcd::new(1), Instant::now());
    let (mut follower, _) = settled(&mut etcd, &mut now);
    let keys: Vec<String> = (0..1_025).map(|n| format!("head/{n}")).collect();
    etcd.change(&keys.iter().map(|key| (key.as_str(), Some(""))).collect::<Vec<_>>());
    while etcd.answer(&mut follower, now, 0) {}
    assert!(!follower.status().connected);
}

#[test]
fn an_etcd_cannot_have_its_readers_list_without_pause() {
    let (mut etcd, mut now) = (FakeEtcd::new(1), Instant::now());
    etcd.put("head/a", "");
    (0..10).for_each(|n| etcd.put(&format!("data/{n}"), "v"));
    etcd.counted.0 = b"data/".to_vec();
    let (mut follower, mut local) = settled(&mut etcd, &mut now);
    let lists = etcd.counted.1;
    // Compacted away in front of the reader, and another history each time.
    for turn in 0..600 {
        now += Duration::from_millis(100);
        match turn % 3 {
            0 => {
                etcd.put("data/1", "w");
                etcd.compact();
            }
            1 => etcd.cut(&mut follower, now),
            _ => etcd.put("head/a", &turn.to_string()),
        }
        if turn % 10 == 0 {
            etcd.delete("head/a");
            etcd.put("head/a", "");
        }
        while etcd.answer(&mut follower, now, 0) {}
        local.take(&mut follower);
    }
    let lists = etcd.counted.1 - lists;
    assert!((6..=12).contains(&lists), "{lists} lists in a minute");
    // It is not forgotten: the last list comes when it may.
    etcd.pass(&mut follower, &mut now, Duration::from_secs(10));
    local.take(&mut follower);
    assert_eq!(local.values(), remote(&etcd));
}

#[test]
fn one_range_is_listed_at_a_time() {
    let (mut etcd, mut now) = (FakeEtcd::new(1), Instant::now());
    (0..10).for_each(|n| etcd.put(&format!("data/{n}"), "v"));
    (0..10).for_each(|n| etcd.put(&format!("other/{n}"), "v"));
    let (head, data) = configs();
    let other = RangeConfig { id: RangeId(9), span: KeyRange::prefix("other/"), ..data.clone() };
    let (mut follower, mut local) = (Follower::new(head, 1, now), Local::default());
    follower.follow(vec![data, other]);
    let mut most = 0;
    while etcd.answer(&mut follower, now, 0) {
        let listing = follower.ranges.iter().filter(|range| !range.head && range.is_listing());
        most = most.max(listing.count());
    }
    assert_eq!(most, 1);
    etcd.settle(&mut follower, &mut now);
    local.take(&mut follower);
    assert_eq!(local.values(), remote(&etcd));
    assert!(follower.ranges.iter().all(Range::is_watched));
}

#[test]
fn a_list_that_waits_for_its_turn_is_made() {
    let (mut etcd, mut now) = (FakeEtcd::new(1), Instant::now());
    etcd.put("data/00", "0");
    let (mut follower, mut local) = settled(&mut etcd, &mut now);
    // As many lists as may follow one another at once.
    for _ in 0..pace::BURST {
        follower.relist(DATA);
        while etcd.answer(&mut follower, now, 0) {}
    }
    etcd.cut(&mut follower, now);
    etcd.restart(1);
    etcd.put("other", "");
    etcd.put("head/a", "");
    etcd.settle(&mut follower, &mut now);
    local.take(&mut follower);
    assert_ne!(local.values(), remote(&etcd), "its list waits");
    settle(&mut etcd, &mut follower, &mut now);
    local.take(&mut follower);
    assert_eq!(local.values(), remote(&etcd));
}
