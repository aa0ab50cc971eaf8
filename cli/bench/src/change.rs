//! The cost of a change of one backend for an agent, by the size of the service and the format of its export: whole (v1) or
//! in slices (v2).
//!
//! The benchmark writes records into the other cluster's etcd, one change at a time, encoded by `mesh-wire` as by the
//! cluster's apiserver, which is stopped.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv6Addr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use mesh_dump::Dump;
use mesh_lab::NodeState;
use mesh_model::{ExportMode, GlobalService, Port, Protocol, Record, ServiceName};
use mesh_wire::cluster_config;
use serde::Serialize;

use crate::{
    bench_lab::{BenchLab, first_node},
    command::run,
    error::{BenchError, file},
    records::{cluster, entry, ip, manifest, slice},
    stats::median,
    usage::{cpu_without_prober, metric},
};

/// The parameters of the benchmark.
#[derive(Clone, Debug)]
pub struct ChangeOptions {
    /// The numbers of backends to measure with.
    pub backends: Vec<u32>,
    /// How often the services take turns.
    pub rounds: u32,
    /// Changes in a turn.
    pub batch: u32,
}

/// The cost of a change of one backend.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangeRow {
    /// The format: `v1` or `v2`.
    pub form: &'static str,
    /// Backends of the service.
    pub backends: u32,
    /// Bytes of the record that a change writes.
    pub bytes: usize,
    /// Number of changes.
    pub changes: u32,
    /// CPU time of the agent for a change, in microseconds: the median of the rounds.
    pub micros: f64,
    /// The same for a service of 100 backends, of which v2 exports one slice.
    pub reference_micros: f64,
    /// The ratio of the two: the median of the rounds' ratios.
    pub ratio: f64,
    /// Single writes to the kernel's tables for each change: the mean of the two below.
    pub writes: f64,
    /// The same for removing a backend in the middle of the service.
    pub removing_writes: f64,
    /// The same for adding it again.
    pub adding_writes: f64,
}

/// The format in which a cluster exports its services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    V1,
    V2,
}

/// A measured service.
struct Service {
    number: u32,
    backends: u32,
    /// Its address in the reading cluster, and its IP protocol number.
    frontend: (SocketAddr, u8),
}

/// The backends of the service that others are compared with.
const REFERENCE: u32 = 100;
/// The endpoints of a slice, as many as Kubernetes puts into one.
const SLICE: u32 = 100;
const PATIENCE: Duration = Duration::from_secs(120);
/// An agent updates its metrics once a second.
const METRICS: Duration = Duration::from_millis(1_500);
/// How often a backend is removed and added again to count the writes.
const WRITTEN: u32 = 3;
/// How long the agent's idle CPU time is measured.
const IDLE: Duration = Duration::from_secs(5);

/// Runs the benchmark. Needs root.
pub fn change(
    lab: &str,
    options: &ChangeOptions,
    mut progress: impl FnMut(u64, u64),
) -> Result<Vec<ChangeRow>, BenchError> {
    let mut rows = Vec::new();
    let total = u64::from(options.rounds) * 2;
    for (form, done) in [(Form::V2, 0), (Form::V1, u64::from(options.rounds))] {
        let mut lab = BenchLab::up(lab, 2, 1)?;
        let services = prepare(&mut lab, form, &options.backends)?;
        let dump = lab.dump(lab.cluster(1)?)?;
        rows.extend(measure(&lab, &dump, form, &services, options, |round| {
            progress(done + u64::from(round), total)
        })?);
    }
    Ok(rows)
}

/// Makes the reading cluster's agent have services of these sizes, the reference first.
fn prepare(lab: &mut BenchLab, form: Form, sizes: &[u32]) -> Result<Vec<Service>, BenchError> {
    let sizes: Vec<u32> = [REFERENCE].iter().chain(sizes).copied().collect();
    let reader = lab.cluster(1)?;
    let numbers = 0..u32::try_from(sizes.len()).unwrap_or_default();
    let manifests: Vec<String> = numbers.clone().map(manifest).collect();
    let path = reader.directory.join("manifests/bench.yaml");
    fs::write(&path, manifests.join("---\n")).map_err(file(&path))?;
    lab.lab("stop", &["a/apiserver", "b/n1/agent"])?;
    let source = lab.cluster(0)?;
    if form == Form::V1 {
        lab.write(source, &[services_only(lab)?], |_| {})?;
    }
    for (number, backends) in numbers.zip(&sizes) {
        for part in form.all(number, *backends)? {
            lab.write(source, &[part], |_| {})?;
        }
    }
    lab.lab("start", &["b/n1/agent"])?;
    lab.refresh()?;
    lab.wait_ready("b")?;
    let dump = lab.dump(lab.cluster(1)?)?;
    let mut services = Vec::new();
    for (number, backends) in (0_u16..).zip(sizes) {
        let ip = Ipv6Addr::new(0xfd00, 0x100, 2, 0, 0, 0, 0, 0x1000 + number);
        let frontend = (SocketAddr::from((ip, 80)), 6);
        wait_for(|| {
            let counter = dump.counter(frontend)?;
            Ok(counter.filter(|count| count() == backends).map(drop))
        })?;
        services.push(Service { number: number.into(), backends, frontend });
    }
    Ok(services)
}

fn measure(
    lab: &BenchLab,
    dump: &Dump,
    form: Form,
    services: &[Service],
    options: &ChangeOptions,
    mut progress: impl FnMut(u32),
) -> Result<Vec<ChangeRow>, BenchError> {
    let pid = lab.pid("b/n1/agent")?;
    let node = first_node(lab.cluster(1)?)?;
    thread::sleep(METRICS);
    let (begin, began) = (cpu_without_prober(pid)?, Instant::now());
    thread::sleep(IDLE);
    let idle = cpu_without_prober(pid)?.saturating_sub(begin).as_secs_f64()
        / began.elapsed().as_secs_f64();
    let mut taken: Vec<Vec<f64>> = vec![Vec::new(); services.len()];
    for round in 0..options.rounds {
        progress(round);
        for (service, taken) in services.iter().zip(&mut taken) {
            let (begin, began) = (cpu_without_prober(pid)?, Instant::now());
            turn(lab, dump, form, service, options.batch)?;
            let spent = cpu_without_prober(pid)?.saturating_sub(begin).as_secs_f64();
            let busy = (spent - idle * began.elapsed().as_secs_f64()).max(0.0);
            taken.push(busy * 1e6 / f64::from(options.batch.max(1)));
        }
    }
    let reference = taken.first().cloned().unwrap_or_default();
    let mut rows = Vec::new();
    for (service, taken) in services.iter().zip(taken).skip(1) {
        let [removing, adding] = writes(lab, dump, form, service, node)?;
        let ratios = taken.iter().zip(&reference).map(|(one, reference)| one / reference.max(0.1));
        rows.push(ChangeRow {
            form: form.name(),
            backends: service.backends,
            bytes: form.change(service.number, service.backends, None)?.1.len(),
            changes: options.rounds * options.batch,
            ratio: median(ratios.collect()),
            micros: median(taken),
            reference_micros: median(reference.clone()),
            writes: (removing + adding) / 2.0,
            removing_writes: removing,
            adding_writes: adding,
        });
    }
    Ok(rows)
}

/// Single writes to the tables for removing a backend, and for adding one.
fn writes(
    lab: &BenchLab,
    dump: &Dump,
    form: Form,
    service: &Service,
    node: &NodeState,
) -> Result<[f64; 2], BenchError> {
    let written = || metric(node, "clustermesh_agent_table_writes_total");
    thread::sleep(METRICS);
    let (mut sums, mut before) = ([0, 0], written()?);
    for change in 0..WRITTEN * 2 {
        make(lab, dump, form, service, change)?;
        thread::sleep(METRICS);
        let now = written()?;
        if let Some(sum) = sums.get_mut(change as usize % 2) {
            *sum += now.saturating_sub(before);
        }
        before = now;
    }
    Ok(sums.map(|sum| sum as f64 / f64::from(WRITTEN)))
}

/// Removes and adds one backend again and again; each change waits until the previous one is in the kernel.
fn turn(
    lab: &BenchLab,
    dump: &Dump,
    form: Form,
    service: &Service,
    changes: u32,
) -> Result<(), BenchError> {
    (0..changes).try_for_each(|change| make(lab, dump, form, service, change))
}

/// Makes one change, and waits for the kernel. Each backend in turn is removed and added: most are in the middle.
fn make(
    lab: &BenchLab,
    dump: &Dump,
    form: Form,
    service: &Service,
    change: u32,
) -> Result<(), BenchError> {
    let count = dump.counter(service.frontend)?;
    let missing = || BenchError::Unexpected("a service is missing in the kernel".into());
    let count = count.ok_or_else(missing)?;
    let gone = change.is_multiple_of(2).then_some(change / 2);
    let entry = form.change(service.number, service.backends, gone)?;
    lab.write(lab.cluster(0)?, &[entry], |_| {})?;
    let wanted = service.backends - u32::from(gone.is_some());
    wait_for(|| Ok((count() == wanted).then_some(())))
}

// === impl Form ===

impl Form {
    fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }

    /// All records of a service.
    fn all(self, number: u32, backends: u32) -> Result<Vec<(String, Vec<u8>)>, BenchError> {
        match self {
            Self::V1 => Ok(vec![whole(number, 0..backends)?]),
            Self::V2 => (0..backends.div_ceil(SLICE))
                .map(|n| {
                    let of_slice = n * SLICE..((n + 1) * SLICE).min(backends);
                    slice(number, n, of_slice.map(|n| first(number) + n))
                })
                .collect(),
        }
    }

    /// The record of the service's first backends. `gone` is the index of a missing one, modulo their number.
    fn change(
        self,
        number: u32,
        backends: u32,
        gone: Option<u32>,
    ) -> Result<(String, Vec<u8>), BenchError> {
        let count = match self {
            Self::V1 => backends,
            Self::V2 => backends.min(SLICE),
        };
        let gone = gone.map(|gone| gone % count.max(1));
        let left = (0..count).filter(|n| Some(*n) != gone);
        match self {
            Self::V1 => whole(number, left),
            Self::V2 => slice(number, 0, left.map(|n| first(number) + n)),
        }
    }
}

/// The index of a service's first backend: services have no backends in common.
fn first(number: u32) -> u32 {
    number * 100_000
}

fn whole(
    number: u32,
    backends: impl Iterator<Item = u32>,
) -> Result<(String, Vec<u8>), BenchError> {
    let port = Port { protocol: Protocol::Tcp, number: 8080 };
    let ports = BTreeMap::from([("http".to_owned(), port)]);
    let (cluster, cluster_id) = cluster()?;
    let first = first(number);
    entry(Record::Service(Box::new(GlobalService {
        cluster,
        cluster_id,
        name: ServiceName::new("default", &format!("bench-{number}")),
        frontends: BTreeMap::new(),
        backends: backends.map(|n| (ip(first + n), ports.clone())).collect(),
        hostnames: BTreeMap::new(),
        zones: BTreeMap::new(),
        labels: BTreeMap::new(),
        selector: BTreeMap::new(),
        include_external: true,
        shared: true,
    })))
}

/// The cluster config that the source's apiserver wrote, changed so that it announces services v1 only.
fn services_only(lab: &BenchLab) -> Result<(String, Vec<u8>), BenchError> {
    let key = format!("{}a", mesh_wire::key::CLUSTER_CONFIGS);
    let mut get = lab.etcdctl(lab.cluster(0)?)?;
    let output = run(get.args(["get", "--print-value-only", &key]))?;
    let invalid = |error: String| BenchError::Unexpected(format!("{key}: {error}"));
    let mut config =
        cluster_config::decode(output.trim_ascii()).map_err(|error| invalid(error.to_string()))?;
    config.export_mode = ExportMode::Services;
    Ok((key, cluster_config::encode(&config)))
}

fn wait_for<T>(mut look: impl FnMut() -> Result<Option<T>, BenchError>) -> Result<T, BenchError> {
    let began = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if began.elapsed() > PATIENCE {
            return Err(BenchError::late("a change did not reach the kernel"));
        }
        thread::sleep(Duration::from_millis(1));
    }
}
