//! Keeping one etcd equal to what the cluster exports.
//!
//! One task. A connection that fails, at any step and for any reason, is made again with growing pauses; each new one
//! begins by comparing all there is, so it does not matter what the one before had done. Cancelling loses nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use mesh_etcd::{Connection, EtcdError, Op, Succession, Target, connect_again, succession};
use mesh_etcd_setup::{Desired, set_up};
use mesh_export::{Actual, Write, fingerprint, plan};
use mesh_follow::{Failure, Span};
use mesh_wire::{
    Key, Layout, Position, Prefix,
    key::{HEARTBEAT, HISTORY, LOCAL_POSITION, POSITION},
    timestamp_value,
    users_file::UsersFile,
};
use tokio::{
    sync::watch,
    time::{self, MissedTickBehavior},
};
use uuid::Uuid;

use crate::{cluster::Cluster, metrics::Metrics};

/// How the etcd is.
#[derive(Clone, Debug, Default)]
pub(crate) struct StoreState {
    pub(crate) connected: bool,
    /// Everything known was written, and the canaries say so.
    pub(crate) synced: bool,
    pub(crate) failure: Option<String>,
    /// What is wrong with the credentials' files, while those read before serve.
    pub(crate) files: Option<String>,
    pub(crate) written: usize,
    /// Keys that the etcd does not take, with the reason.
    pub(crate) refused: BTreeMap<String, String>,
}

/// Writes to one etcd.
pub(crate) struct Writer {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) target: Target,
    pub(crate) users: watch::Receiver<Option<UsersFile>>,
    pub(crate) heartbeat: Duration,
    /// Why newer credentials do not take over.
    pub(crate) trouble: watch::Sender<Option<Failure>>,
    pub(crate) state: Arc<Mutex<StoreState>>,
    pub(crate) metrics: Metrics,
}

/// What one connection knows.
struct Session<'a> {
    writer: &'a Writer,
    connection: Connection,
    actual: Actual,
    lease: Option<i64>,
    /// How far of the source everything is in the etcd. Nothing is said before it is complete.
    position: Option<Position>,
}

/// The prefixes that we write. Slices and exports have no keys yet; the latter's canary is what
/// `serviceExportsEnabled: false` promises.
const CANARIES: [Prefix; 6] = [
    Prefix::Identities,
    Prefix::Ip,
    Prefix::Nodes,
    Prefix::ServiceExports,
    Prefix::Services,
    Prefix::Local,
];
/// A heartbeat lives on for 15 minutes after its writer.
const HEARTBEAT_LEASE: i64 = 900;
/// etcd's limit of 128 operations in a transaction, but for the heartbeat that may come with them.
const BATCH: usize = 127;
/// Half of what etcd takes in a request.
const BATCH_BYTES: usize = 768 * 1024;
/// How often a connection is tried on which nothing is to be written: readiness says what is, and an etcd that comes back
/// empty is filled soon.
const LOOK: Duration = Duration::from_secs(1);
/// How often the position is put: readers that change to this etcd wait for it.
const POSITION_EVERY: Duration = Duration::from_secs(5);
/// How often the own nodes are told: they doubt what they know of their cluster sooner than others do.
const LOCAL_POSITION_EVERY: Duration = Duration::from_secs(1);
/// Pauses between connections.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

impl Writer {
    /// Writes until dropped.
    pub(crate) async fn run(self) {
        let pauses = || {
            let builder =
                ExponentialBuilder::default().with_min_delay(PAUSES.0).with_max_delay(PAUSES.1);
            builder.without_max_times().with_jitter().build()
        };
        let mut pause = pauses();
        let mut successor = None;
        // The credentials that served last.
        let mut before = None;
        for attempt in 0.. {
            let connected = match successor.take() {
                Some(connection) => Ok(connection),
                None => connect_again(&self.target, attempt, before.clone()).await,
            };
            if let Ok(connection) = &connected {
                before = Some(Arc::clone(connection.credentials()));
            }
            let failure = match connected {
                Ok(connection) => match self.use_up(connection).await {
                    Ok(Succession::Successor(connection)) => {
                        tracing::info!("new credentials: going on over a new connection");
                        pause = pauses();
                        successor = Some(*connection);
                        continue;
                    }
                    Ok(Succession::Over(failure)) => failure.to_string(),
                    Err(error) => error.to_string(),
                },
                Err(failure) => failure.to_string(),
            };
            if self.state.lock().unwrap_or_else(PoisonError::into_inner).synced {
                pause = pauses();
            }
            tracing::warn!(failure, "the etcd cannot be written to; trying again");
            self.metrics.errors.inc();
            self.set(|state| {
                state.connected = false;
                state.synced = false;
                state.failure = Some(failure);
            });
            time::sleep(pause.next().unwrap_or(PAUSES.1)).await;
        }
    }

    /// Uses a connection until it fails, its certificate ends, or another takes its place.
    async fn use_up(&self, connection: Connection) -> Result<Succession, EtcdError> {
        tokio::select! {
            biased;
            succession = succession(&self.target, &connection, &self.trouble) => Ok(succession),
            failed = self.session(connection.clone()) => match failed? {},
        }
    }

    /// Uses a connection until it fails.
    async fn session(&self, connection: Connection) -> Result<Infallible, EtcdError> {
        let mut changed = self.cluster.changed();
        let mut users = self.users.clone();
        let mut session = Session {
            writer: self,
            connection,
            actual: Actual::new(),
            lease: None,
            position: None,
        };
        // By itself: in the call it would keep the channel locked until the etcd has answered.
        let file = users.borrow_and_update().clone();
        session.set_up_users(file.as_ref()).await?;
        self.set(|state| {
            state.connected = true;
            state.failure = None;
        });
        changed.mark_unchanged();
        session.write_all().await?;
        let mut heartbeat = time::interval(self.heartbeat);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut look = time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut position = time::interval(POSITION_EVERY);
        position.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut local_position = time::interval(LOCAL_POSITION_EVERY);
        local_position.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = changed.changed() => session.write_changed().await?,
                Ok(()) = users.changed() => {
                    let file = users.borrow_and_update().clone();
                    session.set_up_users(file.as_ref()).await?;
                }
                _ = heartbeat.tick() => session.beat().await?,
                _ = look.tick() => session.look().await?,
                _ = position.tick() => session.put_position(POSITION).await?,
                _ = local_position.tick() => session.put_position(LOCAL_POSITION).await?,
            }
        }
    }

    fn set<T>(&self, change: impl FnOnce(&mut StoreState) -> T) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        self.metrics.connected.set(state.connected.into());
        self.metrics.written_keys.set(state.written.try_into().unwrap_or(u64::MAX));
    }
}

impl Session<'_> {
    /// Without a file that could be read nobody's user is removed.
    async fn set_up_users(&mut self, file: Option<&UsersFile>) -> Result<(), EtcdError> {
        let nobody = UsersFile::default();
        let own = &self.writer.cluster.settings.name;
        let (mut desired, refused) = Desired::new(own, file.unwrap_or(&nobody));
        desired.peers_known = file.is_some();
        for user in refused {
            tracing::warn!(%user, "users.yaml");
        }
        set_up(&mut self.connection.users(), &desired).await
    }

    /// Asks for something small, to find out whether there is an answer.
    async fn look(&self) -> Result<(), EtcdError> {
        self.connection.page(&Span::key(HEARTBEAT), 1, None, true).await.map(|_| ())
    }

    /// Gives a history that has none a name: two may be alike in all else, the numbers of their revisions included.
    async fn name_history(&self) -> Result<(), EtcdError> {
        let (_, found, _) = self.connection.page(&Span::key(HISTORY), 1, None, true).await?;
        if !found.is_empty() {
            return Ok(());
        }
        let value = Uuid::new_v4().to_string().into_bytes();
        let op = Op::Put { key: HISTORY.into(), value, lease: None };
        self.connection.apply(&[op]).await.map(|_| ())
    }

    /// Compares everything, writes what differs, and says that it is complete.
    async fn write_all(&mut self) -> Result<(), EtcdError> {
        self.name_history().await?;
        let own = &self.writer.cluster.settings.name;
        let config = Span::key(&Key::ClusterConfig(own.clone()).to_string());
        let prefixes = Prefix::ALL.into_iter().chain([Prefix::Local]);
        let trees = prefixes.map(|prefix| Span::prefix(&prefix.of_cluster(Layout::State, own)));
        let spans: Vec<Span> = trees.chain([config]).collect();
        self.actual.clear();
        for span in &spans {
            let (_, keys) = self.connection.list(span).await?;
            let text = |key| {
                String::from_utf8(key)
                    .map_err(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
            };
            for kv in keys {
                match text(kv.key) {
                    // Put by itself, and no object's.
                    Ok(key) if key == LOCAL_POSITION => {}
                    Ok(key) => {
                        self.actual.insert(key, fingerprint(&kv.value));
                    }
                    Err(key) => tracing::warn!(key, "a foreign key in our tree"),
                }
            }
        }
        // Before what it speaks of is taken: it must not be ahead.
        let position = self.writer.cluster.position();
        let (writes, complete) = self.writer.cluster.with_exporter(|exporter| {
            exporter.take_changed();
            let keys: BTreeSet<String> =
                exporter.desired().keys().chain(self.actual.keys()).cloned().collect();
            let complete = exporter.is_complete();
            (plan(exporter.desired(), &self.actual, &keys, complete), complete)
        });
        tracing::info!(
            writes = writes.len(),
            keys = self.actual.len(),
            complete,
            "compared with the etcd"
        );
        self.write(writes).await?;
        if complete {
            self.put_canaries().await?;
            self.position = Some(position);
        }
        self.writer.set(|state| state.synced = complete);
        Ok(())
    }

    /// Writes what changed since the last time.
    async fn write_changed(&mut self) -> Result<(), EtcdError> {
        let synced = self.writer.state.lock().unwrap_or_else(PoisonError::into_inner).synced;
        let position = self.writer.cluster.position();
        let (writes, complete) = self.writer.cluster.with_exporter(|exporter| {
            let complete = exporter.is_complete();
            let changed = exporter.take_changed();
            (plan(exporter.desired(), &self.actual, &changed, complete), complete)
        });
        if complete && !synced {
            // Complete for the first time: what nobody desires may be removed now.
            return self.write_all().await;
        }
        self.write(writes).await?;
        self.position = complete.then_some(position);
        Ok(())
    }

    /// Makes writes in their order, as many at a time as the etcd takes.
    async fn write(&mut self, writes: Vec<Write>) -> Result<(), EtcdError> {
        let mut batch = Vec::new();
        let deletes = writes.iter().filter(|write| matches!(write, Write::Delete { .. })).count();
        let mut bytes = 0;
        for write in writes {
            let size = write.key().len()
                + if let Write::Put { value, .. } = &write { value.len() } else { 0 };
            if batch.len() >= BATCH || (bytes + size > BATCH_BYTES && !batch.is_empty()) {
                self.write_batch(std::mem::take(&mut batch)).await?;
                bytes = 0;
            }
            bytes += size;
            batch.push(write);
        }
        if !batch.is_empty() {
            self.write_batch(batch).await?;
        }
        let synced = self.writer.state.lock().unwrap_or_else(PoisonError::into_inner).synced;
        if deletes > 1 && synced {
            // For readers who missed the heartbeat among them: what is there now is all there is.
            self.put_canaries().await?;
        }
        Ok(())
    }

    async fn write_batch(&mut self, batch: Vec<Write>) -> Result<(), EtcdError> {
        let mut ops: Vec<Op> = batch.iter().map(op).collect();
        let deletes = batch.iter().filter(|write| matches!(write, Write::Delete { .. })).count();
        if deletes > 1 {
            // An expired lease deletes many keys at once too. This says that a living writer meant it.
            ops.push(self.heartbeat().await?);
        }
        match self.connection.apply(&ops).await {
            Ok(_) => {
                self.writer.set(|state| {
                    state.refused.retain(|key, _| !batch.iter().any(|write| write.key() == key));
                });
                batch.into_iter().for_each(|write| self.written(write));
            }
            Err(EtcdError::RequestTooLarge(_)) if batch.len() > 1 => {
                // One of them is too large: each by itself, so that it blocks nobody.
                for write in batch {
                    Box::pin(self.write_batch(vec![write])).await?;
                }
            }
            Err(EtcdError::RequestTooLarge(reason)) => {
                for write in batch {
                    tracing::error!(key = write.key(), reason, "the etcd does not take the value");
                    let key = write.key().to_owned();
                    self.writer.set(|state| state.refused.insert(key, reason.clone()));
                }
            }
            Err(error) => return Err(error),
        }
        self.writer.set(|state| state.written = self.actual.len());
        Ok(())
    }

    fn written(&mut self, write: Write) {
        match write {
            Write::Put { key, value } => {
                self.writer.metrics.puts.inc();
                self.actual.insert(key, fingerprint(&value));
            }
            Write::Delete { key } => {
                self.writer.metrics.deletes.inc();
                self.actual.remove(&key);
            }
        }
    }

    /// Says that everything is there. Anew after each comparison: readers take it as "complete as of now".
    async fn put_canaries(&mut self) -> Result<(), EtcdError> {
        let value = timestamp_value(SystemTime::now());
        let own = &self.writer.cluster.settings.name;
        let ops = CANARIES.map(|prefix| Op::Put {
            key: Key::canary(own, Layout::State, prefix).to_string(),
            value: value.clone().into(),
            lease: None,
        });
        self.connection.apply(&ops).await.map(|_| ())
    }

    /// Says that the writer lives.
    async fn beat(&mut self) -> Result<(), EtcdError> {
        let beat = self.heartbeat().await?;
        self.connection.apply(&[beat]).await?;
        self.writer.metrics.heartbeats.inc();
        Ok(())
    }

    /// Says how far of the source everything is here.
    async fn put_position(&mut self, key: &str) -> Result<(), EtcdError> {
        let Some(position) = &self.position else { return Ok(()) };
        // The source says what changes at once: that nothing changed since is known as of now.
        let position = Position::new(position.source.clone(), SystemTime::now());
        let op = Op::Put { key: key.into(), value: position.encode(), lease: None };
        self.connection.apply(&[op]).await.map(|_| ())
    }

    /// The write that says that the writer lives, with its lease, which lives on with it.
    async fn heartbeat(&mut self) -> Result<Op, EtcdError> {
        let kept = match self.lease {
            Some(lease) => self.connection.keep_lease(lease).await.map(|()| lease),
            None => Err(EtcdError::LeaseGone),
        };
        let lease = match kept {
            Err(EtcdError::LeaseGone) => self.connection.grant_lease(HEARTBEAT_LEASE).await?,
            kept => kept?,
        };
        self.lease = Some(lease);
        let value = timestamp_value(SystemTime::now()).into();
        Ok(Op::Put { key: HEARTBEAT.into(), value, lease: Some(lease) })
    }
}

fn op(write: &Write) -> Op {
    match write {
        Write::Put { key, value } => {
            Op::Put { key: key.clone(), value: value.clone(), lease: None }
        }
        Write::Delete { key } => Op::Delete { key: key.clone() },
    }
}
