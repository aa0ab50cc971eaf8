//! How often a range is listed from its first key.
//!
//! A list costs its whole content. What makes one necessary is caused by the etcd: another history, a compaction,
//! canaries. So an etcd could make its readers list without pause.

use std::time::{Duration, Instant};

/// Allows one list in [`INTERVAL`], and [`BURST`] of them in a row after a pause.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ListPace {
    /// When all lists so far are paid for, at one an interval.
    paid_at: Option<Instant>,
}

/// One list in this time, on average over a minute.
pub(super) const INTERVAL: Duration = Duration::from_secs(10);
/// A change of the connection, of the history and of the services' form may come together.
pub(super) const BURST: u32 = 6;

// === impl ListPace ===

impl ListPace {
    /// When the next list may begin; any time, if nothing prevents it.
    pub(super) fn next(&self) -> Option<Instant> {
        self.paid_at.and_then(|at| at.checked_sub(INTERVAL * (BURST - 1)))
    }

    /// Counts a list, if it may begin now.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let may = self.next().is_none_or(|next| next <= now);
        if may {
            self.paid_at = Some(self.paid_at.map_or(now, |at| at.max(now)) + INTERVAL);
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_at_once_and_one_an_interval() {
        let (mut pace, start) = (ListPace::default(), Instant::now());
        assert_eq!(pace.next(), None);
        assert!((0..BURST).all(|_| pace.take(start)));
        assert!(!pace.take(start) && pace.next() == Some(start + INTERVAL));
        let mut lists = 0;
        for second in 0..600 {
            lists += u32::from(pace.take(start + Duration::from_secs(second)));
        }
        assert_eq!(lists, 59, "one in ten seconds");
        let later = start + Duration::from_secs(3_600);
        assert_eq!((0..100).filter(|_| pace.take(later)).count(), 6);
    }
}
