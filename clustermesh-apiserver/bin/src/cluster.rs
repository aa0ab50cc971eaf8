//! The cluster as read from its directory: manifests in, keys and values out.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use mesh_alloc::{AllocationError, Journal};
use mesh_export::{Allocate, Exporter, ExporterConfig};
use mesh_labels::LabelFilter;
use mesh_model::{ClusterConfig, ExportMode, Identity, Labels, object::Kind};
use mesh_source::{
    ManifestsSource, ResourceVersion,
    cluster_directory::{ClusterDirectory, ClusterSettings},
};
use mesh_wire::Position;
use tokio::sync::watch;

use crate::metrics::Metrics;

/// What the writer takes from, and the folder's watcher puts into.
pub(crate) struct Cluster {
    pub(crate) settings: ClusterSettings,
    state: Mutex<State>,
    /// Goes up whenever there is something to write.
    changed: watch::Sender<u64>,
    metrics: Metrics,
}

struct State {
    source: ManifestsSource,
    exporter: Exporter,
    journal: Journal,
    /// Problems that the log has.
    told: BTreeSet<String>,
}

/// How long a predecessor may take to be gone: a killed process holds its locks until its last thread is dead.
const PREDECESSOR: Duration = Duration::from_secs(5);

/// Numbers from the journal.
struct Numbers<'a>(&'a mut Journal);

impl Allocate for Numbers<'_> {
    type Error = AllocationError;

    fn identity(&mut self, labels: &Labels) -> Result<Identity, AllocationError> {
        self.0.identity(labels, SystemTime::now())
    }
}

impl Cluster {
    /// Opens the directory. Its manifests are not read yet.
    pub(crate) fn open(
        directory: &ClusterDirectory,
        label_rules: &[String],
        metrics: Metrics,
    ) -> anyhow::Result<Arc<Self>> {
        let settings = directory.settings()?;
        let filter =
            LabelFilter::new(label_rules.iter().map(String::as_str)).context("--identity-label")?;
        let now = SystemTime::now();
        let (path, id, limit) = (directory.journal(), settings.id, settings.limit);
        let mut journal = Journal::open(&path, id, limit, PREDECESSOR, now)?;
        let from = ResourceVersion(journal.take_revisions(now)?);
        let exporter = Exporter::new(ExporterConfig {
            name: settings.name.clone(),
            id: settings.id,
            announced: ClusterConfig {
                id: settings.id,
                synced_canaries: true,
                cached: false,
                max_connected_clusters: settings.limit.get(),
                service_exports_enabled: Some(false),
                export_mode: ExportMode::Services,
                uuid: Some(journal.uuid()),
            },
            default_global_namespace: settings.default_global_namespace,
            filter,
        });
        let source = ManifestsSource::new(&directory.manifests(), from);
        let state = Mutex::new(State { source, exporter, journal, told: BTreeSet::new() });
        let (changed, _) = watch::channel(0);
        Ok(Arc::new(Self { settings, state, changed, metrics }))
    }

    /// Reads what changed in the manifests.
    pub(crate) fn scan(&self) {
        let mut state = self.lock();
        let State { source, exporter, journal, told } = &mut *state;
        match source.scan() {
            Ok(events) => {
                let mut numbers = Numbers(journal);
                exporter.retry(&mut numbers);
                events.into_iter().for_each(|event| exporter.handle(event, &mut numbers));
            }
            Err(error) => tracing::warn!(%error, "keeping the objects as they are"),
        }
        if source.resource_version().0 >= journal.revisions_end()
            && let Err(error) = journal.take_revisions(SystemTime::now())
        {
            tracing::error!(%error, "after a restart readers may take what is new for old");
        }
        let manifests = source.problems().iter().map(ToString::to_string);
        let objects = exporter.problems().iter().map(|(object, why)| format!("{object}: {why}"));
        let problems: BTreeSet<String> = manifests.chain(objects).collect();
        // Each once, not with every look at the folder.
        for problem in problems.difference(told) {
            tracing::warn!(problem, "not exported, or as it was before");
        }
        for problem in told.difference(&problems) {
            tracing::info!(problem, "no longer so");
        }
        *told = problems;
        let problems = source.problems().len() + exporter.problems().len();
        self.metrics.manifest_problems.set(problems.try_into().unwrap_or(u64::MAX));
        self.metrics.desired_keys.set(exporter.desired().len().try_into().unwrap_or(u64::MAX));
        self.metrics.objects.set(exporter.objects().try_into().unwrap_or(u64::MAX));
        self.metrics.identities.set(journal.len().try_into().unwrap_or(u64::MAX));
        drop(state);
        self.changed.send_modify(|generation| *generation += 1);
    }

    /// Wakes whenever there is something to write.
    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// How far the exporter is with the source.
    pub(crate) fn position(&self) -> Position {
        let version = self.lock().source.resource_version().0.to_string();
        let source = Kind::ALL.map(|kind| (kind.to_string(), version.clone()));
        Position::new(source.into_iter().collect(), SystemTime::now())
    }

    /// Looks at, or takes from, the exporter.
    pub(crate) fn with_exporter<T>(&self, look: impl FnOnce(&mut Exporter) -> T) -> T {
        look(&mut self.lock().exporter)
    }

    /// What is wrong with the manifests, and whether they were all read once.
    pub(crate) fn source_state(&self) -> (Vec<String>, bool) {
        let state = self.lock();
        let manifests = state.source.problems().iter().map(ToString::to_string);
        let objects = state
            .exporter
            .problems()
            .iter()
            .map(|(object, problem)| format!("{object}: {problem}"));
        (manifests.chain(objects).collect(), state.source.is_listed())
    }

    /// How many identity numbers are given out.
    pub(crate) fn identities(&self) -> usize {
        self.lock().journal.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here is left half-done by a panic that another thread could see.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
