//! The cost of another cluster's endpoints for an agent: to load them, to reconnect, and to receive their changes.
//!
//! The benchmark writes the endpoints into the other cluster's etcd, encoded by `mesh-wire` as by the cluster's apiserver,
//! which is stopped: a hundred thousand pods are too many for a folder of manifests.

use std::{
    thread,
    time::{Duration, Instant},
};

use mesh_lab::{ClusterState, NodeState};
use serde::Serialize;

use crate::{
    bare_watch::BareWatch,
    bench_lab::{BenchLab, first_node},
    error::BenchError,
    records::{FIRST_IDENTITY, address, addresses, manifest, size, slice},
    usage::{cpu, cpu_of, received, resident, table_changes},
};

/// The cost of loading endpoints.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointCost {
    /// The number of endpoints.
    pub endpoints: u32,
    /// Bytes of their keys and values in the etcd.
    pub bytes: u64,
    /// Resident bytes of the agent, less those without endpoints.
    pub resident: u64,
    /// The same for each endpoint.
    pub resident_each: f64,
    /// CPU time of the agent from its start until it is ready, less that without endpoints, in milliseconds.
    pub start_millis: u64,
    /// CPU time of `etcdctl get` for the same keys, in milliseconds.
    pub get_millis: u64,
    /// The ratio of the start's CPU time to that of `etcdctl get`.
    pub ratio: f64,
    /// CPU time of an idle agent in a second, in milliseconds.
    pub idle_millis: f64,
}

/// The cost of reconnecting after a partition.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReconnectCost {
    /// Endpoints, all of which are backends.
    pub endpoints: u32,
    /// Backends that were replaced by others during the partition.
    pub exchanged: u32,
    /// Bytes that the agent's node received until the agent was up to date.
    pub received: u64,
    /// Bytes that `etcdctl get` receives for all keys.
    pub all: u64,
    /// The ratio of the two.
    pub ratio: f64,
    /// Changes that the agent made in its tables.
    pub table_changes: u64,
}

/// The cost of an event for an etcd, for each client that receives it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EventCost {
    /// Agents connected to the etcd.
    pub readers: u32,
    /// Changes that each agent received.
    pub events: u32,
    /// CPU time of the etcd for a change without clients, in microseconds.
    pub write_micros: f64,
    /// CPU time of the etcd for an event and agent, in microseconds, without that of the change itself.
    pub agent_micros: f64,
    /// The same for the same number of `etcdctl watch`.
    pub watch_micros: f64,
    /// The ratio of the two.
    pub ratio: f64,
}

/// The parameters of [`event_cost`].
#[derive(Clone, Copy, Debug)]
pub struct EventOptions {
    /// The number of agents, and of plain watches.
    pub readers: u16,
    /// Rounds of a turn.
    pub rounds: u32,
    /// Turns of each kind: without clients, with agents, with plain watches.
    pub turns: u32,
}

const PATIENCE: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(20);
/// How long an agent is idle before its memory is measured: it returns what it freed to the kernel.
const QUIET: Duration = Duration::from_secs(12);
/// Backends of each service.
const BACKENDS: u32 = 100;
/// Events of each round.
const EVENTS: u32 = 500;
/// The shortest time of a round: 1,250 events a second are within every budget.
const PACE: Duration = Duration::from_millis(400);

/// Measures the cost of loading endpoints. Needs root.
pub fn endpoint_cost(
    lab: &str,
    endpoints: &[u32],
    mut progress: impl FnMut(u64, u64),
) -> Result<Vec<EndpointCost>, BenchError> {
    let mut rows = Vec::new();
    for &count in endpoints {
        let mut lab = BenchLab::up(lab, 2, 1)?;
        lab.lab("stop", &["a/apiserver"])?;
        // The agent's resident bytes, the CPU time of its start, and that of an idle period after it.
        let started = |lab: &mut BenchLab| -> Result<(u64, Duration, Duration), BenchError> {
            lab.lab("stop", &["b/n1/agent"])?;
            lab.lab("start", &["b/n1/agent"])?;
            lab.refresh()?;
            lab.wait_ready("b")?;
            let pid = lab.pid("b/n1/agent")?;
            let ready = cpu(pid)?;
            thread::sleep(QUIET);
            Ok((resident(pid)?, ready, cpu(pid)?.saturating_sub(ready)))
        };
        let (none, none_cpu, _) = started(&mut lab)?;
        // The agent reads the endpoints as a list when it starts. As this many changes they would exceed its budget.
        lab.lab("stop", &["b/n1/agent"])?;
        let entries = addresses(0..count)?;
        let source = lab.cluster(0)?;
        lab.write(source, &entries, |done| progress(done as u64, u64::from(count)))?;
        let (all, all_cpu, idle) = started(&mut lab)?;
        let (source, reader) = (lab.cluster(0)?, lab.cluster(1)?);
        let mut get =
            lab.etcdctl_as_peer((source, first_node(source)?), (reader, first_node(reader)?))?;
        let get = cpu_of(get.args(["get", "--prefix", "cilium/state/"]))?;
        let start = all_cpu.saturating_sub(none_cpu);
        let resident = all.saturating_sub(none);
        rows.push(EndpointCost {
            endpoints: count,
            bytes: size(&entries),
            resident,
            resident_each: resident as f64 / f64::from(count),
            start_millis: millis(start),
            get_millis: millis(get),
            ratio: start.as_secs_f64() / get.as_secs_f64().max(0.01),
            idle_millis: idle.as_secs_f64() * 1e3 / QUIET.as_secs_f64(),
        });
    }
    Ok(rows)
}

/// Measures what an agent reads and writes when it reconnects. Needs root.
pub fn reconnect(
    lab: &str,
    endpoints: u32,
    mut progress: impl FnMut(u64, u64),
) -> Result<ReconnectCost, BenchError> {
    let lab = BenchLab::up(lab, 2, 1)?;
    let reader = lab.cluster(1)?;
    let services = endpoints / BACKENDS;
    let manifests: Vec<String> = (0..services).map(manifest).collect();
    let path = reader.directory.join("manifests/bench.yaml");
    std::fs::write(&path, manifests.join("---\n")).map_err(crate::error::file(&path))?;
    lab.lab("stop", &["a/apiserver", "b/n1/agent"])?;
    let source = lab.cluster(0)?;
    let mut entries = addresses(0..endpoints)?;
    for n in 0..services {
        entries.push(slice(n, 0, n * BACKENDS..(n + 1) * BACKENDS)?);
    }
    lab.write(source, &entries, |done| progress(done as u64, u64::from(endpoints)))?;
    lab.lab("start", &["b/n1/agent"])?;
    lab.wait_ready("b")?;
    let node = first_node(reader)?;
    let settle = |wanted: u64| settled(node, wanted);
    let before = settle(u64::from(endpoints))?;

    lab.lab("cut", &["b", "a/etcd"])?;
    // Replaces ten backends by ten others during the partition.
    let exchanged = 10;
    let change = slice(0, 0, exchanged..BACKENDS + exchanged)?;
    let others = addresses(endpoints..endpoints + exchanged)?;
    lab.write(source, &[others, vec![change]].concat(), |_| {})?;
    let began = Instant::now();
    while lab.clustermesh(&["status", "--context", "b"]).is_ok() {
        if began.elapsed() > PATIENCE {
            return Err(BenchError::late("the status did not show that the etcd of a is cut off"));
        }
        thread::sleep(LOOK);
    }
    let bytes = received(node)?;
    lab.lab("heal", &[])?;
    lab.wait_ready("b")?;
    let after = settle(before + 2 * u64::from(exchanged))?;
    let bytes = received(node)?.saturating_sub(bytes);
    let all = received(node)?;
    crate::command::run(
        lab.etcdctl_as_peer((source, first_node(source)?), (reader, node))?.args([
            "get",
            "--prefix",
            "cilium/state/",
        ]),
    )?;
    let all = received(node)?.saturating_sub(all);
    Ok(ReconnectCost {
        endpoints,
        exchanged,
        received: bytes,
        all,
        ratio: bytes as f64 / all.max(1) as f64,
        table_changes: after - before,
    })
}

/// Measures the cost of an event for the etcd and each client. Needs root.
pub fn event_cost(
    lab: &str,
    options: EventOptions,
    mut progress: impl FnMut(u64, u64),
) -> Result<EventCost, BenchError> {
    let EventOptions { readers, rounds, turns } = options;
    let lab = BenchLab::up(lab, 2, readers.into())?;
    lab.lab("stop", &["a/apiserver", "agent"])?;
    let (source, reader) = (lab.cluster(0)?, lab.cluster(1)?);
    let etcd = lab.pid("a/etcd")?;
    // Each round writes the same addresses with another identity.
    let (mut round, all) = (0_u32, 3 * turns * rounds);
    let mut spend = || -> Result<Duration, BenchError> {
        let begin = cpu(etcd)?;
        for _ in 0..rounds {
            progress(round.into(), all.into());
            let began = Instant::now();
            round += 1;
            let entries = (0..EVENTS).map(|n| address(n, FIRST_IDENTITY + round % 2));
            lab.write(source, &entries.collect::<Result<Vec<_>, _>>()?, |_| {})?;
            thread::sleep(PACE.saturating_sub(began.elapsed()));
        }
        // The events must also have been delivered.
        thread::sleep(Duration::from_secs(1));
        Ok(cpu(etcd)?.saturating_sub(begin))
    };
    let (mut alone, mut agents, mut watched) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    for _ in 0..turns {
        alone += spend()?;
        lab.lab("start", &["b/agent"])?;
        lab.wait_ready("b")?;
        agents += spend()?;
        // An agent that exceeded its budget would not have received all events.
        lab.wait_ready("b")?;
        lab.lab("stop", &["b/agent"])?;
        let watches = reader.nodes.iter().map(|node| watch(&lab, source, (reader, node)));
        let mut watches: Vec<BareWatch> = watches.collect::<Result<_, _>>()?;
        // etcdctl does not report when its watch has started.
        thread::sleep(Duration::from_secs(2));
        let spent = spend();
        let mut ended = 0;
        for watch in &mut watches {
            ended += usize::from(watch.has_ended()?);
        }
        if ended > 0 {
            return Err(BenchError::Unexpected(format!("{ended} watches ended by themselves")));
        }
        watched += spent?;
    }
    let events = EVENTS * rounds * turns;
    let readers = u32::from(readers);
    let each = |spent: Duration| {
        spent.saturating_sub(alone).as_secs_f64() * 1e6 / f64::from(events * readers)
    };
    let (agent_micros, watch_micros) = (each(agents), each(watched));
    let write_micros = alone.as_secs_f64() * 1e6 / f64::from(events);
    let ratio = agent_micros / watch_micros.max(0.01);
    Ok(EventCost { readers, events, write_micros, agent_micros, watch_micros, ratio })
}

/// A plain watch of the keys that an agent watches.
fn watch(
    lab: &BenchLab,
    source: &ClusterState,
    reader: (&ClusterState, &NodeState),
) -> Result<BareWatch, BenchError> {
    let mut etcdctl = lab.etcdctl_as_peer((source, first_node(source)?), reader)?;
    etcdctl.args(["watch", "--prefix", "cilium/state/"]);
    BareWatch::unread(etcdctl, reader.1)
}

/// Waits until the agent has made this many changes, and makes no more.
fn settled(node: &NodeState, wanted: u64) -> Result<u64, BenchError> {
    let (began, mut last, mut since) = (Instant::now(), 0, Instant::now());
    loop {
        let now = table_changes(node)?;
        if now != last {
            (last, since) = (now, Instant::now());
        }
        // The metric is updated at least once a second.
        if now >= wanted && since.elapsed() > Duration::from_secs(3) {
            return Ok(now);
        }
        if began.elapsed() > PATIENCE {
            return Err(BenchError::late(format!(
                "the agent did not make {wanted} changes but {now}"
            )));
        }
        thread::sleep(LOOK);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
