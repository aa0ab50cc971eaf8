//! The state of the cluster's thread.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
    time::Instant,
};

use mesh_admin::{ProblemCode, v1::Problem};
use mesh_alloc::{AllocationError, Found, Lost};
use mesh_export::{DrainState, EtcdKey, Exporter, Value};
use mesh_files::Moment;
use mesh_model::{ClusterName, LocalPolicy};
use tokio::sync::watch;

use super::{ExportChanges, Exports, View, policies::PolicyView};
use crate::{
    drain::{Asked, Change, Changed, Extent, NotChanged},
    metrics::Metrics,
    source::{Source, SourceState, Ticked},
};

/// The source, the exporter, and the channels to which their results are published.
pub(crate) struct State {
    name: ClusterName,
    source: Box<dyn Source>,
    exporter: Exporter,
    exports: Arc<Exports>,
    view: watch::Sender<Arc<View>>,
    metrics: Metrics,
    /// Problems that were logged.
    logged: BTreeSet<String>,
    /// Whether it was logged that namespaces are exported by default.
    default_logged: bool,
    /// Since when the source cannot be read, and why.
    away: Option<(Instant, String)>,
}

/// How many new problems are logged at once. The status has all of them.
const LOGGED: usize = 20;

// === impl State ===

impl State {
    pub(super) fn new(
        name: ClusterName,
        source: Box<dyn Source>,
        exporter: Exporter,
        exports: Arc<Exports>,
        view: watch::Sender<Arc<View>>,
        metrics: Metrics,
    ) -> Self {
        let (logged, default_logged, away) = (BTreeSet::new(), false, None);
        Self { name, source, exporter, exports, view, metrics, logged, default_logged, away }
    }

    /// Reads the changes of the source.
    pub(super) fn look(&mut self, at: Moment) {
        self.source.look(&mut self.exporter, at);
        self.publish(at.now);
    }

    /// Does periodic work.
    pub(super) fn tick(&mut self, synced: bool, at: Moment) {
        if self.source.tick(&mut self.exporter, synced, at) == Ticked::Changed {
            self.publish(at.now);
        }
    }

    /// When to look again even if nothing changes.
    pub(super) fn next_look(&self) -> Option<Instant> {
        self.source.next_look()
    }

    /// Compares the identity IDs with those in an etcd.
    pub(super) fn recognise(&mut self, found: &Found) -> Result<(), Lost> {
        let recognised = self.source.recognise(found, &mut self.exporter);
        self.publish(Instant::now());
        recognised
    }

    /// Takes note of the policies in an etcd.
    pub(super) fn recall(&mut self, policies: Vec<LocalPolicy>) {
        self.exporter.recall_policies(policies);
        self.publish(Instant::now());
    }

    /// Changes what is drained.
    pub(super) fn change_drain(
        &mut self,
        change: Change,
        asked: &Asked,
        at: Moment,
    ) -> Result<(Changed, DrainState), NotChanged> {
        let local = self.name.to_string();
        if !asked.cluster.is_empty() && asked.cluster != local {
            return Err(NotChanged::OtherCluster { local, asked: asked.cluster.clone() });
        }
        let complete = self.source.state().complete;
        let exporter = &self.exporter;
        let mut preview = None;
        let changed = self.source.change_drain(&mut |drain| {
            let before = drain.clone();
            change.apply(asked, &local, exporter, complete, drain)?;
            if asked.extent == Extent::Preview {
                let changed = if *drain == before { Changed::Before } else { Changed::Now };
                preview = Some((changed, mem::replace(drain, before)));
            }
            Ok(())
        })?;
        if let Some((changed, drain)) = preview {
            return Ok((changed, self.exporter.drain_state_with(drain)));
        }
        self.look(at);
        Ok((changed, self.exporter.drain_state()))
    }

    /// The object from which a key was made.
    pub(super) fn owner(&self, key: &str) -> Option<String> {
        self.exporter.owner(key).map(ToString::to_string)
    }

    /// The fingerprints of the desired values of some keys, or of all.
    pub(super) fn fingerprints(&self, of: Option<Vec<EtcdKey>>) -> BTreeMap<EtcdKey, Option<u64>> {
        let keys = of.unwrap_or_else(|| self.exporter.keys().collect());
        keys.into_iter()
            .map(|key| (EtcdKey::clone(&key), self.exporter.fingerprint(&key)))
            .collect()
    }

    /// The desired value of each key; `None`: it should not exist.
    pub(super) fn values(&self, keys: &[EtcdKey]) -> Vec<Option<Value>> {
        keys.iter().map(|key| self.exporter.value(key)).collect()
    }

    /// Publishes the results.
    fn publish(&mut self, now: Instant) {
        let refused = self.exporter.take_refusal_changes();
        if !refused.is_empty() {
            self.source.tell_refused(refused);
        }
        let source = self.source.state();
        let drained = self.exporter.drain_state();
        let policies = PolicyView::new(&self.exporter, &source.absent);
        let problems = self.problems(&source, &drained, &policies);
        self.log(&problems);
        self.away = source.away.map(|why| match self.away.take() {
            Some((since, _)) => (since, why),
            None => (now, why),
        });
        let count = |n: usize| n.try_into().unwrap_or(u64::MAX);
        let view = View {
            complete: source.complete,
            away: self.away.clone(),
            objects: self.exporter.objects().len(),
            identities: source.identities,
            desired_keys: self.exporter.key_count(),
            problems,
            drained,
            policies,
        };
        self.metrics.manifest_problems.set(count(view.problems.len()));
        self.metrics.desired_keys.set(count(view.desired_keys));
        self.metrics.drained.set(view.drained.cluster.into());
        self.metrics.drained_nodes.set(count(view.drained.nodes.len()));
        self.metrics.objects.set(count(view.objects));
        self.metrics.identities.set(count(view.identities));
        self.metrics.set_policies(&view.policies);
        self.view.send_replace(Arc::new(view));
        let changed = self.exporter.take_changed().into_iter();
        let keys = changed.map(|key| (self.exporter.fingerprint(&key), key));
        self.exports.publish(ExportChanges {
            keys: keys.map(|(value, key)| (key, value)).collect(),
            versions: source.versions,
            complete: self.exporter.is_complete(),
        });
    }

    /// The problems of the source and its objects.
    fn problems(
        &self,
        source: &SourceState,
        drained: &DrainState,
        policies: &PolicyView,
    ) -> Vec<Problem> {
        let waiting = AllocationError::NotRecognised.to_string();
        let objects = self.exporter.problems().iter().filter(|(_, why)| **why != waiting);
        let notes = self.exporter.notes().iter();
        let notes = notes.flat_map(|(object, notes)| notes.iter().map(move |why| (object, why)));
        let objects = objects.chain(notes).map(|(object, why)| {
            ProblemCode::Object.problem(format!("{object}: {why}")).about(object.to_string())
        });
        let nodes = drained.nodes.iter().filter(|node| !node.known && source.complete);
        let nodes = nodes.map(|node| {
            ProblemCode::DrainFile.problem(format!("drain.yaml: there is no node {}", node.name))
        });
        let all = source.problems.iter().cloned().chain(self.exporter.held_back());
        let all = all.map(|message| ProblemCode::Object.problem(message));
        all.chain(objects).chain(policies.problems()).chain(nodes).collect()
    }

    /// Logs new problems, and those that have ended.
    fn log(&mut self, problems: &[Problem]) {
        let now: BTreeSet<String> =
            problems.iter().map(|problem| problem.message.clone()).collect();
        let new: Vec<&String> = now.difference(&self.logged).collect();
        for problem in new.iter().take(LOGGED) {
            tracing::warn!(kind = problem, "a problem with the cluster's objects");
        }
        if let Some(more) = new.len().checked_sub(LOGGED).filter(|more| *more > 0) {
            tracing::warn!(more, "further problems: see `clustermesh status`");
        }
        for problem in self.logged.difference(&now).take(LOGGED) {
            tracing::info!(problem, "the problem has ended");
        }
        self.logged = now;
        let by_default = self.exporter.exports_by_default();
        if by_default && !self.default_logged {
            tracing::warn!(
                "there is no Namespace object: all namespaces are exported, because of defaultGlobalNamespace in cluster.yaml"
            );
        }
        self.default_logged = by_default;
    }
}
