//! `clustermesh bench`: runs benchmarks on this machine.
//!
//! Each benchmark runs in a thread of its own, since some change the thread's network namespace. If one fails, the others
//! still run, and the command names it at the end.

mod print;
mod report;

use std::{cell::OnceCell, fs, path::Path, thread, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use indicatif::ProgressBar;
use mesh_admin::plain;
use mesh_bench::{
    ChangeOptions, ClusterSize, CniOptions, ConnectOptions, CutOptions, EventOptions,
    ExportOptions, JudgeOptions, MeshOptions, PolicyOptions, PropagationOptions, SourceOptions,
    TakeoverOptions, change, clean_up, client, cni, connect, cut, cut_client, endpoint_cost,
    event_cost, export, fill, hostile, judge, memory, mesh, picture, policy, propagation,
    reconnect, source, takeover,
};
use mesh_lab::need_root;
use mesh_offline::KeysFile;
use mesh_replay::{Recording, serve};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    args::{BenchArgs, BenchCommand},
    outcome::{Outcome, warn},
    output::{self, Output},
};

/// The result of a benchmark: as JSON, and a function that prints it as text.
struct Figures {
    json: Value,
    text: Box<dyn FnOnce() -> anyhow::Result<()> + Send>,
}

/// A benchmark, with the name of its table.
struct Measurement<'a> {
    name: &'static str,
    measure: Box<dyn FnOnce(Progress<'_>) -> anyhow::Result<Figures> + Send + 'a>,
}

/// A callback for progress: the steps done so far, and all steps.
type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// The exit code after a signal.
const FAILED: i32 = 1;

pub(crate) fn run(args: BenchArgs, output: Output) -> anyhow::Result<Outcome> {
    let BenchArgs { lab, command } = args;
    let all = match command {
        BenchCommand::CutClient { to } => return done(cut_client(to)),
        BenchCommand::Client => return done(client()),
        BenchCommand::Replay { keys, clusters } => return done(replay(&keys, &clusters)),
        BenchCommand::Report { files, into } => return report::report(&files, into, output),
        // It creates files only.
        command @ BenchCommand::Export { .. } => {
            return measure(measurements(&lab, command), output);
        }
        BenchCommand::All => {
            everything().into_iter().flat_map(|one| measurements(&lab, one)).collect()
        }
        one => measurements(&lab, one),
    };
    need_root().context("a benchmark starts a lab, or creates network namespaces")?;
    clean_up_on_signal(&lab)?;
    measure(all, output)
}

/// Runs the benchmarks one after another, and prints each result at once; failures are reported at the end.
fn measure(all: Vec<Measurement<'_>>, output: Output) -> anyhow::Result<Outcome> {
    let count = all.len();
    let (mut tables, mut failed) = (Map::new(), Vec::new());
    for (number, Measurement { name, measure }) in all.into_iter().enumerate() {
        let figures = thread::scope(|scope| {
            let measuring = scope.spawn(move || with_progress(name, measure));
            measuring.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        match (figures, output) {
            (Ok(figures), Output::Json) => {
                tables.insert(name.into(), figures.json);
            }
            (Ok(figures), Output::Text) => {
                if number > 0 {
                    output::line("")?;
                }
                (figures.text)()?;
            }
            (Err(error), _) => {
                let why = plain(&format!("{name}: {error:#}")).into_owned();
                warn(why.clone());
                failed.push((name, why));
            }
        }
    }
    let (names, whys): (Vec<&str>, Vec<String>) = failed.into_iter().unzip();
    // Without any result, the error is the only object in the output.
    if output == Output::Json && !tables.is_empty() {
        if !whys.is_empty() {
            tables.insert("failed".into(), whys.join("; ").into());
        }
        output::json("Bench", Value::Object(tables))?;
    }
    if !names.is_empty() {
        bail!("{} of {count} could not be measured: {}", names.len(), names.join(", "));
    }
    Ok(Outcome::Done)
}

/// The commands of `bench all`, with the parameters of `docs/performance.md`.
fn everything() -> Vec<BenchCommand> {
    let defaults =
        ["connect", "propagation", "takeover", "cut", "endpoints", "reconnect", "events"];
    let more = ["policy", "judge", "cni", "change", "export", "source", "fill", "memory", "mesh"];
    defaults.into_iter().chain(more).filter_map(BenchCommand::with_defaults).collect()
}

fn measurements<'a>(lab: &'a str, command: BenchCommand) -> Vec<Measurement<'a>> {
    let one =
        |name, measure: Box<dyn FnOnce(Progress<'_>) -> anyhow::Result<Figures> + Send + 'a>| {
            vec![Measurement { name, measure }]
        };
    match command {
        BenchCommand::Connect { mut services, rules_up_to, rounds, batch } => {
            services.sort_unstable();
            let options = ConnectOptions { services, rules_up_to, rounds, batch };
            one(
                "connect",
                Box::new(move |progress| {
                    figures(connect(&options, progress)?, |rows| print::connect(rows))
                }),
            )
        }
        BenchCommand::Propagation { samples, services } => one(
            "propagation",
            Box::new(move |progress| {
                let rows = services.iter().map(|&services| {
                    propagation(lab, PropagationOptions { samples, services }, &mut *progress)
                });
                figures(rows.collect::<Result<Vec<_>, _>>()?, |rows| print::propagation(rows))
            }),
        ),
        BenchCommand::Takeover { rounds, services } => one(
            "takeover",
            Box::new(move |progress| {
                let row = takeover(lab, TakeoverOptions { rounds, services }, progress)?;
                figures(vec![row], |rows| print::takeover(rows))
            }),
        ),
        BenchCommand::Cut { rounds } => one(
            "cut",
            Box::new(move |progress| {
                figures(cut(lab, CutOptions { rounds }, progress)?, print::cut)
            }),
        ),
        BenchCommand::Endpoints { endpoints, budget, hostile_for } => {
            let mut honest = one(
                "endpoints",
                Box::new(move |progress| {
                    figures(endpoint_cost(lab, &endpoints, progress)?, |rows| {
                        print::endpoints(rows)
                    })
                }),
            );
            honest.extend(one(
                "hostile",
                Box::new(move |progress| {
                    let rounds = u32::try_from(seconds(hostile_for))?;
                    figures(hostile(lab, budget, rounds, progress)?, |rows| print::hostile(rows))
                }),
            ));
            honest
        }
        BenchCommand::Source { pods, changes, kubernetes } => one(
            "source",
            Box::new(move |progress| {
                let options = SourceOptions { pods, changes, programs: kubernetes };
                figures(source(lab, &options, progress)?, |rows| print::source(rows))
            }),
        ),
        BenchCommand::Policy { identities, policies, cidrs, rounds } => one(
            "policy",
            Box::new(move |progress| {
                let options = PolicyOptions { identities, policies, cidrs, rounds };
                figures(policy(options, progress)?, |rows| print::policy(rows))
            }),
        ),
        BenchCommand::Judge { addresses, packets, rounds } => one(
            "judge",
            Box::new(move |progress| {
                let options = JudgeOptions { addresses, packets, rounds };
                figures(judge(options, progress)?, |rows| print::judge(rows))
            }),
        ),
        BenchCommand::Reconnect { endpoints } => one(
            "reconnect",
            Box::new(move |progress| {
                figures(reconnect(lab, endpoints, progress)?, print::reconnected)
            }),
        ),
        BenchCommand::Events { readers, rounds, turns } => one(
            "events",
            Box::new(move |progress| {
                let options = EventOptions { readers, rounds, turns };
                figures(event_cost(lab, options, progress)?, print::events)
            }),
        ),
        BenchCommand::Cni { rounds } => one(
            "cni",
            Box::new(move |progress| {
                figures(cni(lab, CniOptions { rounds }, progress)?, |rows| print::cni(rows))
            }),
        ),
        BenchCommand::Change { backends, rounds, batch } => one(
            "change",
            Box::new(move |progress| {
                let options = ChangeOptions { backends, rounds, batch };
                figures(change(lab, &options, progress)?, |rows| print::changed(rows))
            }),
        ),
        BenchCommand::Export { pods, rounds } => one(
            "export",
            Box::new(move |progress| {
                let pods = pods
                    .try_into()
                    .map_err(|_| anyhow!("--pods takes two numbers: the smaller one first"))?;
                let options = ExportOptions { pods, rounds };
                figures(export(options, progress)?, |rows| print::exported(rows))
            }),
        ),
        BenchCommand::Fill { services } => {
            one("fill", Box::new(move |progress| figures(fill(services, progress)?, print::filled)))
        }
        BenchCommand::Memory => one(
            "memory",
            Box::new(move |progress| figures(memory(progress)?, |rows| print::taken(rows))),
        ),
        BenchCommand::Mesh {
            replayed,
            real,
            nodes,
            endpoints,
            services,
            rates,
            changes,
            idle,
            picture: file,
        } => one(
            "mesh",
            Box::new(move |progress| {
                let size = ClusterSize { nodes, endpoints, services };
                let [real, replayed] =
                    [real, replayed].map(|sizes| sizes.into_iter().map(usize::from).collect());
                let seconds = seconds(idle);
                let options = MeshOptions { real, replayed, size, rates, changes, seconds };
                let rows = mesh(lab, &options, progress)?;
                if let Some(path) = file {
                    fs::write(&path, picture(&rows)).with_context(|| path.display().to_string())?;
                }
                figures(rows, |rows| print::mesh(rows))
            }),
        ),
        // These are not benchmarks.
        BenchCommand::All
        | BenchCommand::CutClient { .. }
        | BenchCommand::Client
        | BenchCommand::Replay { .. }
        | BenchCommand::Report { .. } => Vec::new(),
    }
}

/// The duration in whole seconds, rounded up.
fn seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

fn figures<T: Serialize + Send + 'static>(
    value: T,
    print: fn(&T) -> anyhow::Result<()>,
) -> anyhow::Result<Figures> {
    let json = serde_json::to_value(&value)?;
    Ok(Figures { json, text: Box::new(move || print(&value)) })
}

fn done<E: Into<anyhow::Error>>(result: Result<(), E>) -> anyhow::Result<Outcome> {
    result.map(|()| Outcome::Done).map_err(Into::into)
}

/// At a signal, removes everything that the benchmarks created (the lab, namespaces, processes), and exits.
fn clean_up_on_signal(lab: &str) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let stop = {
        let _entered = runtime.enter();
        mesh_admin::stop_signal()?
    };
    let lab = lab.to_owned();
    thread::spawn(move || {
        runtime.block_on(stop);
        let left = clean_up(&lab).err().map(|error| {
            format!("not all is taken away: {error}. Run `clustermesh lab down --lab {lab}`")
        });
        left.into_iter().for_each(warn);
        std::process::exit(FAILED);
    });
    Ok(())
}

/// Serves until the process is killed. Prints a line when it listens.
fn replay(keys: &Path, clusters: &Path) -> anyhow::Result<()> {
    let keys = KeysFile::read(keys)?;
    let recording = Recording::new(&keys.cluster, keys.entries)?;
    let text = fs::read(clusters).with_context(|| clusters.display().to_string())?;
    let file = serde_json::from_slice(&text).with_context(|| clusters.display().to_string())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(&recording, &file, || {
        // If standard output is closed, the benchmark that waits for this line has ended.
        let _ = output::line("listening");
    }))?;
    Ok(())
}

fn with_progress<T>(
    what: &'static str,
    measure: impl FnOnce(Progress<'_>) -> anyhow::Result<T>,
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::Subcommand as _;

    use super::*;

    #[test]
    fn all_is_every_benchmark_once() {
        let everything = everything();
        let tables: Vec<&str> = everything
            .into_iter()
            .flat_map(|command| measurements("bench", command))
            .map(|measurement| measurement.name)
            .collect();
        let names: BTreeSet<&str> = tables.iter().copied().collect();
        assert_eq!(names.len(), tables.len());
        // `endpoints` has a second table.
        let names: BTreeSet<&str> = names.into_iter().filter(|name| *name != "hostile").collect();
        let commands = BenchCommand::augment_subcommands(clap::Command::new("bench"));
        let shown = commands.get_subcommands().filter(|command| !command.is_hide_set());
        let shown: BTreeSet<&str> = shown.map(clap::Command::get_name).collect();
        let measure = |name: &&str| !["all", "report"].contains(name);
        assert_eq!(names, shown.into_iter().filter(measure).collect());
    }

    #[test]
    fn one_that_fails_is_named_and_the_others_go_on() {
        let ran = std::sync::atomic::AtomicUsize::new(0);
        let one = |name, fails: bool| -> Measurement<'_> {
            let ran = &ran;
            let measure = move |_: Progress<'_>| {
                ran.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                if fails { bail!("no cgroup2") } else { figures(1, |_| Ok(())) }
            };
            Measurement { name, measure: Box::new(measure) }
        };
        let all = vec![one("a", false), one("b", true), one("c", false)];
        let error = measure(all, Output::Text).unwrap_err().to_string();
        assert_eq!(error, "1 of 3 could not be measured: b");
        assert_eq!(ran.load(std::sync::atomic::Ordering::Relaxed), 3);
        assert_eq!(measure(vec![one("a", false)], Output::Text).unwrap(), Outcome::Done);
    }
}
