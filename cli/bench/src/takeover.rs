//! How long changes do not arrive after a replica of a cluster's control plane was killed, beside a plain watch that is
//! started at the other replica at the same moment.

use std::{
    net::SocketAddr,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use mesh_lab::{ClusterState, Component, NodeState};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::Serialize;

use crate::{
    bare_watch::BareWatch,
    bench_lab::{BenchLab, first_node, ipv4},
    command::run,
    error::{BenchError, io},
    propagation::{PATIENCE, SERVICE, nanos, others, service, slice, write},
    stats::Distribution,
    usage::table_changes,
};

/// The parameters of the benchmark.
#[derive(Clone, Copy, Debug)]
pub struct TakeoverOptions {
    /// How often a replica is killed.
    pub rounds: u32,
    /// Other global services in the source cluster.
    pub services: u32,
}

/// The result of the benchmark.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Takeover {
    /// Other global services in the source cluster.
    pub services: u32,
    /// From the kill, at which a manifest changes, to the line of a plain watch that is started at the other replica.
    pub watch: Distribution,
    /// From the kill to the entry in the other cluster's kernel.
    pub kernel: Distribution,
    /// The ratio of the medians, kernel to watch.
    pub ratio: f64,
    /// Bytes that the agent had received from the other replica when the change was in the kernel: the median.
    pub bytes_read: u64,
    /// The same when that replica had reported its position and everything was ready again: the median.
    pub bytes_settled: u64,
    /// Writes to the kernel's tables beyond those for the same change without a kill, in all rounds.
    pub needless_writes: u64,
}

/// The interval of checks of the kernel's entry.
const LOOK: Duration = Duration::from_micros(50);

/// Kills replicas in turn, in a lab of two clusters with two replicas each. Needs root.
pub fn takeover(
    lab: &str,
    options: TakeoverOptions,
    mut progress: impl FnMut(u64, u64),
) -> Result<Takeover, BenchError> {
    let mut lab = BenchLab::replicated(lab, 2, 2, 2)?;
    let (source, reader) = (lab.cluster(0)?.clone(), lab.cluster(1)?.clone());
    let manifest = source.directory.join("manifests/bench.yaml");
    // One backend, and if there is a number, a second one whose address follows from it.
    let change = |number: Option<u32>| {
        let second = number.map(|number| slice(1).replace("10.1.1.100", &second(number)));
        let second = second.map(|slice| slice.replace("name: bench-1", "name: bench-2"));
        let documents = [service("10.101.200.1"), slice(1)].into_iter().chain(second);
        write(&manifest, &documents.collect::<Vec<_>>().join("---\n"))
    };
    change(None)?;
    write(&reader.directory.join("manifests/bench.yaml"), &service("10.102.200.1"))?;
    others(&source, options.services)?;
    let dump = lab.dump(&reader)?;
    let node = first_node(&reader)?;
    let frontend = (SocketAddr::from(([10, 102, 200, 1], 80)), 6);
    let began = Instant::now();
    let backends = loop {
        match dump.counter(frontend)? {
            Some(counter) if counter() == 1 => break counter,
            _ if began.elapsed() > PATIENCE => {
                return Err(BenchError::late(format!(
                    "the kernel of cluster b had no entry of {}",
                    frontend.0
                )));
            }
            _ => thread::sleep(Duration::from_millis(10)),
        }
    };
    let arrives = |count, begin: Instant| loop {
        if backends() == count {
            return Ok(Instant::now());
        }
        if begin.elapsed() > PATIENCE {
            return Err(BenchError::late("a change did not reach the kernel of cluster b"));
        }
        thread::sleep(LOOK);
    };
    settle(&mut lab)?;
    // The writes for a change without a kill.
    let before = table_changes(node)?;
    change(Some(0))?;
    arrives(2, Instant::now())?;
    let usual = table_changes(node)? - before;
    let (mut watch, mut kernel, mut needless) = (Vec::new(), Vec::new(), 0);
    let (mut bytes, mut settled) = (Vec::new(), Vec::new());
    for round in 0..options.rounds {
        progress(u64::from(round), u64::from(options.rounds));
        change(None)?;
        arrives(1, Instant::now())?;
        settle(&mut lab)?;
        // All agents first read replica 1, and later the one that was not killed last.
        let (dead, alive) = if round % 2 == 0 { (1, 2) } else { (2, 1) };
        let before = table_changes(node)?;
        let begin = Instant::now();
        for victim in [Component::Apiserver(dead), Component::Etcd(dead)] {
            kill_process(&lab, &source, &victim)?;
        }
        // The address was never used before, so an old event cannot be taken for this change.
        change(Some(round + 1))?;
        let bare = bare_watch(&lab, &source, &reader, alive)?;
        let written = arrives(2, begin)?;
        bytes.push(bytes_read(node, &source, alive)?);
        let seen = loop {
            let line = bare.next(PATIENCE);
            let (at, text) =
                line.map_err(|_| BenchError::late("etcdctl watched and saw no change"))?;
            if text.contains(&format!("\"{}\"", second(round + 1))) {
                break at;
            }
        };
        kernel.push(nanos(written.saturating_duration_since(begin)));
        watch.push(nanos(seen.saturating_duration_since(begin)));
        lab.lab("start", &["a/"])?;
        settle(&mut lab)?;
        settled.push(bytes_read(node, &source, alive)?);
        needless += (table_changes(node)? - before).saturating_sub(usual);
    }
    let (watch, kernel) = (Distribution::of(watch), Distribution::of(kernel));
    Ok(Takeover {
        services: options.services,
        watch,
        kernel,
        ratio: kernel.p50_nanos as f64 / watch.p50_nanos.max(1) as f64,
        bytes_read: Distribution::of(bytes).p50_nanos,
        bytes_settled: Distribution::of(settled).p50_nanos,
        needless_writes: needless,
    })
}

/// Waits until everything is ready, and both replicas have reported their positions.
fn settle(lab: &mut BenchLab) -> Result<(), BenchError> {
    lab.clustermesh(&["status", "--wait", "--allow-degraded"])?;
    lab.lab("check-history", &["--wait"])?;
    // Positions are written every 5 s, and agents wait for the next one.
    thread::sleep(Duration::from_secs(6));
    lab.refresh()
}

/// The address of a second backend.
fn second(number: u32) -> String {
    format!("10.1.2.{}", number % 250)
}

fn kill_process(
    lab: &BenchLab,
    cluster: &ClusterState,
    component: &Component,
) -> Result<(), BenchError> {
    let name = component.process(&cluster.name);
    let process = lab.state.processes.iter().find(|process| process.name == name);
    let missing = || BenchError::Unexpected(format!("the lab has no {name}"));
    let pid = process.map(|process| process.pid).filter(|pid| *pid > 0).ok_or_else(missing)?;
    kill(Pid::from_raw(pid), Signal::SIGKILL).map_err(|errno| io("kill")(errno.into()))
}

/// Bytes that an agent received over its connections to a replica's etcd.
fn bytes_read(node: &NodeState, source: &ClusterState, replica: u8) -> Result<u64, BenchError> {
    let ip = ipv4(replica_node(source, replica)?)?.to_string();
    let mut ss = Command::new("ip");
    ss.args(["netns", "exec", &node.netns, "ss", "-tnipH", "state", "established", "dst", &ip]);
    let text = run(&mut ss)?;
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    // A line with the process, and one with the kernel's counters.
    let ours = lines.windows(2).filter_map(|pair| match pair {
        [who, what] if who.contains("clustermesh-age") => Some(*what),
        _ => None,
    });
    let received = |what: &str| {
        let word = what.split(' ').find_map(|word| word.strip_prefix("bytes_received:"));
        word.and_then(|number| number.parse::<u64>().ok())
    };
    Ok(ours.filter_map(received).sum())
}

fn replica_node(cluster: &ClusterState, replica: u8) -> Result<&NodeState, BenchError> {
    let node = cluster.nodes.get(usize::from(replica).saturating_sub(1));
    node.ok_or_else(|| BenchError::Unexpected("a replica without a node".into()))
}

/// Starts a plain watch from the first revision on, on the reader's node, at one replica.
fn bare_watch(
    lab: &BenchLab,
    source: &ClusterState,
    reader: &ClusterState,
    replica: u8,
) -> Result<BareWatch, BenchError> {
    let node = first_node(reader)?;
    let mut etcdctl =
        lab.etcdctl_as_peer((source, replica_node(source, replica)?), (reader, node))?;
    etcdctl.args(["watch", "--rev=1"]);
    etcdctl.arg(format!("cilium/state/services/v1/{}/default/{SERVICE}", source.name));
    BareWatch::start(etcdctl, node)
}
