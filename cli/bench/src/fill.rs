//! The cost of filling the tables, beside the same number of plain updates of one map; and the memory of the tables.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use mesh_dataplane::{Kernel as _, PinRoot, Programs, Sizes, Tables};
use mesh_layout::{FrontendKey, ServiceRef, default_sizes, mapped};
use serde::Serialize;

use crate::{
    backends::EACH,
    client::Transport,
    connect::add,
    error::{BenchError, io},
    rules::cluster_ip,
    sandbox::Sandbox,
    stats::median,
    usage::thread_cpu,
};

/// The cost of filling the tables.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FillCost {
    /// The number of services. Each has two backends that no other service has.
    pub services: u32,
    /// CPU time for each service, in microseconds: the median of rounds of a thousand services.
    pub micros: f64,
    /// CPU time of a plain update of the map of services, in microseconds.
    pub bare_micros: f64,
    /// The ratio of the two: the median of the rounds' ratios.
    pub ratio: f64,
    /// CPU time for all services, in milliseconds.
    pub millis: f64,
    /// Elapsed time for all services, in milliseconds.
    pub elapsed_millis: f64,
    /// Single writes to the tables for each service.
    pub writes: f64,
}

/// The memory that the tables take in the kernel.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TableMemory {
    /// Capacity for services.
    pub services: u32,
    /// Capacity for backends.
    pub backends: u32,
    /// Capacity for slots: a backend of a service takes one.
    pub slots: u32,
    /// Bytes of the map of services.
    pub services_bytes: u64,
    /// Bytes of the headers.
    pub headers_bytes: u64,
    /// Bytes of the backends.
    pub backends_bytes: u64,
    /// Bytes of the slots.
    pub slots_bytes: u64,
    /// Bytes of all other tables: groups, affinity, unconnected UDP.
    pub other_bytes: u64,
    /// Bytes of all tables, empty.
    pub empty_bytes: u64,
    /// The same, with half of the services, or half of the backends, in use.
    pub filled_bytes: u64,
}

/// Services in a round.
const ROUND: u32 = 1_000;
/// The measured sizes (services, backends, slots): small, an agent's default, and large.
const MEASURED: [(u32, u32, u32); 4] = [
    (1_024, 4_096, 16_384),
    (16_384, 32_768, 131_072),
    (
        entries(default_sizes::SERVICES),
        entries(default_sizes::BACKENDS),
        entries(default_sizes::SLOTS),
    ),
    (1_048_576, 1_048_576, 4_194_304),
];
/// The port of the backends.
const PORT: u16 = 8_080;

/// Runs the benchmark of filling. Needs root.
pub fn fill(services: u32, mut progress: impl FnMut(u64, u64)) -> Result<FillCost, BenchError> {
    let sandbox = Sandbox::new()?;
    let slots = (services.max(2) * 4).next_power_of_two();
    let sizes = sizes((services.max(2) * 2, slots, slots));
    let load = |name: &str| Programs::load(PinRoot::open(&sandbox.pins.join(name))?, sizes);
    let (_programs, maps) = load("filled")?;
    let mut tables = Tables::restore(maps, Instant::now())?;
    let (_bare_programs, mut bare) = load("bare")?;
    let (mut ours, mut theirs, mut elapsed) = (Vec::new(), Vec::new(), Duration::ZERO);
    for first in (0..services).step_by(ROUND as usize) {
        progress(first.into(), services.into());
        let round = first..(first + ROUND).min(services);
        let each = |taken: Duration| taken.as_secs_f64() * 1e6 / f64::from(round.end - round.start);
        let (begin, began) = (thread_cpu()?, Instant::now());
        for service in round.clone() {
            add(&mut tables, service, Transport::Tcp, PORT)?;
        }
        elapsed += began.elapsed();
        ours.push(each(thread_cpu()?.saturating_sub(begin)));
        let begin = thread_cpu()?;
        for service in round.clone() {
            let key = FrontendKey::new(mapped(cluster_ip(service).octets()), [0, 80], 6);
            let value = ServiceRef::new(service, key.tag());
            bare.put_service(&key, value).map_err(io("a plain update of a map"))?;
        }
        theirs.push(each(thread_cpu()?.saturating_sub(begin)));
    }
    let ratios = ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs);
    let rounds = ours.len().max(1) as f64;
    Ok(FillCost {
        services,
        ratio: median(ratios.collect()),
        millis: ours.iter().sum::<f64>() / rounds * f64::from(services) / 1e3,
        elapsed_millis: elapsed.as_secs_f64() * 1e3,
        writes: tables.writes() as f64 / f64::from(services.max(1)),
        micros: median(ours),
        bare_micros: median(theirs),
    })
}

/// Measures the memory of tables of several sizes. Needs root.
pub fn memory(mut progress: impl FnMut(u64, u64)) -> Result<Vec<TableMemory>, BenchError> {
    let sandbox = Sandbox::new()?;
    let mut rows = Vec::new();
    for (services, backends, slots) in MEASURED {
        progress(rows.len() as u64, MEASURED.len() as u64);
        let pins = sandbox.pins.join(services.to_string());
        rows.push(taken(&pins, (services, backends, slots))?);
        let _ = std::fs::remove_dir_all(&pins);
    }
    Ok(rows)
}

fn taken(
    pins: &Path,
    (services, backends, slots): (u32, u32, u32),
) -> Result<TableMemory, BenchError> {
    let root = PinRoot::open(pins)?;
    let (_programs, maps) = Programs::load(root, sizes((services, backends, slots)))?;
    let mut tables = Tables::restore(maps, Instant::now())?;
    let memory = mesh_dump::memory(pins)?;
    let of = |name: &str| memory.get(name).copied().unwrap_or_default();
    let named = ["cm_services", "cm_headers", "cm_backends", "cm_slots"].map(of);
    let empty_bytes: u64 = memory.values().sum();
    for service in 0..services.min(backends / EACH) / 2 {
        add(&mut tables, service, Transport::Tcp, PORT)?;
    }
    let [services_bytes, headers_bytes, backends_bytes, slots_bytes] = named;
    Ok(TableMemory {
        services,
        backends,
        slots,
        services_bytes,
        headers_bytes,
        backends_bytes,
        slots_bytes,
        other_bytes: empty_bytes - named.iter().sum::<u64>(),
        empty_bytes,
        filled_bytes: mesh_dump::memory(pins)?.values().sum(),
    })
}

fn sizes((services, backends, slots): (u32, u32, u32)) -> Sizes {
    Sizes { services, backends, slots, groups: entries(default_sizes::GROUPS) }
}

const fn entries(size: usize) -> u32 {
    assert!(size <= 1 << 24);
    #[expect(clippy::cast_possible_truncation, reason = "checked in the line above")]
    let size = size as u32;
    size
}
