//! How full the etcd is, and when it will be.
//!
//! Every revision takes space until it is compacted. An etcd that does not compact itself is full one day, however little
//! it holds: an idle writer makes about 70 revisions a minute.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use mesh_etcd::EtcdStatus;

/// How the etcd's size went lately.
#[derive(Debug, Default)]
pub(super) struct Capacity {
    /// Bytes in use, oldest first.
    samples: VecDeque<(Instant, u64)>,
}

/// How full the etcd is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fill {
    /// Bytes of its file.
    pub(crate) size: u64,
    /// Bytes of these in use.
    pub(crate) used: u64,
    /// Bytes that the file may have.
    pub(crate) quota: u64,
    /// When it will be full, if it goes on like this.
    pub(crate) full_in: Option<Duration>,
    /// How old the oldest revision is that can still be read, where that is too old.
    pub(crate) uncompacted: Option<Duration>,
}

/// How long samples are kept: longer than an etcd needs that keeps an hour of revisions to come to rest.
const WINDOW: Duration = Duration::from_secs(3 * 3600);
/// What went on for less says nothing.
const SHORTEST: Duration = Duration::from_secs(600);
/// How many times as long as it was seen a growth is taken to go on.
const AHEAD: u32 = 4;
/// Percent of the quota from which on it is worth a look.
const MUCH: u64 = 80;
/// An etcd that keeps an hour of revisions compacts every few minutes what is older.
const OLDEST: Duration = Duration::from_secs(2 * 3600);
/// What makes an etcd compact itself.
const COMPACTION: &str = "--auto-compaction-mode=periodic --auto-compaction-retention=1h";

// === impl Capacity ===

impl Capacity {
    /// Takes what the etcd says now. `quota` is for one that does not say its own.
    pub(super) fn take(&mut self, now: Instant, status: &EtcdStatus, quota: u64) -> Fill {
        let age = |at: Instant| now.saturating_duration_since(at);
        // The newest of those that are too old stays: it begins the window.
        while self.samples.get(1).is_some_and(|(at, _)| age(*at) >= WINDOW) {
            self.samples.pop_front();
        }
        self.samples.push_back((now, status.used));
        let quota = status.quota.unwrap_or(quota);
        let full_in = self.samples.front().and_then(|(at, used)| {
            let (seen, grown) = (age(*at), status.used.saturating_sub(*used));
            let left = quota.saturating_sub(status.used);
            // Rest divided by rate, in whole numbers.
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
    /// Notes how old the oldest revision is that can be read.
    pub(super) fn with_oldest(mut self, age: Option<Duration>) -> Self {
        self.uncompacted = age.filter(|age| *age > OLDEST);
        self
    }

    /// What needs attention, with what to do.
    pub(crate) fn problems(&self) -> Vec<String> {
        let Self { size, used, quota, full_in, uncompacted } = self;
        let uncompacted = uncompacted.map(|age| {
            format!(
                "etcd: revisions of {} ago can still be read: the etcd does not compact itself, and will be full one day. Start it with {COMPACTION}",
                words(age)
            )
        });
        let full_in = full_in.map(|left| {
            format!(
                "etcd: it will be full in about {}, if it goes on like this: {} of {} are in use. Start it with {COMPACTION}, or with a larger --quota-backend-bytes",
                words(left), mebibytes(*used), mebibytes(*quota)
            )
        });
        let much = size.saturating_mul(100) >= quota.saturating_mul(MUCH);
        let much = much.then(|| {
            format!(
                "etcd: its file has {} of the {} that it may have, {} of these in use. Compact and defragment it (etcdctl compact, etcdctl defrag), or start it with a larger --quota-backend-bytes",
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

    /// What is found after so many minutes, each with so much more or less in use.
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
    fn growth_that_was_seen_long_enough_is_forecast() {
        // 20 MiB a minute: 2,048 take 102 minutes.
        let fill = after(20, |minute| 20 * MIB * minute);
        assert_eq!(fill.full_in, None, "seen for 20 minutes, 82 ahead");
        let fill = after(21, |minute| 20 * MIB * minute);
        assert_eq!(fill.full_in, Some(Duration::from_millis(81 * 60_000 + 24_000)));
        assert_eq!(
            fill.problems(),
            [
                "etcd: it will be full in about 81 minutes, if it goes on like this: 420 MiB of 2048 MiB are in use. Start it with --auto-compaction-mode=periodic --auto-compaction-retention=1h, or with a larger --quota-backend-bytes"
            ]
        );
        assert_eq!(after(9, |minute| 200 * MIB * minute).full_in, None, "nine minutes say nothing");
    }

    #[test]
    fn what_comes_to_rest_is_none() {
        // An hour of revisions is kept: it grows for an hour, and no more.
        let rests = |minute: u64| 5 * MIB * minute.min(66);
        for minute in 0..=400 {
            assert_eq!(after(minute, rests).problems(), Vec::<String>::new(), "minute {minute}");
        }
        assert_eq!(after(60, |minute| 900 * MIB - minute * MIB).full_in, None, "it shrinks");
        assert_eq!(after(60, |_| 900 * MIB).full_in, None);
    }

    /// The growth that counts is that of the last hours.
    #[test]
    fn what_is_long_ago_is_forgotten() {
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
    fn a_file_near_its_quota_is_named() {
        let status =
            |size| EtcdStatus { version: String::new(), size, used: 10 * MIB, quota: None };
        let problems =
            |size| Capacity::default().take(Instant::now(), &status(size), 100 * MIB).problems();
        assert_eq!(problems(80 * MIB - 1), Vec::<String>::new());
        assert_eq!(
            problems(80 * MIB),
            [
                "etcd: its file has 80 MiB of the 100 MiB that it may have, 10 MiB of these in use. Compact and defragment it (etcdctl compact, etcdctl defrag), or start it with a larger --quota-backend-bytes"
            ]
        );
    }

    #[test]
    fn revisions_of_more_than_two_hours_are_named_with_the_flag() {
        let fill = after(0, |_| MIB);
        let at = |age| fill.clone().with_oldest(age).problems();
        assert_eq!(at(None), Vec::<String>::new());
        assert_eq!(at(Some(minutes(120))), Vec::<String>::new());
        assert_eq!(
            at(Some(minutes(181))),
            [
                "etcd: revisions of 3 hours ago can still be read: the etcd does not compact itself, and will be full one day. Start it with --auto-compaction-mode=periodic --auto-compaction-retention=1h"
            ]
        );
    }
}
