//! What a process uses, as this machine's kernel counts it.

use std::{fs, time::Duration};

use nix::{
    time::{clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};
use serde::Serialize;

use crate::mesh::Daemon;

/// A daemon.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Component {
    /// Its cluster.
    pub cluster: String,
    /// `agent`, `apiserver` or `etcd`.
    pub daemon: &'static str,
    /// The node, of an agent.
    pub node: String,
    /// Without changes.
    pub idle: Usage,
    /// With many changes.
    pub busy: Usage,
}

/// What a daemon uses.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Resident memory at the end, with mapped files (`VmRSS`).
    pub resident_bytes: u64,
    /// CPU time, in percent of a core.
    pub core_percent: f64,
}

// === impl Component ===

impl Component {
    /// Without figures yet.
    pub(super) fn new((daemon, _): &(Daemon, i32)) -> Self {
        let (cluster, daemon, node) = match daemon {
            Daemon::Etcd(cluster) | Daemon::EtcdOf(cluster, _) => (cluster, "etcd", ""),
            Daemon::Apiserver(cluster) | Daemon::ApiserverOf(cluster, _) => {
                (cluster, "apiserver", "")
            }
            Daemon::Agent(cluster, node) => (cluster, "agent", node.as_str()),
        };
        let [idle, busy] = [Usage::default(); 2];
        Self { cluster: cluster.clone(), daemon, node: node.into(), idle, busy }
    }
}

// === impl Usage ===

impl Usage {
    /// What a process has used since it had used this CPU time.
    pub(super) fn since(pid: i32, used: Duration, passed: Duration) -> Self {
        let used = cpu(pid).saturating_sub(used);
        let core_percent = 100.0 * used.as_secs_f64() / passed.as_secs_f64();
        Self { resident_bytes: resident(pid), core_percent }
    }
}

/// The CPU time of a process so far, with all its threads.
pub(super) fn cpu(pid: i32) -> Duration {
    let clock = clock_getcpuclockid(Pid::from_raw(pid)).and_then(clock_gettime);
    clock.unwrap_or_else(|error| panic!("the CPU time of {pid}: {error}")).into()
}

fn resident(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.expect("VmRSS") * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_memory_and_time() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let before = cpu(pid);
        let work: u64 = (0..2_000_000_u64).map(std::hint::black_box).sum();
        assert!(work > 0);
        let usage = Usage::since(pid, before, Duration::from_secs(1));
        assert!(usage.core_percent > 0.0 && usage.resident_bytes > 100_000, "{usage:?}");
    }
}
