//! The task of a target, on a clock that the tests move.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use mesh_reconcile::{Arrival, Failure, Job, Options, Report, Target, Writer};
use proptest::prelude::*;
use tokio::{
    sync::mpsc,
    time::{Instant, advance, sleep},
};

const SECOND: Duration = Duration::from_secs(1);

/// What is outside, which the test can look at and change behind the target's back.
#[derive(Debug, Default)]
struct Outside {
    there: BTreeMap<u16, u8>,
    broken: BTreeMap<u16, Failure>,
    hangs: bool,
    unlisted: bool,
    /// Keys of each write.
    writes: Vec<Vec<u16>>,
    lists: usize,
    waits: usize,
    outcomes: Vec<(u16, bool)>,
}

#[derive(Clone, Debug, Default)]
struct Shared(Arc<Mutex<Outside>>);

#[derive(Debug)]
struct Fake {
    outside: Shared,
    reports: mpsc::UnboundedReceiver<Report<u16>>,
    rest: Duration,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Outside> {
        self.0.lock().unwrap()
    }

    fn written(&self) -> usize {
        self.lock().writes.iter().map(Vec::len).sum()
    }
}

impl Target for Fake {
    type Key = u16;
    type Value = u8;
    type Order = Arrival;
    type Error = io::Error;

    async fn apply(&mut self, jobs: &[Job<u16, u8>]) -> Vec<Result<(), Failure>> {
        self.outside.lock().writes.push(jobs.iter().map(|job| job.key).collect());
        while self.outside.lock().hangs {
            sleep(SECOND).await;
        }
        let mut outside = self.outside.lock();
        let write = |job: &Job<u16, u8>| {
            if let Some(failure) = outside.broken.get(&job.key) {
                return Err(failure.clone());
            }
            match job.action.value() {
                Some(value) => outside.there.insert(job.key, *value),
                None => outside.there.remove(&job.key),
            };
            Ok(())
        };
        jobs.iter().map(write).collect()
    }

    async fn list(&mut self) -> io::Result<BTreeMap<u16, u8>> {
        let mut outside = self.outside.lock();
        outside.lists += 1;
        if outside.unlisted {
            return Err(io::Error::other("not now"));
        }
        Ok(outside.there.clone())
    }

    async fn changed(&mut self) -> Vec<Report<u16>> {
        let Some(first) = self.reports.recv().await else { return std::future::pending().await };
        self.outside.lock().waits += 1;
        let more = std::iter::from_fn(|| self.reports.try_recv().ok());
        std::iter::once(first).chain(more).collect()
    }

    fn describe(&self, key: &u16) -> String {
        format!("key {key}")
    }

    fn outcome(&mut self, key: &u16, result: Result<(), &Failure>) {
        self.outside.lock().outcomes.push((*key, result.is_ok()));
    }

    fn rest(&self, _: Duration) -> Duration {
        self.rest
    }
}

struct World {
    outside: Shared,
    writer: Writer<u16, u8>,
    reports: mpsc::UnboundedSender<Report<u16>>,
}

fn start_with(there: impl IntoIterator<Item = (u16, u8)>, rest: Duration) -> World {
    let outside = Shared::default();
    outside.lock().there.extend(there);
    let (reports, receiver) = mpsc::unbounded_channel();
    let fake = Fake { outside: outside.clone(), reports: receiver, rest };
    let options = Options { batch: 64, ..Options::default() };
    let (writer, _) = Writer::spawn("test", fake, options);
    World { outside, writer, reports }
}

fn start(there: impl IntoIterator<Item = (u16, u8)>) -> World {
    start_with(there, Duration::ZERO)
}

#[tokio::test(start_paused = true)]
async fn changes_are_written_in_batches_and_each_key_once() {
    let World { outside, writer, .. } = start([]);
    let began = Instant::now();
    (0..3).for_each(|value| writer.want((0..200).map(|key| (key, Some(value))).collect()));
    writer.want(vec![(7, None)]);
    let status = writer.settled().await.unwrap();
    assert!(status.is_settled(), "{status:?}");
    assert_eq!(outside.written(), 200, "three changes of a key are one write");
    assert!(outside.lock().writes.iter().all(|batch| batch.len() <= 64));
    assert_eq!(outside.lock().there.len(), 199);
    assert!(outside.lock().there.values().all(|value| *value == 2));
    assert_eq!(Instant::now(), began, "no caller waits for a timer");
}

#[tokio::test(start_paused = true)]
async fn a_write_that_hangs_ends_with_its_time_and_is_tried_again() {
    let World { outside, writer, .. } = start([]);
    outside.lock().hangs = true;
    writer.want(vec![(1, Some(1))]);
    let status = writer.settled().await.unwrap();
    assert_eq!((status.failing, status.reasons[0].failure.reason()), (1, "no answer within 10s"));
    assert_eq!(status.reasons[0].example, "key 1");
    outside.lock().hangs = false;
    writer.want(vec![(2, Some(2))]);
    writer.settled().await.unwrap();
    assert_eq!(outside.lock().there.get(&2), Some(&2), "the others go on");
    sleep(SECOND).await;
    assert_eq!(outside.lock().there.len(), 2);
    assert_eq!(outside.lock().outcomes, [(1, false), (1, true)], "each turn is reported once");
    assert!(writer.failures().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_another_program_removes_is_back_within_a_second_and_counted() {
    let World { outside, writer, reports } = start([]);
    writer.want((0..100).map(|key| (key, Some(1))).collect());
    writer.settled().await.unwrap();
    // Reported key by key.
    outside.lock().there.clear();
    (0..100).for_each(|key| reports.send(Report::Gone(key)).unwrap());
    sleep(SECOND).await;
    assert_eq!(outside.lock().there.len(), 100);
    assert_eq!(writer.status().borrow().repairs, 100);
    // Reported without the keys. What was repaired a moment ago waits for a pause.
    sleep(10 * SECOND).await;
    outside.lock().there.clear();
    outside.lock().there.insert(5, 9);
    reports.send(Report::Look).unwrap();
    sleep(2 * SECOND).await;
    assert_eq!(outside.lock().there.len(), 100);
    assert_eq!(outside.lock().there[&5], 1);
    assert_eq!(writer.status().borrow().repairs, 200);
    // Not reported at all: the audit finds it.
    sleep(10 * SECOND).await;
    outside.lock().there.remove(&7);
    sleep(Options::default().audit + SECOND).await;
    assert_eq!(outside.lock().there.len(), 100);
    let status = writer.status().borrow().clone();
    assert_eq!(status.repairs, 201);
    assert_eq!(status.last_audit.unwrap().checked, 100);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_pruned_but_what_was_listed() {
    let World { outside, writer, .. } = start((0..10).map(|key| (key, 1)));
    writer.want(vec![(0, Some(1)), (1, Some(2)), (2, None)]);
    sleep(100 * SECOND).await;
    assert_eq!(outside.lock().there.len(), 9, "only what is known to be unwanted went");
    writer.may_prune(|key| *key < 6);
    sleep(2 * SECOND).await;
    let left: Vec<u16> = outside.lock().there.keys().copied().collect();
    assert_eq!(left, [0, 1, 6, 7, 8, 9]);
    let status = writer.status().borrow().clone();
    assert_eq!((status.pruned, status.repairs), (3, 0));
    // A list that fails prunes nothing and is reported, until one succeeds.
    outside.lock().unlisted = true;
    writer.may_prune(|_| true);
    sleep(60 * SECOND).await;
    assert_eq!(outside.lock().there.len(), 6);
    assert_eq!(writer.status().borrow().last_error.as_deref(), Some("not now"));
    outside.lock().unlisted = false;
    sleep(60 * SECOND).await;
    assert_eq!(outside.lock().there.len(), 2);
    assert_eq!(writer.status().borrow().last_error, None);
}

#[tokio::test(start_paused = true)]
async fn a_report_about_a_failing_key_has_it_tried_at_once() {
    let World { outside, writer, reports } = start([]);
    outside.lock().broken.insert(1, Failure::deferred("off link"));
    writer.want(vec![(1, Some(1))]);
    sleep(1_000 * SECOND).await;
    let status = writer.status().borrow().clone();
    assert_eq!((status.failing, status.deferred), (0, 1));
    assert_eq!(writer.failures().await, [(1, Failure::deferred("off link"))]);
    outside.lock().broken.clear();
    reports.send(Report::Relevant(1)).unwrap();
    reports.send(Report::Relevant(2)).unwrap();
    sleep(Duration::from_millis(10)).await;
    assert_eq!(outside.lock().there.get(&1), Some(&1));
    assert_eq!(writer.settled().await.unwrap().deferred, 0);
}

#[tokio::test(start_paused = true)]
async fn many_reports_are_a_few_wake_ups() {
    let World { outside, writer, reports } = start([]);
    outside.lock().broken.extend((0..5_000).map(|key| (key, Failure::deferred("off link"))));
    writer.want((0..5_000).map(|key| (key, Some(1))).collect());
    sleep(3_000 * SECOND).await;
    let (writes, before) = (outside.written(), outside.lock().waits);
    // 50 a second for ten seconds, each about no key of ours.
    for report in 0..500 {
        reports.send(Report::Relevant(10_000 + report)).unwrap();
        advance(Duration::from_millis(20)).await;
        sleep(Duration::ZERO).await;
    }
    let waits = outside.lock().waits - before;
    assert!((10..=60).contains(&waits), "{waits} wake-ups");
    let retried = outside.written() - writes;
    assert!(retried <= 5_000 / 10, "{retried} of 5,000 tried again in ten seconds");
}

#[tokio::test(start_paused = true)]
async fn what_is_written_seldom_rests() {
    let World { outside, writer, .. } = start_with([], 5 * SECOND);
    for value in 0..50 {
        writer.want(vec![(1, Some(value))]);
        sleep(SECOND / 5).await;
    }
    assert!((2..=3).contains(&outside.written()), "{} writes in ten seconds", outside.written());
    sleep(5 * SECOND).await;
    assert_eq!(outside.lock().there[&1], 49, "the last value is written in the end");
}

#[derive(Clone, Debug)]
enum Step {
    Want(u16, Option<u8>),
    Drift(u16, Option<u8>),
    Break(u16),
    Mend(u16),
    Hang(bool),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = 0..5_u16;
    let value = prop::option::weighted(0.7, 0..3_u8);
    let step = prop_oneof![
        5 => (key.clone(), value.clone()).prop_map(|(key, value)| Step::Want(key, value)),
        2 => (key.clone(), value).prop_map(|(key, value)| Step::Drift(key, value)),
        1 => key.clone().prop_map(Step::Break),
        1 => key.prop_map(Step::Mend),
        1 => any::<bool>().prop_map(Step::Hang),
        4 => (0..40_000_u64).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens on the way, in the end what is outside is what was wanted last, and no more.
    #[test]
    fn in_the_end_all_is_as_wanted(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let World { outside, writer, reports } = start([(3, 1), (4, 1)]);
            let mut wanted: BTreeMap<u16, u8> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Want(key, value) => {
                        match value {
                            Some(value) => wanted.insert(key, value),
                            None => wanted.remove(&key),
                        };
                        writer.want(vec![(key, value)]);
                    }
                    Step::Drift(key, value) => {
                        match value {
                            Some(value) => outside.lock().there.insert(key, value),
                            None => outside.lock().there.remove(&key),
                        };
                        if key % 2 == 0 {
                            reports.send(Report::Gone(key)).unwrap();
                        }
                    }
                    Step::Break(key) => {
                        outside.lock().broken.insert(key, Failure::failed("refused"));
                    }
                    Step::Mend(key) => drop(outside.lock().broken.remove(&key)),
                    Step::Hang(hangs) => outside.lock().hangs = hangs,
                    Step::Wait(millis) => sleep(Duration::from_millis(millis)).await,
                }
            }
            outside.lock().broken.clear();
            outside.lock().hangs = false;
            writer.may_prune(|_| true);
            sleep(1_000 * SECOND).await;
            assert_eq!(outside.lock().there, wanted);
            let status = writer.status().borrow().clone();
            assert!(status.is_settled(), "{status:?}");
        });
    }
}
