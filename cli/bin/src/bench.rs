//! `clustermesh bench`: figures of this machine.

mod print;

use std::cell::OnceCell;

use indicatif::ProgressBar;
use mesh_bench::{
    ChangeOptions, ChangeRow, CniOptions, CniRow, ConnectOptions, ConnectRow, CutOff, CutOptions,
    Propagation, PropagationOptions, Takeover, TakeoverOptions, change, client, cni, connect, cut,
    cut_client, delivered, fill, known, memory, propagation, reconnect, takeover,
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
                    print::connect(&connected)?;
                    output::line("")?;
                    print::propagation(&propagated)?;
                    output::line("")?;
                    print::takeover(&taken_over)?;
                    output::line("")?;
                    print::cut(&cut_off)?;
                    output::line("")?;
                    print::known(&endpoints)?;
                    output::line("")?;
                    print::reconnected(&back)?;
                    output::line("")?;
                    print::delivered(&events)?;
                    output::line("")?;
                    print::cni(&attached)?;
                    output::line("")?;
                    print::changed(&changed)?;
                    output::line("")?;
                    print::filled(&filled)?;
                    output::line("")?;
                    print::taken(&taken)?;
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
                Output::Text => print::connect(&connected)?,
                Output::Json => output::json("Bench", json!({ "connect": connected }))?,
            }
        }
        BenchCommand::Propagation { samples, services } => {
            let propagated = [measure_propagation(samples, services)?];
            match output {
                Output::Text => print::propagation(&propagated)?,
                Output::Json => output::json("Bench", json!({ "propagation": propagated }))?,
            }
        }
        BenchCommand::Takeover { rounds, services } => {
            let taken_over = [measure_takeover(rounds, services)?];
            match output {
                Output::Text => print::takeover(&taken_over)?,
                Output::Json => output::json("Bench", json!({ "takeover": taken_over }))?,
            }
        }
        BenchCommand::Cut { rounds } => {
            let row = measure_cut(rounds)?;
            match output {
                Output::Text => print::cut(&row)?,
                Output::Json => output::json("Bench", json!({ "cut": row }))?,
            }
        }
        BenchCommand::CutClient { to } => cut_client(to)?,
        BenchCommand::Endpoints { endpoints } => {
            let rows = with_progress("endpoints", |progress| Ok(known(&endpoints, progress)?))?;
            match output {
                Output::Text => print::known(&rows)?,
                Output::Json => output::json("Bench", json!({ "endpoints": rows }))?,
            }
        }
        BenchCommand::Reconnect { endpoints } => {
            let row = with_progress("reconnect", |progress| Ok(reconnect(endpoints, progress)?))?;
            match output {
                Output::Text => print::reconnected(&row)?,
                Output::Json => output::json("Bench", json!({ "reconnect": row }))?,
            }
        }
        BenchCommand::Events => {
            let row = with_progress("events", |progress| Ok(delivered(progress)?))?;
            match output {
                Output::Text => print::delivered(&row)?,
                Output::Json => output::json("Bench", json!({ "events": row }))?,
            }
        }
        BenchCommand::Cni { rounds } => {
            let attached = measure_cni(rounds)?;
            match output {
                Output::Text => print::cni(&attached)?,
                Output::Json => output::json("Bench", json!({ "cni": attached }))?,
            }
        }
        BenchCommand::Change { backends, rounds, batch } => {
            let rows = measure_change(backends, rounds, batch)?;
            match output {
                Output::Text => print::changed(&rows)?,
                Output::Json => output::json("Bench", json!({ "change": rows }))?,
            }
        }
        BenchCommand::Fill { services } => {
            let row = with_progress("fill", |progress| Ok(fill(services, progress)?))?;
            match output {
                Output::Text => print::filled(&row)?,
                Output::Json => output::json("Bench", json!({ "fill": row }))?,
            }
        }
        BenchCommand::Memory => {
            let rows = with_progress("memory", |progress| Ok(memory(progress)?))?;
            match output {
                Output::Text => print::taken(&rows)?,
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
