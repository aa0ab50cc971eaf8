//! How often a node may be probed that many others probe too.
//!
//! Each answer contains how many the node gave in the last full second. An asker adapts its own interval to that, so
//! that all askers together come to 10,000 a second, and none needs to know of the others.

use std::time::{Duration, Instant};

/// The interval at which a node asks to be asked.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    interval: Duration,
    changed: Option<Instant>,
}

/// Answers a second that a node is to give, however many ask.
const ANSWERS_A_SECOND: u32 = 10_000;
/// A node in use is probed at least this often.
pub(super) const LONGEST: Duration = Duration::from_millis(2_500);
/// A rate that is reported within this time after a change was partly measured before it. It is too high then, if the
/// interval grew, and for the next second that does no harm.
const BEFORE_GROWING: Duration = Duration::from_secs(1);
/// To ask more often waits until the measured second was wholly after the change.
const BEFORE_SHRINKING: Duration = Duration::from_secs(3);
/// A rate that is below the wanted one by less than a tenth is as good as that.
const NEAR: u32 = ANSWERS_A_SECOND - ANSWERS_A_SECOND / 10;

// === impl Pace ===

impl Pace {
    /// The least time between two questions.
    pub(super) fn interval(&self) -> Duration {
        self.interval
    }

    /// The node, which was asked at an `interval`, reports its rate. `least` is how often it may be asked at most. Returns
    /// whether the interval is at least twice as long as it was.
    pub(super) fn reported(
        &mut self,
        rate: u32,
        interval: Duration,
        least: Duration,
        now: Instant,
    ) -> bool {
        let since = self.changed.map(|changed| now.saturating_duration_since(changed));
        let rested = |rest: Duration| since.is_none_or(|since| since >= rest);
        let wanted = interval.saturating_mul(rate) / ANSWERS_A_SECOND;
        let next = if rate > ANSWERS_A_SECOND && rested(BEFORE_GROWING) {
            wanted.clamp(least, LONGEST)
        } else if rate < NEAR && self.interval > least && rested(BEFORE_SHRINKING) {
            // At most by half: after a cut the node reports that it gave none.
            wanted.max(self.interval / 2).clamp(least, LONGEST)
        } else {
            return false;
        };
        if next == self.interval.max(least) {
            return false;
        }
        let doubled = next >= interval * 2;
        (self.interval, self.changed) = (next, Some(now));
        doubled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn the_interval_follows_from_the_rate_within_its_bounds() {
        let now = Instant::now();
        for (rate, expected) in
            [(0, 0), (10_000, 0), (10_100, 101), (35_000, 350), (250_000, 2_500), (u32::MAX, 2_500)]
        {
            let mut pace = Pace::default();
            let doubled = pace.reported(rate, millis(100), millis(100), now);
            assert_eq!(pace.interval(), millis(expected), "{rate}");
            assert_eq!(doubled, expected >= 200, "{rate}");
        }
        // What is asked less often for other reasons need not be asked as often as that.
        let mut pace = Pace::default();
        assert!(pace.reported(20_000, millis(800), millis(100), now));
        assert_eq!(pace.interval(), millis(1_600));
    }

    #[test]
    fn a_rate_from_before_the_last_change_changes_nothing() {
        let began = Instant::now();
        let at = |millis: u64| began + Duration::from_millis(millis);
        let mut pace = Pace::default();
        let mut report = |rate, now| {
            let interval = pace.interval().max(millis(100));
            pace.reported(rate, interval, millis(100), now);
            pace.interval()
        };
        assert_eq!(report(40_000, at(0)), millis(400));
        assert_eq!(report(40_000, at(999)), millis(400), "nine more answers in that second");
        assert_eq!(report(12_000, at(1_000)), millis(480));
        assert_eq!(report(9_500, at(9_000)), millis(480), "near enough");
        // It gave none while it was cut off.
        assert_eq!(report(0, at(10_000)), millis(240));
        assert_eq!(report(0, at(12_999)), millis(240));
        assert_eq!(report(19_000, at(13_000)), millis(456));
        for n in 0..9 {
            report(1_000, at(16_000 + n * 3_000));
        }
        assert_eq!(report(1_000, at(60_000)), millis(100), "as often as may be");
    }
}
