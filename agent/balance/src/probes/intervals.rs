//! How often everybody is asked.

use std::time::{Duration, Instant};

use super::{FAST, RATE, REFUSED, cluster::Path};

/// How often a node is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Intervals {
    pub(super) in_use: Duration,
    /// One in use whose agent is away.
    pub(super) refused: Duration,
    others: Duration,
    /// So many addresses are of nodes in use.
    pub(super) addresses: u32,
    pub(super) computed: Instant,
}

/// How often a node is asked that is not in use, or has never answered.
const SLOW: Duration = Duration::from_secs(10);
/// Of all probes at most so many are for what is not in use.
const SLOW_RATE: u32 = 100;
/// And so many for nodes without an agent.
const REFUSED_RATE: u32 = 100;

// === impl Intervals ===

impl Intervals {
    /// With nobody to ask.
    pub(super) fn new(now: Instant) -> Self {
        Self { in_use: FAST, refused: REFUSED, others: SLOW, addresses: 0, computed: now }
    }

    /// Shares the probes among all.
    pub(super) fn of_all<'a>(paths: impl Iterator<Item = &'a Path>, now: Instant) -> Self {
        let (mut fast, mut slow, mut refused) = (0, 0, 0);
        for path in paths {
            match path.in_use && !path.detector.is_hopeless() {
                true if path.detector.refuses() => refused += 1,
                true => fast += 1,
                false => slow += 1,
            }
        }
        let interval = |paths: u32, rate: u32| Duration::from_secs(paths.into()) / rate.max(1);
        let slow_rate = (slow / 10 + 1).min(SLOW_RATE);
        let refused_rate = refused.min(REFUSED_RATE);
        Self {
            in_use: interval(fast, RATE - slow_rate - refused_rate).max(FAST),
            refused: interval(refused, refused_rate).max(REFUSED),
            others: interval(slow, SLOW_RATE).max(SLOW),
            addresses: fast + refused,
            computed: now,
        }
    }

    pub(super) fn of(&self, path: &Path) -> Duration {
        let refuses = path.detector.refuses();
        // Once something is lost the next ones decide.
        if path.detector.is_undecided() {
            return if refuses { REFUSED } else { FAST };
        }
        match path.in_use && !path.detector.is_hopeless() {
            true if refuses => self.refused,
            true => self.in_use,
            false => self.others,
        }
    }
}
