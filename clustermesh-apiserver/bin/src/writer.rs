//! Keeping one etcd equal to what the cluster exports.
//!
//! One task. A connection that fails, at any step and for any reason, is made again with growing pauses; each new one
//! begins by comparing all there is, so it does not matter what the one before had done. Cancelling loses nothing; asked
//! to end it writes what is pending and ends.

mod etcd_capacity;
mod etcd_error;
mod etcd_version;
mod foreign_writes;
mod patience;
mod session;
mod session_error;
mod state;

use std::{
    future::Future,
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use mesh_backoff::{Backoff, Policy};
use mesh_etcd::{Connection, CredentialRotation, EtcdError, Target, connect_again, succession};
use mesh_follow::Failure;
use mesh_wire::users_file::UsersFile;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::{cluster::Cluster, metrics::Metrics};
pub(crate) use etcd_capacity::Fill;
pub(crate) use etcd_error::{EtcdFailure, Reason};
pub(crate) use foreign_writes::ForeignWrite;
use patience::patiently;
use session::{Ended, Memory, Session};
pub(crate) use state::StoreState;

/// Writes to one etcd.
pub(crate) struct Writer {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) target: Target,
    pub(crate) users: watch::Receiver<Option<UsersFile>>,
    /// Users that an administrator made, and that are left alone.
    pub(crate) extra_users: Vec<String>,
    pub(crate) heartbeat: Duration,
    /// Bytes that the etcd may hold, where it does not say so.
    pub(crate) quota: u64,
    /// What a peer can do on a bad version of etcd is no problem.
    pub(crate) trusted_peers: bool,
    /// Becomes true when it is time to end.
    pub(crate) drain: watch::Receiver<bool>,
    /// Why newer credentials do not take over.
    pub(crate) trouble: watch::Sender<Option<Failure>>,
    pub(crate) state: Arc<Mutex<StoreState>>,
    pub(crate) metrics: Metrics,
}

/// What became of a connection.
enum Use {
    /// Another takes its place.
    Succeeded(Box<Connection>),
    /// It is of no more use.
    Over(EtcdFailure),
    /// Everything is written, and it is time to end.
    Drained,
}

// === impl Writer ===

impl Writer {
    /// Writes until asked to end, and everything is written, or dropped.
    pub(crate) async fn run(self) {
        let mut pauses = Backoff::new(Policy::CONNECTION, RandomState::new().hash_one(()));
        let mut credentials = self.target.credentials.clone();
        let mut successor = None;
        // The credentials that served last.
        let mut before = None;
        let mut memory = Memory::default();
        for attempt in 0.. {
            let connected = match successor.take() {
                Some(connection) => Ok(connection),
                None => connect_again(&self.target, attempt, before.clone()).await,
            };
            let used = match connected {
                Ok(connection) => {
                    before = Some(Arc::clone(connection.credentials()));
                    self.use_up(connection, &mut memory).await
                }
                Err(failure) => Use::Over(EtcdFailure::from(&failure)),
            };
            if self.look(|state| state.synced) {
                pauses.reset();
            }
            let trouble = match used {
                Use::Drained => return,
                Use::Succeeded(connection) => {
                    tracing::info!("new credentials: going on over a new connection");
                    pauses.reset();
                    // What the other connection waited for is waited for no more.
                    self.set(|state| state.slow = None);
                    successor = Some(*connection);
                    continue;
                }
                Use::Over(trouble) => trouble,
            };
            tracing::warn!(%trouble, "the etcd cannot be written to; trying again");
            self.metrics.errors.inc();
            self.metrics.count_trouble(trouble.reason);
            self.set(|state| {
                state.connected = false;
                state.synced = false;
                state.slow = None;
                state.trouble = Some(trouble);
            });
            // New credentials may be what was missing.
            let _ = timeout(pauses.failed(), credentials.changed()).await;
        }
    }

    /// Uses a connection until it fails, its certificate ends, another takes its place, or all is done.
    async fn use_up(&self, connection: Connection, memory: &mut Memory) -> Use {
        tokio::select! {
            biased;
            succession = succession(&self.target, &connection, &self.trouble) => match succession {
                CredentialRotation::Successor(connection) => Use::Succeeded(connection),
                CredentialRotation::Over(failure) => Use::Over(EtcdFailure::from(&failure)),
            },
            ended = Session::run(self, connection.clone(), memory) => match ended {
                Ok(Ended::Drained) => Use::Drained,
                Err(error) => Use::Over(EtcdFailure::from(&error)),
            },
        }
    }

    /// Waits for an answer to something. One that takes long is shown in the status, and one that takes too long given up.
    async fn answer<T>(
        &self,
        to: &str,
        request: impl Future<Output = Result<T, EtcdError>>,
    ) -> Result<T, EtcdError> {
        let report = |slow: Option<String>| {
            if slow.is_some() {
                self.metrics.count_trouble(Reason::Slow);
            }
            self.set(|state| state.slow = slow);
        };
        patiently(to, request, sleep, report).await
    }

    fn look<T>(&self, look: impl FnOnce(&StoreState) -> T) -> T {
        look(&self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn set<T>(&self, change: impl FnOnce(&mut StoreState) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = change(&mut state);
        self.cluster.set_synced(state.synced);
        self.metrics.connected.set(state.connected.into());
        self.metrics.written_keys.set(state.written.try_into().unwrap_or(u64::MAX));
        self.metrics.refused_keys.set(state.refused.len().try_into().unwrap_or(u64::MAX));
        self.metrics.set_trouble(&state.reasons());
        if let Some(fill) = &state.fill {
            self.metrics.set_fill(fill);
        }
        changed
    }
}
