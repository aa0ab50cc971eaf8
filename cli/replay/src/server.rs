//! Serves many clusters from one process.
//!
//! Tasks: one for each listener, one for each watch stream, and one that updates heartbeats and positions. The first and the
//! last end with [`serve`], the task of a watch stream with its connection.

use std::{
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{net::TcpListener, task::JoinSet, time::interval};

use crate::{error::ReplayError, file::ReplayFile, listener, recording::Recording, served::Served};

/// How often an apiserver updates its position, and after how many of these updates its heartbeat (`docs/wire.md`).
const POSITION: Duration = Duration::from_secs(5);
const HEARTBEAT: u32 = 12;
/// Serves a recording as each of the clusters, until the future is dropped or a listener fails. Calls `ready` when all
/// clusters are listening.
pub async fn serve(
    recording: &Recording,
    file: &ReplayFile,
    ready: impl FnOnce(),
) -> Result<(), ReplayError> {
    let mut tasks = JoinSet::new();
    let mut all = Vec::new();
    for cluster in &file.clusters {
        let served = Arc::new(Served::new(recording, cluster)?);
        let address = cluster.listen;
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|source| ReplayError::Listen { address, source })?;
        let server = listener::server(&cluster.pki)?;
        let serving = listener::serve((listener, address), server, Arc::clone(&served));
        tasks.spawn(serving);
        all.push(served);
    }
    if file.keep_alive {
        tasks.spawn(async move {
            keep_alive(&all).await;
            Ok(())
        });
    }
    ready();
    while let Some(ended) = tasks.join_next().await {
        // No task is aborted here, so this one panicked.
        ended.map_err(|error| ReplayError::file("a listener")(io::Error::other(error)))??;
    }
    Ok(())
}

/// Updates positions and heartbeats of all clusters, as their apiservers would.
async fn keep_alive(all: &[Arc<Served>]) {
    let mut ticks = interval(POSITION);
    for round in 0_u32.. {
        ticks.tick().await;
        for served in all {
            served.sign_of_life(SystemTime::now(), round % HEARTBEAT == 0);
        }
    }
}
