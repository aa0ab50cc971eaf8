//! What a shell needs to complete commands.

use std::io::{self, Write as _};

use clap::CommandFactory as _;

use crate::{
    args::{Args, Shell},
    outcome::Outcome,
};

pub(crate) fn run(shell: Shell) -> anyhow::Result<Outcome> {
    let generator = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    // Into memory first: a reader that has seen enough is no error.
    let mut script = Vec::new();
    clap_complete::generate(generator, &mut Args::command(), "clustermesh", &mut script);
    io::stdout().lock().write_all(&script)?;
    Ok(Outcome::Done)
}
