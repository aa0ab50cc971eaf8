//! Whether others do not answer, or the local uplink has failed: probes that are answered meanwhile are the evidence.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::path::Path;

/// When probes were sent that were answered, by any node of any cluster.
#[derive(Debug, Default)]
pub(super) struct SelfCheck(VecDeque<Span>);

/// Probes were answered, without a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    /// When the first one was sent.
    from: Instant,
    /// When the last one was.
    until: Instant,
}

/// An address has lost three probes in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Missing {
    /// When the first of them was sent.
    pub(super) since: Instant,
    /// When the last of them was.
    last: Instant,
}

/// Less than the shortest time in which three probes are lost: no such time without answers can be hidden in a span.
const PAUSE: Duration = Duration::from_millis(150);
/// How many spans are remembered: those of the detection time of a node that refuses.
const SPANS: usize = 64;

// === impl SelfCheck ===

impl SelfCheck {
    /// A probe that was sent then was answered.
    pub(super) fn note(&mut self, sent: Instant) {
        let after = self.0.iter().rposition(|span| span.from <= sent + PAUSE);
        match after.and_then(|at| self.0.get_mut(at).map(|span| (at, span))) {
            Some((_, span)) if sent <= span.until + PAUSE => {
                (span.from, span.until) = (span.from.min(sent), span.until.max(sent));
            }
            Some((at, _)) => self.0.insert(at + 1, Span { from: sent, until: sent }),
            None => self.0.push_front(Span { from: sent, until: sent }),
        }
        if self.0.len() > SPANS {
            self.0.pop_front();
        }
    }

    /// When the last probe was sent that was answered.
    pub(super) fn last(&self) -> Option<Instant> {
        self.0.back().map(|span| span.until)
    }

    /// Whether a probe was answered that was sent while the lost ones were. One that was sent after them is no
    /// evidence: the answer to the next one may be on its way.
    pub(super) fn covers(&self, missing: Missing) -> bool {
        self.0.iter().rev().any(|span| span.until >= missing.since && span.from <= missing.last)
    }
}

// === impl Missing ===

impl Missing {
    /// The lost probes of a path that has lost three and is not dead.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let (since, last) = path.detector.missing()?;
        Some(Self { since, last })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_answered_while_three_were_lost_is_evidence() {
        let began = Instant::now();
        let at = |millis: u64| began + Duration::from_millis(millis);
        let missing = |since, last| Missing { since: at(since), last: at(last) };
        let mut check = SelfCheck::default();
        // Each 100 ms, but for half a second; a late answer comes last.
        for sent in (1_000..=2_000).step_by(100).chain((2_500..3_000).step_by(100)) {
            check.note(at(sent));
        }
        check.note(at(400));
        assert_eq!(check.last(), Some(at(2_900)));
        for (since, last, covered) in [
            (0, 200, false),
            (390, 590, true),
            (1_010, 1_210, true),
            (1_950, 2_150, true),
            (2_010, 2_210, false),
            (2_250, 2_450, false),
            (2_310, 2_510, true),
            (2_910, 3_110, false),
        ] {
            assert_eq!(check.covers(missing(since, last)), covered, "{since}");
        }
    }

    #[test]
    fn a_self_check_is_of_lately() {
        let began = Instant::now();
        let mut check = SelfCheck::default();
        for n in 0..10_000 {
            check.note(began + Duration::from_millis(200) * n);
        }
        assert_eq!(check.0.len(), SPANS);
        for n in 0..10_000 {
            check.note(began + Duration::from_secs(3_000) + Duration::from_millis(100) * n);
        }
        assert_eq!(check.0.len(), SPANS, "and one span holds what has no pause");
    }
}
