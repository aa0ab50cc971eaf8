//! A Kubernetes API server. Identity IDs are its objects of the kind `MeshIdentity`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Instant, SystemTime},
};

use mesh_alloc::{AllocationError, Found, IdentityRequest, Lost, MeshIdentities};
use mesh_export::{Allocate, Exporter, RefusedPolicy};
use mesh_files::Moment;
use mesh_model::{
    Identity, Labels,
    object::{Kind, ObjectKey},
};
use mesh_source::{Drain, ResourceVersion, SourceEvent};
use mesh_source_kube::{
    DrainConfigMap, FollowedDrain, FollowedIdentities, FollowedKind, IdentityEvent,
    IdentityOutcome, KubeEvent, Liveness, ObjectEvent, Problems, VersionedDrain,
};
use tokio::{
    runtime::Handle,
    sync::mpsc::{Receiver, UnboundedSender},
};

use super::{Source, SourceState, Ticked};
use crate::{
    drain::{Changed, NotChanged},
    identity_allocation::{IdentityRecording, Schedule},
};

/// The source of a Kubernetes cluster.
pub(crate) struct Kubernetes {
    events: Receiver<KubeEvent>,
    requests: UnboundedSender<IdentityRequest>,
    ids: Ids,
    recording: IdentityRecording,
    /// Takes events about objects, which their authors see.
    object_events: UnboundedSender<ObjectEvent>,
    /// Why such an event could not be written.
    events_trouble: Option<String>,
    kinds: BTreeMap<Kind, KindState>,
    identities: IdentitiesState,
    liveness: Liveness,
    config_map: DrainConfigMap,
    runtime: Handle,
    /// What is drained.
    drain: VersionedDrain,
    drain_problems: Problems<String>,
    /// The kinds that are not followed were reported as empty.
    begun: bool,
    /// The number of changes that were passed to the exporter.
    changes: u64,
    schedule: Schedule,
}

/// What a source in Kubernetes needs of its runtime.
pub(crate) struct ApiServer {
    pub(crate) events: Receiver<KubeEvent>,
    /// Takes requests about identities.
    pub(crate) requests: UnboundedSender<IdentityRequest>,
    /// Takes events about objects.
    pub(crate) object_events: UnboundedSender<ObjectEvent>,
    pub(crate) config_map: DrainConfigMap,
    pub(crate) runtime: Handle,
}

/// The IDs, for the exporter.
struct Ids(MeshIdentities);

/// How far a kind is.
#[derive(Default)]
struct KindState {
    /// The version that it has reached, once all of it was listed.
    version: Option<ResourceVersion>,
    problems: Problems<ObjectKey>,
}

/// What is wrong with the objects of identities.
#[derive(Default)]
struct IdentitiesState {
    problems: Problems<String>,
    /// Why the last request about one is repeated.
    repeated: Option<String>,
    /// Those of another cluster's range.
    foreign: BTreeMap<Identity, String>,
}

/// How often a change of what is drained is tried while others change it.
const CONTENDED: usize = 5;
/// So many batches at most are taken in one look: what changes all the time keeps no question waiting.
const BATCHES: usize = 64;

// === impl Ids ===

impl Allocate for Ids {
    type Error = AllocationError;

    fn identity(&mut self, labels: &Labels) -> Result<Option<Identity>, AllocationError> {
        self.0.identity(labels)
    }
}

// === impl IdentitiesState ===

impl IdentitiesState {
    fn problems(&self) -> impl Iterator<Item = String> {
        let foreign = self.foreign.first_key_value().map(|(id, reason)| {
            format!(
                "{} MeshIdentities are not used, such as {id}: {reason}. If the cluster was given another ID on purpose, delete them",
                self.foreign.len()
            )
        });
        let known = self.problems.sentences("MeshIdentity ");
        known.chain(self.repeated.clone()).chain(foreign)
    }
}

// === impl Kubernetes ===

impl Kubernetes {
    /// A cluster of whose IDs nothing is known yet.
    pub(crate) fn new(
        api_server: ApiServer,
        ids: MeshIdentities,
        recording: IdentityRecording,
    ) -> Self {
        let ApiServer { events, requests, object_events, config_map, runtime } = api_server;
        Self {
            events,
            requests,
            ids: Ids(ids),
            recording,
            object_events,
            events_trouble: None,
            kinds: Kind::KUBERNETES.map(|kind| (kind, KindState::default())).into(),
            identities: IdentitiesState::default(),
            liveness: Liveness::default(),
            config_map,
            runtime,
            drain: VersionedDrain::default(),
            drain_problems: Problems::default(),
            begun: false,
            changes: 0,
            schedule: Schedule::default(),
        }
    }

    fn take(&mut self, exporter: &mut Exporter, event: KubeEvent) {
        match event {
            KubeEvent::Kind(followed) => self.take_kind(exporter, followed),
            KubeEvent::Identities(followed) => self.take_identities(followed),
            KubeEvent::Identity(IdentityOutcome::Answered(answer)) => {
                // An ID of another cluster's range was never asked for.
                let _ = self.ids.0.answered(answer);
            }
            KubeEvent::Identity(IdentityOutcome::Repeated(why)) => {
                self.identities.repeated = Some(why);
            }
            KubeEvent::Identity(IdentityOutcome::Recovered) => self.identities.repeated = None,
            KubeEvent::ObjectEvents(trouble) => self.events_trouble = trouble,
            KubeEvent::Drain(FollowedDrain { drain, restarted, problems }) => {
                if let Some(problems) = problems {
                    self.drain_problems = problems;
                }
                if restarted {
                    self.drain.version = 0;
                }
                // An answer may come before the event of a watch that is older.
                if let Some(drain) = drain.filter(|drain| drain.version > self.drain.version) {
                    self.drain = drain;
                }
            }
            KubeEvent::Liveness(liveness) => {
                let answered = liveness.answered.as_ref();
                if let Some(uuid) = answered.and_then(|answer| answer.cluster.parse().ok()) {
                    self.ids.0.set_uuid(uuid);
                }
                self.liveness = liveness;
            }
        }
    }

    fn take_kind(&mut self, exporter: &mut Exporter, followed: FollowedKind) {
        let FollowedKind { kind, events, problems } = followed;
        let state = self.kinds.entry(kind).or_default();
        for event in &events {
            match event {
                SourceEvent::Listing { .. } => state.version = None,
                SourceEvent::Listed { resource_version, .. } => {
                    state.version = Some(*resource_version);
                }
                // Within a list the version is that of its end.
                SourceEvent::Applied { resource_version, .. }
                | SourceEvent::Deleted { resource_version, .. }
                | SourceEvent::Bookmark { resource_version, .. } => {
                    if let Some(version) = &mut state.version {
                        *version = *resource_version;
                    }
                }
                SourceEvent::Unreadable { .. } => {}
            }
        }
        if let Some(problems) = problems {
            state.problems = problems;
        }
        exporter.handle_all(events, &mut self.ids);
    }

    fn take_identities(&mut self, followed: FollowedIdentities) {
        let FollowedIdentities { events, problems } = followed;
        let (ids, state) = (&mut self.ids.0, &mut self.identities);
        if let Some(problems) = problems {
            state.problems = problems;
        }
        for event in events {
            match event {
                IdentityEvent::Restarted => ids.restart(),
                IdentityEvent::Listing => {
                    state.foreign.clear();
                    ids.listing();
                }
                IdentityEvent::Applied(object) => {
                    let id = object.id;
                    match ids.applied(object) {
                        Ok(()) => drop(state.foreign.remove(&id)),
                        Err(reason) => drop(state.foreign.insert(id, reason)),
                    }
                }
                IdentityEvent::Taken(id) => ids.taken(id),
                IdentityEvent::Deleted { id, version } => {
                    state.foreign.remove(&id);
                    ids.deleted(id, version);
                }
                IdentityEvent::Listed { version } => ids.listed(version),
            }
        }
    }

    /// Passes changes of IDs to the exporter, and requests to the API server.
    fn publish(&mut self, exporter: &mut Exporter) {
        self.ids.0.settle(|id, _| exporter.uses(id));
        self.publish_changes(exporter);
        if exporter.is_disputed() || exporter.has_given() {
            exporter.reassign(&mut self.ids);
            self.publish_changes(exporter);
        }
        for request in self.ids.0.take_requests() {
            // Without the API server's tasks the process is about to end.
            let _ = self.requests.send(request);
        }
    }

    fn publish_changes(&mut self, exporter: &mut Exporter) {
        for (identity, labels) in self.ids.0.take_changes() {
            self.changes += 1;
            exporter.set_identity(identity, labels);
        }
    }

    fn is_listed(&self) -> bool {
        self.kinds.values().all(|kind| kind.version.is_some())
    }
}

impl Source for Kubernetes {
    fn look(&mut self, exporter: &mut Exporter, _at: Moment) {
        if !std::mem::replace(&mut self.begun, true) {
            // Nothing here reads a Cilium's objects.
            let followed: BTreeSet<Kind> = Kind::KUBERNETES.into();
            for kind in Kind::ALL.into_iter().filter(|kind| !followed.contains(kind)) {
                let resource_version = ResourceVersion::default();
                let none =
                    [SourceEvent::Listing { kind }, SourceEvent::Listed { kind, resource_version }];
                exporter.handle_all(none, &mut self.ids);
            }
        }
        for _ in 0..BATCHES {
            match self.events.try_recv() {
                Ok(event) => self.take(exporter, event),
                Err(_) => break,
            }
        }
        exporter.set_drain(&self.drain.value, &mut self.ids);
        self.publish(exporter);
    }

    fn tick(&mut self, exporter: &mut Exporter, synced: bool, at: Moment) -> Ticked {
        let before = self.changes;
        let waiting = !self.events.is_empty();
        if waiting {
            self.look(exporter, at);
        }
        let listed = self.is_listed() && exporter.is_complete();
        if let Some(wait) = self.schedule.collects(listed, synced, self.recording.wait, at.now) {
            self.ids.0.collect(|id, _| exporter.uses(id), wait, SystemTime::now());
        }
        if self.schedule.wants_retry(at.now) {
            exporter.retry(&mut self.ids);
        }
        self.publish(exporter);
        match waiting || self.changes != before {
            true => Ticked::Changed,
            false => Ticked::Nothing,
        }
    }

    fn recognise(&mut self, found: &Found, exporter: &mut Exporter) -> Result<(), Lost> {
        let first = !self.ids.0.is_recognised();
        self.ids.0.recognise(found, self.recording.adopt, SystemTime::now())?;
        if let (true, Some(uuid)) = (first, self.ids.0.uuid()) {
            exporter.set_uuid(uuid);
            exporter.retry(&mut self.ids);
        }
        self.publish(exporter);
        Ok(())
    }

    fn change_drain(
        &mut self,
        change: &mut dyn FnMut(&mut Drain) -> Result<(), NotChanged>,
    ) -> Result<Changed, NotChanged> {
        for _ in 0..CONTENDED {
            let VersionedDrain { value: mut drain, version } =
                self.runtime.block_on(self.config_map.read())?;
            let before = drain.clone();
            change(&mut drain)?;
            if drain == before {
                return Ok(Changed::Before);
            }
            if let Some(written) = self.runtime.block_on(self.config_map.write(&drain, version))? {
                // Do not wait for the watch: the change must be in force when the request is answered.
                self.drain = written;
                return Ok(Changed::Now);
            }
        }
        Err(NotChanged::Contended)
    }

    fn tell_refused(&mut self, changed: Vec<(ObjectKey, Option<RefusedPolicy>)>) {
        for (object, refused) in changed {
            let uid = refused.as_ref().map(|refused| refused.uid.clone()).unwrap_or_default();
            let note = refused.map(|refused| refused.to_string());
            // Without the API server's tasks the process is about to end.
            let _ = self.object_events.send(ObjectEvent { object, uid, note });
        }
    }

    fn state(&self) -> SourceState {
        let absent = |kind: &KindState| kind.problems.absent;
        // A kind that is not there has no position that could be compared.
        let version = |(kind, state): (&Kind, &KindState)| {
            let version = state.version.filter(|_| !absent(state))?;
            Some((kind.to_string(), version.0.to_string()))
        };
        let versions: BTreeMap<String, String> = self.kinds.iter().filter_map(version).collect();
        let kinds = self.kinds.values().flat_map(|kind| kind.problems.sentences(""));
        let drain = self.drain_problems.sentences("ConfigMap ");
        let away = self.liveness.trouble.as_ref().map(|(_, why)| why.clone());
        SourceState {
            complete: self.is_listed(),
            versions: Some(versions).filter(|_| self.is_listed()),
            away,
            problems: kinds
                .chain(drain)
                .chain(self.identities.problems())
                .chain(self.events_trouble.clone())
                .collect(),
            absent: self
                .kinds
                .iter()
                .filter(|(_, kind)| absent(kind))
                .map(|(kind, _)| *kind)
                .collect(),
            identities: self.ids.0.len(),
        }
    }

    fn next_look(&self) -> Option<Instant> {
        None
    }
}
