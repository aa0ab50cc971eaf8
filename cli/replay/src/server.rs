//! Many clusters in one process.
//!
//! Tasks: one a listener, one a watch stream, and one that keeps the writers' signs of life. All end with [`serve`].

use std::{
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{net::TcpListener, task::JoinSet, time::interval};

use crate::{error::ReplayError, file::ReplayFile, listener, recording::Recording, served::Served};

/// How often a writer of ours puts its position and its heartbeat (`docs/wire.md`).
const POSITION: Duration = Duration::from_secs(5);
const HEARTBEAT: u32 = 12;
/// Serves a recording as each of these clusters, until the future is dropped. `ready` is called when all listen.
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
        // A task that is aborted or panics ends the process's use; none is aborted here.
        ended.map_err(|error| ReplayError::file("a listener")(io::Error::other(error)))??;
    }
    Ok(())
}

/// Puts what a living writer puts.
async fn keep_alive(all: &[Arc<Served>]) {
    let mut ticks = interval(POSITION);
    for round in 0_u32.. {
        ticks.tick().await;
        for served in all {
            served.sign_of_life(SystemTime::now(), round % HEARTBEAT == 0);
        }
    }
}
