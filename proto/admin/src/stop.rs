//! How a daemon is asked to stop.

use std::io;

use tokio::signal::unix::{SignalKind, signal};

/// Hears SIGTERM and SIGINT from now on. What is returned ends with the first of them.
///
/// # Errors
/// Where signals cannot be heard.
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
