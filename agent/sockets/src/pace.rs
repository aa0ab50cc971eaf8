//! How fast sockets are ended, and how often the thread scans for them. Without a clock.

use std::time::{Duration, Instant};

use mesh_backoff::{Backoff, Policy};

/// Ends no more than [`PER_SECOND`], after a burst of as many: each one's owner connects again.
#[derive(Debug)]
pub(crate) struct Pace {
    left: u32,
    since: Instant,
}

/// The result of a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All namespaces in which sockets can be were scanned.
    Complete,
    /// The namespaces are not known yet, or some could not be scanned: the backends stay queued.
    Incomplete,
    /// As many sockets as allowed in a second were ended. More may be after this time.
    Paced(Duration),
}

/// When the next scan may begin.
#[derive(Debug)]
pub(crate) struct Schedule {
    /// Looking takes a share of a processor at most.
    rested: Instant,
    /// After an incomplete scan, or one that spent the pace.
    again: Option<Instant>,
    backoff: Backoff,
}

/// Sockets that are ended in a second.
pub(crate) const PER_SECOND: u32 = 2_000;
const SECOND: Duration = Duration::from_secs(1);
/// The least pause after a scan. Backends that are removed one by one are scanned for together.
const PAUSE: Duration = Duration::from_millis(50);
/// The pause after a scan, as a multiple of its duration: scanning takes a fifth of a processor at most.
const REST: u32 = 4;
/// Between two attempts to scan a namespace that could not be scanned.
const RETRY: Policy =
    Policy { first: Duration::from_millis(100), longest: Duration::from_secs(60) };

// === impl Pace ===

impl Pace {
    pub(crate) fn new(now: Instant) -> Self {
        Self { left: PER_SECOND, since: now }
    }

    /// Takes one more, or returns how long to wait before one may be taken.
    pub(crate) fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let passed = now.saturating_duration_since(self.since);
        if passed >= SECOND {
            *self = Self::new(now);
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(SECOND.saturating_sub(passed)),
        }
    }
}

// === impl Schedule ===

impl Schedule {
    /// The first scan may begin now. Two with different seeds wait for different times after a failure.
    pub(crate) fn new(now: Instant, seed: u64) -> Self {
        Self { rested: now, again: None, backoff: Backoff::new(RETRY, seed) }
    }

    /// A scan that took this long is over now.
    pub(crate) fn scanned(&mut self, now: Instant, took: Duration, outcome: Outcome) {
        self.rested = now + PAUSE.max(took * REST);
        self.again = match outcome {
            Outcome::Complete => {
                self.backoff.reset();
                None
            }
            Outcome::Incomplete => Some(now + self.backoff.failed()),
            Outcome::Paced(wait) => Some(now + wait),
        };
    }

    /// The namespaces to scan have changed.
    pub(crate) fn places_changed(&mut self) {
        self.backoff.reset();
        self.again = None;
    }

    /// The next scan, of sockets that are due at `due`, begins then.
    pub(crate) fn next(&self, due: Instant) -> Instant {
        due.max(self.rested).max(self.again.unwrap_or(due))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_a_second_and_no_more() {
        let begin = Instant::now();
        let mut pace = Pace::new(begin);
        let later = begin + Duration::from_millis(300);
        for _ in 0..PER_SECOND {
            assert_eq!(pace.take(later), Ok(()));
        }
        assert_eq!(pace.take(later), Err(Duration::from_millis(700)));
        assert_eq!(pace.take(begin + SECOND), Ok(()));
    }

    #[test]
    fn long_scans_are_rare() {
        let now = Instant::now();
        let mut schedule = Schedule::new(now, 1);
        assert_eq!(schedule.next(now), now);
        schedule.scanned(now, Duration::from_millis(1), Outcome::Complete);
        assert_eq!(schedule.next(now), now + Duration::from_millis(50));
        schedule.scanned(now, Duration::from_millis(100), Outcome::Complete);
        assert_eq!(schedule.next(now), now + Duration::from_millis(400));
        let late = now + Duration::from_secs(9);
        assert_eq!(schedule.next(late), late);
    }

    /// Ten thousand sockets take five seconds by the pace. What becomes due meanwhile waits for the rest of a second, and
    /// not for the five, nor for four times as long.
    #[test]
    fn waiting_for_the_pace_is_no_looking() {
        let now = Instant::now();
        let mut schedule = Schedule::new(now, 1);
        let took = Duration::from_millis(20);
        schedule.scanned(now, took, Outcome::Paced(Duration::from_millis(700)));
        assert_eq!(schedule.next(now), now + Duration::from_millis(700));
        let next = schedule.next(now);
        schedule.scanned(next, took, Outcome::Complete);
        assert_eq!(schedule.next(now), next + Duration::from_millis(80));
    }

    #[test]
    fn what_was_not_found_is_looked_for_again_and_at_once_where_it_may_be() {
        let now = Instant::now();
        let mut schedule = Schedule::new(now, 1);
        let mut pauses = Vec::new();
        for _ in 0..20 {
            schedule.scanned(now, Duration::ZERO, Outcome::Incomplete);
            pauses.push(schedule.next(now) - now);
        }
        assert!(pauses[0] <= RETRY.first * 2, "{pauses:?}");
        assert!(pauses[19] >= RETRY.longest / 2, "{pauses:?}");
        schedule.places_changed();
        assert_eq!(schedule.next(now), now + PAUSE);
        schedule.scanned(now, Duration::ZERO, Outcome::Incomplete);
        assert!(schedule.next(now) <= now + RETRY.first * 2);
    }
}
