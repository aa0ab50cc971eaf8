//! `clustermesh bench`: figures of this machine.

use std::cell::OnceCell;

use indicatif::ProgressBar;
use mesh_bench::{
    ChangeOptions, ChangeRow, CniOptions, CniRow, ConnectOptions, ConnectRow, CutOff, CutOptions,
    Delivered, Distribution, Filled, Known, Propagation, PropagationOptions, Reconnected, Taken,
    Takeover, TakeoverOptions, change, client, cni, connect, cut, cut_client, delivered, fill,
    known, memory, propagation, reconnect, takeover,
};
use serde_json::json;

use crate::{
    args::BenchCommand,
    outcome::Outcome,
    output::{self, Output},
};

pub(crate) fn run(command: BenchCommand, output: Output) -> anyhow::Result<Outcome> {
    match command {
        BenchCommand::All => {
            // First what runs in a lab: the other takes this process out of the machine's network.
            let propagated = [0, 1_000].map(|services| measure_propagation(300, services));
            let [few, many] = propagated;
            let propagated = [few?, many?];
            let taken_over = [measure_takeover(20, 1_000)?];
            let cut_off = measure_cut(20)?;
            let endpoints =
                with_progress("endpoints", |progress| Ok(known(&[10_000, 100_000], progress)?))?;
            let back = with_progress("reconnect", |progress| Ok(reconnect(10_000, progress)?))?;
            let events = with_progress("events", |progress| Ok(delivered(progress)?))?;
            let attached = measure_cni(192)?;
            let changed = measure_change(vec![10, 1_000, 10_000], 7, 20)?;
            let filled = with_progress("fill", |progress| Ok(fill(100_000, progress)?))?;
            let taken = with_progress("memory", |progress| Ok(memory(progress)?))?;
            let connected = measure_connect(vec![10, 1_000, 10_000, 100_000], 10_000, 60, 100)?;
            match output {
                Output::Text => {
                    print_connect(&connected)?;
                    output::line("")?;
                    print_propagation(&propagated)?;
                    output::line("")?;
                    print_takeover(&taken_over)?;
                    output::line("")?;
                    print_cut(&cut_off)?;
                    output::line("")?;
                    print_known(&endpoints)?;
                    output::line("")?;
                    print_reconnected(&back)?;
                    output::line("")?;
                    print_delivered(&events)?;
                    output::line("")?;
                    print_cni(&attached)?;
                    output::line("")?;
                    print_changed(&changed)?;
                    output::line("")?;
                    print_filled(&filled)?;
                    output::line("")?;
                    print_taken(&taken)?;
                }
                Output::Json => output::json(
                    "Bench",
                    json!({
                        "change": changed, "fill": filled, "memory": taken, "cut": cut_off,
                        "connect": connected, "propagation": propagated, "takeover": taken_over,
                        "endpoints": endpoints, "reconnect": back, "events": events, "cni": attached,
                    }),
                )?,
            }
        }
        BenchCommand::Connect { mut services, rules_up_to, rounds, batch } => {
            services.sort_unstable();
            let connected = measure_connect(services, rules_up_to, rounds, batch)?;
            match output {
                Output::Text => print_connect(&connected)?,
                Output::Json => output::json("Bench", json!({ "connect": connected }))?,
            }
        }
        BenchCommand::Propagation { samples, services } => {
            let propagated = [measure_propagation(samples, services)?];
            match output {
                Output::Text => print_propagation(&propagated)?,
                Output::Json => output::json("Bench", json!({ "propagation": propagated }))?,
            }
        }
        BenchCommand::Takeover { rounds, services } => {
            let taken_over = [measure_takeover(rounds, services)?];
            match output {
                Output::Text => print_takeover(&taken_over)?,
                Output::Json => output::json("Bench", json!({ "takeover": taken_over }))?,
            }
        }
        BenchCommand::Cut { rounds } => {
            let row = measure_cut(rounds)?;
            match output {
                Output::Text => print_cut(&row)?,
                Output::Json => output::json("Bench", json!({ "cut": row }))?,
            }
        }
        BenchCommand::CutClient { to } => cut_client(to)?,
        BenchCommand::Endpoints { endpoints } => {
            let rows = with_progress("endpoints", |progress| Ok(known(&endpoints, progress)?))?;
            match output {
                Output::Text => print_known(&rows)?,
                Output::Json => output::json("Bench", json!({ "endpoints": rows }))?,
            }
        }
        BenchCommand::Reconnect { endpoints } => {
            let row = with_progress("reconnect", |progress| Ok(reconnect(endpoints, progress)?))?;
            match output {
                Output::Text => print_reconnected(&row)?,
                Output::Json => output::json("Bench", json!({ "reconnect": row }))?,
            }
        }
        BenchCommand::Events => {
            let row = with_progress("events", |progress| Ok(delivered(progress)?))?;
            match output {
                Output::Text => print_delivered(&row)?,
                Output::Json => output::json("Bench", json!({ "events": row }))?,
            }
        }
        BenchCommand::Cni { rounds } => {
            let attached = measure_cni(rounds)?;
            match output {
                Output::Text => print_cni(&attached)?,
                Output::Json => output::json("Bench", json!({ "cni": attached }))?,
            }
        }
        BenchCommand::Change { backends, rounds, batch } => {
            let rows = measure_change(backends, rounds, batch)?;
            match output {
                Output::Text => print_changed(&rows)?,
                Output::Json => output::json("Bench", json!({ "change": rows }))?,
            }
        }
        BenchCommand::Fill { services } => {
            let row = with_progress("fill", |progress| Ok(fill(services, progress)?))?;
            match output {
                Output::Text => print_filled(&row)?,
                Output::Json => output::json("Bench", json!({ "fill": row }))?,
            }
        }
        BenchCommand::Memory => {
            let rows = with_progress("memory", |progress| Ok(memory(progress)?))?;
            match output {
                Output::Text => print_taken(&rows)?,
                Output::Json => output::json("Bench", json!({ "memory": rows }))?,
            }
        }
        BenchCommand::Client => client()?,
    }
    Ok(Outcome::Done)
}

fn measure_connect(
    services: Vec<u32>,
    rules_up_to: u32,
    rounds: u32,
    batch: u32,
) -> anyhow::Result<Vec<ConnectRow>> {
    let options = ConnectOptions { services, rules_up_to, rounds, batch };
    with_progress("connect", |progress| Ok(connect(&options, progress)?))
}

fn measure_change(backends: Vec<u32>, rounds: u32, batch: u32) -> anyhow::Result<Vec<ChangeRow>> {
    let options = ChangeOptions { backends, rounds, batch };
    with_progress("change", |progress| Ok(change(&options, progress)?))
}

fn measure_propagation(samples: u32, services: u32) -> anyhow::Result<Propagation> {
    let options = PropagationOptions { samples, services };
    with_progress("propagation", |progress| Ok(propagation(options, progress)?))
}

fn measure_takeover(rounds: u32, services: u32) -> anyhow::Result<Takeover> {
    let options = TakeoverOptions { rounds, services };
    with_progress("takeover", |progress| Ok(takeover(options, progress)?))
}

fn measure_cut(rounds: u32) -> anyhow::Result<CutOff> {
    with_progress("cut", |progress| Ok(cut(CutOptions { rounds }, progress)?))
}

fn measure_cni(rounds: u32) -> anyhow::Result<Vec<CniRow>> {
    with_progress("cni", |progress| Ok(cni(CniOptions { rounds }, progress)?))
}

fn with_progress<T>(
    what: &'static str,
    measure: impl FnOnce(&mut dyn FnMut(u64, u64)) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let bar = OnceCell::new();
    let measured = measure(&mut |done, total| {
        let bar = bar.get_or_init(|| ProgressBar::new(total).with_message(what));
        bar.set_position(done);
    });
    if let Some(bar) = bar.get() {
        bar.finish_and_clear();
    }
    measured
}

fn print_connect(rows: &[ConnectRow]) -> anyhow::Result<()> {
    output::line("connect(), CPU time of the caller, nanoseconds")?;
    let header = [
        "BY",
        "TRANSPORT",
        "SERVICES",
        "CONNECTS",
        "DIRECT",
        "THROUGH A SERVICE",
        "RATIO",
        "ONE MORE SERVICE, µs",
    ];
    let cells = rows.iter().map(|row| {
        vec![
            row.way.into(),
            row.transport.into(),
            row.services.to_string(),
            row.connects.to_string(),
            format!("{:.0}", row.direct_nanos),
            format!("{:.0}", row.through_nanos),
            format!("{:.3}", row.ratio),
            format!("{:.0}", row.one_more_micros),
        ]
    });
    Ok(output::table(&header, cells)?)
}

fn print_changed(rows: &[ChangeRow]) -> anyhow::Result<()> {
    output::line("one backend of a service changes, CPU time of an agent, microseconds")?;
    let header = [
        "TOLD AS",
        "BACKENDS",
        "BYTES",
        "CHANGES",
        "AGENT",
        "AGENT, 100 BACKENDS",
        "RATIO",
        "WRITES",
    ];
    let cells = rows.iter().map(|row| {
        vec![
            row.form.into(),
            row.backends.to_string(),
            row.bytes.to_string(),
            row.changes.to_string(),
            format!("{:.0}", row.micros),
            format!("{:.0}", row.reference_micros),
            format!("{:.2}", row.ratio),
            format!("{:.1}", row.writes),
        ]
    });
    Ok(output::table(&header, cells)?)
}

fn print_filled(row: &Filled) -> anyhow::Result<()> {
    output::line("tables are filled, CPU time")?;
    let header = [
        "SERVICES",
        "EACH, µs",
        "A BARE UPDATE, µs",
        "RATIO",
        "WRITES EACH",
        "ALL, ms",
        "ELAPSED, ms",
    ];
    let cells = vec![
        row.services.to_string(),
        format!("{:.2}", row.micros),
        format!("{:.2}", row.bare_micros),
        format!("{:.2}", row.ratio),
        format!("{:.1}", row.writes),
        format!("{:.0}", row.millis),
        format!("{:.0}", row.elapsed_millis),
    ];
    Ok(output::table(&header, [cells])?)
}

fn print_taken(rows: &[Taken]) -> anyhow::Result<()> {
    output::line("memory of the kernel's that the tables take, megabytes")?;
    let header = [
        "ROOM FOR SERVICES",
        "FOR BACKENDS",
        "FOR SLOTS",
        "SERVICES",
        "HEADERS",
        "BACKENDS",
        "SLOTS",
        "OTHERS",
        "ALL, EMPTY",
        "ALL, HALF FULL",
    ];
    let cells = rows.iter().map(|row| {
        let megabytes = |bytes: u64| format!("{:.1}", bytes as f64 / 1e6);
        vec![
            row.services.to_string(),
            row.backends.to_string(),
            row.slots.to_string(),
            megabytes(row.services_bytes),
            megabytes(row.headers_bytes),
            megabytes(row.backends_bytes),
            megabytes(row.slots_bytes),
            megabytes(row.other_bytes),
            megabytes(row.empty_bytes),
            megabytes(row.filled_bytes),
        ]
    });
    Ok(output::table(&header, cells)?)
}

fn print_known(rows: &[Known]) -> anyhow::Result<()> {
    output::line("an agent that knows another cluster's endpoints, beyond one that knows none")?;
    let header = [
        "ENDPOINTS",
        "BYTES IN ETCD",
        "RESIDENT",
        "EACH",
        "START, MS",
        "ETCDCTL GET, MS",
        "RATIO",
        "IDLE, MS/S",
    ];
    let cells = rows.iter().map(|row| {
        vec![
            row.endpoints.to_string(),
            row.bytes.to_string(),
            row.resident.to_string(),
            format!("{:.0}", row.resident_each),
            row.start_millis.to_string(),
            row.get_millis.to_string(),
            format!("{:.2}", row.ratio),
            format!("{:.1}", row.idle_millis),
        ]
    });
    Ok(output::table(&header, cells)?)
}

fn print_reconnected(row: &Reconnected) -> anyhow::Result<()> {
    output::line("an agent that comes back after a cut")?;
    let header = ["ENDPOINTS", "EXCHANGED", "BYTES READ", "BYTES OF ALL", "RATIO", "TABLE CHANGES"];
    let cells = vec![
        row.endpoints.to_string(),
        row.exchanged.to_string(),
        row.received.to_string(),
        row.all.to_string(),
        format!("{:.4}", row.ratio),
        row.table_changes.to_string(),
    ];
    Ok(output::table(&header, [cells])?)
}

fn print_delivered(row: &Delivered) -> anyhow::Result<()> {
    output::line("CPU time of an etcd for an event, each reader, microseconds")?;
    let header = ["READERS", "EVENTS", "WRITING", "AGENTS", "BARE WATCHES", "RATIO"];
    let cells = vec![
        row.readers.to_string(),
        row.events.to_string(),
        format!("{:.2}", row.write_micros),
        format!("{:.2}", row.agent_micros),
        format!("{:.2}", row.watch_micros),
        format!("{:.2}", row.ratio),
    ];
    Ok(output::table(&header, [cells])?)
}

fn print_propagation(rows: &[Propagation]) -> anyhow::Result<()> {
    output::line("a manifest's change in one cluster, milliseconds until it is seen (p50 / p99)")?;
    let header =
        ["OTHER SERVICES", "CHANGES", "BARE WATCH", "KERNEL ENTRY", "AFTER THE WATCH", "RATIO"];
    let cells = rows.iter().map(|row| {
        vec![
            row.services.to_string(),
            row.kernel.count.to_string(),
            milliseconds(row.watch),
            milliseconds(row.kernel),
            milliseconds(row.after_watch),
            format!("{:.3}", row.ratio),
        ]
    });
    Ok(output::table(&header, cells)?)
}

fn print_takeover(rows: &[Takeover]) -> anyhow::Result<()> {
    output::line(
        "a replica is killed as a manifest changes, milliseconds until the change is seen by way of the other (p50 / p99)",
    )?;
    let header = [
        "OTHER SERVICES",
        "KILLS",
        "BARE WATCH",
        "KERNEL ENTRY",
        "RATIO",
        "BYTES READ",
        "WRITES TOO MANY",
    ];
    let cells = rows.iter().map(|row| {
        vec![
            row.services.to_string(),
            row.kernel.count.to_string(),
            milliseconds(row.watch),
            milliseconds(row.kernel),
            format!("{:.3}", row.ratio),
            row.bytes_read.to_string(),
            row.needless_writes.to_string(),
        ]
    });
    Ok(output::table(&header, cells)?)
}

fn print_cut(row: &CutOff) -> anyhow::Result<()> {
    output::line("a cluster is cut off under load, milliseconds (p50 / p90 / p99 / max)")?;
    let of = |nanos: u64| nanos as f64 / 1e6;
    let four = |d: Distribution| {
        let [p50, p90, p99, max] = [d.p50_nanos, d.p90_nanos, d.p99_nanos, d.max_nanos].map(of);
        format!("{p50:.0} / {p90:.0} / {p99:.0} / {max:.0}")
    };
    let header =
        ["CUTS", "WRITTEN", "LAST CONNECTION LED THERE", "THREE PROBES", "RATIO", "MADE", "LOST"];
    let cells = vec![
        row.avoided.count.to_string(),
        four(row.written),
        four(row.avoided),
        format!("{:.0}", of(row.three_probes_nanos)),
        format!("{:.2}", row.ratio),
        (row.connections - row.lost).to_string(),
        row.lost.to_string(),
    ];
    Ok(output::table(&header, [cells])?)
}

fn print_cni(rows: &[CniRow]) -> anyhow::Result<()> {
    output::line("a pod is attached, milliseconds (p50 / p99)")?;
    let cells = rows.iter().map(|row| {
        vec![
            row.called.into(),
            row.with.count.to_string(),
            milliseconds(row.without),
            milliseconds(row.with),
            milliseconds(row.ours),
        ]
    });
    Ok(output::table(&["CALLED", "PODS EACH", "WITHOUT OURS", "WITH OURS", "OURS ALONE"], cells)?)
}

fn milliseconds(distribution: Distribution) -> String {
    let of = |nanos: u64| nanos as f64 / 1e6;
    format!("{:.2} / {:.2}", of(distribution.p50_nanos), of(distribution.p99_nanos))
}
