//! CPU time, memory and traffic of processes and nodes, as the kernel counts them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use mesh_lab::NodeState;
use nix::{
    time::{ClockId, clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};
use serde::Serialize;

use crate::{
    bench_lab::in_node,
    command::run,
    error::{BenchError, file, io},
};

/// The unit of CPU time in `/proc/<pid>/stat`: a hundredth of a second on every Linux (proc(5)).
const TICK: Duration = Duration::from_millis(10);

/// The name of the agent's thread that probes nodes.
const PROBER: &str = "health";

/// The CPU time of a process, in user mode and in the kernel, to 10 ms.
pub(crate) fn cpu(pid: i32) -> Result<Duration, BenchError> {
    // utime and stime are fields 14 and 15, the first after the name is 3.
    ticks(&Path::new("/proc").join(pid.to_string()).join("stat"), 11)
}

/// The same to the nanosecond, with all threads, also those that have ended.
pub(crate) fn process_cpu(pid: i32) -> Result<Duration, BenchError> {
    let clock = clock_getcpuclockid(Pid::from_raw(pid)).and_then(clock_gettime);
    Ok(clock.map_err(|errno| io("a process's CPU time")(errno.into()))?.into())
}

/// The CPU time of an agent without that of its prober's thread, which probes all nodes whatever changes, and with many
/// nodes takes more time than changes do.
pub(crate) fn cpu_without_prober(pid: i32) -> Result<Duration, BenchError> {
    let tasks = Path::new("/proc").join(pid.to_string()).join("task");
    let mut prober = Duration::ZERO;
    for task in fs::read_dir(&tasks).map_err(file(&tasks))?.flatten() {
        let read = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        if read("comm").trim_end() == PROBER {
            let used = read("schedstat");
            let nanos = used.split_whitespace().next().and_then(|nanos| nanos.parse().ok());
            prober += Duration::from_nanos(nanos.unwrap_or_default());
        }
    }
    Ok(process_cpu(pid)?.saturating_sub(prober))
}

/// The CPU time of the calling thread, to the nanosecond.
pub(crate) fn thread_cpu() -> Result<Duration, BenchError> {
    let clock = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
    Ok(clock.map_err(|errno| io("this thread's CPU time")(errno.into()))?.into())
}

/// The resident bytes of a process, without those of mapped files.
pub(crate) fn resident(pid: i32) -> Result<u64, BenchError> {
    status(pid, "RssAnon:")
}

/// The most resident bytes of a process since its start or since [`reset_peak`], with mapped files.
pub(crate) fn peak_resident(pid: i32) -> Result<u64, BenchError> {
    status(pid, "VmHWM:")
}

/// Resets the peak (proc(5), `clear_refs`). Returns the resident bytes, with mapped files.
pub(crate) fn reset_peak(pid: i32) -> Result<u64, BenchError> {
    let path = Path::new("/proc").join(pid.to_string()).join("clear_refs");
    fs::write(&path, "5").map_err(file(&path))?;
    status(pid, "VmRSS:")
}

/// The value of a line in a process's `status`, in bytes.
fn status(pid: i32, name: &str) -> Result<u64, BenchError> {
    let path = Path::new("/proc").join(pid.to_string()).join("status");
    let text = fs::read_to_string(&path).map_err(file(&path))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    let missing = || BenchError::Unexpected(format!("{} has no {name}", path.display()));
    Ok(kilobytes.ok_or_else(missing)? * 1024)
}

/// The kernel resources of a process.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessResources {
    /// Threads.
    pub threads: usize,
    /// Open file descriptors.
    pub descriptors: usize,
    /// Inotify instances among the descriptors; a user may have 128 (`fs.inotify.max_user_instances`).
    pub inotify_instances: usize,
}

impl ProcessResources {
    pub(crate) fn of(pid: i32) -> Result<Self, BenchError> {
        let process = Path::new("/proc").join(pid.to_string());
        let list = |name: &str| -> Result<Vec<PathBuf>, BenchError> {
            let path = process.join(name);
            let entries = fs::read_dir(&path).map_err(file(&path))?;
            Ok(entries.flatten().map(|entry| entry.path()).collect())
        };
        let (threads, descriptors) = (list("task")?.len(), list("fd")?);
        // A descriptor may be closed meanwhile.
        let leads_to = |fd: &PathBuf| fs::read_link(fd).unwrap_or_default();
        let inotify = |fd: &&PathBuf| leads_to(fd).as_os_str() == "anon_inode:inotify";
        let inotify_instances = descriptors.iter().filter(inotify).count();
        Ok(Self { threads, descriptors: descriptors.len(), inotify_instances })
    }
}

/// Bytes that a node received over its link.
pub(crate) fn received(node: &NodeState) -> Result<u64, BenchError> {
    let path = "/sys/class/net/eth0/statistics/rx_bytes";
    let output = run(in_node(node, "cat").arg(path))?;
    let text = String::from_utf8_lossy(&output);
    text.trim().parse().map_err(|_| BenchError::Unexpected(format!("{path}: {text}")))
}

/// Changes that a node's agent made in its tables.
pub(crate) fn table_changes(node: &NodeState) -> Result<u64, BenchError> {
    metric(node, "clustermesh_agent_table_changes_total")
}

/// A metric of a node's agent.
pub(crate) fn metric(node: &NodeState, name: &str) -> Result<u64, BenchError> {
    metric_at(node, 9981, name)
}

/// A metric of the apiserver on a node.
pub(crate) fn apiserver_metric(node: &NodeState, name: &str) -> Result<u64, BenchError> {
    metric_at(node, 9982, name)
}

fn metric_at(node: &NodeState, port: u16, name: &str) -> Result<u64, BenchError> {
    let url = format!("http://127.0.0.1:{port}/metrics");
    let output = run(in_node(node, "curl").args(["-s", &url]))?;
    let text = String::from_utf8_lossy(&output);
    let found = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok());
    found.ok_or_else(|| BenchError::Unexpected(format!("{url} has no {name}")))
}

/// The CPU time of a command, with that of the processes it started.
pub(crate) fn cpu_of(command: &mut Command) -> Result<Duration, BenchError> {
    let before = ticks(Path::new("/proc/self/stat"), 13)?;
    run(command)?;
    Ok(ticks(Path::new("/proc/self/stat"), 13)?.saturating_sub(before))
}

/// The sum of two successive fields of a `stat` file, as a duration. `skip` counts the fields after the name.
fn ticks(path: &Path, skip: usize) -> Result<Duration, BenchError> {
    let text = fs::read_to_string(path).map_err(file(path))?;
    // The name, in parentheses, may have spaces and parentheses.
    let (_, rest) = text.rsplit_once(')').unwrap_or_default();
    let ticks = rest.split_whitespace().skip(skip).take(2);
    let ticks: u32 = ticks.filter_map(|field| field.parse::<u32>().ok()).sum();
    Ok(TICK * ticks)
}
