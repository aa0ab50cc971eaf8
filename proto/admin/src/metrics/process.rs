//! Metrics of this process under Prometheus' standard names. They are read from `/proc` at each export.

use std::{fmt, fs};

use nix::unistd::{SysconfVar, sysconf};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

/// Exports the metrics of this process.
#[derive(Debug)]
pub(super) struct Process;

/// Fields of `/proc/self/stat` after the name in parentheses, counted from 0, which is field 3 in proc(5).
const USER_TIME: usize = 11;
const SYSTEM_TIME: usize = 12;
const START_TIME: usize = 19;
const RESIDENT_PAGES: usize = 21;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let stat = Stat::read();
        if let Some(seconds) = stat.as_ref().and_then(Stat::cpu_seconds) {
            let name = "process_cpu_seconds";
            let help = "Processor time that the process used, in user and system mode.";
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(seconds).encode(metric)?;
        }
        let gauges = [
            (
                "process_resident_memory_bytes",
                "Memory of the process that is in use now.",
                stat.as_ref().and_then(Stat::resident_bytes),
            ),
            (
                "process_start_time_seconds",
                "When the process began, in seconds since 1970.",
                stat.as_ref().and_then(Stat::start_seconds),
            ),
            ("process_open_fds", "File descriptors that are open.", open_files()),
            ("process_max_fds", "File descriptors that may be open.", max_files()),
        ];
        for (name, help, value) in gauges {
            if let Some(value) = value {
                let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
                ConstGauge::new(value).encode(metric)?;
            }
        }
        Ok(())
    }
}

/// `/proc/self/stat`.
struct Stat(String);

// === impl Stat ===

impl Stat {
    fn read() -> Option<Self> {
        fs::read_to_string("/proc/self/stat").ok().map(Self)
    }

    /// A field after the name. The name may contain any characters, also parentheses.
    fn field(&self, at: usize) -> Option<f64> {
        self.0.rsplit_once(") ")?.1.split(' ').nth(at)?.parse().ok()
    }

    fn cpu_seconds(&self) -> Option<f64> {
        let ticks = self.field(USER_TIME)? + self.field(SYSTEM_TIME)?;
        Some(ticks / system(SysconfVar::CLK_TCK)?)
    }

    fn resident_bytes(&self) -> Option<f64> {
        Some(self.field(RESIDENT_PAGES)? * system(SysconfVar::PAGE_SIZE)?)
    }

    fn start_seconds(&self) -> Option<f64> {
        let stat = fs::read_to_string("/proc/stat").ok()?;
        let booted = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
        let booted: f64 = booted.trim().parse().ok()?;
        Some(booted + self.field(START_TIME)? / system(SysconfVar::CLK_TCK)?)
    }
}

fn system(variable: SysconfVar) -> Option<f64> {
    sysconf(variable).ok()?.and_then(|value| u32::try_from(value).ok()).map(f64::from)
}

fn open_files() -> Option<f64> {
    let files = fs::read_dir("/proc/self/fd").ok()?.count();
    // Do not count the descriptor of the folder that is being read.
    u32::try_from(files.saturating_sub(1)).ok().map(f64::from)
}

/// The soft limit; infinite where there is none.
fn max_files() -> Option<f64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match limit.split_whitespace().next()? {
        "unlimited" => Some(f64::INFINITY),
        limit => limit.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_may_contain_parentheses() {
        let fields: Vec<String> = (0..30).map(|n| n.to_string()).collect();
        let stat = Stat(format!("7 (a) b (c) {}", fields.join(" ")));
        assert_eq!(stat.field(USER_TIME), Some(11.0));
        assert_eq!(stat.field(30), None);
        let ticks = system(SysconfVar::CLK_TCK).unwrap();
        assert_eq!(stat.cpu_seconds(), Some(23.0 / ticks));
    }

    #[test]
    fn this_process_is_described() {
        let stat = Stat::read().unwrap();
        let since = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        let started = stat.start_seconds().unwrap();
        assert!(started <= since + 1.0 && started > since - 86_400.0, "{started}, now {since}");
        assert!(stat.resident_bytes().unwrap() > 100_000.0);
        let (open, most) = (open_files().unwrap(), max_files().unwrap());
        assert!(open >= 3.0 && open < most, "{open} of {most}");
    }
}
