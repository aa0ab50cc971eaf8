//! The task that brings a [`Target`] to what is wanted.
//!
//! One task owns the target, the reconciler and the wanted state. Others reach it by [`Writer`], which never waits: an
//! unbounded inbox (its content is bounded by what peers may report; the task takes all of it after each write, and no
//! write lasts longer than [`Options::timeout`]) and a watch of the status. It ends when the last [`Writer`] is
//! dropped. It may be aborted anywhere: what is outside stays, and the next run begins with a list.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::{sleep_until, timeout},
};
use tracing::Instrument as _;

use crate::{
    announce::Announcer,
    failure::Failure,
    reconciler::{Outcome, Reconciler, Settings, Wanted},
    status::Status,
    target::{Listed, Report, Target},
};

/// Wants things of a target; a cheap copy of a handle.
#[derive(Debug)]
pub struct Writer<K, V> {
    inbox: mpsc::UnboundedSender<Command<K, V>>,
    status: watch::Receiver<Status>,
}

/// How a target is written.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Keys in one write, at most.
    pub batch: usize,
    /// A write or a list that takes longer has failed.
    pub timeout: Duration,
    /// How often everything is compared although nothing was reported; seldomer where a list takes long.
    pub audit: Duration,
    /// How failing keys are tried again.
    pub settings: Settings,
}

/// Which keys that are not wanted may be removed.
type MayPrune<K> = Arc<dyn Fn(&K) -> bool + Send + Sync>;

enum Command<K, V> {
    Want(Vec<(K, Option<V>)>),
    MayPrune(MayPrune<K>),
    Relevant(Vec<K>),
    Failures(oneshot::Sender<Vec<(K, Failure)>>),
    Settled(oneshot::Sender<Status>),
    Look,
}

/// All that is wanted.
struct Desired<K, V> {
    by_key: BTreeMap<K, V>,
    may_prune: MayPrune<K>,
}

struct Task<T: Target> {
    target: T,
    options: Options,
    reconciler: Reconciler<T::Key, T::Value, T::Order>,
    desired: Desired<T::Key, T::Value>,
    inbox: mpsc::UnboundedReceiver<Command<T::Key, T::Value>>,
    status: watch::Sender<Status>,
    announcer: Announcer,
    /// Callers that wait until nothing is pending.
    settled: Vec<oneshot::Sender<Status>>,
    /// When the target is listed next, and the earliest time for that.
    look_at: Instant,
    look_not_before: Instant,
    /// When reports of the outside are read next: in batches, not one by one.
    reports_from: Instant,
    /// Pauses that end meanwhile end together.
    retry_from: Instant,
}

/// The least time between two lists that reports requested.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// Between two times that reports are taken: 50 a second cost five wake-ups.
const REPORT_PAUSE: Duration = Duration::from_millis(200);
/// Between two writes of keys whose pause is over.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// Listing takes no more of the time than one part in this many.
const LOOK_SHARE: u32 = 20;
/// Keys that are compared without a break: far below five milliseconds.
const SLICE: usize = 256;

// === impl Options ===

impl Default for Options {
    fn default() -> Self {
        Self {
            batch: 256,
            timeout: Duration::from_secs(10),
            audit: Duration::from_secs(30),
            settings: Settings::default(),
        }
    }
}

// === impl Writer ===

impl<K, V> Clone for Writer<K, V> {
    fn clone(&self) -> Self {
        Self { inbox: self.inbox.clone(), status: self.status.clone() }
    }
}

impl<K, V> Writer<K, V>
where
    K: Ord + Clone + Send + Sync + 'static,
    V: PartialEq + Clone + Send + Sync + 'static,
{
    /// Starts the task of a target. `name` is what logs call it.
    pub fn spawn<T: Target<Key = K, Value = V>>(
        name: &'static str,
        target: T,
        options: Options,
    ) -> (Self, JoinHandle<()>) {
        let (inbox, commands) = mpsc::unbounded_channel();
        let (sender, status) = watch::channel(Status::default());
        let now = clock();
        let task = Task {
            target,
            options,
            reconciler: Reconciler::new(options.settings),
            desired: Desired { by_key: BTreeMap::new(), may_prune: Arc::new(|_| false) },
            inbox: commands,
            status: sender,
            announcer: Announcer::default(),
            settled: Vec::new(),
            look_at: now,
            look_not_before: now,
            reports_from: now,
            retry_from: now,
        };
        let span = tracing::info_span!("writer", name);
        (Self { inbox, status }, tokio::spawn(task.run().instrument(span)))
    }

    /// Keys are to have values, or not to exist. They are written together, up to the size of a batch.
    pub fn want(&self, changes: Vec<(K, Option<V>)>) {
        self.send(Command::Want(changes));
    }

    /// From now on existing keys that are not wanted are removed if `may_prune` returns true: what they belong to was
    /// listed in this run. Before the first call none is.
    pub fn may_prune(&self, may_prune: impl Fn(&K) -> bool + Send + Sync + 'static) {
        self.send(Command::MayPrune(Arc::new(may_prune)));
    }

    /// Something happened that may let these keys succeed, if they fail.
    pub fn relevant(&self, keys: Vec<K>) {
        self.send(Command::Relevant(keys));
    }

    /// Everything is to be compared soon.
    pub fn look(&self) {
        self.send(Command::Look);
    }

    /// Its state, and each change of that.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// The keys that cannot be written, with their reasons. Empty where the task has ended.
    pub async fn failures(&self) -> Vec<(K, Failure)> {
        let (sender, receiver) = oneshot::channel();
        self.send(Command::Failures(sender));
        receiver.await.unwrap_or_default()
    }

    /// Waits until what was wanted before this call was written or has failed. `None` where the task has ended.
    pub async fn settled(&self) -> Option<Status> {
        let (sender, receiver) = oneshot::channel();
        self.send(Command::Settled(sender));
        receiver.await.ok()
    }

    fn send(&self, command: Command<K, V>) {
        // The task ends with the runtime only: there is no caller left to write for.
        let _ = self.inbox.send(command);
    }
}

// === impl Desired ===

impl<K: Ord, V: Clone> Wanted<K, V> for Desired<K, V> {
    fn wanted(&self, key: &K) -> Option<V> {
        self.by_key.get(key).cloned()
    }

    fn may_prune(&self, key: &K) -> bool {
        (self.may_prune)(key)
    }
}

// === impl Command ===

impl<K, V> fmt::Debug for Command<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Command")
    }
}

// === impl Task ===

impl<T: Target> Task<T> {
    async fn run(mut self) {
        loop {
            while let Ok(command) = self.inbox.try_recv() {
                self.take(command);
            }
            if self.look_at <= clock() {
                self.look().await;
            }
            let wrote = self.write().await;
            self.publish();
            let now = clock();
            let reports_open = self.reports_from <= now;
            let wake = self.wake(now, reports_open);
            tokio::select! {
                // Cancel safe: a command is received or stays in the channel.
                command = self.inbox.recv() => match command {
                    Some(command) => self.take(command),
                    None => return,
                },
                // Cancel safe by contract.
                reports = self.target.changed(), if reports_open => self.report(reports),
                () = sleep_until(wake.into()) => {}
                // There may be more to write; the others had their chance.
                () = std::future::ready(()), if wrote => {}
            }
        }
    }

    fn take(&mut self, command: Command<T::Key, T::Value>) {
        match command {
            Command::Want(changes) => {
                for (key, value) in changes {
                    match &value {
                        Some(value) => self.desired.by_key.insert(key.clone(), value.clone()),
                        None => self.desired.by_key.remove(&key),
                    };
                    self.reconciler.want(key, value);
                }
            }
            Command::MayPrune(may_prune) => {
                self.desired.may_prune = may_prune;
                self.look_soon();
            }
            Command::Relevant(keys) => self.relevant(&keys),
            Command::Failures(answer) => {
                let failures = self.reconciler.failures();
                let failures = failures.map(|(key, failure)| (key.clone(), failure.clone()));
                let _ = answer.send(failures.collect());
            }
            Command::Settled(answer) => self.settled.push(answer),
            Command::Look => self.look_soon(),
        }
    }

    fn report(&mut self, reports: Vec<Report<T::Key>>) {
        let now = clock();
        self.reports_from = now + REPORT_PAUSE;
        for report in reports {
            match report {
                Report::Relevant(key) => self.relevant(&[key]),
                Report::Gone(key) => match self.desired.wanted(&key) {
                    Some(value) => drop(self.reconciler.repair(key, Some(value), now)),
                    // Only a list shows whether something of ours is there instead.
                    None => self.look_soon(),
                },
                Report::Look => self.look_soon(),
            }
        }
    }

    fn relevant(&mut self, keys: &[T::Key]) {
        let now = clock();
        for key in keys {
            self.reconciler.relevant(key, now);
        }
    }

    fn look_soon(&mut self) {
        self.look_at = self.look_at.min(self.look_not_before);
    }

    /// When there is something to do, if nothing arrives.
    fn wake(&self, now: Instant, reports_open: bool) -> Instant {
        let retry = self.reconciler.due_at(now).map(|at| at.max(self.retry_from));
        let reports = (!reports_open).then_some(self.reports_from);
        [retry, reports].into_iter().flatten().fold(self.look_at, Instant::min)
    }

    /// Writes what is due, up to the size of a batch. Returns whether there was anything.
    async fn write(&mut self) -> bool {
        let began = clock();
        let mut jobs = Vec::new();
        while jobs.len() < self.options.batch.max(1)
            && let Some(job) = self.reconciler.next(began)
        {
            jobs.push(job);
        }
        if jobs.is_empty() {
            return false;
        }
        let limit = self.options.timeout;
        let results = timeout(limit, self.target.apply(&jobs)).await;
        let now = clock();
        self.retry_from = now + RETRY_PAUSE;
        let rest = self.target.rest(now.saturating_duration_since(began));
        let missing = match results {
            Ok(_) => Failure::failed("the writer has no result of it"),
            Err(_) => Failure::failed(format!("no answer within {limit:?}")),
        };
        let mut results = results.unwrap_or_default().into_iter();
        for job in jobs {
            let result = results.next().unwrap_or_else(|| Err(missing.clone()));
            let failure = result.as_ref().err().cloned();
            match (self.reconciler.done_and_rest(&job.key, result, rest, now), failure) {
                (Outcome::Failing { new: true }, Some(failure)) => {
                    self.target.outcome(&job.key, Err(&failure));
                }
                (Outcome::Settled { recovered: true }, _) => self.target.outcome(&job.key, Ok(())),
                _ => {}
            }
        }
        true
    }

    /// Compares everything, in slices.
    async fn look(&mut self) {
        let began = clock();
        let listed = timeout(self.options.timeout, self.target.list()).await;
        let problem = match listed {
            Ok(Ok(found)) => {
                self.compare(found).await;
                None
            }
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no list within {:?}", self.options.timeout)),
        };
        let now = clock();
        let took = now.saturating_duration_since(began) * LOOK_SHARE;
        self.look_at = now + self.options.audit.max(took);
        self.look_not_before = now + LOOK_PAUSE.max(took);
        self.reconciler.set_error(problem);
    }

    async fn compare(&mut self, found: Listed<T>) {
        let entries: Vec<(&T::Key, &T::Value)> = found.iter().collect();
        for slice in entries.chunks(SLICE) {
            let slice = slice.iter().map(|(key, value)| ((*key).clone(), Some((*value).clone())));
            self.reconciler.audit(&self.desired, slice, clock());
            tokio::task::yield_now().await;
        }
        let wanted: Vec<&T::Key> = self.desired.by_key.keys().collect();
        for slice in wanted.chunks(SLICE) {
            let missing = slice.iter().filter(|key| !found.contains_key(**key));
            let missing = missing.map(|key| ((*key).clone(), None));
            self.reconciler.audit(&self.desired, missing, clock());
            tokio::task::yield_now().await;
        }
        self.reconciler.audit_done(clock());
    }

    /// Publishes its state: to watchers, to waiters, and in the log.
    fn publish(&mut self) {
        let status = self.reconciler.status(|key| self.target.describe(key));
        self.announcer.announce(&status, clock());
        if status.pending == 0 {
            for waits in self.settled.drain(..) {
                let _ = waits.send(status.clone());
            }
        }
        self.status.send_if_modified(|before| {
            let moved = *before != status;
            *before = status;
            moved
        });
    }
}

/// The runtime's clock, which tests move.
fn clock() -> Instant {
    tokio::time::Instant::now().into_std()
}
