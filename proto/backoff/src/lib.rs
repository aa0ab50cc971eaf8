//! How long to wait before something that failed is tried again: the one policy of all daemons (`docs/adr/0001`).
//!
//! Pauses double from the first to the longest, each with jitter, so that what failed together is not tried again together.
//! They begin anew when an attempt was of use, which is the caller's to say: a connection that was opened is of no use yet.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};

/// The bounds of pauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The first pause is this at least, and twice this at most.
    pub first: Duration,
    /// No pause is longer, and after many failures none is shorter than half of it.
    pub longest: Duration,
}

/// Pauses between attempts at one thing.
#[derive(Debug)]
pub struct Backoff {
    policy: Policy,
    seed: u64,
    pauses: ExponentialBackoff,
}

impl Policy {
    /// Of connections to an etcd: a stopped one is found again within ten seconds of its start.
    pub const CONNECTION: Self =
        Self { first: Duration::from_millis(50), longest: Duration::from_secs(10) };
    /// Of an object in the kernel that could not be made as wanted.
    pub const OBJECT: Self =
        Self { first: Duration::from_millis(100), longest: Duration::from_secs(300) };

    fn pauses(self, seed: u64) -> ExponentialBackoff {
        // The jitter is added: as much again as the pause, at most.
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
    /// Nothing failed yet. Two with different seeds wait for different times.
    pub fn new(policy: Policy, seed: u64) -> Self {
        Self { policy, seed, pauses: policy.pauses(seed) }
    }

    /// Another attempt failed: how long to wait for the next.
    pub fn failed(&mut self) -> Duration {
        self.pauses.next().unwrap_or(self.policy.longest).min(self.policy.longest)
    }

    /// An attempt was of use: the next pause is the first again.
    pub fn reset(&mut self) {
        self.seed = self.seed.wrapping_add(1);
        self.pauses = self.policy.pauses(self.seed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_longest_and_begin_again() {
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
    fn what_failed_together_is_not_tried_again_together() {
        let pauses = |seed| {
            let mut backoff = Backoff::new(Policy::OBJECT, seed);
            (0..10).map(|_| backoff.failed()).collect::<Vec<Duration>>()
        };
        assert_ne!(pauses(1), pauses(2));
        assert_eq!(pauses(1), pauses(1));
    }
}
