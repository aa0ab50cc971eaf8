//! How much one peer may make us hold and do. Over it, what it said stays and nothing more is taken, until an operator says
//! otherwise: a peer that is broken or hostile must not cost the others anything.

use std::{
    collections::VecDeque,
    fmt,
    time::{Duration, Instant},
};

/// A peer's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Records it may have.
    pub keys: u64,
    /// Bytes of memory that they may take.
    pub bytes: u64,
    /// Changes a second, over [`WINDOW`].
    pub changes_per_second: u64,
}

/// What there is too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excess {
    /// Records.
    Keys {
        /// So many.
        found: u64,
        /// Of so many.
        allowed: u64,
    },
    /// Bytes of memory.
    Bytes {
        /// So many.
        found: u64,
        /// Of so many.
        allowed: u64,
    },
    /// Changes.
    Changes {
        /// So many in a window.
        found: u64,
        /// Of so many.
        allowed: u64,
    },
}

/// Over how long changes are counted: what comes at once after a pause is no flood.
pub const WINDOW: Duration = Duration::from_secs(10);
/// The window moves by steps.
const STEPS: u32 = 10;

/// Counts changes over the last [`WINDOW`], and a step more.
#[derive(Clone, Debug)]
pub struct ChangeRate {
    allowed: u64,
    /// When each step began, and what was counted in it.
    steps: VecDeque<(Instant, u64)>,
    sum: u64,
}

// === impl Budget ===

impl Default for Budget {
    fn default() -> Self {
        Self { keys: 1_000_000, bytes: 512 * 1024 * 1024, changes_per_second: 2_000 }
    }
}

impl Budget {
    /// What is over the budget in what a peer has.
    pub fn check(&self, keys: u64, bytes: u64) -> Option<Excess> {
        if keys > self.keys {
            return Some(Excess::Keys { found: keys, allowed: self.keys });
        }
        (bytes > self.bytes).then_some(Excess::Bytes { found: bytes, allowed: self.bytes })
    }
}

// === impl ChangeRate ===

impl ChangeRate {
    /// Nothing has changed yet.
    pub fn new(budget: &Budget) -> Self {
        let allowed = budget.changes_per_second.saturating_mul(WINDOW.as_secs());
        Self { allowed, steps: VecDeque::new(), sum: 0 }
    }

    /// Counts changes that came now.
    pub fn count(&mut self, changes: u64, now: Instant) -> Option<Excess> {
        let over = |since: &(Instant, u64)| now.saturating_duration_since(since.0) >= WINDOW;
        while let Some((_, past)) = self.steps.pop_front_if(|step| over(step)) {
            self.sum -= past;
        }
        self.sum += changes;
        match self.steps.back_mut() {
            Some((began, count)) if now.saturating_duration_since(*began) < WINDOW / STEPS => {
                *count += changes;
            }
            _ => self.steps.push_back((now, changes)),
        }
        (self.sum > self.allowed)
            .then_some(Excess::Changes { found: self.sum, allowed: self.allowed })
    }

    /// Begins anew.
    pub fn forget(&mut self) {
        self.steps.clear();
        self.sum = 0;
    }
}

// === impl Excess ===

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keys { found, allowed } => write!(f, "{found} records, {allowed} are allowed"),
            Self::Bytes { found, allowed } => {
                write!(f, "records of {found} bytes, {allowed} are allowed")
            }
            Self::Changes { found, allowed } => {
                write!(f, "{found} changes in {} s, {allowed} are allowed", WINDOW.as_secs())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let budget = Budget { keys: 10, bytes: 100, changes_per_second: 1 };
        assert_eq!(budget.check(10, 100), None);
        assert_eq!(budget.check(11, 0).unwrap().to_string(), "11 records, 10 are allowed");
        assert_eq!(
            budget.check(10, 101).unwrap().to_string(),
            "records of 101 bytes, 100 are allowed"
        );
    }

    #[test]
    fn a_burst_is_no_flood_and_a_flood_is_seen() {
        let budget = Budget { changes_per_second: 5, ..Budget::default() };
        let start = Instant::now();
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        let mut rate = ChangeRate::new(&budget);
        assert_eq!(rate.count(50, at(0.0)), None, "ten seconds' worth at once");
        assert_eq!(rate.count(1, at(9.9)), Some(Excess::Changes { found: 51, allowed: 50 }));
        assert_eq!(rate.count(49, at(10.0)), None, "the burst is over");
        assert_eq!(rate.count(1, at(10.5)), Some(Excess::Changes { found: 51, allowed: 50 }));
        rate.forget();
        assert_eq!(rate.count(50, at(10.6)), None);

        let mut rate = ChangeRate::new(&budget);
        for second in 0..1_000 {
            assert_eq!(rate.count(5, at(f64::from(second))), None, "{second}");
            assert!(rate.steps.len() <= 11);
        }
        let mut flood = (0..100).filter_map(|n| rate.count(1, at(1_000.0 + f64::from(n) / 10.0)));
        assert!(flood.next().is_some(), "twice as many");
    }
}
