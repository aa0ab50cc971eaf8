//! The time from a manifest in one cluster to the kernel of another, beside a plain watch of the resulting key.

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

/// The parameters of the benchmark.
#[derive(Clone, Copy, Debug)]
pub struct PropagationOptions {
    /// The number of changes.
    pub samples: u32,
    /// Other global services in the source cluster.
    pub services: u32,
}

/// The result of the benchmark.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Propagation {
    /// Other global services in the source cluster.
    pub services: u32,
    /// From the change of the manifest to the line of a plain watch: the time of apiserver, etcd and network.
    pub watch: Distribution,
    /// From the change of the manifest to the entry in the other cluster's kernel.
    pub kernel: Distribution,
    /// From the line of the plain watch to the entry in the kernel; 0 if the kernel was first.
    pub after_watch: Distribution,
    /// The ratio of the medians, kernel to watch.
    pub ratio: f64,
}

/// The longest time to wait for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// The interval of checks of the kernel's entry, and the pause between two changes.
const LOOK: Duration = Duration::from_micros(20);
const PAUSE: Duration = Duration::from_millis(30);
/// The name of the service that changes.
pub(crate) const SERVICE: &str = "bench";

/// Runs the benchmark, in a lab of two clusters of one node. Needs root.
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
            RecvTimeoutError::Disconnected => BenchError::Unexpected(
                "etcdctl ended while it watched: its message is above".into(),
            ),
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

/// Starts a plain watch of the service's key on the reader's node, and waits until it has started.
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
    // etcdctl does not report when its watch has started, so it must see a change.
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
    // Events that are still on their way belong to no sample.
    while watch.next_put(Duration::from_millis(200)).is_ok() {}
    Ok(watch)
}

/// Writes other global services, in a file of their own.
pub(crate) fn others(cluster: &ClusterState, count: u32) -> Result<(), BenchError> {
    if count == 0 {
        return Ok(());
    }
    let documents: Vec<String> = (0..count)
        .map(|n| {
            let (high, low) = (n / 250, n % 250 + 1);
            let service = service(&format!("10.101.{high}.{low}"));
            // A service without endpoints exports nothing that a reader of slices receives.
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
