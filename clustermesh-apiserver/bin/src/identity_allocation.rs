//! Identity IDs for the exporter, from the journal that all replicas share.

use std::time::{Duration, Instant, SystemTime};

use mesh_alloc::{AllocationError, Collected, Found, Journal, JournalError, Lost, Recorded};
use mesh_export::{Allocate, Exporter};
use mesh_model::{Identity, Labels};
use uuid::Uuid;

/// How a cluster's identity IDs are kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IdentityRecording {
    /// How long an ID that is not in use stays published.
    pub(crate) wait: Duration,
    /// A journal without IDs takes those of the etcd.
    pub(crate) adopt: bool,
}

/// The journal, and what this replica has of it.
pub(crate) struct IdentityAllocation {
    journal: Journal,
    keeping: IdentityRecording,
    /// The revision of the manifests that is exported here. `None`: it could not be reported which one it is.
    revision: Option<u64>,
    /// The last revision when the last look began.
    looked: Option<u64>,
    /// What the manifests held in it.
    content: Option<String>,
    /// Why the journal cannot be used now.
    problem: Option<String>,
    /// Changes that the exporter got.
    changes: u64,
    next_pass: Option<Instant>,
    next_retry: Option<Instant>,
}

/// What a look found.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// The content, in short: the same for all replicas that saw the same.
    pub(crate) content: String,
    /// All there is was read at least once.
    pub(crate) complete: bool,
    /// Some of what is there now was not understood, or may not be all of it.
    pub(crate) partly: bool,
}

/// What a look at the manifests came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// It is known which revision they were, or never will be.
    Done,
    /// Another replica saw something else meanwhile.
    Again,
}

/// How often it is looked for identities that are not in use; at least four times while one waits, so that every
/// replica that uses it has reported it by then.
const PASS: Duration = Duration::from_secs(30);
/// How often an identity is asked for again that could not be had.
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
            next_pass: None,
            next_retry: None,
        }
    }

    /// The cluster's unchanging id.
    pub(crate) fn uuid(&self) -> Uuid {
        self.journal.uuid()
    }

    /// How many identities are allocated.
    pub(crate) fn len(&self) -> usize {
        self.journal.len()
    }

    /// Why the journal cannot be used.
    pub(crate) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// The revision of the manifests that is exported here.
    pub(crate) fn revision(&self) -> Option<u64> {
        self.revision
    }

    /// Another value whenever there is something to report.
    pub(crate) fn seen(&self) -> (u64, Option<String>) {
        (self.changes, self.problem.clone())
    }

    /// Whether it is not known which revision of the manifests is exported here, as it was when the journal failed.
    pub(crate) fn is_nowhere(&self) -> bool {
        self.content.is_some() && self.revision.is_none()
    }

    /// Reads what other replicas decided.
    pub(crate) fn refresh(&mut self) {
        let refreshed = self.journal.refresh();
        self.note(refreshed);
    }

    /// Whether another replica has seen manifests that this one has not.
    pub(crate) fn is_behind(&mut self) -> bool {
        let last = self.journal.revision().ok();
        self.content.is_some() && last.is_some() && last != self.revision && last != self.looked
    }

    /// A look at the manifests begins. Returns the revision before which it cannot be.
    pub(crate) fn begin_look(&mut self) -> Option<u64> {
        let revision = self.journal.revision();
        self.note(revision)
    }

    /// A look at the manifests that began at a revision is over.
    pub(crate) fn end_look(&mut self, found: Seen, since: Option<u64>) -> Look {
        let Seen { content, complete, partly } = found;
        if !complete {
            return Look::Done;
        }
        self.looked = since;
        let Some(since) = since else {
            // Without the journal no reader can learn what this is.
            (self.revision, self.content) = (None, Some(content));
            return Look::Done;
        };
        let seen = self.content.as_ref() == Some(&content);
        if seen && partly && self.revision.is_some_and(|mine| mine != since) {
            // This replica may have missed what a file held in between: it is behind.
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

    /// Compares the journal with an etcd. Returns whether it is used from now on and was not before.
    pub(crate) fn recognise(&mut self, found: &Found) -> Result<bool, Lost> {
        let before = (self.journal.is_recognised(), self.journal.uuid());
        self.journal.recognise(found, self.keeping.adopt, SystemTime::now())?;
        Ok(before != (true, self.journal.uuid()))
    }

    /// Gives back what is not in use. `all_known`: the exporter knows all pods. `synced`: the etcd has what it says of
    /// them.
    pub(crate) fn collect(
        &mut self,
        exporter: &Exporter,
        all_known: bool,
        synced: bool,
        now: Instant,
    ) {
        if !all_known || self.next_pass.is_some_and(|next| now < next) {
            return;
        }
        self.next_pass = Some(now + PASS.min(self.keeping.wait / 4));
        // What the etcd still has is not given back, but marked.
        let wait = if synced { self.keeping.wait } else { Duration::MAX };
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

    /// Whether it is time to ask again for what could not be had.
    pub(crate) fn wants_retry(&mut self, now: Instant) -> bool {
        let due = self.next_retry.is_none_or(|next| next <= now);
        if due {
            self.next_retry = Some(now + RETRY);
        }
        due
    }

    /// Gives the exporter the IDs that there are.
    pub(crate) fn publish(&mut self, exporter: &mut Exporter) {
        self.publish_once(exporter);
        if exporter.is_disputed() {
            exporter.retry(self);
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

    fn identity(&mut self, labels: &Labels) -> Result<Identity, AllocationError> {
        self.journal.identity(labels, SystemTime::now())
    }
}
