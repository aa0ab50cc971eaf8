//! The work on one connection: compare everything, then write changes, and repair what other programs changed.
//!
//! While it waits for something, the session still writes heartbeat and position when they are due
//! ([`Session::alongside`]), even if the etcd is slow, another thread is busy, or fifty thousand keys must be repaired.

mod batches;
mod comparison;
mod examination;
mod id_recovery;
mod repair;
mod signs;
mod sync_markers;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use mesh_etcd::{Connection, EtcdError, Watching};
use mesh_etcd_setup::{Desired, Kept, keep};
use mesh_export::{Actual, EtcdKey};
use mesh_files::until;
use mesh_follow::KeyRange;
use mesh_wire::{
    key::{CANARIES, CLUSTER_CONFIGS, DRAIN, HEARTBEAT, LOCAL_POSITION, POSITION},
    users_file::UsersFile,
};
use tokio::{
    sync::watch,
    time::{self, Interval, MissedTickBehavior},
};

use super::{
    Writer, etcd_capacity::Capacity, etcd_error::Reason, foreign_writes::ForeignWrites,
    session_error::SessionError,
};
use crate::cluster::ExportChanges;
use signs::{Sign, Signs};

/// The state of one connection.
pub(super) struct Session<'a> {
    writer: &'a Writer,
    connection: Connection,
    memory: &'a mut Memory,
    /// The exported keys that the etcd has.
    actual: Actual,
    /// This writer's other keys.
    markers: BTreeSet<String>,
    /// The lease of the heartbeat.
    lease: Option<i64>,
    foreign: ForeignWrites,
    signs: Signs,
    /// The users and roles that this connection set up.
    users: Option<Desired>,
}

/// The state that is kept across connections.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// The last known revision of the etcd.
    revision: i64,
    /// The ID of the etcd's history.
    history: Option<Vec<u8>>,
    /// The versions and the completeness of the source, as of the changes that were taken last.
    source: SourceRead,
    /// The versions of the source up to which everything is in the etcd; `None` until the source was read completely.
    written: Option<BTreeMap<String, String>>,
    /// The etcd's recent sizes.
    capacity: Capacity,
}

/// How far the source was read.
#[derive(Clone, Debug, Default)]
struct SourceRead {
    versions: Option<BTreeMap<String, String>>,
    complete: bool,
}

/// How a session ends without a failure.
pub(super) enum Ended {
    /// It had to end, and everything is written.
    Drained,
}

/// The message about an etcd without authentication.
const UNPROTECTED: &str = "authentication was off: every client could do everything. Start the etcd with `clustermesh-apiserver etcd-init`, which turns it on before other clients can reach the etcd";
/// How often users and roles are checked: etcd has no watch for them.
const USERS_EVERY: Duration = Duration::from_secs(10);
/// How often the etcd's version and size are checked.
const EXAMINE_EVERY: Duration = Duration::from_secs(60);
/// The prefix of keys for local nodes, of all versions.
const LOCAL: &str = "clustermesh/local/";

// === impl Session ===

impl<'a> Session<'a> {
    /// Uses a connection until it fails, or until it must end and everything is written.
    pub(super) async fn run(
        writer: &'a Writer,
        connection: Connection,
        memory: &'a mut Memory,
    ) -> Result<Ended, SessionError> {
        let mut session = Self {
            writer,
            connection,
            memory,
            actual: Actual::default(),
            markers: sync_markers::markers(&writer.cluster.settings.name),
            lease: None,
            foreign: ForeignWrites::default(),
            signs: Signs::new(writer.heartbeat),
            users: None,
        };
        let mut changed = writer.cluster.exports().changed();
        let mut users = writer.users.clone();
        let mut drain = writer.drain.clone();
        // In a separate statement, so that the channel is not locked until the etcd has answered.
        let file = users.borrow_and_update().clone();
        session.set_up_users(file.as_ref()).await?;
        writer.set(|state| {
            state.connected = true;
            // Other reasons end when everything is written.
            state.trouble.take_if(|trouble| trouble.reason.ends_with_connection());
        });
        changed.mark_unchanged();
        let from = Box::pin(session.compare()).await?;
        writer.set(|state| state.trouble = None);
        let mut watching = session.watch(from).await?;
        let mut again = every(USERS_EVERY);
        let mut examine = every(EXAMINE_EVERY);
        loop {
            let due = session.foreign.next_due();
            tokio::select! {
                () = is_true(&mut drain) => {
                    session.write_changed(BTreeMap::new()).await?;
                    session.give(Sign::Position).await?;
                    return Ok(Ended::Drained);
                }
                sign = session.signs.due() => Box::pin(session.give(sign)).await?,
                _ = changed.changed() => Box::pin(session.write_changed(BTreeMap::new())).await?,
                Ok(()) = users.changed() => {
                    let file = users.borrow_and_update().clone();
                    session.set_up_users(file.as_ref()).await?;
                }
                seen = watching.next() => session.see(&seen?.1),
                () = until(due) => Box::pin(session.repair()).await?,
                _ = again.tick() => session.check_users().await?,
                _ = examine.tick() => session.examine().await?,
            }
        }
    }

    /// Runs `work`, and meanwhile writes the signs of life that are due. The futures are boxed: they are nested, and would
    /// exceed the thread's stack.
    async fn alongside<T>(&mut self, work: impl Future<Output = T>) -> Result<T, EtcdError> {
        let mut work = Box::pin(work);
        loop {
            let sign = tokio::select! {
                biased;
                sign = self.signs.due() => sign,
                done = &mut work => return Ok(done),
            };
            // Poll both: if `work` did not read its answers, the connection's window could fill up and block the sign.
            let mut given = Box::pin(self.give(sign));
            tokio::select! {
                given = &mut given => given?,
                done = &mut work => {
                    given.await?;
                    return Ok(done);
                }
            }
        }
    }

    /// Writes a sign of life, or asks the question.
    async fn give(&mut self, sign: Sign) -> Result<(), EtcdError> {
        match sign {
            Sign::Heartbeat => self.beat().await,
            Sign::Position => self.put_position(POSITION).await,
            Sign::LocalPosition => self.put_position(LOCAL_POSITION).await,
            Sign::Question => self.ask().await,
        }
    }

    fn is_synced(&self) -> bool {
        self.writer.look(|state| state.synced)
    }

    /// Reports something in the etcd that was wrong and is repaired.
    fn notice(&self, reason: Reason, text: String) {
        tracing::warn!(kind = reason.as_str(), text, "repairing the etcd");
        self.writer.metrics.count_trouble(reason);
        self.writer.set(|state| state.notice(reason, text, Instant::now()));
    }

    /// Sets up users and roles. Without a users file, no peer's user is removed.
    async fn set_up_users(&mut self, file: Option<&UsersFile>) -> Result<(), EtcdError> {
        let no_users = UsersFile::default();
        let local = &self.writer.cluster.settings.name;
        let (mut desired, refused) = Desired::new(local, file.unwrap_or(&no_users));
        desired.peers_known = file.is_some();
        desired.extra = self.writer.extra_users.iter().cloned().collect();
        for user in refused {
            tracing::warn!(%user, "users.yaml");
        }
        let kept = self.keep_users(desired.clone()).await?;
        self.users = Some(desired);
        // Other changes are not reported: a new etcd lacks users, and a new file adds some.
        if kept.was_unprotected {
            self.notice(Reason::Users, UNPROTECTED.into());
        }
        Ok(())
    }

    /// Repairs users and roles, and reports the differences: another program made them.
    async fn check_users(&mut self) -> Result<(), EtcdError> {
        let Some(desired) = self.users.clone() else { return Ok(()) };
        let kept = self.keep_users(desired).await?;
        let unprotected = kept.was_unprotected.then(|| UNPROTECTED.to_owned());
        for what in unprotected.into_iter().chain(kept.changed) {
            self.notice(
                Reason::Users,
                format!("{what}. Another program changed it; it is repaired"),
            );
        }
        Ok(())
    }

    async fn keep_users(&mut self, desired: Desired) -> Result<Kept, EtcdError> {
        let mut users = self.connection.users();
        let keeping = async move { keep(&mut users, &desired).await };
        let kept = self.alongside(self.writer.answer("users and roles", keeping)).await??;
        for user in &kept.unknown {
            self.notice(
                Reason::Users,
                format!(
                    "the unknown user {user} was removed. Its creator may have set passwords on other users, which an etcd does not show: restart the etcd with `clustermesh-apiserver etcd-init`, which creates all users again. To allow a user, use --etcd-extra-users"
                ),
            );
        }
        let unknown = kept.unknown.first().map(ToString::to_string);
        self.writer.set(|state| state.unknown_user = unknown);
        Ok(kept)
    }

    /// Sends a small request, to find out whether the etcd answers.
    async fn ask(&mut self) -> Result<(), EtcdError> {
        let span = KeyRange::key(HEARTBEAT);
        let asked = self.connection.page(&span, 1, None, true);
        let (header, ..) = self.writer.answer("a question", asked).await?;
        self.memory.revision = self.memory.revision.max(header.revision);
        self.report_foreign();
        Ok(())
    }

    /// Writes the changes since the last call, and other keys that differ from the etcd's.
    async fn write_changed(
        &mut self,
        mut keys: BTreeMap<EtcdKey, Option<u64>>,
    ) -> Result<(), SessionError> {
        keys.append(&mut self.take_exports());
        if self.memory.source.complete && !self.is_synced() {
            // The source is complete for the first time: undesired keys may be deleted now.
            return Box::pin(self.compare()).await.map(drop);
        }
        self.bring(keys).await?;
        let SourceRead { versions, complete } = self.memory.source.clone();
        self.memory.written = versions.filter(|_| complete && self.is_synced());
        Ok(())
    }

    /// Takes the changes that the cluster's thread published.
    fn take_exports(&mut self) -> BTreeMap<EtcdKey, Option<u64>> {
        let ExportChanges { keys, versions, complete } = self.writer.cluster.exports().take();
        self.memory.source = SourceRead { versions, complete };
        keys
    }

    async fn watch(&mut self, compared: i64) -> Result<Watching, EtcdError> {
        let connection = self.connection.clone();
        let watching = async move { connection.watch(&spans(), compared.saturating_add(1)).await };
        self.alongside(self.writer.answer("a watch", watching)).await?
    }
}

/// The ranges of this cluster's keys. Configs, state and canaries are adjacent; `cilium/cache/` comes before them.
fn spans() -> [KeyRange; 3] {
    let all = KeyRange { start: CLUSTER_CONFIGS.into(), end: KeyRange::prefix(CANARIES).end };
    [all, KeyRange::prefix(LOCAL), KeyRange::key(DRAIN)]
}

async fn is_true(flag: &mut watch::Receiver<bool>) {
    // Drop the guard here, so that the channel is not locked.
    let _ = flag.wait_for(|&flag| flag).await;
}

fn every(period: Duration) -> Interval {
    let mut interval = time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
