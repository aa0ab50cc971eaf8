//! Measures the figures of `docs/performance.md` on kind clusters, and prints them as JSON (`make figures-kind`).

use std::{env, io::Write as _, process::ExitCode};

use clap::Parser;
use mesh_e2e::{
    Kind,
    figures::{Options, measure},
};

/// Measures a mesh of the kind clusters a and b. Needs root.
#[derive(Debug, Parser)]
struct Args {
    /// Changes of each kind, one at a time.
    #[arg(long, default_value_t = 100)]
    samples: u32,
    /// Seconds of the phase without changes; the phase with many takes half as long again.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Changes of pods a second in that phase.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Pods of the service.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100))]
    pods: u32,
}

fn main() -> ExitCode {
    let Args { samples, seconds, rate, pods } = Args::parse();
    // As `deploy/images/build.sh` chooses.
    let build = env::var("PROFILE").unwrap_or_else(|_| "debug".into());
    let options = Options { samples, idle: seconds, busy: seconds * 3 / 2, rate, pods };
    let figures = measure(&Kind::up(&["a", "b"]), &build, options);
    let printed = serde_json::to_string_pretty(&figures)
        .map_err(|error| error.to_string())
        .and_then(|text| writeln!(std::io::stdout(), "{text}").map_err(|error| error.to_string()));
    if printed.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
