//! How often each node is probed: as often as its kind of answer allows, with a limit for all together.

use std::time::{Duration, Instant};

use super::path::{AGENT, Path, REFUSED};

/// How often nodes are asked that nothing else bounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Intervals {
    /// The least for one in use.
    in_use: Duration,
    /// One in use at whose port no agent listens.
    refused: Duration,
    others: Duration,
    /// How many addresses belong to nodes in use.
    pub(super) addresses: u32,
    pub(super) computed: Instant,
}

/// Datagrams a second.
pub(super) const RATE: u32 = 300;
/// How often a node is asked that is not in use, or has never answered.
const SLOW: Duration = Duration::from_secs(10);
/// How many of all datagrams are for nodes not in use, at most.
const SLOW_RATE: u32 = 100;
/// And how many for nodes at whose port no agent listens.
const REFUSED_RATE: u32 = 100;

// === impl Intervals ===

impl Intervals {
    /// With nothing to ask.
    pub(super) fn new(now: Instant) -> Self {
        Self { in_use: AGENT, refused: REFUSED, others: SLOW, addresses: 0, computed: now }
    }

    /// Shares the datagrams among all.
    pub(super) fn of_all<'a>(paths: impl Iterator<Item = &'a Path> + Clone, now: Instant) -> Self {
        let (mut fast, mut slow, mut refused) = (0, 0, 0);
        let (mut addresses, mut fastest) = (0, Vec::new());
        for path in paths {
            let datagrams = path.versions(now).datagrams();
            if !path.in_use || path.detector.is_hopeless() {
                slow += datagrams;
                continue;
            }
            addresses += 1;
            match path.detector.refuses() {
                true => refused += datagrams,
                false => {
                    fast += datagrams;
                    fastest.push((path.paced(), datagrams));
                }
            }
        }
        let interval =
            |datagrams: u32, rate: u32| Duration::from_secs(datagrams.into()) / rate.max(1);
        let slow_rate = (slow / 10 + 1).min(SLOW_RATE);
        let refused_rate = refused.min(REFUSED_RATE);
        let fast_rate = RATE - slow_rate - refused_rate;
        Self {
            in_use: share(&fastest, interval(fast, fast_rate), fast_rate),
            refused: interval(refused, refused_rate).max(REFUSED),
            others: interval(slow, SLOW_RATE).max(SLOW),
            addresses,
            computed: now,
        }
    }

    /// How often an address is asked while nothing of it is lost.
    pub(super) fn settled(&self, path: &Path) -> Duration {
        match path.in_use && !path.detector.is_hopeless() {
            true if path.detector.refuses() => self.refused,
            true => self.in_use.max(path.paced()),
            false => self.others,
        }
    }

    /// How often an address is asked now.
    pub(super) fn of(&self, path: &Path, now: Instant) -> Duration {
        let settled = self.settled(path);
        // Once something is lost the next ones decide.
        let decides = path.detector.is_undecided() || path.is_watched(now);
        if decides { path.step(settled) } else { settled }
    }
}

/// The interval at which `all` together come to the rate, where some have a longer one themselves. `equal` would be that of
/// all if none had.
fn share(all: &[(Duration, u32)], equal: Duration, rate: u32) -> Duration {
    let slower = all.iter().filter(|(interval, _)| *interval >= equal);
    let taken: f64 = slower
        .clone()
        .map(|(interval, datagrams)| f64::from(*datagrams) / interval.as_secs_f64())
        .sum();
    let others: u32 = all.iter().map(|(_, datagrams)| datagrams).sum::<u32>()
        - slower.map(|(_, datagrams)| datagrams).sum::<u32>();
    // They take less than an equal share, so something is left.
    Duration::from_secs_f64(f64::from(others) / (f64::from(rate) - taken).max(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_slow_ones_leave_is_the_others() {
        let millis = Duration::from_millis;
        assert_eq!(share(&[], Duration::ZERO, 200), Duration::ZERO);
        // 20 × 10 a second.
        assert_eq!(share(&[(millis(100), 1); 20], millis(100), 200), Duration::ZERO);
        assert_eq!(share(&[(millis(100), 1); 60], millis(300), 200), millis(300));
        // Ten are asked once in 2.5 s: 196 a second for 50.
        let all = [&[(millis(100), 1); 50][..], &[(millis(2_500), 1); 10]].concat();
        let left = share(&all, millis(300), 200);
        assert!(left > millis(255) && left < millis(256), "{left:?}");
    }
}
