//! Checks that daemons which were just started come up.

use std::{
    os::unix::net::UnixStream,
    thread,
    time::{Duration, Instant},
};

use crate::{
    error::LabError,
    lab::{Lab, WATCHED},
    process::Liveness,
    state::ProcessState,
};

/// The longest time for a daemon to listen on its admin socket.
const STARTING: Duration = Duration::from_millis(500);
/// The interval of checks.
const LOOK: Duration = Duration::from_millis(10);

impl Lab {
    /// Observes processes that were just started, until they listen, at most for half a second.
    ///
    /// # Errors
    /// A process ended; the error has the end of its log.
    pub fn watch_start(&self, started: &[String]) -> Result<(), LabError> {
        let began = Instant::now();
        let starting: Vec<&ProcessState> =
            self.processes().filter(|process| started.contains(&process.name)).collect();
        let socket =
            |argument: &String| argument.strip_prefix("--admin-socket=").map(str::to_owned);
        let listens = |process: &ProcessState| match process.command.iter().find_map(socket) {
            Some(socket) => UnixStream::connect(socket).is_ok(),
            // An etcd or a pod's process, which have no such socket.
            None => began.elapsed() >= WATCHED,
        };
        loop {
            let dead = starting.iter().find(|process| process.liveness() != Liveness::Running);
            if let Some(dead) = dead {
                return Err(LabError::Died { name: dead.name.clone(), log: dead.last_words() });
            }
            if starting.iter().all(|process| listens(process)) || began.elapsed() >= STARTING {
                return Ok(());
            }
            thread::sleep(LOOK);
        }
    }
}
