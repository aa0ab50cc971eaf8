//! How much one peer may make us hold and do. Over it, its records stay and nothing more is accepted, until an operator
//! decides otherwise: a peer that is broken or hostile must not cost the others anything.

use std::{
    collections::VecDeque,
    fmt,
    time::{Duration, Instant},
};

/// A peer's limits. As many backends and bytes as it may have in all may also come at once: after a pause all of them
/// are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Records it may have.
    pub keys: u64,
    /// Bytes of memory that they may take.
    pub bytes: u64,
    /// Changes a second, over [`WINDOW`].
    pub changes_per_second: u64,
}

/// Which limit was exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excess {
    /// Records.
    Keys {
        /// The number.
        found: u64,
        /// The limit.
        allowed: u64,
    },
    /// Bytes of memory.
    Bytes {
        /// The number.
        found: u64,
        /// The limit.
        allowed: u64,
    },
    /// Changes.
    Changes {
        /// The number in a window.
        found: u64,
        /// The limit.
        allowed: u64,
    },
    /// Bytes of values to decode, beyond the allowed burst.
    Decoded,
    /// Backends in changes, beyond the allowed burst.
    Backends,
}

/// Over how long changes are counted: a burst after a pause is no flood.
pub const WINDOW: Duration = Duration::from_secs(10);
/// The window moves by steps.
const STEPS: u32 = 10;
/// Bytes of values, unpacked, that are read of a peer a second. About a tenth of a core.
pub const DECODED_PER_SECOND: u64 = 8 * 1024 * 1024;
/// Backends in what is read of a peer a second: at 3 µs each a seventh of a core (`docs/adr/0038`).
pub const BACKENDS_PER_SECOND: u64 = 50_000;

/// Counts changes over the last [`WINDOW`], and a step more.
#[derive(Clone, Debug)]
pub struct ChangeRate {
    allowed: u64,
    /// When each step began, and what was counted in it.
    steps: VecDeque<(Instant, u64)>,
    sum: u64,
}

/// An allowance: this much at once, and it grows by this much a second.
#[derive(Clone, Debug)]
pub(crate) struct Allowance {
    most: u64,
    per_second: u64,
    /// The amount spent beyond what has grown since, as of a time.
    spent: f64,
    at: Option<Instant>,
}

// === impl Budget ===

impl Default for Budget {
    fn default() -> Self {
        Self { keys: 1_000_000, bytes: 512 * 1024 * 1024, changes_per_second: 2_000 }
    }
}

impl Budget {
    /// The limit that a peer's records exceed.
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

    /// Resets it.
    pub fn forget(&mut self) {
        self.steps.clear();
        self.sum = 0;
    }
}

// === impl Allowance ===

impl Allowance {
    /// Nothing is spent yet.
    pub(crate) fn new(most: u64, per_second: u64) -> Self {
        Self { most, per_second, spent: 0.0, at: None }
    }

    /// Spends this much, even if it is not there.
    pub(crate) fn spend(&mut self, amount: u64, now: Instant) {
        self.spent = self.spent_at(now) + amount as f64;
        self.at = Some(now);
    }

    /// Whether more was spent than there was.
    pub(crate) fn is_exceeded(&self, now: Instant) -> bool {
        self.spent_at(now) > self.most as f64
    }

    /// When there is something again, if there is nothing now.
    pub(crate) fn refilled_at(&self, now: Instant) -> Option<Instant> {
        let missing = self.spent_at(now) - self.most as f64;
        let wait = missing / self.per_second as f64;
        (missing > 0.0).then(|| now + Duration::try_from_secs_f64(wait).unwrap_or(WINDOW))
    }

    fn spent_at(&self, now: Instant) -> f64 {
        let since = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        (self.spent - since.as_secs_f64() * self.per_second as f64).max(0.0)
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
            Self::Decoded => {
                write!(f, "changes of more than {DECODED_PER_SECOND} bytes a second, for long")
            }
            Self::Backends => {
                write!(f, "changes of more than {BACKENDS_PER_SECOND} backends a second, for long")
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

    #[test]
    fn an_allowance_grows_and_is_spent() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut allowance = Allowance::new(100, 10);
        allowance.spend(100, at(0));
        assert!(!allowance.is_exceeded(at(0)) && allowance.refilled_at(at(0)).is_none());
        allowance.spend(50, at(0));
        assert!(allowance.is_exceeded(at(0)) && allowance.is_exceeded(at(4)));
        assert_eq!(allowance.refilled_at(at(1)), Some(at(5)));
        assert!(!allowance.is_exceeded(at(5)));
        // It grows no further than what may be spent at once.
        allowance.spend(0, at(1_000));
        allowance.spend(100, at(1_000));
        assert!(!allowance.is_exceeded(at(1_000)));
        allowance.spend(1, at(1_000));
        assert!(allowance.is_exceeded(at(1_000)));
    }
}
