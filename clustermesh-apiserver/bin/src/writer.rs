//! Writes what the cluster exports to an etcd.
//!
//! It is one task. After any failure it connects again, with growing pauses. Each connection first compares all keys, so
//! the state of the previous one does not matter. The task may be aborted at any time. When it is asked to end, it first
//! writes the pending changes.

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
    /// Users of the administrator, which are not changed.
    pub(crate) extra_users: Vec<String>,
    pub(crate) heartbeat: Duration,
    /// The etcd's quota in bytes, if the etcd does not report it.
    pub(crate) quota: u64,
    /// Whether attacks of peers on old versions of etcd are not reported.
    pub(crate) trusted_peers: bool,
    /// Becomes true when the task must end.
    pub(crate) drain: watch::Receiver<bool>,
    /// Why new credentials are not used.
    pub(crate) trouble: watch::Sender<Option<Failure>>,
    pub(crate) state: Arc<Mutex<StoreState>>,
    pub(crate) metrics: Metrics,
}

/// Why a connection is no longer used.
enum Use {
    /// Another connection replaces it.
    Succeeded(Box<Connection>),
    /// It failed.
    Over(EtcdFailure),
    /// Everything is written, and the task must end.
    Drained,
}

// === impl Writer ===

impl Writer {
    /// Writes until it must end and everything is written, or until it is dropped.
    pub(crate) async fn run(self) {
        let mut pauses = Backoff::new(Policy::CONNECTION, RandomState::new().hash_one(()));
        let mut credentials = self.target.credentials.clone();
        let mut successor = None;
        // The credentials of the last connection.
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
                    tracing::info!("using a new connection with new credentials");
                    pauses.reset();
                    // The previous connection no longer waits for an answer.
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
            // Retry at once if there are new credentials.
            let _ = timeout(pauses.failed(), credentials.changed()).await;
        }
    }

    /// Uses a connection until it fails, its certificate expires, another one replaces it, or everything is written.
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

    /// Waits for an answer to `to`. If it takes long, the status shows that; if it takes too long, the connection fails.
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
