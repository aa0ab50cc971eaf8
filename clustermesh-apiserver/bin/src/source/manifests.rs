//! The source that reads a folder of manifests. It has a journal of identity IDs and of the manifests' revisions, which all
//! replicas share.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
    time::Instant,
};

use mesh_alloc::{Found, Lost};
use mesh_export::{Exporter, RefusedPolicy};
use mesh_files::{Access, Lock, Moment, WriteLog, Written, write_atomic};
use mesh_model::object::{Kind, ObjectKey};
use mesh_source::{
    Drain, DrainError, ManifestsSource, Problem, ResourceVersion, ScanError,
    cluster_directory::ClusterDirectory,
};

use super::{Source, SourceState, Ticked};
use crate::{
    drain::{Changed, LOCK_PATIENCE, NotChanged},
    identity_allocation::{IdentityAllocation, Look, Seen},
};

/// The source of a cluster directory.
pub(crate) struct Manifests {
    source: ManifestsSource,
    allocation: IdentityAllocation,
    drain: PathBuf,
    drain_lock: PathBuf,
    /// The write logs of the watched folders.
    logs: Vec<WriteLog>,
    /// Why the folder cannot be read.
    away: Option<String>,
    /// Messages about ignored objects that were logged.
    logged: Vec<Problem>,
}

/// How often to read the manifests in one look, while other replicas record other content.
const LOOKS: usize = 5;

// === impl Manifests ===

impl Manifests {
    /// The manifests of a cluster directory. Does not read them yet.
    pub(crate) fn new(
        directory: &ClusterDirectory,
        allocation: IdentityAllocation,
        logs: Vec<WriteLog>,
    ) -> Self {
        let drain = directory.drain_file();
        let source = ManifestsSource::new(&directory.manifests(), ResourceVersion::default());
        // Without Cilium's kinds: the IDs of identities come from the journal only.
        let source = source.of_kinds(&Kind::MANIFESTS).with_drain(&drain);
        let drain_lock = directory.drain_lock();
        Self { source, allocation, drain, drain_lock, logs, away: None, logged: Vec::new() }
    }
}

impl Source for Manifests {
    /// Reads until the revision of the manifests is known.
    fn look(&mut self, exporter: &mut Exporter, at: Moment) {
        let Self { source, allocation, logs, away, logged, .. } = self;
        for _ in 0..LOOKS {
            let since = allocation.begin_look();
            logs.iter().for_each(|log| source.note_written(log.take()));
            match source.scan(at) {
                Ok(events) => {
                    *away = None;
                    // Before the objects, so that new endpoints on a drained node are never exported as ready.
                    if let Some(drain) = source.drain() {
                        exporter.set_drain(drain, allocation);
                    }
                    exporter.retry(allocation);
                    exporter.handle_all(events, allocation);
                }
                Err(error) => {
                    tracing::warn!(%error, "the manifests cannot be read: the objects stay as they are");
                    *away =
                        matches!(error, ScanError::Unreadable { .. }).then(|| error.to_string());
                    break;
                }
            }
            let seen = Seen {
                content: source.fingerprint(),
                complete: source.is_listed(),
                partly: source.keeps_something(),
            };
            if allocation.end_look(seen, since) == Look::Done {
                break;
            }
        }
        if logged != source.notes() {
            *logged = source.notes().to_vec();
            logged.iter().for_each(|note| tracing::info!(%note, "ignored in the manifests"));
        }
        allocation.publish(exporter);
    }

    fn tick(&mut self, exporter: &mut Exporter, synced: bool, at: Moment) -> Ticked {
        let allocation = &mut self.allocation;
        let before = allocation.seen();
        allocation.refresh();
        let retries = allocation.wants_retry(at.now);
        if allocation.is_behind() || (retries && allocation.is_nowhere()) {
            self.look(exporter, at);
            return Ticked::Changed;
        }
        let collects = self.source.is_listed() && exporter.is_complete();
        allocation.collect(exporter, collects, synced, at.now);
        if retries {
            exporter.retry(allocation);
        }
        allocation.publish(exporter);
        if allocation.seen() == before { Ticked::Nothing } else { Ticked::Changed }
    }

    fn recognise(&mut self, found: &Found, exporter: &mut Exporter) -> Result<(), Lost> {
        let first = self.allocation.recognise(found)?;
        if first {
            exporter.set_uuid(self.allocation.uuid());
            exporter.retry(&mut self.allocation);
        }
        self.allocation.publish(exporter);
        Ok(())
    }

    fn change_drain(
        &mut self,
        change: &mut dyn FnMut(&mut Drain) -> Result<(), NotChanged>,
    ) -> Result<Changed, NotChanged> {
        let path = &self.drain;
        // Other replicas also write the file.
        let _lock = Lock::wait(&self.drain_lock, LOCK_PATIENCE)?;
        let mut drain = Drain::read(path)
            .map_err(|reason| NotChanged::Broken { path: path.clone(), reason })?;
        let before = drain.clone();
        change(&mut drain)?;
        if drain == before {
            return Ok(Changed::Before);
        }
        let write = |source| NotChanged::Write { path: path.clone(), source };
        let invalid = |error: DrainError| io::Error::other(error);
        let text = drain.to_yaml().map_err(invalid).map_err(write)?;
        write_atomic(path, text.as_bytes(), Access::All).map_err(write)?;
        // Do not wait for the watch: the change must be in force when the request is answered.
        self.source.note_written([(path.clone(), Written::Renamed)]);
        Ok(Changed::Now)
    }

    /// Whoever writes a file sees the status.
    fn tell_refused(&mut self, _: Vec<(ObjectKey, Option<RefusedPolicy>)>) {}

    fn state(&self) -> SourceState {
        let version = self.allocation.revision().map(|revision| revision.to_string());
        let kinds = |version: String| -> BTreeMap<String, String> {
            Kind::KUBERNETES.map(|kind| (kind.to_string(), version.clone())).into()
        };
        let manifests = self.source.problems().iter().map(ToString::to_string);
        let identities = self.allocation.problem().map(ToOwned::to_owned);
        SourceState {
            complete: self.source.is_listed(),
            versions: version.map(kinds),
            away: self.away.clone(),
            problems: manifests.chain(identities).collect(),
            identities: self.allocation.len(),
            absent: BTreeSet::new(),
        }
    }

    fn next_look(&self) -> Option<Instant> {
        self.source.next_look()
    }
}
