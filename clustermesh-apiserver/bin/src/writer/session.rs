//! One connection: everything is compared, then what changes is written, and what others do is put right.

use std::{
    collections::BTreeSet,
    future::pending,
    time::{Duration, Instant},
};

use mesh_alloc::{Found, Lost};
use mesh_etcd::{Connection, EtcdError, Watching};
use mesh_etcd_setup::{Desired, set_up};
use mesh_export::{Actual, fingerprint, plan};
use mesh_follow::{KeyRange, WatchEvent};
use mesh_wire::{
    Position,
    key::{CANARIES, CLUSTER_CONFIGS, HEARTBEAT, LOCAL_POSITION, POSITION},
    users_file::UsersFile,
};
use tokio::time::{self, Interval, MissedTickBehavior};

use super::{
    Writer,
    etcd_error::Reason,
    foreign_writes::{ForeignWrite, ForeignWrites, KeyOwner, whose},
    id_recovery, sync_markers,
};

/// What one connection knows.
pub(super) struct Session<'a> {
    pub(super) writer: &'a Writer,
    pub(super) connection: Connection,
    pub(super) memory: &'a mut Memory,
    /// What the etcd holds, as far as it is exported.
    pub(super) actual: Actual,
    /// The keys that are ours beside these.
    pub(super) marks: BTreeSet<String>,
    pub(super) lease: Option<i64>,
    /// How far of the source everything is in the etcd. Nothing is said before it is complete.
    pub(super) position: Option<Position>,
    pub(super) others: ForeignWrites,
    /// Users and roles as this connection last made them.
    desired: Option<Desired>,
}

/// Why a connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    /// The etcd failed.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    /// It has numbers that are not ours: nothing is written.
    #[error(transparent)]
    Lost(#[from] Lost),
}

/// What outlives a connection.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// The last revision that is known to have been reached.
    pub(super) revision: i64,
    /// The history's name.
    pub(super) history: Option<Vec<u8>>,
}

/// How a session ends that did not fail.
pub(super) enum Ended {
    /// It was time to, and everything is written.
    Drained,
}

/// How often a connection is tried on which nothing is to be written: readiness says what is, and an etcd that comes back
/// empty is filled soon.
const LOOK: Duration = Duration::from_secs(1);
/// How often the position is put: readers that change to this etcd wait for it.
const POSITION_EVERY: Duration = Duration::from_secs(5);
/// How often the own nodes are told: they doubt what they know of their cluster sooner than others do.
const LOCAL_POSITION_EVERY: Duration = Duration::from_secs(1);
/// How often users and roles are looked at: etcd tells nobody when they change.
const USERS_EVERY: Duration = Duration::from_secs(10);
/// Keys that are looked at again in one round.
const ROUND: usize = 500;
/// The parent of what only the own nodes may read, of all versions.
const LOCAL: &str = "clustermesh/local/";

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
            marks: sync_markers::marks(&writer.cluster.settings.name),
            lease: None,
            position: None,
            others: ForeignWrites::default(),
            desired: None,
        };
        let mut changed = writer.cluster.changed();
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
        let from = session.write_all().await?;
        writer.set(|state| state.trouble = None);
        let mut watching = session.watch(from).await?;
        let mut heartbeat = every(writer.heartbeat);
        let mut look = every(LOOK);
        let mut position = every(POSITION_EVERY);
        let mut local_position = every(LOCAL_POSITION_EVERY);
        let mut again = every(USERS_EVERY);
        loop {
            let due = session.others.next_due();
            tokio::select! {
                _ = drain.wait_for(|&drain| drain) => {
                    session.write_changed().await?;
                    session.put_position(POSITION).await?;
                    return Ok(Ended::Drained);
                }
                _ = changed.changed() => session.write_changed().await?,
                Ok(()) = users.changed() => {
                    let file = users.borrow_and_update().clone();
                    session.set_up_users(file.as_ref()).await?;
                }
                seen = watching.next() => session.see(seen?.1),
                () = until(due) => session.put_right().await?,
                _ = heartbeat.tick() => session.beat().await?,
                _ = look.tick() => session.look().await?,
                _ = position.tick() => session.put_position(POSITION).await?,
                _ = local_position.tick() => session.put_position(LOCAL_POSITION).await?,
                _ = again.tick() => session.check_users().await?,
            }
        }
    }

    pub(super) fn is_synced(&self) -> bool {
        self.writer.look(|state| state.synced)
    }

    /// Something was not as it should be, and is put right.
    pub(super) fn notice(&self, reason: Reason, text: String) {
        tracing::warn!(reason = reason.as_str(), text, "the etcd was not as it should be");
        self.writer.metrics.count_trouble(reason);
        self.writer.set(|state| state.notice(reason, text, Instant::now()));
    }

    /// Without a file that could be read nobody's user is removed.
    async fn set_up_users(&mut self, file: Option<&UsersFile>) -> Result<(), EtcdError> {
        let nobody = UsersFile::default();
        let own = &self.writer.cluster.settings.name;
        let (mut desired, refused) = Desired::new(own, file.unwrap_or(&nobody));
        desired.peers_known = file.is_some();
        for user in refused {
            tracing::warn!(%user, "users.yaml");
        }
        let mut users = self.connection.users();
        self.writer.answer("users and roles", set_up(&mut users, &desired)).await?;
        self.desired = Some(desired);
        Ok(())
    }

    /// Nobody but this writer changes users and roles: what differs by now somebody else did.
    async fn check_users(&mut self) -> Result<(), EtcdError> {
        let Some(desired) = &self.desired else { return Ok(()) };
        let mut users = self.connection.users();
        for what in self.writer.answer("users and roles", set_up(&mut users, desired)).await? {
            self.notice(Reason::Users, format!("{what}. Somebody changed it; it is put right"));
        }
        Ok(())
    }

    /// Asks for something small, to find out whether there is an answer.
    async fn look(&mut self) -> Result<(), EtcdError> {
        let span = KeyRange::key(HEARTBEAT);
        let asked = self.connection.page(&span, 1, None, true);
        let (header, ..) = self.writer.answer("a question", asked).await?;
        self.memory.revision = self.memory.revision.max(header.revision);
        self.tell_others();
        Ok(())
    }

    /// Compares everything, writes what differs, and says that it is complete. Returns the revision that was compared.
    async fn write_all(&mut self) -> Result<i64, SessionError> {
        let (compared, found) = self.list_all().await?;
        self.writer.cluster.recognise(&found)?;
        self.name_history().await?;
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
        self.forget_refused();
        if complete {
            self.put_canaries().await?;
            self.position = position;
        }
        self.writer.set(|state| state.synced = complete);
        Ok(compared)
    }

    /// Finds out what is there. What is of others is told of and left alone.
    async fn list_all(&mut self) -> Result<(i64, Found), EtcdError> {
        let own = &self.writer.cluster.settings.name;
        self.actual.clear();
        let mut compared = None;
        let mut found = Found::default();
        for span in spans() {
            let listed = self.writer.answer("a list of all", self.connection.list(&span)).await?;
            // Of the earlier list: the watch begins after it.
            compared.get_or_insert(listed.0);
            for kv in listed.1 {
                let text = String::from_utf8_lossy(&kv.key).into_owned();
                let is_text = text.as_bytes() == kv.key;
                match whose(&text, own) {
                    KeyOwner::Ours if self.marks.contains(&text) => {
                        id_recovery::note(&mut found, own, &text, &kv.value);
                    }
                    KeyOwner::Ours if is_text => {
                        id_recovery::note(&mut found, own, &text, &kv.value);
                        self.actual.insert(text, fingerprint(&kv.value));
                    }
                    KeyOwner::Ours | KeyOwner::Elsewhere => {
                        tracing::warn!(key = text, "a key of somebody else in our tree");
                        self.others.note(text, ForeignWrite::Elsewhere, Instant::now());
                    }
                    KeyOwner::ForeignWrites => {}
                }
            }
        }
        self.tell_others();
        Ok((compared.unwrap_or_default(), found))
    }

    async fn watch(&self, compared: i64) -> Result<Watching, EtcdError> {
        let spans = spans();
        let watching = self.connection.watch(&spans, compared.saturating_add(1));
        self.writer.answer("a watch", watching).await
    }

    /// Writes what changed since the last time.
    async fn write_changed(&mut self) -> Result<(), SessionError> {
        let position = self.writer.cluster.position();
        let (writes, complete) = self.writer.cluster.with_exporter(|exporter| {
            let complete = exporter.is_complete();
            let changed = exporter.take_changed();
            (plan(exporter.desired(), &self.actual, &changed, complete), complete)
        });
        if complete && !self.is_synced() {
            // Complete for the first time: what nobody desires may be removed now.
            return self.write_all().await.map(drop);
        }
        self.write(writes).await?;
        self.forget_refused();
        self.position = position.filter(|_| complete);
        Ok(())
    }

    /// Takes what happened in the etcd, by us or by others.
    fn see(&mut self, events: Vec<WatchEvent>) {
        let own = &self.writer.cluster.settings.name;
        for event in &events {
            let deed = self.others.see(event, own, &self.actual, &self.marks, Instant::now());
            if let Some(deed) = deed {
                self.writer.metrics.count_foreign(deed);
                tracing::warn!(?deed, ?event, "somebody else writes to this cluster's etcd");
            }
        }
    }

    /// Looks at keys that somebody else touched, and makes them what they should be.
    async fn put_right(&mut self) -> Result<(), EtcdError> {
        let due: Vec<String> = self.others.take_due(Instant::now()).into_iter().collect();
        for keys in due.chunks(ROUND) {
            let (marks, exported): (Vec<_>, Vec<_>) =
                keys.iter().cloned().partition(|key| self.marks.contains(key));
            for key in &exported {
                let span = KeyRange::key(key);
                let asked = self.connection.page(&span, 1, None, false);
                let (_, found, _) = self.writer.answer("a key", asked).await?;
                match found.first() {
                    Some(kv) => self.actual.insert(key.clone(), fingerprint(&kv.value)),
                    None => self.actual.remove(key),
                };
            }
            let keys: BTreeSet<String> = exported.into_iter().collect();
            let writes = self.writer.cluster.with_exporter(|exporter| {
                plan(exporter.desired(), &self.actual, &keys, exporter.is_complete())
            });
            self.writer.metrics.foreign_repairs.inc_by(writes.len().try_into().unwrap_or(u64::MAX));
            self.write(writes).await?;
            if !marks.is_empty() && self.is_synced() {
                // The position is put every second anyway.
                self.put_canaries().await?;
            }
        }
        self.tell_others();
        Ok(())
    }

    fn tell_others(&mut self) {
        self.others.tidy(Instant::now());
        let told = self.others.problems();
        self.writer.set(|state| state.others = told);
    }
}

/// Where what is ours can be: configs, state and canaries stand one after another, what is cached before them.
fn spans() -> [KeyRange; 2] {
    let all = KeyRange { start: CLUSTER_CONFIGS.into(), end: KeyRange::prefix(CANARIES).end };
    [all, KeyRange::prefix(LOCAL)]
}

fn every(period: Duration) -> Interval {
    let mut interval = time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => time::sleep_until(due.into()).await,
        None => pending().await,
    }
}
