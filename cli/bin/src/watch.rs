//! `--watch`: runs the same command again and again.

use std::{
    env,
    io::{self, IsTerminal as _},
    process::Command,
    thread,
    time::Duration,
};

use crate::output;

/// The pause between two runs.
const PAUSE: Duration = Duration::from_secs(2);
/// Set for the repeated command, which runs once.
const WATCHED: &str = "CLUSTERMESH_WATCHED";
/// Moves the cursor to the upper left corner of a terminal, and clears it.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Whether this is the repeated command.
pub(crate) fn is_watched() -> bool {
    env::var_os(WATCHED).is_some()
}

/// Repeats this command until it is stopped. Its exit code makes no difference.
///
/// # Errors
/// The command cannot be run, or standard output is closed.
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
