//! Identity IDs for the exporter, from the journal that all replicas share.

use std::time::{Duration, Instant, SystemTime};

use mesh_alloc::{AllocationError, Collected, Found, Journal, JournalError, Lost, Recorded};
use mesh_export::{Allocate, Exporter};
use mesh_model::{Identity, Labels};
use uuid::Uuid;

/// The settings for identity IDs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IdentityRecording {
    /// How long an unused ID stays published.
    pub(crate) wait: Duration,
    /// Whether a journal without IDs adopts those of the etcd.
    pub(crate) adopt: bool,
}

/// The journal, and this replica's state.
pub(crate) struct IdentityAllocation {
    journal: Journal,
    keeping: IdentityRecording,
    /// The journal's revision of the manifests that this replica exports; `None` if the journal could not be read or written.
    revision: Option<u64>,
    /// The journal's last revision when the last look began.
    looked: Option<u64>,
    /// The fingerprint of the manifests at the last look.
    content: Option<String>,
    /// Why the journal cannot be used.
    problem: Option<String>,
    /// The number of changes that were passed to the exporter.
    changes: u64,
    schedule: Schedule,
}

/// When unused IDs are looked for, and failed allocations retried.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    next_pass: Option<Instant>,
    next_retry: Option<Instant>,
}

/// What a look at the manifests found.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// The fingerprint of the content, equal in all replicas that read the same files.
    pub(crate) content: String,
    /// Whether everything was read at least once.
    pub(crate) complete: bool,
    /// Whether previous content is in force, because some file is invalid or may be incomplete.
    pub(crate) partly: bool,
}

/// The result of a look at the manifests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// The look is finished.
    Done,
    /// Another replica has recorded other content meanwhile: look again.
    Again,
}

/// How often to look for unused identities; at least four times within the waiting time, so that every replica that uses
/// one has recorded that by then.
const PASS: Duration = Duration::from_secs(30);
/// How often to retry the allocation of an identity that failed.
const RETRY: Duration = Duration::from_secs(10);

// === impl IdentityAllocation ===

impl IdentityAllocation {
    pub(crate) fn new(journal: Journal, keeping: IdentityRecording) -> Self {
        Self {
            journal,
            keeping,
            revision: None,
            looked: None,
            content: None,
            problem: None,
            changes: 0,
            schedule: Schedule::default(),
        }
    }

    /// The cluster's permanent ID.
    pub(crate) fn uuid(&self) -> Uuid {
        self.journal.uuid()
    }

    /// The number of allocated identities.
    pub(crate) fn len(&self) -> usize {
        self.journal.len()
    }

    /// Why the journal cannot be used.
    pub(crate) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// The revision of the manifests that this replica exports.
    pub(crate) fn revision(&self) -> Option<u64> {
        self.revision
    }

    /// A value that changes whenever there is something to publish.
    pub(crate) fn seen(&self) -> (u64, Option<String>) {
        (self.changes, self.problem.clone())
    }

    /// Whether the revision of the exported manifests is not known, because the journal failed.
    pub(crate) fn is_nowhere(&self) -> bool {
        self.content.is_some() && self.revision.is_none()
    }

    /// Reads the decisions of other replicas.
    pub(crate) fn refresh(&mut self) {
        let refreshed = self.journal.refresh();
        self.note(refreshed);
    }

    /// Whether another replica has read manifests that this one has not.
    pub(crate) fn is_behind(&mut self) -> bool {
        let last = self.journal.revision().ok();
        self.content.is_some() && last.is_some() && last != self.revision && last != self.looked
    }

    /// Call it when a look at the manifests begins. Returns the journal's last revision.
    pub(crate) fn begin_look(&mut self) -> Option<u64> {
        let revision = self.journal.revision();
        self.note(revision)
    }

    /// Call it when a look at the manifests ends. `since` is what [`Self::begin_look`] returned.
    pub(crate) fn end_look(&mut self, found: Seen, since: Option<u64>) -> Look {
        let Seen { content, complete, partly } = found;
        if !complete {
            return Look::Done;
        }
        self.looked = since;
        let Some(since) = since else {
            // Without the journal, readers cannot compare this content with that of other replicas.
            (self.revision, self.content) = (None, Some(content));
            return Look::Done;
        };
        let seen = self.content.as_ref() == Some(&content);
        if seen && partly && self.revision.is_some_and(|mine| mine != since) {
            // This replica may have missed content of the file in between, so it does not claim the new revision.
            return Look::Done;
        }
        let recorded = self.journal.record(&content, since, SystemTime::now());
        self.content = Some(content);
        match self.note(recorded) {
            Some(Recorded::At(revision)) => self.revision = Some(revision),
            Some(Recorded::Superseded) => return Look::Again,
            None => self.revision = None,
        }
        Look::Done
    }

    /// Compares the journal with an etcd. Returns whether the journal is usable only since this comparison, or has a new
    /// cluster ID.
    pub(crate) fn recognise(&mut self, found: &Found) -> Result<bool, Lost> {
        let before = (self.journal.is_recognised(), self.journal.uuid());
        self.journal.recognise(found, self.keeping.adopt, SystemTime::now())?;
        Ok(before != (true, self.journal.uuid()))
    }

    /// Frees unused IDs. `all_known`: the exporter has all pods. `synced`: the etcd has everything that the exporter exports.
    pub(crate) fn collect(
        &mut self,
        exporter: &Exporter,
        all_known: bool,
        synced: bool,
        now: Instant,
    ) {
        let Some(wait) = self.schedule.collects(all_known, synced, self.keeping.wait, now) else {
            return;
        };
        let time = SystemTime::now();
        let collected = self.journal.collect(|id, _| exporter.uses(id), wait, time);
        let collected = collected.and_then(|collected| {
            self.journal.compact(time)?;
            Ok(collected)
        });
        if let Some(Collected { marked, cleared, deleted }) = self.note(collected)
            && marked + cleared + deleted > 0
        {
            tracing::info!(marked, cleared, deleted, "identities");
        }
    }

    /// Whether it is time to retry failed allocations.
    pub(crate) fn wants_retry(&mut self, now: Instant) -> bool {
        self.schedule.wants_retry(now)
    }

    /// Passes changes of IDs to the exporter.
    pub(crate) fn publish(&mut self, exporter: &mut Exporter) {
        self.publish_once(exporter);
        if exporter.is_disputed() {
            exporter.reassign(self);
            self.publish_once(exporter);
        }
    }

    fn publish_once(&mut self, exporter: &mut Exporter) {
        for (identity, labels) in self.journal.take_changes() {
            self.changes += 1;
            exporter.set_identity(identity, labels);
        }
    }

    fn note<T>(&mut self, outcome: Result<T, JournalError>) -> Option<T> {
        self.problem = outcome.as_ref().err().map(ToString::to_string);
        outcome.ok()
    }
}

impl Allocate for IdentityAllocation {
    type Error = AllocationError;

    fn identity(&mut self, labels: &Labels) -> Result<Option<Identity>, AllocationError> {
        self.journal.identity(labels, SystemTime::now()).map(Some)
    }
}

// === impl Schedule ===

impl Schedule {
    /// Whether it is time to free unused IDs: those that have been unused for the returned time. `wait`: for how long an ID
    /// stays published. `all_known`: the exporter has all pods. `synced`: the etcd has everything that the exporter exports.
    pub(crate) fn collects(
        &mut self,
        all_known: bool,
        synced: bool,
        wait: Duration,
        now: Instant,
    ) -> Option<Duration> {
        if !all_known || self.next_pass.is_some_and(|next| now < next) {
            return None;
        }
        self.next_pass = Some(now + PASS.min(wait / 4));
        // While the etcd may still have addresses with an ID, it is only marked as unused.
        Some(if synced { wait } else { Duration::MAX })
    }

    /// Whether it is time to retry failed allocations.
    pub(crate) fn wants_retry(&mut self, now: Instant) -> bool {
        let due = self.next_retry.is_none_or(|next| next <= now);
        if due {
            self.next_retry = Some(now + RETRY);
        }
        due
    }
}
