//! Random streams of wants, failures, reports, audits and time, against models that share no code with the reconciler.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::{Duration, Instant},
};

use mesh_reconcile::{
    Action, Failure, Job, Order, Outcome, Reconciler, Relevance, Settings, Verb, Wanted,
};
use proptest::prelude::*;

/// One step of a stream; keys and values are small, so that streams meet themselves.
#[derive(Clone, Debug)]
enum Step {
    Want(u8, Option<u8>),
    Break(u8, Kind),
    Mend(u8),
    Report(u8),
    Freed(usize),
    /// Another program changes what is there.
    Drift(u8, Option<u8>),
    Audit,
    Advance(u64),
    Write(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Failed,
    NoRoom,
    Deferred,
}

const KEYS: u8 = 6;

/// A stream that fails is printed, and becomes a test by its own name.
fn config() -> ProptestConfig {
    ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() }
}
const POOL: &str = "cm_test";

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = 0..KEYS;
    let value = prop::option::weighted(0.7, 0..3_u8);
    let kind = prop_oneof![Just(Kind::Failed), Just(Kind::NoRoom), Just(Kind::Deferred)];
    let step = prop_oneof![
        4 => (key.clone(), value.clone()).prop_map(|(key, value)| Step::Want(key, value)),
        2 => (key.clone(), kind).prop_map(|(key, kind)| Step::Break(key, kind)),
        1 => key.clone().prop_map(Step::Mend),
        2 => key.clone().prop_map(Step::Report),
        1 => (1..3_usize).prop_map(Step::Freed),
        1 => (key, value).prop_map(|(key, value)| Step::Drift(key, value)),
        1 => Just(Step::Audit),
        3 => prop_oneof![0..400_u64, 0..20_000_u64, 0..400_000_u64].prop_map(Step::Advance),
        6 => (1..10_usize).prop_map(Step::Write),
    ];
    prop::collection::vec(step, 1..120)
}

/// What the model knows of a key: plain facts, in the words of the promise.
#[derive(Clone, Debug, Default)]
struct Fact {
    /// Something happened that calls for a write, and there was none since.
    called: bool,
    /// Failed attempts since its wanted value changed or its pauses were reset, and when the last one was.
    failures: u32,
    last_attempt: Option<Instant>,
    last_kind: Option<Kind>,
    last_reset: Option<Instant>,
    /// A repair of it was written, and then.
    repaired: Option<Instant>,
    /// It is being repaired; again within ten seconds, it waits for a pause.
    repairing: bool,
    again: bool,
    /// Room became free, perhaps for it.
    spared: bool,
}

struct World {
    now: Instant,
    reconciler: Reconciler<u8, u8>,
    wanted: HashMap<u8, Option<u8>>,
    actual: HashMap<u8, u8>,
    broken: HashMap<u8, Kind>,
    facts: BTreeMap<u8, Fact>,
}

struct WantedOf<'a>(&'a HashMap<u8, Option<u8>>);

impl Wanted<u8, u8> for WantedOf<'_> {
    fn wanted(&self, key: &u8) -> Option<u8> {
        self.0.get(key).copied().flatten()
    }

    fn may_prune(&self, key: &u8) -> bool {
        // Odd keys belong to what was not listed yet.
        key.is_multiple_of(2) || self.0.contains_key(key)
    }
}

impl Fact {
    /// Whether a pause since the last attempt may be over.
    fn may_be_due(&self, now: Instant) -> bool {
        self.last_attempt.is_some_and(|at| now - at >= shortest_pause(self.failures))
    }
}

/// The shortest pause that may follow so many failures in a row.
fn shortest_pause(failures: u32) -> Duration {
    let doubled = Duration::from_millis(100) * 2_u32.pow(failures.saturating_sub(1).min(20));
    doubled.min(Duration::from_secs(150))
}

impl World {
    fn new(seed: u64) -> Self {
        let reconciler = Reconciler::new(Settings { seed, ..Settings::default() });
        Self {
            now: Instant::now(),
            reconciler,
            wanted: HashMap::new(),
            actual: HashMap::new(),
            broken: HashMap::new(),
            facts: BTreeMap::new(),
        }
    }

    fn fact(&mut self, key: u8) -> &mut Fact {
        self.facts.entry(key).or_default()
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Want(key, value) => {
                let before = self.wanted.insert(key, value);
                let fact = self.facts.entry(key).or_default();
                if before.flatten() != value {
                    *fact = Fact { called: true, last_reset: fact.last_reset, ..Fact::default() };
                } else if fact.failures == 0 && !fact.again {
                    // What is settled may be written again when it is asked for.
                    (fact.called, fact.repaired) = (true, None);
                }
                self.reconciler.want(key, value);
            }
            Step::Break(key, kind) => drop(self.broken.insert(key, kind)),
            Step::Mend(key) => drop(self.broken.remove(&key)),
            Step::Report(key) => self.report(key),
            Step::Freed(entries) => {
                let without_room =
                    self.facts.values().filter(|f| f.last_kind == Some(Kind::NoRoom) && !f.called);
                let waiting =
                    without_room.clone().filter(|fact| !fact.spared && !fact.may_be_due(self.now));
                let (at_most, at_least) = (without_room.count(), waiting.count().min(entries));
                let woken = self.reconciler.freed(POOL, entries);
                assert!(woken <= entries && woken <= at_most && woken >= at_least);
                assert_eq!(self.reconciler.freed("cm_other", entries), 0);
                // Which ones is not promised to the key: any of them may be written before its pause is over.
                let spared = self.facts.values_mut().filter(|f| f.last_kind == Some(Kind::NoRoom));
                spared.for_each(|fact| fact.spared = true);
            }
            Step::Drift(key, value) => {
                match value {
                    Some(value) => self.actual.insert(key, value),
                    None => self.actual.remove(&key),
                };
            }
            Step::Audit => self.audit(),
            Step::Advance(millis) => self.now += Duration::from_millis(millis),
            Step::Write(count) => drop(self.write(count)),
        }
        self.check_status();
    }

    fn report(&mut self, key: u8) {
        let now = self.now;
        let relevance = self.reconciler.relevant(&key, now);
        let fact = self.fact(key);
        let waits = (fact.failures > 0 || fact.again) && !fact.called;
        match relevance {
            Relevance::Reset => {
                assert!(waits, "only a failing key is reset");
                let last = fact.last_reset.replace(now);
                assert!(last.is_none_or(|last| now - last >= Duration::from_secs(10)));
                (fact.failures, fact.called) = (0, true);
            }
            Relevance::TooSoon => {
                // It comes when ten seconds are over.
                assert!(now - fact.last_reset.unwrap() < Duration::from_secs(10));
                assert!(waits);
                fact.spared = true;
            }
            // One whose pause is over is due, and needs no report.
            Relevance::NotWaiting => {
                assert!(!waits || fact.spared || fact.may_be_due(now), "{fact:?}")
            }
        }
    }

    fn audit(&mut self) {
        let keys: BTreeSet<u8> = self.actual.keys().chain(self.wanted.keys()).copied().collect();
        let found: Vec<(u8, Option<u8>)> =
            keys.iter().map(|key| (*key, self.actual.get(key).copied())).collect();
        let mut expected = 0;
        for (key, actual) in &found {
            let wanted = WantedOf(&self.wanted).wanted(key);
            let prune = WantedOf(&self.wanted).may_prune(key);
            let fact = self.facts.entry(*key).or_default();
            let known = fact.called || fact.failures > 0 || fact.again;
            if wanted == *actual || known || (wanted.is_none() && !prune) {
                continue;
            }
            expected += 1;
            let recently = fact.repaired.is_some_and(|at| self.now - at < Duration::from_secs(10));
            (fact.repairing, fact.again, fact.called) = (true, recently, !recently);
        }
        let now = self.now;
        let before = self.reconciler.status(u8::to_string);
        assert_eq!(self.reconciler.audit(&WantedOf(&self.wanted), found.clone(), now), expected);
        let pass = self.reconciler.audit_done(now);
        assert_eq!(pass.checked, found.len() as u64);
        assert_eq!(pass.repaired + pass.pruned, expected as u64);
        let after = self.reconciler.status(u8::to_string);
        assert_eq!(after.repairs + after.pruned - before.repairs - before.pruned, expected as u64);
    }

    /// Writes what is due; each write must be called for.
    fn write(&mut self, count: usize) -> usize {
        for written in 0..count {
            let Some(Job { key, action }) = self.reconciler.next(self.now) else { return written };
            let wanted = self.wanted.get(&key).copied().flatten();
            assert_eq!(action.value().copied(), wanted, "the last wanted value of {key}");
            let (now, kind) = (self.now, self.broken.get(&key).copied());
            let fact = self.fact(key);
            if !fact.called && !fact.again && !fact.spared {
                assert!(fact.failures > 0 && fact.may_be_due(now), "{fact:?}");
            }
            let again = fact.again;
            (fact.called, fact.again, fact.spared) = (false, false, false);
            fact.last_attempt = Some(now);
            let result = match kind {
                None => Ok(()),
                Some(Kind::Failed) => Err(Failure::failed("broken")),
                Some(Kind::NoRoom) => Err(Failure::no_room(POOL, "full")),
                Some(Kind::Deferred) => Err(Failure::deferred("off link")),
            };
            let failed_before = fact.last_kind.is_some() || again;
            let new = fact.last_kind != kind;
            fact.last_kind = kind;
            if kind.is_none() {
                (fact.failures, fact.last_reset) = (0, None);
                if std::mem::take(&mut fact.repairing) || fact.repaired.is_some() {
                    fact.repaired = Some(now);
                }
                match wanted {
                    Some(value) => self.actual.insert(key, value),
                    None => self.actual.remove(&key),
                };
            } else {
                fact.failures += 1;
            }
            match self.reconciler.done(&key, result, now) {
                Outcome::Settled { recovered } => {
                    assert!(kind.is_none());
                    assert_eq!(recovered, failed_before);
                }
                Outcome::Failing { new: reported } => assert!(kind.is_some() && (reported || !new)),
                other => panic!("{other:?}"),
            }
        }
        count
    }

    /// Keys are counted as what they are.
    fn check_status(&self) {
        let status = self.reconciler.status(u8::to_string);
        let mut counted = [0, 0, 0];
        for fact in self.facts.values() {
            let waits = fact.called || fact.failures > 0 || fact.again;
            let failed = fact.last_kind.filter(|_| fact.last_attempt.is_some());
            match failed {
                _ if fact.again => counted[1] += 1,
                Some(Kind::Deferred) => counted[2] += 1,
                Some(Kind::Failed | Kind::NoRoom) => counted[1] += 1,
                None if waits => counted[0] += 1,
                None => {}
            }
        }
        assert_eq!([status.pending, status.failing, status.deferred], counted, "{status:?}");
        let reasons: usize = status.reasons.iter().map(|reason| reason.count).sum();
        assert_eq!(reasons, status.failing + status.deferred);
    }

    /// Everything works again: in the end all is as wanted.
    fn settle(mut self) {
        self.broken.clear();
        for _ in 0..8 {
            self.audit();
            while let Some(at) = self.reconciler.due_at(self.now) {
                assert!(at - self.now <= Duration::from_secs(300), "no pause is longer");
                self.now = self.now.max(at);
                assert!(self.write(100) > 0, "due means that there is something");
            }
            self.now += Duration::from_secs(10);
        }
        let status = self.reconciler.status(u8::to_string);
        assert!(status.is_settled() && status.deferred == 0, "{status:?}");
        for (key, wanted) in &self.wanted {
            assert_eq!(self.actual.get(key).copied(), *wanted, "key {key}");
        }
        // What was never wanted is removed only where it may be.
        for key in self.actual.keys().filter(|key| !self.wanted.contains_key(key)) {
            assert!(!key.is_multiple_of(2), "{key}");
        }
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn what_is_wanted_last_is_written_once_and_what_fails_at_a_bounded_rate(
        steps in steps(), seed: u64,
    ) {
        let mut world = World::new(seed);
        steps.into_iter().for_each(|step| world.step(step));
        world.settle();
    }
}

/// A group is (group, 0) the head, and its members.
#[derive(Debug)]
struct ByGroup;

type Member = (u8, u8);

impl Order<Member> for ByGroup {
    type Group = u8;

    fn group(key: &Member) -> u8 {
        key.0
    }

    fn rank(key: &Member, verb: Verb) -> u8 {
        match (key.1, verb) {
            (0, Verb::Set) => 0,
            (_, Verb::Set) => 1,
            (_, Verb::Remove) => 2,
        }
    }

    fn is_head(key: &Member) -> bool {
        key.1 == 0
    }
}

/// What is pending, as one who reads the promise would write it down.
#[derive(Clone, Debug)]
struct Line {
    key: Member,
    value: Option<u8>,
    batch: usize,
    arrival: usize,
}

proptest! {
    #[test]
    fn groups_come_in_order_of_arrival_and_their_keys_by_rank(
        ops in prop::collection::vec((0..3_u8, 1..4_u8, prop::option::of(0..2_u8), 0..3_u8), 1..80)
    ) {
        let now = Instant::now();
        let mut reconciler: Reconciler<Member, u8, ByGroup> = Reconciler::default();
        let mut lines: Vec<Line> = Vec::new();
        let mut begun: HashSet<usize> = HashSet::new();
        let mut next_batch = 0;
        for (arrival, (group, member, value, takes)) in ops.into_iter().enumerate() {
            let key = (group, member);
            reconciler.want(key, value);
            if let Some(line) = lines.iter_mut().find(|line| line.key == key) {
                line.value = value;
            } else {
                let open = lines.iter().filter(|l| l.key.0 == group && !begun.contains(&l.batch));
                let batch = open.map(|line| line.batch).max().unwrap_or_else(|| {
                    next_batch += 1;
                    next_batch
                });
                lines.push(Line { key, value, batch, arrival });
            }
            for _ in 0..takes {
                let rank = |line: &Line| if line.value.is_some() { 1 } else { 2 };
                let first = lines.iter().min_by_key(|l| (l.batch, rank(l), l.arrival)).cloned();
                let job = reconciler.next(now);
                prop_assert_eq!(
                    job.as_ref().map(|job| (job.key, job.action.value().copied())),
                    first.as_ref().map(|line| (line.key, line.value))
                );
                let Some(first) = first else { break };
                begun.insert(first.batch);
                lines.retain(|line| line.key != first.key);
                reconciler.done(&first.key, Ok(()), now);
            }
        }
    }
}

#[derive(Clone, Debug)]
enum GroupStep {
    Set(u8, u8, u8),
    RemoveMember(u8, u8),
    RemoveGroup(u8),
    BreakHeads(bool),
    Write(usize),
    Advance(u64),
}

fn group_steps() -> impl Strategy<Value = Vec<GroupStep>> {
    let step = prop_oneof![
        5 => (0..2_u8, 0..4_u8, 0..2_u8).prop_map(|(g, m, v)| GroupStep::Set(g, m, v)),
        2 => (0..2_u8, 1..4_u8).prop_map(|(g, m)| GroupStep::RemoveMember(g, m)),
        2 => (0..2_u8).prop_map(GroupStep::RemoveGroup),
        1 => any::<bool>().prop_map(GroupStep::BreakHeads),
        4 => (1..4_usize).prop_map(GroupStep::Write),
        2 => (0..2_000_u64).prop_map(GroupStep::Advance),
    ];
    prop::collection::vec(step, 1..100)
}

/// A target as the tables are: members need their head, and go with it.
#[derive(Default)]
struct Groups {
    there: BTreeMap<Member, u8>,
    heads_fail: bool,
}

impl Groups {
    fn write(&mut self, key: Member, action: &Action<u8>) -> Result<(), Failure> {
        let (group, member) = key;
        if member > 0 && action.value().is_some() && !self.there.contains_key(&(group, 0)) {
            return Err(Failure::failed("no head"));
        }
        if member == 0 && self.heads_fail {
            return Err(Failure::failed("refused"));
        }
        if member == 0 && !matches!(action, Action::Set(_)) {
            self.there.retain(|other, _| other.0 != group);
        }
        match action.value() {
            Some(value) => self.there.insert(key, *value),
            None => self.there.remove(&key),
        };
        Ok(())
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn members_wait_for_their_head_and_go_with_it(steps in group_steps()) {
        let mut now = Instant::now();
        let mut reconciler: Reconciler<Member, u8, ByGroup> = Reconciler::default();
        let mut wanted: BTreeMap<Member, u8> = BTreeMap::new();
        let mut target = Groups::default();
        let write = |reconciler: &mut Reconciler<Member, u8, ByGroup>,
                     target: &mut Groups, now, count| {
            for _ in 0..count {
                let Some(Job { key, action }) = reconciler.next(now) else { return false };
                let head_fails = reconciler.failure(&(key.0, 0)).is_some() && target.heads_fail;
                assert!(
                    key.1 == 0 || action.value().is_none() || !head_fails
                        || target.there.contains_key(&(key.0, 0)),
                    "{key:?} is tried in vain"
                );
                let result = target.write(key, &action);
                reconciler.done(&key, result, now);
            }
            true
        };
        for step in steps {
            match step {
                GroupStep::Set(group, member, value) => {
                    // Who wants a member wants its head.
                    let head = *wanted.entry((group, 0)).or_insert_with(|| {
                        reconciler.want((group, 0), Some(0));
                        0
                    });
                    let value = if member == 0 { value } else { head.max(value) };
                    wanted.insert((group, member), value);
                    reconciler.want((group, member), Some(value));
                }
                GroupStep::RemoveMember(group, member) => {
                    if wanted.remove(&(group, member)).is_some() {
                        reconciler.want((group, member), None);
                    }
                }
                GroupStep::RemoveGroup(group) => {
                    if wanted.contains_key(&(group, 0)) {
                        wanted.retain(|other, _| other.0 != group);
                        reconciler.remove_group((group, 0));
                    }
                }
                GroupStep::BreakHeads(broken) => target.heads_fail = broken,
                GroupStep::Write(count) => drop(write(&mut reconciler, &mut target, now, count)),
                GroupStep::Advance(millis) => now += Duration::from_millis(millis),
            }
        }
        target.heads_fail = false;
        while let Some(at) = reconciler.due_at(now) {
            now = now.max(at);
            while write(&mut reconciler, &mut target, now, 100) {}
        }
        prop_assert_eq!(target.there, wanted);
        let status = reconciler.status(|key| format!("{key:?}"));
        prop_assert!(status.is_settled(), "{status:?}");
    }
}
