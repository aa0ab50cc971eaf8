//! A mesh of many clusters, and what it costs one agent: to start, to receive changes, to hold what there is.
//!
//! One real agent, with its real followers, TLS and kernel tables, in a lab of two clusters. What it follows is recorded
//! from the etcd of one of them, as its apiserver filled it, and replayed as so many clusters by one process
//! (`mesh-replay`): two cores do not carry 250 etcds. As many as they carry are measured with real ones, too.

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

/// How much is measured.
#[derive(Clone, Debug)]
pub struct MeshOptions {
    /// Numbers of clusters with an etcd each.
    pub real: Vec<usize>,
    /// Numbers of clusters whose etcds one process replays.
    pub replayed: Vec<usize>,
    /// What each has.
    pub size: ClusterSize,
    /// Changes a second that are measured, one after another; 0: one at a time.
    pub rates: Vec<u32>,
    /// How many changes at each rate.
    pub changes: u32,
    /// How long, in seconds, an agent is left alone after its start: for its probes, snapshots and repetitions to settle;
    /// and then watched when nothing happens.
    pub seconds: u64,
}

/// What a mesh of one size costs an agent.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MeshRow {
    /// Clusters that the agent follows, besides its own.
    pub clusters: usize,
    /// Where their content is from.
    pub etcds: Etcds,
    /// Endpoints of all of them.
    pub endpoints: usize,
    /// The agent's start.
    pub bootstrap: Bootstrap,
    /// Resident bytes of the agent after its start.
    pub resident: u64,
    /// The same for each endpoint, beyond an agent that follows no cluster.
    pub resident_each: f64,
    /// What else the agent holds.
    pub held: ProcessResources,
    /// CPU time of the agent in a second in which nothing happens, in milliseconds.
    pub idle_millis: f64,
    /// What changes cost.
    pub changes: Vec<Changes>,
}

/// Where the content of a mesh's etcds is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Etcds {
    /// Each cluster has an etcd, which its apiserver filled.
    Real,
    /// One process stands for all of them, with what a real one held.
    Replayed,
}

/// Whose agent is measured.
const READER_NODE: &str = "b/n1";
/// The lab's clusters of which one is recorded and the other reads.
const RECORDING: usize = 2;
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);

/// Measures. Needs root.
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
    // Only b's daemons are of further use.
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
    // What is changed from here on is changed in their place.
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
        // What was changed is as it was.
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

/// Resident bytes of the reader's agent, started anew, while it follows the local cluster only.
fn resident_without_peers(lab: &mut BenchLab, options: &MeshOptions) -> Result<u64, BenchError> {
    let agent = format!("{READER_NODE}/agent");
    lab.lab("stop", &[&agent])?;
    lab.lab("start", &[&agent])?;
    lab.refresh()?;
    lab.wait_ready("b")?;
    thread::sleep(Duration::from_secs(options.seconds));
    resident(lab.pid(&agent)?)
}

/// What the reader's kernel has when it knows so many clusters.
fn wanted(reader: &ClusterState, size: ClusterSize, clusters: usize) -> Wanted {
    let clusters = u32::try_from(clusters).unwrap_or(u32::MAX);
    let backends = |service| content::backends(size, service) * clusters;
    let frontends = (0..size.services)
        .map(|service| (frontend(content::cluster_ip(reader.id, service)), backends(service)));
    // One a node, and the recorded cluster's first node has both families.
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

/// What is not in the kernel as it should be, in words; nothing if all is.
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
