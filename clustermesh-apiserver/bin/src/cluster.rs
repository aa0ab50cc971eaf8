//! The cluster as read from its directory: manifests in, keys and values out.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context as _;
use mesh_alloc::{AllocationError, Found, Journal, Lost};
use mesh_export::{Exporter, ExporterConfig, announced};
use mesh_labels::LabelFilter;
use mesh_model::object::Kind;
use mesh_source::{
    ManifestsSource, ResourceVersion,
    cluster_directory::{ClusterDirectory, ClusterSettings},
};
use mesh_wire::Position;
use tokio::sync::watch;

use crate::{
    identity_allocation::{Look, Numbering},
    metrics::Metrics,
};

/// What the writer takes from, and the folder's watcher puts into.
pub(crate) struct Cluster {
    pub(crate) settings: ClusterSettings,
    pub(crate) directory: ClusterDirectory,
    state: Mutex<State>,
    /// Goes up whenever there is something to write.
    changed: watch::Sender<u64>,
    metrics: Metrics,
}

struct State {
    source: ManifestsSource,
    exporter: Exporter,
    numbering: Numbering,
    /// Problems that the log has.
    told: BTreeSet<String>,
}

/// How a cluster's numbers are kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IdentityRecording {
    /// How long a number that nobody uses stays published.
    pub(crate) wait: Duration,
    /// A journal without numbers takes those of the etcd.
    pub(crate) adopt: bool,
}

/// How often the manifests are read to find one revision of them, while other replicas find others.
const LOOKS: usize = 5;
/// How long another replica, or a predecessor, may have the journal: a killed process holds its locks until its last
/// thread is dead.
const PATIENCE: Duration = Duration::from_secs(5);

impl Cluster {
    /// Opens the directory. Its manifests are not read yet.
    pub(crate) fn open(
        directory: &ClusterDirectory,
        label_rules: &[String],
        keeping: IdentityRecording,
        metrics: Metrics,
    ) -> anyhow::Result<Arc<Self>> {
        let settings = directory.settings()?;
        let filter =
            LabelFilter::new(label_rules.iter().map(String::as_str)).context("--identity-label")?;
        let (path, id, limit) = (directory.journal(), settings.id, settings.limit);
        let journal = Journal::open(&path, id, limit, PATIENCE, SystemTime::now())?;
        let exporter = Exporter::new(ExporterConfig {
            name: settings.name.clone(),
            id: settings.id,
            announced: announced(id, limit, Some(journal.uuid())),
            default_global_namespace: settings.default_global_namespace,
            filter,
        });
        let source = ManifestsSource::new(&directory.manifests(), ResourceVersion::default());
        // Identities have the journal's numbers, and no others.
        let source = source.of_kinds(&Kind::KUBERNETES).with_drain(&directory.drain_file());
        let numbering = Numbering::new(journal, keeping);
        let state = Mutex::new(State { source, exporter, numbering, told: BTreeSet::new() });
        let (changed, _) = watch::channel(0);
        let directory = directory.clone();
        Ok(Arc::new(Self { settings, directory, state, changed, metrics }))
    }

    /// Reads what changed in the manifests.
    pub(crate) fn scan(&self) {
        let mut state = self.lock();
        state.read();
        self.settle(state);
    }

    /// Looks at what other replicas decided, and collects numbers that nobody uses. `synced`: the etcd has everything, so
    /// that no address there still has one of them.
    pub(crate) fn tick(&self, synced: bool, now: Instant) {
        let mut state = self.lock();
        let State { source, exporter, numbering, .. } = &mut *state;
        let before = numbering.seen();
        numbering.refresh();
        let retries = numbering.wants_retry(now);
        if numbering.is_behind() || (retries && numbering.is_nowhere()) {
            state.read();
            return self.settle(state);
        }
        let collects = source.is_listed() && exporter.is_complete();
        numbering.collect(exporter, collects, synced, now);
        if retries {
            exporter.retry(numbering);
        }
        numbering.publish(exporter);
        if numbering.seen() != before {
            self.settle(state);
        }
    }

    /// Compares the numbers with those in an etcd, before anything is written there.
    pub(crate) fn recognise(&self, found: &Found) -> Result<(), Lost> {
        let mut state = self.lock();
        let State { exporter, numbering, .. } = &mut *state;
        let before = numbering.seen();
        let first = numbering.recognise(found)?;
        if first {
            exporter.set_uuid(numbering.uuid());
            exporter.retry(numbering);
        }
        numbering.publish(exporter);
        if first || numbering.seen() != before {
            self.settle(state);
        }
        Ok(())
    }

    /// Tells what followed.
    fn settle(&self, mut state: MutexGuard<'_, State>) {
        let problems: BTreeSet<String> = state.problems().into_iter().collect();
        let State { source, exporter, numbering, told } = &mut *state;
        // Each once, not with every look at the folder.
        for problem in problems.difference(told) {
            tracing::warn!(problem, "not exported, or as it was before");
        }
        for problem in told.difference(&problems) {
            tracing::info!(problem, "no longer so");
        }
        let notes = exporter.notes().values().map(Vec::len).sum::<usize>();
        let count = source.problems().len() + exporter.problems().len() + notes;
        *told = problems;
        self.metrics.manifest_problems.set(count.try_into().unwrap_or(u64::MAX));
        self.metrics.desired_keys.set(exporter.desired().len().try_into().unwrap_or(u64::MAX));
        self.metrics.objects.set(exporter.objects().try_into().unwrap_or(u64::MAX));
        self.metrics.identities.set(numbering.len().try_into().unwrap_or(u64::MAX));
        drop(state);
        self.changed.send_modify(|generation| *generation += 1);
    }

    /// Wakes whenever there is something to write.
    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// How far the exporter is with the source, if that is known.
    pub(crate) fn position(&self) -> Option<Position> {
        let version = self.lock().numbering.revision()?.to_string();
        let source = Kind::KUBERNETES.map(|kind| (kind.to_string(), version.clone()));
        Some(Position::new(source.into_iter().collect(), SystemTime::now()))
    }

    /// Looks at, or takes from, the exporter.
    pub(crate) fn with_exporter<T>(&self, look: impl FnOnce(&mut Exporter) -> T) -> T {
        look(&mut self.lock().exporter)
    }

    /// What is wrong with the manifests or their numbers, and whether they were all read once.
    pub(crate) fn source_state(&self) -> (Vec<String>, bool) {
        let state = self.lock();
        (state.problems(), state.source.is_listed())
    }

    /// How many identity numbers are given out.
    pub(crate) fn identities(&self) -> usize {
        self.lock().numbering.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here is left half-done by a panic that another thread could see.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Reads the manifests until it is known which revision of them that was.
    fn read(&mut self) {
        let Self { source, exporter, numbering, .. } = self;
        for _ in 0..LOOKS {
            let since = numbering.begin_look();
            match source.scan() {
                Ok(events) => {
                    // First, so that what comes to a drained node is never taken for one that stays.
                    if let Some(drain) = source.drain() {
                        exporter.set_drain(drain.clone(), numbering);
                    }
                    exporter.retry(numbering);
                    events.into_iter().for_each(|event| exporter.handle(event, numbering));
                }
                Err(error) => {
                    tracing::warn!(%error, "keeping the objects as they are");
                    break;
                }
            }
            if numbering.end_look(source, since) == Look::Done {
                break;
            }
        }
        numbering.publish(exporter);
    }

    /// What is wrong with the manifests, objects in them, and their numbers.
    fn problems(&self) -> Vec<String> {
        let waiting = AllocationError::NotRecognised.to_string();
        let manifests = self.source.problems().iter().map(ToString::to_string);
        let objects = self.exporter.problems().iter().filter(|(_, why)| **why != waiting);
        let notes = self.exporter.notes().iter();
        let notes = notes.flat_map(|(object, notes)| notes.iter().map(move |why| (object, why)));
        let objects = objects.chain(notes).map(|(object, why)| format!("{object}: {why}"));
        let drain = self.exporter.drain_state().nodes.into_iter();
        let drain = drain.filter(|node| !node.known && self.source.is_listed());
        let drain = drain.map(|node| format!("drain.yaml: there is no node {}", node.name));
        let numbers = self.numbering.problem().map(ToOwned::to_owned);
        manifests.chain(objects).chain(drain).chain(numbers).collect()
    }
}

#[cfg(test)]
mod tests;
