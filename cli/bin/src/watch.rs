//! `--watch`: the same command again and again.

use std::{
    env,
    io::{self, IsTerminal as _},
    process::Command,
    thread,
    time::Duration,
};

use crate::output;

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(2);
/// Set for the command that is run again and again: it shows what there is once.
const WATCHED: &str = "CLUSTERMESH_WATCHED";
/// Moves to the upper left corner of a terminal, and clears it.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Whether this command is the one that is run again and again.
pub(crate) fn is_watched() -> bool {
    env::var_os(WATCHED).is_some()
}

/// Runs this command until it is stopped, as it was called. What it ends with is shown, and no reason to stop.
///
/// # Errors
/// It cannot be run, or its output is closed.
pub(crate) fn run<T>() -> anyhow::Result<T> {
    let program = env::current_exe()?;
    loop {
        if io::stdout().is_terminal() {
            output::line(CLEAR)?;
        }
        Command::new(&program).args(env::args_os().skip(1)).env(WATCHED, "1").status()?;
        thread::sleep(PAUSE);
    }
}
