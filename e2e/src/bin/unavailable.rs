//! Prints the tests that cannot run on this machine, and fails if one of them could.

use std::{io::Write as _, process::ExitCode};

use mesh_e2e::Unavailable;

fn main() -> ExitCode {
    let (lines, wrong) = match Unavailable::parse(include_str!("../../unavailable.toml")) {
        Ok(unavailable) => unavailable.judge(),
        Err(error) => (Vec::new(), vec![format!("e2e/unavailable.toml: {error}")]),
    };
    let mut out = std::io::stdout();
    for line in lines.iter().chain(&wrong) {
        if writeln!(out, "{line}").is_err() {
            return ExitCode::FAILURE;
        }
    }
    if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
