//! Whether daemons that were just started come up.

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

/// How long a daemon may take to listen on its admin socket, which says that it is up.
const STARTING: Duration = Duration::from_millis(500);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);

impl Lab {
    /// Watches processes that were just started, until they listen, or for half a second.
    ///
    /// # Errors
    /// One of them ended, with its last words.
    pub fn watch_start(&self, started: &[String]) -> Result<(), LabError> {
        let began = Instant::now();
        let starting: Vec<&ProcessState> =
            self.processes().filter(|process| started.contains(&process.name)).collect();
        let socket =
            |argument: &String| argument.strip_prefix("--admin-socket=").map(str::to_owned);
        let listens = |process: &ProcessState| match process.command.iter().find_map(socket) {
            Some(socket) => UnixStream::connect(socket).is_ok(),
            // An etcd, or a pod's process.
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
