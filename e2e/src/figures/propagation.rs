//! The time from a pod's readiness to the entry in the kernel of another cluster's node, and the parts of it.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{Kernel, Options, PATIENCE, api_server::ApiServer, watches::Watches};

/// Changes of one kind, one at a time.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Propagation {
    /// The profile of the daemons' build.
    pub build: String,
    /// What a pod becomes: `ready` or `not ready`.
    pub becomes: &'static str,
    /// From the API server's answer to the entry in the kernel.
    pub kernel: Percentiles,
    /// From the API server's answer to the line of a plain watch of the etcd.
    pub watch: Percentiles,
    /// From the API server's answer to the changed slice in a watch: its controller and the API server.
    pub api_server: Percentiles,
    /// From there to the line of a plain watch of the etcd: our apiserver and the etcd. It is negative where that watch was
    /// faster than the other one.
    pub export: Percentiles,
    /// From there to the entry in the kernel: the agent. It is negative where the agent was faster than the watch.
    pub agent: Percentiles,
    /// The ratio of the medians, kernel to plain watch.
    pub ratio: f64,
}

/// The distribution of durations, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Percentiles {
    /// How many there are.
    pub count: usize,
    /// The smallest.
    pub min_nanos: i64,
    /// The 50th percentile.
    pub p50_nanos: i64,
    /// The 99th percentile.
    pub p99_nanos: i64,
    /// The largest.
    pub max_nanos: i64,
}

/// One change: when the API server had answered, and when it was seen.
#[derive(Clone, Copy, Debug)]
struct Sample {
    answered: Instant,
    slice: Instant,
    key: Instant,
    kernel: Instant,
}

/// Between two changes. The controller of endpoint slices may write twenty times a second.
const PAUSE: Duration = Duration::from_millis(300);
/// The interval of looks into the kernel's memory: a fraction of what is measured, and little of a core.
const LOOK: Duration = Duration::from_micros(50);

/// Measures changes of one pod, which becomes not ready and ready in turns. All pods are ready before and after.
pub(super) fn measure(
    api_server: &ApiServer,
    kernel: &Kernel,
    watches: &Watches,
    build: &str,
    options: Options,
) -> Vec<Propagation> {
    let mut ready = Vec::new();
    let mut not_ready = Vec::new();
    for _ in 0..options.samples {
        not_ready.push(sample(api_server, kernel, watches, false, options.pods - 1));
        ready.push(sample(api_server, kernel, watches, true, options.pods));
    }
    vec![row(build, "ready", &ready), row(build, "not ready", &not_ready)]
}

fn sample(
    api_server: &ApiServer,
    kernel: &Kernel,
    watches: &Watches,
    ready: bool,
    wanted: u32,
) -> Sample {
    thread::sleep(PAUSE);
    watches.drain();
    let backends = kernel.backends().expect("the service is in the kernel");
    let answered = api_server.set_ready(ready);
    while backends() != wanted {
        assert!(answered.elapsed() < PATIENCE, "{} backends, not {wanted}", backends());
        thread::sleep(LOOK);
    }
    let kernel = Instant::now();
    let (slice, key) = watches.next();
    Sample { answered, slice, key, kernel }
}

fn row(build: &str, becomes: &'static str, samples: &[Sample]) -> Propagation {
    let part = |from: fn(&Sample) -> Instant, to: fn(&Sample) -> Instant| {
        Percentiles::of(samples.iter().map(|sample| nanos(from(sample), to(sample))).collect())
    };
    let kernel = part(|s| s.answered, |s| s.kernel);
    let watch = part(|s| s.answered, |s| s.key);
    Propagation {
        build: build.into(),
        becomes,
        kernel,
        watch,
        api_server: part(|s| s.answered, |s| s.slice),
        export: part(|s| s.slice, |s| s.key),
        agent: part(|s| s.key, |s| s.kernel),
        ratio: kernel.p50_nanos as f64 / watch.p50_nanos.max(1) as f64,
    }
}

/// From one moment to another, which may be before it.
fn nanos(from: Instant, to: Instant) -> i64 {
    let whole = |time: Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
    whole(to.saturating_duration_since(from)) - whole(from.saturating_duration_since(to))
}

// === impl Percentiles ===

impl Percentiles {
    /// Without durations, everything is 0.
    fn of(mut nanos: Vec<i64>) -> Self {
        nanos.sort_unstable();
        // The nearest rank: the smallest value such that `percent` of all values are not larger.
        let at = |percent: usize| {
            let rank = (nanos.len() * percent).div_ceil(100);
            nanos.get(rank.saturating_sub(1)).copied().unwrap_or_default()
        };
        Self {
            count: nanos.len(),
            min_nanos: at(0),
            p50_nanos: at(50),
            p99_nanos: at(99),
            max_nanos: at(100),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_and_may_be_negative() {
        let answered = Instant::now();
        let after = |millis| answered + Duration::from_millis(millis);
        let sample = Sample { answered, slice: after(5), key: after(3), kernel: after(9) };
        let row = row("debug", "ready", &[sample]);
        let parts = [row.api_server, row.export, row.agent].map(|part| part.p50_nanos);
        assert_eq!(parts, [5_000_000, -2_000_000, 6_000_000]);
        assert_eq!(parts.iter().sum::<i64>(), row.kernel.p50_nanos);
        assert!((row.ratio - 3.0).abs() < 1e-9, "{}", row.ratio);
    }

    #[test]
    fn nearest_rank() {
        let all = Percentiles::of((-99..=100).rev().collect());
        let (min_nanos, p50_nanos, p99_nanos, max_nanos) = (-99, 0, 98, 100);
        assert_eq!(all, Percentiles { count: 200, min_nanos, p50_nanos, p99_nanos, max_nanos });
        assert_eq!(Percentiles::of(Vec::new()).count, 0);
    }
}
