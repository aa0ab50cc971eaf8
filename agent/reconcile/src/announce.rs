//! The log of a writer: a line when something fails or was repaired, and then one a minute at most.

use std::time::{Duration, Instant};

use crate::status::Status;

/// Compares with what was logged last.
#[derive(Debug, Default)]
pub(crate) struct Announcer {
    failing: Line<usize>,
    repairs: Line<u64>,
    error: Line<Option<String>>,
}

/// One kind of line.
#[derive(Debug, Default)]
struct Line<V> {
    logged: V,
    not_before: Option<Instant>,
}

/// Between two lines of a kind.
const PAUSE: Duration = Duration::from_secs(60);

// === impl Announcer ===

impl Announcer {
    pub(crate) fn announce(&mut self, status: &Status, now: Instant) {
        if self.failing.is_new(&status.failing, now) {
            match status.reasons.first() {
                Some(first) if status.failing > 0 => tracing::warn!(
                    failing = status.failing,
                    reason = first.failure.reason(),
                    alike = first.count,
                    example = first.example,
                    "some keys cannot be written; each is retried"
                ),
                _ => tracing::info!("everything that had failed is written now"),
            }
        }
        let before = self.repairs.logged;
        if self.repairs.is_new(&status.repairs, now) {
            let repaired = status.repairs.saturating_sub(before);
            tracing::warn!(repaired, "another program changed our state; it is repaired");
        }
        if self.error.is_new(&status.last_error, now) {
            match &status.last_error {
                Some(error) => tracing::warn!(error, "the present state cannot be listed"),
                None => tracing::info!("the present state can be listed again"),
            }
        }
    }
}

// === impl Line ===

impl<V: PartialEq + Clone> Line<V> {
    /// Whether it is to be logged now.
    fn is_new(&mut self, value: &V, now: Instant) -> bool {
        if self.logged == *value || self.not_before.is_some_and(|at| at > now) {
            return false;
        }
        self.logged = value.clone();
        self.not_before = Some(now + PAUSE);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_logged_once_a_minute_and_the_last_state_is_logged() {
        let mut line = Line::default();
        let start = Instant::now();
        let logged = |line: &mut Line<usize>, second: u64, value| {
            line.is_new(&value, start + Duration::from_secs(second))
        };
        assert!(!logged(&mut line, 0, 0), "nothing to say");
        assert!(logged(&mut line, 1, 5));
        assert!(!logged(&mut line, 2, 6) && !logged(&mut line, 30, 7));
        assert!(logged(&mut line, 61, 7) && !logged(&mut line, 200, 7));
    }
}
