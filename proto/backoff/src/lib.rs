//! How long daemons wait before they retry something that failed (`docs/adr/0001`).
//!
//! Pauses double from the first to the longest, each with jitter, so that operations which failed together are not retried
//! together. The caller decides when an attempt was successful, and then starts again with the first pause. An open
//! connection alone is not a success.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};

/// The shortest and the longest pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The first pause is at least this long, and at most twice as long.
    pub first: Duration,
    /// No pause is longer. After many failures, no pause is shorter than half of it.
    pub longest: Duration,
}

/// The pauses between attempts of one operation.
#[derive(Debug)]
pub struct Backoff {
    policy: Policy,
    seed: u64,
    pauses: ExponentialBackoff,
}

impl Policy {
    /// For connections to an etcd: a reader connects within ten seconds after the etcd has started again.
    pub const CONNECTION: Self =
        Self { first: Duration::from_millis(50), longest: Duration::from_secs(10) };
    /// For objects in the kernel that could not be written.
    pub const OBJECT: Self =
        Self { first: Duration::from_millis(100), longest: Duration::from_secs(300) };

    fn pauses(self, seed: u64) -> ExponentialBackoff {
        // Jitter adds at most the pause itself, so the delay is limited to half of the longest pause.
        ExponentialBuilder::default()
            .with_min_delay(self.first)
            .with_max_delay(self.longest / 2)
            .with_factor(2.0)
            .without_max_times()
            .with_jitter()
            .with_jitter_seed(seed)
            .build()
    }
}

// === impl Backoff ===

impl Backoff {
    /// The state before the first failure. Different seeds give different pauses.
    pub fn new(policy: Policy, seed: u64) -> Self {
        Self { policy, seed, pauses: policy.pauses(seed) }
    }

    /// Call it when an attempt failed. Returns how long to wait before the next attempt.
    pub fn failed(&mut self) -> Duration {
        self.pauses.next().unwrap_or(self.policy.longest).min(self.policy.longest)
    }

    /// Call it when an attempt was successful. The next pause is the first again.
    pub fn reset(&mut self) {
        self.seed = self.seed.wrapping_add(1);
        self.pauses = self.policy.pauses(self.seed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_longest_until_reset() {
        for policy in [Policy::CONNECTION, Policy::OBJECT] {
            let mut backoff = Backoff::new(policy, 7);
            let first = backoff.failed();
            assert!(first >= policy.first && first <= policy.first * 2, "{first:?}");
            let pauses: Vec<Duration> = (0..40).map(|_| backoff.failed()).collect();
            assert!(pauses.iter().all(|pause| *pause <= policy.longest), "{pauses:?}");
            assert!(pauses[30..].iter().all(|pause| *pause >= policy.longest / 2), "{pauses:?}");
            backoff.reset();
            assert!(backoff.failed() <= policy.first * 2);
        }
    }

    #[test]
    fn different_seeds_give_different_pauses() {
        let pauses = |seed| {
            let mut backoff = Backoff::new(Policy::OBJECT, seed);
            (0..10).map(|_| backoff.failed()).collect::<Vec<Duration>>()
        };
        assert_ne!(pauses(1), pauses(2));
        assert_eq!(pauses(1), pauses(1));
    }
}
