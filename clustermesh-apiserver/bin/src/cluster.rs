//! The cluster's thread: reads objects from the source, and makes keys and values of them.
//!
//! The thread, named `cluster`, owns the source and the exporter. It may block: on files, on locks of other replicas, or
//! while it parses megabytes. Only callers that send it a message and wait for the answer are affected. It publishes a
//! [`View`] for readiness and status, and [`Exports`] for the writer. It ends with the process, or with the last
//! [`Cluster`].

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context as _;
use mesh_alloc::{Found, Journal, Lost, MeshIdentities};
use mesh_export::{DrainState, EtcdKey, Exporter, ExporterConfig, GrantedRanges, Value, announced};
use mesh_files::{Moment, WriteLog};
use mesh_labels::LabelFilter;
use mesh_model::LocalPolicy;
use mesh_source::cluster_directory::{ClusterDirectory, ClusterSettings};
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

use crate::{
    drain::{Asked, Change, Changed, NotChanged},
    identity_allocation::{IdentityAllocation, IdentityRecording},
    metrics::Metrics,
    source::{ApiServer, Kubernetes, Manifests, Source},
};
pub(crate) use exports::{ExportChanges, Exports};
pub(crate) use policies::PolicyView;
use state::State;
pub(crate) use view::View;

mod exports;
mod policies;
mod state;
mod view;

/// The handle of the cluster's thread.
pub(crate) struct Cluster {
    pub(crate) settings: ClusterSettings,
    inbox: Sender<Message>,
    view: watch::Receiver<Arc<View>>,
    exports: Arc<Exports>,
    synced: Arc<AtomicBool>,
}

/// A message to the thread.
enum Message {
    /// Something may have changed: look at the source.
    Look,
    /// The same. The thread answers after the look, when all files are completely written.
    Flush(oneshot::Sender<()>),
    /// An etcd has these identities: compare them with the journal.
    Recognise(Found, oneshot::Sender<Result<(), Lost>>),
    /// An operator changes what is drained.
    Drain(Change, Asked, oneshot::Sender<Result<(Changed, DrainState), NotChanged>>),
    /// An etcd has these policies: those in force in a previous run stay while their objects are malformed.
    Recall(Vec<LocalPolicy>, oneshot::Sender<()>),
    /// Return the object of a key.
    Owner(EtcdKey, oneshot::Sender<Option<String>>),
    /// Return the fingerprints of the desired values of some keys, or of all.
    Fingerprints(Option<Vec<EtcdKey>>, oneshot::Sender<BTreeMap<EtcdKey, Option<u64>>>),
    /// Return the desired values of keys.
    Values(Vec<EtcdKey>, oneshot::Sender<Vec<Option<Value>>>),
}

/// How often to read the journal for decisions of other replicas. New IDs of one replica take this long to be published by
/// all.
const TICK: Duration = Duration::from_millis(250);
/// How long to wait for the journal's lock. A killed process holds its locks until its last thread has ended.
const PATIENCE: Duration = Duration::from_secs(5);

// === impl Cluster ===

impl Cluster {
    /// Opens a cluster directory and starts the thread. `logs` are write logs of the watched folders.
    pub(crate) fn open(
        directory: &ClusterDirectory,
        label_rules: &[String],
        recording: IdentityRecording,
        logs: Vec<WriteLog>,
        metrics: Metrics,
    ) -> anyhow::Result<Arc<Self>> {
        let settings = directory.settings()?;
        let filter =
            LabelFilter::new(label_rules.iter().map(String::as_str)).context("--identity-label")?;
        let (exporter, allocation) =
            open_journal(&directory.journal(), &settings, filter, recording)?;
        let source = Box::new(Manifests::new(directory, allocation, logs));
        Self::start(settings, source, exporter, metrics)
    }

    /// Opens a directory whose objects come from an API server, and starts the thread.
    pub(crate) fn open_kubernetes(
        directory: &ClusterDirectory,
        label_rules: &[String],
        recording: IdentityRecording,
        api_server: ApiServer,
        metrics: Metrics,
    ) -> anyhow::Result<Arc<Self>> {
        let settings = directory.settings()?;
        let filter =
            LabelFilter::new(label_rules.iter().map(String::as_str)).context("--identity-label")?;
        let exporter = exporter(&settings, filter, None);
        let ids = MeshIdentities::new(settings.id, settings.limit);
        let source = Box::new(Kubernetes::new(api_server, ids, recording));
        Self::start(settings, source, exporter, metrics)
    }

    /// Starts the thread with a source.
    pub(crate) fn start(
        settings: ClusterSettings,
        source: Box<dyn Source>,
        exporter: Exporter,
        metrics: Metrics,
    ) -> anyhow::Result<Arc<Self>> {
        let exports = Arc::new(Exports::default());
        let (published, view) = watch::channel(Arc::default());
        let ids = settings.limit.identities(settings.id);
        metrics.identities_limit.set(u64::from(ids.end() - ids.start()) + 1);
        let name = settings.name.clone();
        let state = State::new(name, source, exporter, Arc::clone(&exports), published, metrics);
        let synced = Arc::new(AtomicBool::new(false));
        let (inbox, messages) = channel();
        let thread = thread::Builder::new().name("cluster".into());
        let reported = Arc::clone(&synced);
        thread.spawn(move || run(state, &messages, &reported)).context("the cluster's thread")?;
        Ok(Arc::new(Self { settings, inbox, view, exports, synced }))
    }

    /// Call it when something may have changed in the source.
    pub(crate) fn look(&self) {
        // If the thread has ended, the process ends too: see `ended`.
        let _ = self.inbox.send(Message::Look);
    }

    /// Waits until all earlier changes of the source are published. If a file may be incompletely written, its last object
    /// is not used yet, so this waits until the file is complete or has not changed for a while.
    pub(crate) async fn flush(&self) {
        self.ask(Message::Flush).await;
    }

    /// Compares the identity IDs with those in an etcd, before anything is written there.
    pub(crate) async fn recognise(&self, found: Found) -> Result<(), Lost> {
        self.ask(|answer| Message::Recognise(found, answer)).await
    }

    /// Takes note of the policies in an etcd, before anything is written there.
    pub(crate) async fn recall(&self, policies: Vec<LocalPolicy>) {
        self.ask(|answer| Message::Recall(policies, answer)).await
    }

    /// Changes what is drained, and waits until that is in force.
    pub(crate) async fn change_drain(
        &self,
        change: Change,
        asked: Asked,
    ) -> Result<(Changed, DrainState), NotChanged> {
        self.ask(|answer| Message::Drain(change, asked, answer)).await
    }

    /// The object from which a key was made.
    pub(crate) async fn owner(&self, key: EtcdKey) -> Option<String> {
        self.ask(|answer| Message::Owner(key, answer)).await
    }

    /// The fingerprints of the desired values of some keys, or of all; `None` for a key that should not exist.
    pub(crate) async fn fingerprints(
        &self,
        of: Option<Vec<EtcdKey>>,
    ) -> BTreeMap<EtcdKey, Option<u64>> {
        self.ask(|answer| Message::Fingerprints(of, answer)).await
    }

    /// The desired values of keys, in their order; `None` for a key that should not exist. Earlier changes of them are in
    /// the exports.
    pub(crate) async fn values(&self, keys: Vec<EtcdKey>) -> Vec<Option<Value>> {
        self.ask(|answer| Message::Values(keys, answer)).await
    }

    /// The state of the cluster. Never waits.
    pub(crate) fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.borrow())
    }

    /// The changes to be written. Never waits for the thread.
    pub(crate) fn exports(&self) -> &Exports {
        &self.exports
    }

    /// Sets whether the etcd has everything.
    pub(crate) fn set_synced(&self, synced: bool) {
        self.synced.store(synced, Ordering::Relaxed);
    }

    /// Returns when the thread has ended, which only happens after a panic.
    pub(crate) async fn ended(&self) {
        let mut view = self.view.clone();
        while view.changed().await.is_ok() {}
    }

    async fn ask<T>(&self, message: impl FnOnce(oneshot::Sender<T>) -> Message) -> T {
        let (sender, answer) = oneshot::channel();
        let _ = self.inbox.send(message(sender));
        match answer.await {
            Ok(answer) => answer,
            // The thread has ended, so the process is about to end.
            Err(_) => std::future::pending().await,
        }
    }
}

fn open_journal(
    path: &Path,
    settings: &ClusterSettings,
    filter: LabelFilter,
    recording: IdentityRecording,
) -> anyhow::Result<(Exporter, IdentityAllocation)> {
    let (id, limit) = (settings.id, settings.limit);
    let journal = Journal::open(path, id, limit, PATIENCE, SystemTime::now())?;
    let exporter = exporter(settings, filter, Some(journal.uuid()));
    Ok((exporter, IdentityAllocation::new(journal, recording)))
}

/// An exporter with these settings, for a cluster whose UUID may not be known yet.
fn exporter(settings: &ClusterSettings, filter: LabelFilter, uuid: Option<Uuid>) -> Exporter {
    let exporter = Exporter::new(ExporterConfig {
        name: settings.name.clone(),
        id: settings.id,
        announced: announced(settings.id, settings.limit, uuid),
        default_global_namespace: settings.default_global_namespace,
        filter,
    });
    exporter.with_granted_ranges(GrantedRanges {
        pods: settings.pod_cidrs.clone(),
        nodes: settings.node_cidrs.clone(),
    })
}

/// The loop of the thread.
fn run(mut state: State, messages: &Receiver<Message>, synced: &AtomicBool) {
    let mut tick = Instant::now();
    let mut later = Later::default();
    loop {
        let next = state.next_look().map_or(tick, |look| look.min(tick));
        match messages.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(message) => take(&mut state, message, messages, &mut later),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let at = Moment::now();
        if state.next_look().is_some_and(|look| look <= at.now) {
            state.look(at);
        }
        if state.next_look().is_none() {
            for answer in later.flushes.drain(..) {
                // The caller may have stopped waiting.
                let _ = answer.send(());
            }
        }
        if tick <= at.now {
            state.tick(synced.load(Ordering::Relaxed), at);
            tick = Instant::now() + TICK;
        }
        for (found, answer) in std::mem::take(&mut later.recognitions) {
            match state.recognise(&found) {
                Err(Lost::NotListed) => later.recognitions.push((found, answer)),
                recognised => drop(answer.send(recognised)),
            }
        }
    }
}

/// Messages that cannot be answered yet.
#[derive(Default)]
struct Later {
    flushes: Vec<oneshot::Sender<()>>,
    recognitions: Vec<(Found, oneshot::Sender<Result<(), Lost>>)>,
}

/// Handles a message and all others in the inbox. One look is enough for all of them.
fn take(state: &mut State, first: Message, messages: &Receiver<Message>, later: &mut Later) {
    let mut look = false;
    for message in std::iter::once(first).chain(messages.try_iter()) {
        // The callers may have stopped waiting.
        match message {
            Message::Look => look = true,
            Message::Flush(answer) => {
                look = true;
                later.flushes.push(answer);
            }
            Message::Recognise(found, answer) => later.recognitions.push((found, answer)),
            Message::Drain(change, asked, answer) => {
                let changed = state.change_drain(change, &asked, Moment::now());
                drop(answer.send(changed));
            }
            Message::Recall(policies, answer) => {
                state.recall(policies);
                let _ = answer.send(());
            }
            Message::Owner(key, answer) => drop(answer.send(state.owner(&key))),
            Message::Fingerprints(of, answer) => drop(answer.send(state.fingerprints(of))),
            Message::Values(keys, answer) => drop(answer.send(state.values(&keys))),
        }
    }
    if look {
        state.look(Moment::now());
    }
}

#[cfg(test)]
mod tests;
