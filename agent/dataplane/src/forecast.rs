//! How full the tables are, and when they will be full.

use std::{
    collections::VecDeque,
    fmt,
    time::{Duration, Instant},
};

use crate::tables::Occupancy;

/// How full a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// The table.
    pub map: &'static str,
    /// Entries in use.
    pub used: u32,
    /// Entries that there is room for.
    pub size: u32,
    /// How many more entries were in use within an hour, from the last hour or the part of it that was seen. `None`: it
    /// is too soon.
    pub growth_per_hour: Option<i64>,
    /// When it will be full at this rate; `None` if it did not grow in both halves of that time, and until it was
    /// watched for 15 minutes: a burst, as at start, is no lasting growth.
    pub full_in: Option<Duration>,
}

/// The occupancy during the last hour.
#[derive(Debug, Default)]
pub struct Forecast {
    /// Oldest first.
    samples: VecDeque<(Instant, [u32; TABLES])>,
}

const TABLES: usize = 4;
/// The time that a rate is taken from.
const WINDOW: Duration = Duration::from_secs(3_600);
/// How long is measured before a forecast is made.
const MEASURED: Duration = Duration::from_secs(900);
/// Between two samples.
const INTERVAL: Duration = Duration::from_secs(60);
/// From this share on the operator should know, in percent.
const HIGH: u64 = 80;

// === impl Forecast ===

impl Forecast {
    /// Records what is in use, at most once a minute. Not while the tables are filled at start: that gives no rate.
    pub fn observe(&mut self, occupancy: &Occupancy, now: Instant) {
        let due = |(last, _): &(Instant, _)| now.saturating_duration_since(*last) >= INTERVAL;
        if self.samples.back().is_none_or(due) {
            self.samples.push_back((now, used(occupancy)));
        }
        // The oldest is as old as the window, or older.
        let second_is_old = |samples: &VecDeque<(Instant, _)>| {
            samples.get(1).is_some_and(|(at, _)| now.saturating_duration_since(*at) >= WINDOW)
        };
        while second_is_old(&self.samples) {
            self.samples.pop_front();
        }
    }

    /// How full each table is, and when it will be full.
    pub fn levels(&self, occupancy: &Occupancy, now: Instant) -> [Level; TABLES] {
        let sizes = occupancy.sizes;
        let of = [
            ("cm_services", sizes.services),
            ("cm_backends", sizes.backends),
            ("cm_slots", sizes.slots),
            ("cm_groups", sizes.groups),
        ];
        let mut used = used(occupancy).into_iter().enumerate();
        of.map(|(map, size)| {
            let (at, used) = used.next().unwrap_or_default();
            let growth = self.growth(at, used, now);
            let lasting = growth.filter(|(_, since)| *since >= MEASURED);
            let full_in = lasting.and_then(|(more, since)| {
                let half = self.growth_since(at, used, now, since / 2)?;
                // The slower half gives the rate, and the whole can be no slower.
                let (more, since) = [half, (more - half.0, since - half.1)]
                    .into_iter()
                    .min_by_key(|(more, since)| rate(*more, *since))?;
                let room = u64::from(size.saturating_sub(used));
                let more = u128::try_from(more).ok().filter(|more| *more > 0)?;
                let millis = u128::from(room) * since.as_millis() / more;
                Some(Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX)))
            });
            let per_hour = growth.and_then(|(more, since)| i64::try_from(rate(more, since)).ok());
            Level { map, used, size, growth_per_hour: per_hour, full_in }
        })
    }

    /// How many more there are than at the beginning of the window, and how long ago that was.
    fn growth(&self, at: usize, used: u32, now: Instant) -> Option<(i64, Duration)> {
        let (since, before) = self.samples.front()?;
        let since = now.saturating_duration_since(*since);
        let more = i64::from(used) - i64::from(*before.get(at)?);
        (since >= INTERVAL).then_some((more, since))
    }

    /// How many more there are than at the newest sample that is so old, and how long ago that was.
    fn growth_since(
        &self,
        at: usize,
        used: u32,
        now: Instant,
        age: Duration,
    ) -> Option<(i64, Duration)> {
        let since = |then: &Instant| now.saturating_duration_since(*then);
        let (then, before) = self.samples.iter().rfind(|(then, _)| since(then) >= age)?;
        Some((i64::from(used) - i64::from(*before.get(at)?), since(then)))
    }
}

/// The number of more entries in this time, as a number in an hour.
fn rate(more: i64, since: Duration) -> i128 {
    let millis = i128::try_from(since.as_millis()).unwrap_or(i128::MAX).max(1);
    i128::from(more) * 3_600_000 / millis
}

fn used(occupancy: &Occupancy) -> [u32; TABLES] {
    [occupancy.services, occupancy.backends, occupancy.slots, occupancy.groups]
}

// === impl Level ===

impl Level {
    /// Whether the operator should know.
    pub fn is_high(&self) -> bool {
        u64::from(self.used) * 100 >= u64::from(self.size) * HIGH
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { map, used, size, full_in, .. } = self;
        let percent = u64::from(*used) * 100 / u64::from(*size).max(1);
        match full_in {
            _ if used >= size => write!(f, "{map}: full"),
            Some(full_in) => {
                write!(f, "{map}: {percent} % full, full in {} at this rate", Rough(*full_in))
            }
            None => write!(f, "{map}: {percent} % full"),
        }
    }
}

/// A time in one unit.
struct Rough(Duration);

impl fmt::Display for Rough {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let minutes = self.0.as_secs() / 60;
        match minutes {
            0 => f.write_str("less than 1 min"),
            1..120 => write!(f, "{minutes} min"),
            120..2_880 => write!(f, "{} h", minutes / 60),
            _ => write!(f, "{} d", minutes / 1_440),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Sizes;

    fn occupancy(slots: u32) -> Occupancy {
        let sizes = Sizes { services: 10, backends: 100, slots: 1_000, groups: 10 };
        Occupancy { sizes, services: 10, backends: 79, slots, groups: 0 }
    }

    fn slots(forecast: &Forecast, used: u32, now: Instant) -> Level {
        forecast.levels(&occupancy(used), now)[2]
    }

    #[test]
    fn full_at_the_rate_of_the_last_hour() {
        let start = Instant::now();
        let minutes = |n: u64| start + Duration::from_secs(n * 60);
        let mut forecast = Forecast::default();
        assert_eq!(slots(&forecast, 500, start).to_string(), "cm_slots: 50 % full");
        // Ten more each minute.
        for n in 0..30u32 {
            forecast.observe(&occupancy(500 + 10 * n), minutes(n.into()));
        }
        let level = slots(&forecast, 800, minutes(30));
        assert_eq!(
            (level.growth_per_hour, level.full_in),
            (Some(600), Some(Duration::from_secs(1_200)))
        );
        assert_eq!(level.to_string(), "cm_slots: 80 % full, full in 20 min at this rate");
        assert!(level.is_high());
        // None for an hour and a half, but for one a minute more at its end: what was before is forgotten.
        for n in 30..121u32 {
            forecast.observe(&occupancy(800), minutes(n.into()));
        }
        let level = slots(&forecast, 860, minutes(120));
        assert_eq!((level.growth_per_hour, level.full_in), (Some(60), None), "all at once");
        assert_eq!(level.to_string(), "cm_slots: 86 % full");
        // It goes on: two a minute at first, then one.
        for n in 121..151u32 {
            forecast.observe(&occupancy(860 + 2 * (n - 120)), minutes(n.into()));
        }
        for n in 151..181u32 {
            forecast.observe(&occupancy(920 + n - 150), minutes(n.into()));
        }
        let level = slots(&forecast, 950, minutes(180));
        assert_eq!(
            (level.growth_per_hour, level.full_in),
            (Some(150), Some(Duration::from_secs(3_000)))
        );
        assert_eq!(level.to_string(), "cm_slots: 95 % full, full in 50 min at this rate");
        let level = slots(&forecast, 700, minutes(180));
        assert_eq!(
            (level.growth_per_hour, level.full_in, level.is_high()),
            (Some(-100), None, false)
        );
        assert_eq!(slots(&forecast, 1_000, minutes(180)).to_string(), "cm_slots: full");
    }

    /// Tables fill when an agent starts, and when pods are added.
    #[test]
    fn a_burst_is_no_rate() {
        let start = Instant::now();
        let minutes = |n: u32| start + Duration::from_secs(60 * u64::from(n));
        let mut forecast = Forecast::default();
        for n in 0..100 {
            let used = if n < 5 { n * 40 } else { 200 };
            forecast.observe(&occupancy(used), minutes(n));
            assert_eq!(slots(&forecast, used, minutes(n)).full_in, None, "after {n} minutes");
        }
        forecast.observe(&occupancy(230), minutes(100));
        assert_eq!(slots(&forecast, 230, minutes(101)).full_in, None);
    }

    #[test]
    fn each_table_by_itself() {
        let now = Instant::now();
        let levels = Forecast::default().levels(&occupancy(800), now);
        assert_eq!(levels.map(|level| level.is_high()), [true, false, true, false]);
        assert_eq!(
            levels.map(|level| level.to_string()),
            [
                "cm_services: full",
                "cm_backends: 79 % full",
                "cm_slots: 80 % full",
                "cm_groups: 0 % full"
            ]
        );
    }

    #[test]
    fn a_forecast_takes_a_quarter_of_an_hour() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut forecast = Forecast::default();
        forecast.observe(&occupancy(0), start);
        let level = slots(&forecast, 59, at(59));
        assert_eq!((level.growth_per_hour, level.full_in), (None, None));
        for n in 1..15u32 {
            forecast.observe(&occupancy(60 * n), at(60 * u64::from(n)));
        }
        let level = slots(&forecast, 899, at(899));
        assert_eq!((level.growth_per_hour, level.full_in), (Some(3_600), None));
        let level = slots(&forecast, 900, at(900));
        assert_eq!(level.full_in, Some(Duration::from_secs(100)));
        assert_eq!(level.to_string(), "cm_slots: 90 % full, full in 1 min at this rate");
    }
}
