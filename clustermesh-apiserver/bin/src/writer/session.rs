//! One connection: everything is compared, then what changes is written, and what others do is put right.
//!
//! Whatever a connection waits for, meanwhile it gives the signs of life that are due ([`Session::alongside`]): an etcd that
//! is slow, another thread, fifty thousand keys to be put right keep neither heartbeat nor position waiting.

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
use mesh_export::{Actual, Value, plan};
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

/// What one connection knows.
pub(super) struct Session<'a> {
    writer: &'a Writer,
    connection: Connection,
    memory: &'a mut Memory,
    /// What the etcd holds, as far as it is exported.
    actual: Actual,
    /// The keys that are ours beside these.
    markers: BTreeSet<String>,
    lease: Option<i64>,
    foreign: ForeignWrites,
    signs: Signs,
    /// Users and roles as this connection last made them.
    users: Option<Desired>,
}

/// What outlives a connection.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// The last revision that is known to have been reached.
    revision: i64,
    /// The history's name.
    history: Option<Vec<u8>>,
    /// What the etcd should hold.
    exported: Exported,
    /// How far of the source everything is in the etcd. Nothing is reported before it is complete.
    written: Option<BTreeMap<String, String>>,
    /// How the etcd's size went.
    capacity: Capacity,
}

/// What the etcd should hold, as far as the writer took it.
#[derive(Debug, Default)]
struct Exported {
    desired: BTreeMap<String, Value>,
    versions: Option<BTreeMap<String, String>>,
    complete: bool,
}

/// How a session ends that did not fail.
pub(super) enum Ended {
    /// It was time to, and everything is written.
    Drained,
}

/// What an operator reads of an etcd that let in every client.
const UNPROTECTED: &str = "authentication was off: every client could do everything. Start the etcd by `clustermesh-apiserver etcd-init`, which switches it on before anything else can reach the etcd";
/// How often users and roles are looked at: etcd has no watch for them.
const USERS_EVERY: Duration = Duration::from_secs(10);
/// How often it is looked how full the etcd is.
const EXAMINE_EVERY: Duration = Duration::from_secs(60);
/// The parent of what only the local nodes may read, of all versions.
const LOCAL: &str = "clustermesh/local/";

// === impl Session ===

impl<'a> Session<'a> {
    /// Uses a connection until it fails, or until it is time to end and everything is written.
    pub(super) async fn run(
        writer: &'a Writer,
        connection: Connection,
        memory: &'a mut Memory,
    ) -> Result<Ended, SessionError> {
        let mut session = Self {
            writer,
            connection,
            memory,
            actual: Actual::new(),
            markers: sync_markers::markers(&writer.cluster.settings.name),
            lease: None,
            foreign: ForeignWrites::default(),
            signs: Signs::new(writer.heartbeat),
            users: None,
        };
        let mut changed = writer.cluster.exports().changed();
        let mut users = writer.users.clone();
        let mut drain = writer.drain.clone();
        // By itself: in the call it would keep the channel locked until the etcd has answered.
        let file = users.borrow_and_update().clone();
        session.set_up_users(file.as_ref()).await?;
        writer.set(|state| {
            state.connected = true;
            // A connection says nothing against the rest, which is over when everything is written.
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
                    session.write_changed().await?;
                    session.give(Sign::Position).await?;
                    return Ok(Ended::Drained);
                }
                sign = session.signs.due() => Box::pin(session.give(sign)).await?,
                _ = changed.changed() => Box::pin(session.write_changed()).await?,
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

    /// Does something, and meanwhile gives the signs of life that are due. Both are boxed: nested as they are, they would
    /// take more than a thread's stack.
    async fn alongside<T>(&mut self, work: impl Future<Output = T>) -> Result<T, EtcdError> {
        let mut work = Box::pin(work);
        loop {
            let sign = tokio::select! {
                biased;
                sign = self.signs.due() => sign,
                done = &mut work => return Ok(done),
            };
            // Both together: of a connection whose window is full of what no reader takes nothing else comes.
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

    /// Gives a sign of life.
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

    /// Something was not as it should be, and is put right.
    fn notice(&self, reason: Reason, text: String) {
        tracing::warn!(kind = reason.as_str(), text, "the etcd was not as it should be");
        self.writer.metrics.count_trouble(reason);
        self.writer.set(|state| state.notice(reason, text, Instant::now()));
    }

    /// Without a file that could be read no peer's user is removed.
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
        // What a new etcd lacks, or a new file asks for, is no news.
        if kept.was_unprotected {
            self.notice(Reason::Users, UNPROTECTED.into());
        }
        Ok(())
    }

    /// Nothing but this writer changes users and roles: what differs by now another did.
    async fn check_users(&mut self) -> Result<(), EtcdError> {
        let Some(desired) = self.users.clone() else { return Ok(()) };
        let kept = self.keep_users(desired).await?;
        let unprotected = kept.was_unprotected.then(|| UNPROTECTED.to_owned());
        for what in unprotected.into_iter().chain(kept.changed) {
            self.notice(
                Reason::Users,
                format!("{what}. Another program changed it; it is put right"),
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
                    "the unknown user {user} was there and is removed. Who made it may have set passwords on other users, which an etcd does not show: restart the etcd by `clustermesh-apiserver etcd-init`, which makes all users anew. A user that is meant is allowed by --etcd-extra-users"
                ),
            );
        }
        let unknown = kept.unknown.first().map(ToString::to_string);
        self.writer.set(|state| state.unknown_user = unknown);
        Ok(kept)
    }

    /// Asks for something small, to find out whether there is an answer.
    async fn ask(&mut self) -> Result<(), EtcdError> {
        let span = KeyRange::key(HEARTBEAT);
        let asked = self.connection.page(&span, 1, None, true);
        let (header, ..) = self.writer.answer("a question", asked).await?;
        self.memory.revision = self.memory.revision.max(header.revision);
        self.report_foreign();
        Ok(())
    }

    /// Writes what changed since the last time.
    async fn write_changed(&mut self) -> Result<(), SessionError> {
        let changed = self.take_exports();
        let Exported { desired, versions, complete } = &self.memory.exported;
        if *complete && !self.is_synced() {
            // Complete for the first time: what is not desired may be removed now.
            return Box::pin(self.compare()).await.map(drop);
        }
        let versions = versions.clone().filter(|_| *complete);
        let writes = plan(desired, &self.actual, &changed, *complete);
        self.write(writes).await?;
        self.forget_refused();
        self.memory.written = versions;
        Ok(())
    }

    /// Takes what the cluster's thread published. The keys that changed.
    fn take_exports(&mut self) -> BTreeSet<String> {
        let ExportChanges { values, versions, complete } = self.writer.cluster.exports().take();
        let Exported { desired, .. } = &mut self.memory.exported;
        let mut changed = BTreeSet::new();
        for (key, value) in values {
            match value {
                Some(value) => drop(desired.insert(key.clone(), value)),
                None => drop(desired.remove(&key)),
            }
            changed.insert(key);
        }
        self.memory.exported.versions = versions;
        self.memory.exported.complete = complete;
        changed
    }

    async fn watch(&mut self, compared: i64) -> Result<Watching, EtcdError> {
        let connection = self.connection.clone();
        let watching = async move { connection.watch(&spans(), compared.saturating_add(1)).await };
        self.alongside(self.writer.answer("a watch", watching)).await?
    }
}

/// Where what is ours can be: configs, state and canaries follow one another, what is cached before them.
fn spans() -> [KeyRange; 3] {
    let all = KeyRange { start: CLUSTER_CONFIGS.into(), end: KeyRange::prefix(CANARIES).end };
    [all, KeyRange::prefix(LOCAL), KeyRange::key(DRAIN)]
}

async fn is_true(flag: &mut watch::Receiver<bool>) {
    // The guard is dropped here: it would keep the channel locked.
    let _ = flag.wait_for(|&flag| flag).await;
}

fn every(period: Duration) -> Interval {
    let mut interval = time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
