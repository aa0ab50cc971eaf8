//! The start of an agent, with nothing in the kernel, until everything is there; beside a plain read of the same keys.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use mesh_etcd::{Connection, Target};
use mesh_follow::KeyRange;
use mesh_lab::{ClusterState, NodeState, within_netns};
use serde::Serialize;

use super::etcds::{block_on, connect, failed};
use crate::{
    bench_lab::{BenchLab, first_node, in_node},
    command::run,
    error::{BenchError, file},
    usage::{process_cpu, thread_cpu},
};

/// The cost of a start.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Bootstrap {
    /// CPU time of the agent from its start until everything is in the kernel, in milliseconds.
    pub cpu_millis: f64,
    /// How long that took, in milliseconds.
    pub elapsed_millis: f64,
    /// Keys that the plain read returned.
    pub keys: u64,
    /// CPU time of a plain read of the same keys, paged and unsorted, over as many connections, in milliseconds.
    pub read_cpu_millis: f64,
    /// How long the plain read took, in milliseconds.
    pub read_elapsed_millis: f64,
    /// The ratio of the CPU times.
    pub ratio: f64,
}

/// What must be in the kernel.
pub(super) struct Wanted {
    /// Frontends, each with its number of backends.
    pub(super) frontends: Vec<(SocketAddr, u32)>,
    /// The number of the mesh's routes.
    pub(super) routes: usize,
}

/// The ranges of a cluster's records that an agent reads, each with its page size.
const PAGES: [(&str, &str, i64); 2] = [
    ("cilium/state/identities/", "cilium/state/nodes/", 4_096),
    ("cilium/state/endpointslices/", "cilium/state/endpointslices/", 128),
];
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(5);
const TCP: u8 = 6;

/// Measures one start.
pub(super) fn bootstrap(
    lab: &mut BenchLab,
    wanted: &Wanted,
    targets: &[Target],
) -> Result<Bootstrap, BenchError> {
    let agent = format!("{}/agent", super::READER_NODE);
    lab.lab("stop", &[&agent])?;
    let reader = lab.cluster(1)?.clone();
    let node = first_node(&reader)?.clone();
    forget(lab, &reader, &node)?;
    let read = within_netns(&node.netns, || read_all(targets))??;
    let began = Instant::now();
    lab.lab("start", &[&agent])?;
    lab.refresh()?;
    let pid = lab.pid(&agent)?;
    loop {
        if is_complete(lab, &reader, &node, wanted)? {
            break;
        }
        if began.elapsed() > PATIENCE {
            let missing = super::missing(lab, &reader, wanted)?;
            return Err(BenchError::late(format!(
                "the kernel did not have everything ({missing})"
            )));
        }
        thread::sleep(LOOK);
    }
    let (cpu, elapsed) = (process_cpu(pid)?, began.elapsed());
    let millis = |duration: Duration| duration.as_secs_f64() * 1e3;
    Ok(Bootstrap {
        cpu_millis: millis(cpu),
        elapsed_millis: millis(elapsed),
        keys: read.keys,
        read_cpu_millis: millis(read.cpu),
        read_elapsed_millis: millis(read.elapsed),
        ratio: cpu.as_secs_f64() / read.cpu.as_secs_f64().max(1e-3),
    })
}

/// Removes what an agent left: tables, routes, the masquerade exemption, and its files on disk.
fn forget(lab: &BenchLab, reader: &ClusterState, node: &NodeState) -> Result<(), BenchError> {
    let pins = lab.state.pins(&reader.name, &node.name);
    match fs::remove_dir_all(&pins) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(file(pins)(error)),
        _ => {}
    }
    let folder = node.admin_socket.parent().unwrap_or(&node.admin_socket);
    for entry in fs::read_dir(folder).map_err(file(folder))? {
        let path = entry.map_err(file(folder))?.path();
        let is_others = ["cni", "pods"].iter().any(|name| path.ends_with(name));
        let removed = match (is_others, path.is_dir()) {
            (true, _) => Ok(()),
            (false, true) => fs::remove_dir_all(&path),
            (false, false) => fs::remove_file(&path),
        };
        removed.map_err(file(path))?;
    }
    for family in ["-4", "-6"] {
        let protocol = mesh_routes::PROTOCOL.to_string();
        let mut flush = in_node(node, "ip");
        run(flush.args([family, "route", "flush", "proto", &protocol]))?;
    }
    run(in_node(node, "nft").args(["flush", "ruleset"]))?;
    Ok(())
}

/// Whether everything is in the kernel. It is called often, so the cheap checks come first.
fn is_complete(
    lab: &BenchLab,
    reader: &ClusterState,
    node: &NodeState,
    wanted: &Wanted,
) -> Result<bool, BenchError> {
    // The programs, or some tables, may not exist yet.
    let Ok(dump) = lab.dump(reader) else { return Ok(false) };
    for (frontend, backends) in &wanted.frontends {
        match dump.counter((*frontend, TCP)) {
            Ok(Some(counter)) if counter() == *backends => {}
            _ => return Ok(false),
        }
    }
    Ok(routes(node)? == wanted.routes)
}

/// The number of the mesh's routes on a node.
pub(super) fn routes(node: &NodeState) -> Result<usize, BenchError> {
    let protocol = mesh_routes::PROTOCOL.to_string();
    let list = |family: &str| -> Result<usize, BenchError> {
        let mut command: Command = in_node(node, "ip");
        let text = run(command.args([family, "route", "show", "proto", &protocol]))?;
        Ok(text.iter().filter(|byte| **byte == b'\n').count())
    };
    Ok(list("-4")? + list("-6")?)
}

/// The result of a plain read.
struct Read {
    keys: u64,
    cpu: Duration,
    elapsed: Duration,
}

/// Reads what an agent reads from all etcds at once, and discards it. It uses this thread only, so that its CPU time is
/// known.
fn read_all(targets: &[Target]) -> Result<Read, BenchError> {
    let (began, begin) = (Instant::now(), thread_cpu()?);
    let keys = block_on(async {
        let mut all = tokio::task::JoinSet::new();
        for target in targets {
            let target = target.clone();
            all.spawn(async move {
                let connection = connect(&target).await?;
                let mut keys = 0;
                for (first, last, page) in PAGES {
                    keys += read_range(&connection, KeyRange::between(first, last), page).await?;
                }
                Ok::<_, BenchError>(keys)
            });
        }
        let mut keys = 0;
        while let Some(read) = all.join_next().await {
            keys += read.map_err(|error| failed("a plain read", &error))??;
        }
        Ok(keys)
    })?;
    Ok(Read { keys, cpu: thread_cpu()?.saturating_sub(begin), elapsed: began.elapsed() })
}

async fn read_range(
    connection: &Connection,
    mut range: KeyRange,
    page: i64,
) -> Result<u64, BenchError> {
    let (mut revision, mut count) = (None, 0);
    loop {
        let read = connection.page(&range, page, revision, false).await;
        let (header, keys, more) = read.map_err(|error| failed("a plain read", &error))?;
        revision.get_or_insert(header.revision);
        count += keys.len() as u64;
        match keys.last() {
            Some(last) if more => range.start = [last.key.as_slice(), &[0]].concat(),
            _ => return Ok(count),
        }
    }
}

/// The frontend at an address.
pub(super) fn frontend(ip: impl Into<IpAddr>) -> SocketAddr {
    (ip.into(), super::content::PORT).into()
}
