//! What a reconciler promises, one example each. Random streams are in `model.rs`.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{
    cell::Cell,
    cmp::Ordering,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use mesh_reconcile::{
    Action, Apply, Failure, Left, Reconciler, Relevance, Repair, Settings, Status,
};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_repair_that_does_not_hold_is_no_endless_fight() {
    let mut reconciler: Reconciler<u8, u8> = Reconciler::default();
    let start = Instant::now();
    let (mut now, mut writes) = (start, 0);
    while now < start + 60 * SECOND {
        // Another program removes it as soon as it is there.
        if reconciler.is_settled(&0) {
            reconciler.repair(0, Some(1), now);
        }
        while let Some(job) = reconciler.next(now) {
            writes += 1;
            reconciler.done(&job.key, Ok(()), now);
        }
        now += Duration::from_millis(10);
    }
    assert!((5..=10).contains(&writes), "{writes} writes against a removal each 10 ms");
    let status = reconciler.status(u8::to_string);
    assert_eq!(status.reasons[0].failure.reason(), "another program changes it again and again");
    assert_eq!(reconciler.repair(0, Some(1), now), Repair::Known);

    // A repair that held for ten seconds is forgotten, and the next one does not wait.
    let mut now = now + 300 * SECOND;
    let job = reconciler.next(now).unwrap();
    reconciler.done(&job.key, Ok(()), now);
    now += 10 * SECOND;
    assert!(reconciler.next(now).is_none());
    assert_eq!(reconciler.repair(0, Some(1), now), Repair::Queued);
}

#[test]
fn what_failing_keys_have_in_common_is_reported_once() {
    let mut reconciler: Reconciler<u16, ()> = Reconciler::default();
    let now = Instant::now();
    (0..500).for_each(|key| reconciler.want(key, Some(())));
    while let Some(job) = reconciler.next(now) {
        let failure = match job.key % 50 {
            key if key < 12 => Failure::failed(format!("reason {key:02}")),
            key if key < 20 => Failure::deferred("off link"),
            _ => Failure::no_room("cm_slots", "cm_slots is full"),
        };
        reconciler.done(&job.key, Err(failure), now);
    }
    let status = reconciler.status(|key| format!("key {key}"));
    assert_eq!((status.pending, status.failing, status.deferred), (0, 420, 80));
    assert_eq!((status.reasons.len(), status.more_reasons), (Status::REASONS, 6));
    let first = &status.reasons[0];
    assert_eq!((first.failure.reason(), first.count), ("reason 00", 10));
    assert_eq!(first.example, "key 0");
    // Room for two is two attempts, and first for those that wait longest.
    assert_eq!(reconciler.freed("cm_slots", 2), 2);
    let retried: Vec<u16> =
        std::iter::from_fn(|| reconciler.next(now)).map(|job| job.key).collect();
    assert_eq!(retried, [20, 21]);
}

#[test]
fn a_report_during_a_write_is_not_lost() {
    let mut reconciler: Reconciler<u8, u8> = Reconciler::default();
    let mut now = Instant::now();
    reconciler.want(0, Some(1));
    // Until pauses are long.
    for _ in 0..12 {
        now = reconciler.due_at(now).unwrap();
        let job = reconciler.next(now).unwrap();
        reconciler.done(&job.key, Err(Failure::failed("refused")), now);
    }
    assert!(reconciler.due_at(now).unwrap() >= now + 60 * SECOND);
    now = reconciler.due_at(now).unwrap();
    let job = reconciler.next(now).unwrap();
    assert_eq!(reconciler.relevant(&0, now), Relevance::NotWaiting, "it is being written");
    reconciler.done(&job.key, Err(Failure::failed("refused")), now);
    assert!(reconciler.due_at(now).unwrap() <= now + SECOND, "tried again soon");
    // The next report within ten seconds counts when these are over, not sooner and not later.
    for _ in 0..6 {
        now = reconciler.due_at(now).unwrap();
        let job = reconciler.next(now).unwrap();
        reconciler.done(&job.key, Err(Failure::failed("refused")), now);
    }
    let waits = reconciler.due_at(now).unwrap();
    let relevance = reconciler.relevant(&0, now);
    assert!(
        relevance == Relevance::Reset || reconciler.due_at(now).unwrap() <= waits,
        "{relevance:?}"
    );
}

#[test]
fn a_change_during_a_write_is_written_after_it() {
    let mut reconciler: Reconciler<u8, u8> = Reconciler::default();
    let now = Instant::now();
    reconciler.want(0, Some(1));
    let job = reconciler.next(now).unwrap();
    reconciler.want(0, Some(2));
    reconciler.want(0, Some(3));
    assert!(reconciler.next(now).is_none(), "a key is written by one at a time");
    reconciler.done(&job.key, Err(Failure::failed("refused")), now);
    let job = reconciler.next(now).unwrap();
    assert_eq!(job.action, Action::Set(3));
    assert_eq!(reconciler.status(u8::to_string).failing, 0, "the refusal was of another value");
    reconciler.done(&job.key, Ok(()), now);
    assert!(reconciler.due_at(now).is_none());
}

#[test]
fn many_failing_keys_are_tried_again_at_a_bounded_rate_and_changes_are_not() {
    let settings = Settings { retries_per_second: Some(100), ..Settings::default() };
    let mut reconciler: Reconciler<u32, u8> = Reconciler::new(settings);
    let start = Instant::now();
    (0..5_000).for_each(|key| reconciler.want(key, Some(0)));
    let refuse = |reconciler: &mut Reconciler<u32, u8>, now| {
        let mut tried = 0;
        while let Some(job) = reconciler.next(now) {
            tried += 1;
            reconciler.done(&job.key, Err(Failure::failed("refused")), now);
        }
        tried
    };
    assert_eq!(refuse(&mut reconciler, start), 5_000, "first attempts do not wait");
    let mut tried = 0;
    for tick in 1..=40 {
        tried += refuse(&mut reconciler, start + tick * SECOND / 4);
    }
    assert!((900..=1_100).contains(&tried), "{tried} in ten seconds");
    let now = start + 10 * SECOND;
    (0..3_000).for_each(|key| reconciler.want(key, Some(1)));
    assert_eq!(refuse(&mut reconciler, now), 3_000, "a changed key does not wait");
    // All come up in turn.
    let mut now = now;
    for _ in 0..400 {
        now += SECOND / 4;
        while let Some(job) = reconciler.next(now) {
            reconciler.done(&job.key, Ok(()), now);
        }
    }
    assert!(reconciler.status(u32::to_string).is_settled());
}

/// Each write takes a millisecond of a clock that nothing else moves.
struct Slow<'a> {
    clock: &'a Cell<Instant>,
    written: Vec<u8>,
}

impl Apply<u8, u8> for Slow<'_> {
    fn apply(&mut self, key: &u8, _: Action<&u8>, _: Instant) -> Result<(), Failure> {
        self.clock.set(self.clock.get() + Duration::from_millis(1));
        self.written.push(*key);
        if *key == 9 { Err(Failure::failed("refused")) } else { Ok(()) }
    }
}

#[test]
fn a_turn_ends_with_its_budget_and_each_turn_gets_ahead() {
    let clock = Cell::new(Instant::now());
    let mut target = Slow { clock: &clock, written: Vec::new() };
    let mut reconciler: Reconciler<u8, u8> = Reconciler::default();
    (0..10).for_each(|key| reconciler.want(key, Some(0)));
    let budget = Duration::from_millis(2);
    let turn = reconciler.run_for(budget, || clock.get(), &mut target);
    assert_eq!((turn.applied, turn.failed, turn.left), (2, 0, Left::Due));
    let turn = reconciler.run_for(Duration::ZERO, || clock.get(), &mut target);
    assert_eq!((turn.applied, turn.left), (1, Left::Due));
    let turn = reconciler.run_for(SECOND, || clock.get(), &mut target);
    assert_eq!((turn.applied, turn.failed), (6, 1));
    let Left::Later(at) = turn.left else { panic!("{turn:?}") };
    assert!(at > clock.get());
    reconciler.want(9, None);
    reconciler.run_for(SECOND, || clock.get(), &mut target);
    assert_eq!(target.written.len(), 11);
}

thread_local! {
    static COMPARED: Cell<u64> = const { Cell::new(0) };
}

/// A key that counts how often it is compared with another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counted(u32);

impl PartialOrd for Counted {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Counted {
    fn cmp(&self, other: &Self) -> Ordering {
        COMPARED.set(COMPARED.get() + 1);
        self.0.cmp(&other.0)
    }
}

/// Comparisons that a call costs.
fn compared(call: impl FnOnce()) -> u64 {
    let before = COMPARED.get();
    call();
    COMPARED.get() - before
}

#[test]
fn an_operation_costs_no_more_with_many_failing_keys() {
    let start = Instant::now();
    let off_link = |count: u32| {
        let mut reconciler: Reconciler<Counted, Ipv4Addr> = Reconciler::default();
        let mut now = start;
        (0..count).for_each(|key| reconciler.want(Counted(key), Some(Ipv4Addr::LOCALHOST)));
        // Until they are at their longest pause.
        while now < start + Duration::from_secs(3_000) {
            while let Some(job) = reconciler.next(now) {
                reconciler.done(&job.key, Err(Failure::deferred("off link")), now);
            }
            now = now.max(reconciler.due_at(now).unwrap());
        }
        (reconciler, now)
    };
    let mut cost = Vec::new();
    for count in [50, 5_000] {
        let (mut reconciler, mut now) = off_link(count);
        let mut tried = 0;
        // 50 reports a second, for ten seconds, that have to do with none of them.
        let reports = compared(|| {
            for report in 0..500 {
                now += Duration::from_millis(20);
                reconciler.relevant(&Counted(1_000_000 + report), now);
            }
        });
        let retries = compared(|| {
            while let Some(job) = reconciler.next(now) {
                tried += 1;
                reconciler.done(&job.key, Err(Failure::deferred("off link")), now);
            }
        });
        // In ten seconds a 15th of them at most: pauses are 150 s at least.
        assert!(tried <= count.div_ceil(7), "{tried} of {count}");
        let one = compared(|| reconciler.want(Counted(1), Some(Ipv4Addr::UNSPECIFIED)));
        cost.push((reports, retries / u64::from(tried.max(1)), one));
    }
    // A hundred times the keys: twice the depth of a tree at most, and never a walk over it.
    let (few, many) = (cost[0], cost[1]);
    assert!(many.0 <= 4 * few.0 && many.0 < 500 * 100, "{cost:?}");
    assert!(many.1 < 400 && many.2 < 400, "{cost:?}");
}
