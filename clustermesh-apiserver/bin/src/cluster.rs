//! The cluster as read from its source: objects in, keys and values out.
//!
//! One thread, named `cluster`, owns the source and the exporter. It may block: on files, on locks that other replicas hold, on
//! a text of megabytes. Nothing waits for it but who asks it for something, by a message. What it found is published:
//! [`View`] for readiness and status, [`Exports`] for the writer. It ends with the process, or with the last [`Cluster`].

use std::{
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
use mesh_alloc::{Found, Journal, Lost};
use mesh_export::{DrainState, Exporter, ExporterConfig, GrantedRanges, announced};
use mesh_files::{Moment, WriteLog};
use mesh_labels::LabelFilter;
use mesh_source::cluster_directory::{ClusterDirectory, ClusterSettings};
use tokio::sync::{oneshot, watch};

use crate::{
    drain::{Asked, Change, Changed, NotChanged},
    identity_allocation::{IdentityAllocation, IdentityRecording},
    metrics::Metrics,
    source::{Manifests, Source},
};
pub(crate) use exports::{ExportChanges, Exports};
use state::State;
pub(crate) use view::View;

mod exports;
mod state;
mod view;

/// The cluster, for everything that is not its thread.
pub(crate) struct Cluster {
    pub(crate) settings: ClusterSettings,
    inbox: Sender<Message>,
    view: watch::Receiver<Arc<View>>,
    exports: Arc<Exports>,
    synced: Arc<AtomicBool>,
}

/// What the thread is asked for.
enum Message {
    /// Something may have changed.
    Look,
    /// The same; the answer comes when it was looked at, and no file is in the middle of being written.
    Flush(oneshot::Sender<()>),
    /// An etcd has these identities.
    Recognise(Found, oneshot::Sender<Result<(), Lost>>),
    /// An operator changes what is drained.
    Drain(Change, Asked, oneshot::Sender<Result<(Changed, DrainState), NotChanged>>),
    /// Which object a key follows from.
    Owner(String, oneshot::Sender<Option<String>>),
}

/// How often it is looked for what other replicas decided: as long as their IDs are published by one alone.
const TICK: Duration = Duration::from_millis(250);
/// How long another replica, or a predecessor, may have the journal: a killed process holds its locks until its last
/// thread is dead.
const PATIENCE: Duration = Duration::from_secs(5);

// === impl Cluster ===

impl Cluster {
    /// Opens a directory and starts the thread. `logs`: what watches of the directory notice.
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

    /// Starts the thread of a source.
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

    /// Something may have changed in the source.
    pub(crate) fn look(&self) {
        // If the thread is gone the process ends: see `ended`.
        let _ = self.inbox.send(Message::Look);
    }

    /// Waits until everything was looked at that changed before. Of a file that may be in the middle of being written the last
    /// object is left out: it is waited for, until it is whole or has not changed for a while.
    pub(crate) async fn flush(&self) {
        self.ask(Message::Flush).await;
    }

    /// Compares the identity IDs with those in an etcd, before anything is written there.
    pub(crate) async fn recognise(&self, found: Found) -> Result<(), Lost> {
        self.ask(|answer| Message::Recognise(found, answer)).await
    }

    /// Changes what is drained, and waits until that is in force.
    pub(crate) async fn change_drain(
        &self,
        change: Change,
        asked: Asked,
    ) -> Result<(Changed, DrainState), NotChanged> {
        self.ask(|answer| Message::Drain(change, asked, answer)).await
    }

    /// The object that a key follows from.
    pub(crate) async fn owner(&self, key: String) -> Option<String> {
        self.ask(|answer| Message::Owner(key, answer)).await
    }

    /// How the cluster is. Never waits.
    pub(crate) fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.borrow())
    }

    /// What is to be written. Never waits for the thread.
    pub(crate) fn exports(&self) -> &Exports {
        &self.exports
    }

    /// Whether the etcd has everything now.
    pub(crate) fn set_synced(&self, synced: bool) {
        self.synced.store(synced, Ordering::Relaxed);
    }

    /// Returns when the thread is gone, which it is only if it failed.
    pub(crate) async fn ended(&self) {
        let mut view = self.view.clone();
        while view.changed().await.is_ok() {}
    }

    async fn ask<T>(&self, message: impl FnOnce(oneshot::Sender<T>) -> Message) -> T {
        let (sender, answer) = oneshot::channel();
        let _ = self.inbox.send(message(sender));
        match answer.await {
            Ok(answer) => answer,
            // The thread is gone, and the process about to end.
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
    let exporter = Exporter::new(ExporterConfig {
        name: settings.name.clone(),
        id,
        announced: announced(id, limit, Some(journal.uuid())),
        default_global_namespace: settings.default_global_namespace,
        filter,
    });
    let exporter = exporter.with_granted_ranges(GrantedRanges {
        pods: settings.pod_cidrs.clone(),
        nodes: settings.node_cidrs.clone(),
    });
    Ok((exporter, IdentityAllocation::new(journal, recording)))
}

/// The thread.
fn run(mut state: State, messages: &Receiver<Message>, synced: &AtomicBool) {
    let mut tick = Instant::now();
    let mut flushes: Vec<oneshot::Sender<()>> = Vec::new();
    loop {
        let next = state.next_look().map_or(tick, |look| look.min(tick));
        match messages.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(message) => take(&mut state, message, messages, &mut flushes),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let at = Moment::now();
        if state.next_look().is_some_and(|look| look <= at.now) {
            state.look(at);
        }
        if state.next_look().is_none() {
            for answer in flushes.drain(..) {
                // Who asked may have gone.
                let _ = answer.send(());
            }
        }
        if tick <= at.now {
            state.tick(synced.load(Ordering::Relaxed), at);
            tick = Instant::now() + TICK;
        }
    }
}

/// Takes a message, and with it those that came since: one look answers all that ask for one.
fn take(
    state: &mut State,
    first: Message,
    messages: &Receiver<Message>,
    flushes: &mut Vec<oneshot::Sender<()>>,
) {
    let mut look = false;
    for message in std::iter::once(first).chain(messages.try_iter()) {
        // Who asked may have gone.
        match message {
            Message::Look => look = true,
            Message::Flush(answer) => {
                look = true;
                flushes.push(answer);
            }
            Message::Recognise(found, answer) => drop(answer.send(state.recognise(&found))),
            Message::Drain(change, asked, answer) => {
                let changed = state.change_drain(change, &asked, Moment::now());
                drop(answer.send(changed));
            }
            Message::Owner(key, answer) => drop(answer.send(state.owner(&key))),
        }
    }
    if look {
        state.look(Moment::now());
    }
}

#[cfg(test)]
mod tests;
