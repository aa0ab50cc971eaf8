//! Looking up the canaries: a small request, sent when something depends on them, and not without pause.

use std::time::{Duration, Instant};

/// Whether the canaries are to be looked up.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Looks {
    wanted: bool,
    asked: bool,
    /// Not before then.
    next: Option<Instant>,
}

/// The least time between two look-ups: a peer that removes key by key makes each agent ask this often and no more.
const APART: Duration = Duration::from_millis(500);

// === impl Looks ===

impl Looks {
    /// Something depends on it.
    pub(super) fn want(&mut self) {
        self.wanted = true;
    }

    /// Whether to look now. True once.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let due =
            self.next_timeout().is_some_and(|at| at <= now) || self.may() && self.next.is_none();
        if due {
            (self.wanted, self.asked, self.next) = (false, true, Some(now + APART));
        }
        due
    }

    /// When to look.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.next.filter(|_| self.may())
    }

    fn may(&self) -> bool {
        self.wanted && !self.asked
    }

    /// The answer came.
    pub(super) fn answered(&mut self) {
        self.asked = false;
    }

    /// No answer will come.
    pub(super) fn disconnected(&mut self) {
        (self.wanted, self.asked) = (false, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_not_too_often() {
        let (mut looks, now) = (Looks::default(), Instant::now());
        assert!(!looks.is_due(now), "nothing hangs on it");
        looks.want();
        assert!(looks.is_due(now) && !looks.is_due(now));
        looks.want();
        assert!(!looks.is_due(now + APART), "the answer is not there");
        looks.answered();
        assert_eq!(looks.next_timeout(), Some(now + APART));
        assert!(!looks.is_due(now) && looks.is_due(now + APART));
        looks.want();
        looks.disconnected();
        assert!(!looks.is_due(now + 2 * APART));
    }
}
