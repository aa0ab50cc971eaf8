//! How a daemon is asked to stop, and how it ends.

use std::{fmt, io, process::ExitCode};

use tokio::signal::unix::{SignalKind, signal};

use crate::words::plain;

/// Handles SIGTERM and SIGINT from now on. What is returned ends with the first of them.
///
/// # Errors
/// Where the process cannot have handlers of signals.
pub fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// How a daemon ends: with 1 where it failed, and why in one line, causes included.
#[allow(clippy::print_stderr, reason = "the log may be what failed")]
pub fn exit_code(ended: Result<(), impl fmt::Display>) -> ExitCode {
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", plain(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}
