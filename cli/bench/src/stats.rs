//! Statistics of measurements.

use serde::Serialize;

/// The distribution of measurements, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Distribution {
    /// The number of measurements.
    pub count: usize,
    /// The 50th percentile.
    pub p50_nanos: u64,
    /// The 90th percentile.
    pub p90_nanos: u64,
    /// The 99th percentile.
    pub p99_nanos: u64,
    /// The largest.
    pub max_nanos: u64,
}

/// The median; 0 without values.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    let at = |index: usize| values.get(index).copied().unwrap_or_default();
    if values.len() % 2 == 1 {
        at(middle)
    } else {
        (at(middle.saturating_sub(1)) + at(middle)) / 2.0
    }
}

impl Distribution {
    /// Without measurements, everything is 0.
    pub(crate) fn of(mut nanos: Vec<u64>) -> Self {
        nanos.sort_unstable();
        // The nearest rank: the smallest value such that `percent` of all values are not larger.
        let at = |percent: usize| {
            let rank = (nanos.len() * percent).div_ceil(100);
            nanos.get(rank.saturating_sub(1)).copied().unwrap_or(0)
        };
        Self {
            count: nanos.len(),
            p50_nanos: at(50),
            p90_nanos: at(90),
            p99_nanos: at(99),
            max_nanos: at(100),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::float_cmp, reason = "halves of small numbers are exact")]
    fn the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(Vec::new()), 0.0);
    }

    #[test]
    fn nearest_rank() {
        let all = Distribution::of((1..=200).rev().collect());
        let (p50_nanos, p90_nanos, p99_nanos, max_nanos) = (100, 180, 198, 200);
        assert_eq!(all, Distribution { count: 200, p50_nanos, p90_nanos, p99_nanos, max_nanos });
        assert_eq!(Distribution::of(vec![7]).p99_nanos, 7);
        assert_eq!(Distribution::of(Vec::new()).count, 0);
    }
}
