//! The tables of the benchmark of meshes of several sizes.

use mesh_bench::{Etcds, MeshRow};

use super::milliseconds;
use crate::output;

/// Prints the cost of an agent in meshes of several sizes: its start, its memory, and its work for changes.
pub(in crate::bench) fn mesh(rows: &[MeshRow]) -> anyhow::Result<()> {
    let etcds = |row: &MeshRow| match row.etcds {
        Etcds::Real => "real",
        Etcds::Replayed => "replayed",
    };
    let first = |row: &MeshRow| vec![row.clusters.to_string(), etcds(row).into()];
    output::line("start of an agent, until everything is in the kernel; milliseconds")?;
    let header = [
        "CLUSTERS",
        "ETCDS",
        "KEYS",
        "CPU",
        "PLAIN READ, CPU",
        "RATIO",
        "ELAPSED",
        "PLAIN READ, ELAPSED",
    ];
    let starts = rows.iter().map(|row| {
        let start = &row.bootstrap;
        let rest = [
            start.keys.to_string(),
            format!("{:.0}", start.cpu_millis),
            format!("{:.0}", start.read_cpu_millis),
            format!("{:.2}", start.ratio),
            format!("{:.0}", start.elapsed_millis),
            format!("{:.0}", start.read_elapsed_millis),
        ];
        first(row).into_iter().chain(rest).collect()
    });
    output::table(&header, starts)?;
    output::line("")?;
    output::line("resources of the agent")?;
    let header = [
        "CLUSTERS",
        "ETCDS",
        "ENDPOINTS",
        "RESIDENT, MB",
        "EACH, B",
        "THREADS",
        "DESCRIPTORS",
        "INOTIFY",
        "IDLE, ms A SECOND",
    ];
    let holdings = rows.iter().map(|row| {
        let rest = [
            row.endpoints.to_string(),
            format!("{:.1}", row.resident as f64 / 1e6),
            format!("{:.0}", row.resident_each),
            row.held.threads.to_string(),
            row.held.descriptors.to_string(),
            row.held.inotify_instances.to_string(),
            format!("{:.1}", row.idle_millis),
        ];
        first(row).into_iter().chain(rest).collect()
    });
    output::table(&header, holdings)?;
    output::line("")?;
    output::line(
        "change of one backend, milliseconds until the watch and the kernel have it (p50 / p99)",
    )?;
    let header = [
        "CLUSTERS",
        "ETCDS",
        "CHANGES A SECOND",
        "MADE",
        "CHANGES",
        "CPU, µs",
        "PLAIN WATCH",
        "KERNEL",
        "RATIO",
    ];
    let changes = rows.iter().flat_map(|row| row.changes.iter().map(move |change| (row, change)));
    let changes = changes.map(|(row, change)| {
        let rate = if change.rate == 0 { "one at a time".into() } else { change.rate.to_string() };
        let rest = [
            rate,
            format!("{:.0}", change.achieved),
            change.changes.to_string(),
            format!("{:.0}", change.cpu_micros),
            milliseconds(change.watch),
            milliseconds(change.kernel),
            format!("{:.2}", change.ratio),
        ];
        first(row).into_iter().chain(rest).collect()
    });
    Ok(output::table(&header, changes)?)
}

#[cfg(test)]
mod tests {
    use mesh_bench::{Bootstrap, Changes, ProcessResources};

    use super::*;
    use crate::{bench::print::tests::DISTRIBUTION, output::samples};

    #[test]
    fn figures_of_a_mesh_fit() {
        let row = MeshRow {
            clusters: 250,
            etcds: Etcds::Replayed,
            endpoints: 100_000,
            bootstrap: Bootstrap {
                cpu_millis: 5_400.0,
                elapsed_millis: 5_400.0,
                keys: 351_000,
                read_cpu_millis: 4_100.0,
                read_elapsed_millis: 4_100.0,
                ratio: 1.32,
            },
            resident: 250_000_000,
            resident_each: 1_250.0,
            held: ProcessResources { threads: 12, descriptors: 600, inotify_instances: 3 },
            idle_millis: 12.5,
            changes: vec![Changes {
                rate: 0,
                achieved: 350.0,
                changes: 1_000,
                cpu_micros: 120.0,
                watch: DISTRIBUTION,
                kernel: DISTRIBUTION,
                ratio: 1.25,
            }],
        };
        samples::fits(100, || mesh(std::slice::from_ref(&row)));
    }
}
