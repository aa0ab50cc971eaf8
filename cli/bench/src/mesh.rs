//! The cost of a mesh of many clusters for one agent: its start, its changes and its memory.
//!
//! The agent, with its followers, TLS and kernel tables, runs in a lab of two clusters. One cluster's etcd, as its apiserver
//! filled it, is recorded, and one process replays the recording as many clusters (`mesh-replay`): two CPU cores cannot run
//! 250 etcds. The benchmark also measures as many clusters with etcds of their own as they can run.

mod bootstrap;
mod changes;
mod content;
mod etcds;
mod picture;
mod slice;

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use mesh_etcd::Target;
use mesh_lab::ClusterState;
use mesh_offline::KeysFile;
use serde::Serialize;

use crate::{
    bench_lab::{BenchLab, first_node},
    error::BenchError,
    usage::{ProcessResources, cpu_without_prober, process_cpu, resident},
};
use bootstrap::{Wanted, bootstrap, frontend, routes};
use changes::{Pace, Plan};
use etcds::{Peer, Replay, ids, lab_peers, record, replayed_peers};
use slice::Reader;

pub use bootstrap::Bootstrap;
pub use changes::Changes;
pub use content::ClusterSize;
pub use picture::picture;

/// The parameters of the benchmark.
#[derive(Clone, Debug)]
pub struct MeshOptions {
    /// The numbers of clusters with an etcd each.
    pub real: Vec<usize>,
    /// The numbers of clusters whose etcds one process replays.
    pub replayed: Vec<usize>,
    /// The contents of each cluster.
    pub size: ClusterSize,
    /// Changes a second, one run for each; 0: one at a time.
    pub rates: Vec<u32>,
    /// Changes in each run.
    pub changes: u32,
    /// How long the agent is left alone after its start, until its probes, snapshots and retries are regular; and for how
    /// long its idle CPU time is then measured, in seconds.
    pub seconds: u64,
}

/// The cost of a mesh of one size for an agent.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MeshRow {
    /// Clusters that the agent follows, besides the local one.
    pub clusters: usize,
    /// Whether the clusters have etcds, or are replayed.
    pub etcds: Etcds,
    /// Endpoints of all clusters together.
    pub endpoints: usize,
    /// The cost of the agent's start.
    pub bootstrap: Bootstrap,
    /// Resident bytes of the agent after its start.
    pub resident: u64,
    /// The same for each endpoint, less the bytes of an agent that follows no cluster.
    pub resident_each: f64,
    /// Other resources of the agent.
    pub held: ProcessResources,
    /// CPU time of the idle agent in a second, in milliseconds.
    pub idle_millis: f64,
    /// The cost of changes, at each rate.
    pub changes: Vec<Changes>,
}

/// The source of a cluster's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Etcds {
    /// Each cluster has an etcd, which its apiserver filled.
    Real,
    /// One process replays a recording as all etcds.
    Replayed,
}

/// The node whose agent is measured.
const READER_NODE: &str = "b/n1";
/// The clusters of the lab: one is recorded, the other one reads.
const RECORDING: usize = 2;
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);

/// Runs the benchmark. Needs root.
pub fn mesh(
    lab: &str,
    options: &MeshOptions,
    mut progress: impl FnMut(u64, u64),
) -> Result<Vec<MeshRow>, BenchError> {
    let total = options.real.len() + options.replayed.len();
    let mut rows = Vec::new();
    for &clusters in &options.real {
        progress(rows.len() as u64, total as u64);
        rows.push(real(lab, clusters, options)?);
    }
    if options.replayed.is_empty() {
        return Ok(rows);
    }
    let mut lab = BenchLab::apart(lab, RECORDING, 1)?;
    content::fill(lab.cluster(0)?, options.size)?;
    content::fill_reader(lab.cluster(1)?, options.size.services)?;
    lab.clustermesh(&["connect", "--context", "a", "--destination-context", "b"])?;
    let reader = lab.cluster(1)?.clone();
    wait_for(&lab, &reader, &wanted(&reader, options.size, 1))?;
    let recording = record(&reader, lab.cluster(0)?)?;
    lab.clustermesh(&["disconnect", "--context", "a", "--destination-context", "b"])?;
    // From here on only b's daemons are needed.
    lab.lab("stop", &["a/"])?;
    let alone = resident_without_peers(&mut lab, options)?;
    for &clusters in &options.replayed {
        progress(rows.len() as u64, total as u64);
        rows.push(replayed(&mut lab, &recording, clusters, alone, options)?);
    }
    Ok(rows)
}

fn real(lab: &str, clusters: usize, options: &MeshOptions) -> Result<MeshRow, BenchError> {
    let mut lab = BenchLab::apart(lab, clusters + 1, 1)?;
    let reader = lab.cluster(1)?.clone();
    let is_reader = |cluster: &&ClusterState| cluster.name == reader.name;
    let sources: Vec<ClusterState> =
        lab.state.clusters.iter().filter(|cluster| !is_reader(cluster)).cloned().collect();
    content::fill_reader(&reader, options.size.services)?;
    let alone = resident_without_peers(&mut lab, options)?;
    for source in &sources {
        content::fill(source, options.size)?;
        lab.lab("stop", &[&format!("{}/agent", source.name)])?;
        let mode = ["connect", "--connection-mode", "unicast", "--context", "b"];
        lab.clustermesh(&[&mode[..], &["--destination-context", &source.name]].concat())?;
    }
    wait_for(&lab, &reader, &wanted(&reader, options.size, clusters))?;
    // From here on the benchmark writes the changes.
    for source in &sources {
        lab.lab("stop", &[&format!("{}/apiserver", source.name)])?;
    }
    let peers = lab_peers(&reader, &sources)?;
    measure(&mut lab, Etcds::Real, &peers, alone, options)
}

fn replayed(
    lab: &mut BenchLab,
    recording: &KeysFile,
    clusters: usize,
    alone: u64,
    options: &MeshOptions,
) -> Result<MeshRow, BenchError> {
    let ids = ids(clusters);
    lab.lab("stop", &[&format!("{READER_NODE}/agent")])?;
    let _replay = Replay::start(lab, recording, &ids)?;
    let peers = replayed_peers(lab, &ids)?;
    measure(lab, Etcds::Replayed, &peers, alone, options)
}

fn measure(
    lab: &mut BenchLab,
    etcds: Etcds,
    peers: &[Peer],
    alone: u64,
    options: &MeshOptions,
) -> Result<MeshRow, BenchError> {
    let (size, clusters) = (options.size, peers.len());
    let reader = lab.cluster(1)?.clone();
    let wanted = wanted(&reader, size, clusters);
    let targets: Vec<Target> = peers.iter().map(|peer| peer.reader.clone()).collect();
    let bootstrap = bootstrap(lab, &wanted, &targets)?;
    let pid = lab.pid(&format!("{READER_NODE}/agent"))?;
    let quiet = Duration::from_secs(options.seconds);
    thread::sleep(quiet);
    let (resident, held) = (resident(pid)?, ProcessResources::of(pid)?);
    let used = || Ok::<_, BenchError>((process_cpu(pid)?, cpu_without_prober(pid)?));
    let (begin, began) = (used()?, Instant::now());
    thread::sleep(quiet);
    let (end, elapsed) = (used()?, began.elapsed().as_secs_f64());
    let in_a_second = |end: Duration, begin| end.saturating_sub(begin).as_secs_f64() / elapsed;
    let (all, idle) = (in_a_second(end.0, begin.0), in_a_second(end.1, begin.1));
    let dump = lab.dump(&reader)?;
    let netns = &first_node(&reader)?.netns;
    let frontend = |service: &str| -> Option<(SocketAddr, u32)> {
        let number: u32 = service.strip_prefix(content::NAME)?.parse().ok()?;
        wanted.frontends.get(usize::try_from(number).ok()?).copied()
    };
    let plan = Plan::read(netns, peers, frontend)?;
    let by = Reader { netns, pid, dump: &dump, idle };
    let mut changes = Vec::new();
    for &rate in &options.rates {
        changes.push(plan.run(&by, Pace { rate, changes: options.changes })?);
        // All changes have been undone.
        wait_for(lab, &reader, &wanted)?;
    }
    let endpoints = size.endpoints as usize * clusters;
    Ok(MeshRow {
        clusters,
        etcds,
        endpoints,
        bootstrap,
        resident,
        resident_each: resident.saturating_sub(alone) as f64 / endpoints.max(1) as f64,
        held,
        idle_millis: all * 1e3,
        changes,
    })
}

/// The resident bytes of the reader's agent after a restart, while it follows the local cluster only.
fn resident_without_peers(lab: &mut BenchLab, options: &MeshOptions) -> Result<u64, BenchError> {
    let agent = format!("{READER_NODE}/agent");
    lab.lab("stop", &[&agent])?;
    lab.lab("start", &[&agent])?;
    lab.refresh()?;
    lab.wait_ready("b")?;
    thread::sleep(Duration::from_secs(options.seconds));
    resident(lab.pid(&agent)?)
}

/// What the reader's kernel holds when its agent follows this many clusters.
fn wanted(reader: &ClusterState, size: ClusterSize, clusters: usize) -> Wanted {
    let clusters = u32::try_from(clusters).unwrap_or(u32::MAX);
    let backends = |service| content::backends(size, service) * clusters;
    let frontends = (0..size.services)
        .map(|service| (frontend(content::cluster_ip(reader.id, service)), backends(service)));
    // One for each node; the recorded cluster's first node has two, one for each address family.
    let routes = (size.nodes as usize + 1) * clusters as usize;
    Wanted { frontends: frontends.collect(), routes }
}

fn wait_for(lab: &BenchLab, reader: &ClusterState, wanted: &Wanted) -> Result<(), BenchError> {
    let began = Instant::now();
    loop {
        let missing = missing(lab, reader, wanted)?;
        if missing.is_empty() {
            return Ok(());
        }
        if began.elapsed() > PATIENCE {
            return Err(BenchError::Unexpected(missing));
        }
        thread::sleep(LOOK);
    }
}

/// What is missing in the kernel, in words; empty if nothing is.
fn missing(lab: &BenchLab, reader: &ClusterState, wanted: &Wanted) -> Result<String, BenchError> {
    let dump = lab.dump(reader)?;
    for (frontend, backends) in &wanted.frontends {
        match dump.counter((*frontend, 6))? {
            Some(counter) if counter() == *backends => {}
            Some(counter) => {
                return Ok(format!("{frontend} has {} of {backends} backends", counter()));
            }
            None => return Ok(format!("{frontend} has no entry")),
        }
    }
    let found = routes(first_node(reader)?)?;
    if found == wanted.routes {
        return Ok(String::new());
    }
    Ok(format!("{found} of {} routes", wanted.routes))
}
