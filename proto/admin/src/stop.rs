//! The signals that stop a daemon, and its exit code.

use std::{fmt, io, process::ExitCode};

use tokio::signal::unix::{SignalKind, signal};

use crate::words::plain;

/// Handles SIGTERM and SIGINT from now on. The returned future ends with the first of them.
///
/// # Errors
/// If the signal handlers cannot be installed.
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

/// A daemon's exit code: 0, or 1 if it failed. Then the error and its causes are printed in one line.
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
