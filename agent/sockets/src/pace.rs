//! How fast sockets are ended, and how often they are looked for. Without a clock.

use std::time::{Duration, Instant};

/// Ends no more than [`PER_SECOND`], after a burst of as many: each one's owner connects again.
#[derive(Debug)]
pub(crate) struct Pace {
    left: u32,
    since: Instant,
}

/// Sockets that are ended in a second.
pub(crate) const PER_SECOND: u32 = 2_000;
const SECOND: Duration = Duration::from_secs(1);
/// The least pause after a pass. Backends that go one by one are looked for together.
const PAUSE: Duration = Duration::from_millis(50);
/// So many times as long as a pass took is paused after it: looking takes a fifth of a processor at most.
const REST: u32 = 4;

// === impl Pace ===

impl Pace {
    pub(crate) fn new(now: Instant) -> Self {
        Self { left: PER_SECOND, since: now }
    }

    /// Takes one more, or says how long to wait before one may be taken.
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

/// How long to pause after a pass.
pub(crate) fn rest_after(pass: Duration) -> Duration {
    PAUSE.max(pass * REST)
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
    fn long_passes_are_rare() {
        assert_eq!(rest_after(Duration::from_millis(1)), Duration::from_millis(50));
        assert_eq!(rest_after(Duration::from_millis(100)), Duration::from_millis(400));
    }
}
