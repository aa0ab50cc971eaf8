//! How long it takes from a manifest in one cluster to the kernel of another, beside a bare watch of the key it becomes.

use std::{
    net::SocketAddr,
    path::Path,
    sync::mpsc::RecvTimeoutError,
    thread,
    time::{Duration, Instant},
};

use mesh_files::{Access, write_atomic};
use mesh_lab::ClusterState;
use serde::Serialize;

use crate::{
    bare_watch::BareWatch,
    bench_lab::{BenchLab, first_node},
    error::{BenchError, file},
    stats::Distribution,
};

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct PropagationOptions {
    /// How many changes are made.
    pub samples: u32,
    /// How many other global services the source cluster has.
    pub services: u32,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Propagation {
    /// How many other global services the source cluster had.
    pub services: u32,
    /// From the manifest's change to a bare watcher's line: what writer, etcd and network take in any case.
    pub watch: Distribution,
    /// From the manifest's change to the entry in the other cluster's kernel.
    pub kernel: Distribution,
    /// From the bare watcher's line to the entry in the kernel; 0 where the kernel was first.
    pub after_watch: Distribution,
    /// Medians: kernel relative to watch.
    pub ratio: f64,
}

/// The longest that is waited for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at the kernel's entry, and between two changes.
const LOOK: Duration = Duration::from_micros(20);
const PAUSE: Duration = Duration::from_millis(30);
/// The service that changes: last part of its cluster IP in both clusters.
pub(crate) const SERVICE: &str = "bench";

/// Measures, in a lab of two clusters of a node each. Needs root.
pub fn propagation(
    lab: &str,
    options: PropagationOptions,
    mut progress: impl FnMut(u64, u64),
) -> Result<Propagation, BenchError> {
    let lab = BenchLab::up(lab, 2, 1)?;
    let (source, reader) = (lab.cluster(0)?, lab.cluster(1)?);
    let manifest = source.directory.join("manifests/bench.yaml");
    write(&manifest, &format!("{}---\n{}", service("10.101.200.1"), slice(1)))?;
    write(&reader.directory.join("manifests/bench.yaml"), &service("10.102.200.1"))?;
    others(source, options.services)?;
    let dump = lab.dump(reader)?;
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
    let bare = watch_service(&lab, source, reader)?;
    let (mut watch, mut kernel, mut after) = (Vec::new(), Vec::new(), Vec::new());
    for sample in 0..options.samples {
        progress(u64::from(sample), u64::from(options.samples));
        thread::sleep(PAUSE);
        let count = if sample % 2 == 0 { 2 } else { 1 };
        let content = format!("{}---\n{}", service("10.101.200.1"), slice(count));
        let begin = Instant::now();
        write(&manifest, &content)?;
        let written = loop {
            if backends() == count {
                break Instant::now();
            }
            if begin.elapsed() > PATIENCE {
                return Err(BenchError::late(format!(
                    "change {sample} did not reach the kernel of cluster b"
                )));
            }
            thread::sleep(LOOK);
        };
        let seen = bare.next_put(PATIENCE).map_err(|error| match error {
            RecvTimeoutError::Timeout => {
                BenchError::late(format!("etcdctl watched and did not see change {sample}"))
            }
            RecvTimeoutError::Disconnected => {
                BenchError::Unexpected("etcdctl ended while it watched: its words are above".into())
            }
        })?;
        watch.push(nanos(seen.saturating_duration_since(begin)));
        kernel.push(nanos(written.saturating_duration_since(begin)));
        after.push(nanos(written.saturating_duration_since(seen)));
    }
    let (watch, kernel) = (Distribution::of(watch), Distribution::of(kernel));
    Ok(Propagation {
        services: options.services,
        watch,
        kernel,
        after_watch: Distribution::of(after),
        ratio: kernel.p50_nanos as f64 / watch.p50_nanos.max(1) as f64,
    })
}

/// A bare watch of the service's key, on the reader's node, that has begun.
fn watch_service(
    lab: &BenchLab,
    source: &ClusterState,
    reader: &ClusterState,
) -> Result<BareWatch, BenchError> {
    let node = first_node(reader)?;
    let mut etcdctl = lab.etcdctl_as_peer((source, first_node(source)?), (reader, node))?;
    etcdctl.arg("watch");
    etcdctl.arg(format!("cilium/state/services/v1/{}/default/{SERVICE}", source.name));
    let watch = BareWatch::start(etcdctl, node)?;
    // It does not say when it begins: it has begun when it sees a change.
    let manifest = source.directory.join("manifests/bench.yaml");
    let began = Instant::now();
    for count in [2, 1].into_iter().cycle() {
        let content = format!("{}---\n{}", service("10.101.200.1"), slice(count));
        write(&manifest, &content)?;
        if watch.next_put(Duration::from_millis(500)).is_ok() && count == 1 {
            break;
        }
        if began.elapsed() > PATIENCE {
            return Err(BenchError::late("etcdctl watched and saw no change"));
        }
    }
    // What is still on its way belongs to no sample.
    while watch.next_put(Duration::from_millis(200)).is_ok() {}
    Ok(watch)
}

/// Other global services, in a file of their own.
pub(crate) fn others(cluster: &ClusterState, count: u32) -> Result<(), BenchError> {
    if count == 0 {
        return Ok(());
    }
    let documents: Vec<String> = (0..count)
        .map(|n| {
            let (high, low) = (n / 250, n % 250 + 1);
            let service = service(&format!("10.101.{high}.{low}"));
            // Without endpoints nothing of it reaches a reader of slices.
            let slice = slice_of(&format!("  - {{ addresses: [10.1.{}.{low}] }}\n", 8 + high));
            format!("{service}---\n{slice}")
                .replace(&format!(": {SERVICE}"), &format!(": other-{n}"))
        })
        .collect();
    write(&cluster.directory.join("manifests/others.yaml"), &documents.join("---\n"))
}

pub(crate) fn write(path: &Path, content: &str) -> Result<(), BenchError> {
    write_atomic(path, content.as_bytes(), Access::All).map_err(file(path))
}

pub(crate) fn service(ip: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata:
  name: {SERVICE}
  annotations: {{ service.cilium.io/global: \"true\" }}
spec:
  clusterIP: {ip}
  ports: [{{ name: http, port: 80 }}]
"
    )
}

pub(crate) fn slice(endpoints: u32) -> String {
    let endpoint = |n: u32| format!("  - {{ addresses: [10.1.1.{}], nodeName: n1 }}\n", 100 + n);
    slice_of(&(0..endpoints).map(endpoint).collect::<String>())
}

fn slice_of(endpoints: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {SERVICE}-1
  labels: {{ kubernetes.io/service-name: {SERVICE} }}
addressType: IPv4
ports: [{{ name: http, port: 8080 }}]
endpoints:
{endpoints}"
    )
}

pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
