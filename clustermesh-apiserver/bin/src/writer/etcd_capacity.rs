//! How full the etcd is, and when it will be full.
//!
//! Every revision takes space until it is compacted. An etcd that does not compact itself will be full eventually, even
//! with few keys: an idle writer makes about 70 revisions a minute.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use mesh_etcd::EtcdStatus;

/// The etcd's recent sizes.
#[derive(Debug, Default)]
pub(super) struct Capacity {
    /// Times, and bytes in use; the oldest first.
    samples: VecDeque<(Instant, u64)>,
}

/// How full the etcd is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fill {
    /// The size of its database file, in bytes.
    pub(crate) size: u64,
    /// The part of the file that is in use, in bytes.
    pub(crate) used: u64,
    /// The quota for the file, in bytes.
    pub(crate) quota: u64,
    /// In what time it will be full if it continues to grow like this.
    pub(crate) full_in: Option<Duration>,
    /// The age of the oldest revision that can still be read, if it is too old.
    pub(crate) uncompacted: Option<Duration>,
}

/// How long samples are kept. An etcd that keeps revisions for an hour has stopped growing by then.
const WINDOW: Duration = Duration::from_secs(3 * 3600);
/// The minimum time for a forecast.
const SHORTEST: Duration = Duration::from_secs(600);
/// A forecast reaches at most this many times as far as the observed time.
const AHEAD: u32 = 4;
/// The percentage of the quota from which on the size is a problem.
const MUCH: u64 = 80;
/// The maximum age of revisions. An etcd that keeps revisions for an hour compacts older ones every few minutes.
const OLDEST: Duration = Duration::from_secs(2 * 3600);
/// The flags that make an etcd compact itself.
const COMPACTION: &str = "--auto-compaction-mode=periodic --auto-compaction-retention=1h";

// === impl Capacity ===

impl Capacity {
    /// Adds a sample. `quota` is used if the etcd does not report its quota.
    pub(super) fn take(&mut self, now: Instant, status: &EtcdStatus, quota: u64) -> Fill {
        let age = |at: Instant| now.saturating_duration_since(at);
        // Keep the newest of the samples that are too old, as the beginning of the window.
        while self.samples.get(1).is_some_and(|(at, _)| age(*at) >= WINDOW) {
            self.samples.pop_front();
        }
        self.samples.push_back((now, status.used));
        let quota = status.quota.unwrap_or(quota);
        let full_in = self.samples.front().and_then(|(at, used)| {
            let (seen, grown) = (age(*at), status.used.saturating_sub(*used));
            let left = quota.saturating_sub(status.used);
            // The remaining space, divided by the rate of growth.
            let full_in = u64::try_from(
                u128::from(left).saturating_mul(seen.as_millis()).checked_div(grown.into())?,
            );
            let full_in = Duration::from_millis(full_in.ok()?);
            (seen >= SHORTEST && full_in <= seen.saturating_mul(AHEAD)).then_some(full_in)
        });
        Fill { size: status.size, used: status.used, quota, full_in, uncompacted: None }
    }
}

// === impl Fill ===

impl Fill {
    /// Sets the age of the oldest revision that can be read.
    pub(super) fn with_oldest(mut self, age: Option<Duration>) -> Self {
        self.uncompacted = age.filter(|age| *age > OLDEST);
        self
    }

    /// Messages about what needs attention, with remedies.
    pub(crate) fn problems(&self) -> Vec<String> {
        let Self { size, used, quota, full_in, uncompacted } = self;
        let uncompacted = uncompacted.map(|age| {
            format!(
                "etcd: revisions of {} ago can still be read: the etcd does not compact itself, so it will be full eventually. Start it with {COMPACTION}",
                words(age)
            )
        });
        let full_in = full_in.map(|left| {
            format!(
                "etcd: it will be full in about {}, if it continues to grow like this: {} of {} are in use. Start it with {COMPACTION}, or with a larger --quota-backend-bytes",
                words(left), mebibytes(*used), mebibytes(*quota)
            )
        });
        let much = size.saturating_mul(100) >= quota.saturating_mul(MUCH);
        let much = much.then(|| {
            format!(
                "etcd: its file has {} of its quota of {}; {} of the file are in use. Compact and defragment it (etcdctl compact, etcdctl defrag), or start it with a larger --quota-backend-bytes",
                mebibytes(*size), mebibytes(*quota), mebibytes(*used)
            )
        });
        [uncompacted, full_in, much].into_iter().flatten().collect()
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

fn words(time: Duration) -> String {
    match time.as_secs() / 60 {
        minutes @ 0..120 => format!("{minutes} minutes"),
        minutes @ 120..2_880 => format!("{} hours", minutes / 60),
        minutes => format!("{} days", minutes / 1_440),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const QUOTA: u64 = 2_048 * MIB;

    fn minutes(count: u64) -> Duration {
        Duration::from_secs(60 * count)
    }

    /// The result after some minutes, with one sample a minute.
    fn after(minutes_: u64, used_at: impl Fn(u64) -> u64) -> Fill {
        let (mut capacity, began) = (Capacity::default(), Instant::now());
        let mut fill = None;
        for minute in 0..=minutes_ {
            let used = used_at(minute);
            let status =
                EtcdStatus { version: "3.6.16".into(), size: used, used, quota: Some(QUOTA) };
            fill = Some(capacity.take(began + minutes(minute), &status, 1));
        }
        fill.unwrap()
    }

    #[test]
    fn growth_is_forecast_after_a_minimum_time() {
        // 20 MiB a minute: 2,048 take 102 minutes.
        let fill = after(20, |minute| 20 * MIB * minute);
        assert_eq!(fill.full_in, None, "observed for 20 minutes, forecast of 82");
        let fill = after(21, |minute| 20 * MIB * minute);
        assert_eq!(fill.full_in, Some(Duration::from_millis(81 * 60_000 + 24_000)));
        assert_eq!(
            fill.problems(),
            [
                "etcd: it will be full in about 81 minutes, if it continues to grow like this: 420 MiB of 2048 MiB are in use. Start it with --auto-compaction-mode=periodic --auto-compaction-retention=1h, or with a larger --quota-backend-bytes"
            ]
        );
        assert_eq!(
            after(9, |minute| 200 * MIB * minute).full_in,
            None,
            "nine minutes are too short"
        );
    }

    #[test]
    fn growth_that_ends_is_not_reported() {
        // Revisions are kept for an hour: it grows for about an hour only.
        let rests = |minute: u64| 5 * MIB * minute.min(66);
        for minute in 0..=400 {
            assert_eq!(after(minute, rests).problems(), Vec::<String>::new(), "minute {minute}");
        }
        assert_eq!(after(60, |minute| 900 * MIB - minute * MIB).full_in, None, "it shrinks");
        assert_eq!(after(60, |_| 900 * MIB).full_in, None);
    }

    /// Only the growth in the last hours counts.
    #[test]
    fn old_samples_are_forgotten() {
        let rests_late = |minute: u64| 5 * MIB * minute.min(200);
        assert!(after(200, rests_late).full_in.is_some());
        assert_eq!(after(200 + 180, rests_late).full_in, None);
        let (mut capacity, began) = (Capacity::default(), Instant::now());
        let status = EtcdStatus { version: String::new(), size: 0, used: 0, quota: None };
        for minute in 0..10_000 {
            capacity.take(began + minutes(minute), &status, 1);
        }
        assert!(capacity.samples.len() <= 182, "{}", capacity.samples.len());
    }

    #[test]
    fn a_file_near_its_quota_is_reported() {
        let status =
            |size| EtcdStatus { version: String::new(), size, used: 10 * MIB, quota: None };
        let problems =
            |size| Capacity::default().take(Instant::now(), &status(size), 100 * MIB).problems();
        assert_eq!(problems(80 * MIB - 1), Vec::<String>::new());
        assert_eq!(
            problems(80 * MIB),
            [
                "etcd: its file has 80 MiB of its quota of 100 MiB; 10 MiB of the file are in use. Compact and defragment it (etcdctl compact, etcdctl defrag), or start it with a larger --quota-backend-bytes"
            ]
        );
    }

    #[test]
    fn revisions_older_than_two_hours_are_reported_with_the_flag() {
        let fill = after(0, |_| MIB);
        let at = |age| fill.clone().with_oldest(age).problems();
        assert_eq!(at(None), Vec::<String>::new());
        assert_eq!(at(Some(minutes(120))), Vec::<String>::new());
        assert_eq!(
            at(Some(minutes(181))),
            [
                "etcd: revisions of 3 hours ago can still be read: the etcd does not compact itself, so it will be full eventually. Start it with --auto-compaction-mode=periodic --auto-compaction-retention=1h"
            ]
        );
    }
}
