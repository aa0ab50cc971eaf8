//! The state after all of the journal's lines. No IO.

use std::time::SystemTime;

use mesh_model::{ClusterId, ClusterLimit, Identity, Labels};
use uuid::Uuid;

use super::entry::Entry;
use crate::table::{AllocationTable, State, Transition, unix_nano};

/// What the journal says.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) table: AllocationTable,
    pub(super) uuid: Uuid,
    pub(super) revision: u64,
    /// The content that the manifests had at that revision.
    pub(super) manifests: Option<String>,
    pub(super) lines: usize,
}

impl Contents {
    /// Those of an empty file.
    pub(super) fn new(cluster: ClusterId, limit: ClusterLimit) -> Self {
        Self {
            table: AllocationTable::new(cluster, limit),
            uuid: Uuid::nil(),
            revision: 0,
            manifests: None,
            lines: 0,
        }
    }

    /// Takes the next line.
    pub(super) fn take(&mut self, entry: Entry) -> Result<(), String> {
        self.lines += 1;
        match entry {
            Entry::Cluster { uuid, .. } if self.lines == 1 => self.uuid = uuid,
            Entry::Cluster { .. } => return Err("a second cluster".into()),
            Entry::Identity { .. } | Entry::Revision { .. } if self.lines == 1 => {
                return Err("no cluster in the first line".into());
            }
            Entry::Revision { revision, manifests, .. } => {
                if revision >= self.revision {
                    (self.revision, self.manifests) = (revision, manifests);
                }
            }
            Entry::Identity { id, labels, state, unix_nano } => {
                self.table.apply(Identity::new(id), Labels::parse(&labels), state, unix_nano)?;
            }
        }
        Ok(())
    }

    /// The cluster that an entry's identity is of, if that is another.
    pub(super) fn other_cluster(&self, entry: &Entry) -> Option<ClusterId> {
        let Entry::Identity { id, .. } = entry else { return None };
        let id = Identity::new(*id);
        if self.table.is_ours(id) { None } else { self.table.cluster_of(id) }
    }

    /// Lines that add up to the same.
    pub(super) fn entries(&mut self, now: SystemTime) -> Vec<Entry> {
        self.table.rested(now).into_iter().for_each(|id| self.table.forget(id));
        let unix_nano = unix_nano(now);
        let cluster = Entry::Cluster { uuid: self.uuid, unix_nano };
        let (revision, manifests) = (self.revision, self.manifests.clone());
        let revision = Entry::Revision { revision, manifests, unix_nano };
        let identities = self.table.all();
        let identities = identities.map(|(id, n)| identity(id, &n.labels, n.state, n.since));
        [cluster, revision].into_iter().chain(identities).collect()
    }

    /// How many lines are needed at most.
    pub(super) fn needed(&self) -> usize {
        let (used, resting) = self.table.counts();
        used + resting + 2
    }
}

/// A line about an ID.
pub(super) fn identity(id: Identity, labels: &Labels, state: State, unix_nano: u64) -> Entry {
    Entry::Identity { id: id.get(), labels: labels.to_string(), state, unix_nano }
}

/// The line of a transition.
pub(super) fn line(transition: &Transition, unix_nano: u64) -> Entry {
    identity(transition.id, &transition.labels, transition.state, unix_nano)
}
