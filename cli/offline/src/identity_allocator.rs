//! Allocates identity IDs without a journal.

use std::collections::{BTreeMap, BTreeSet};

use mesh_alloc::candidates;
use mesh_export::Allocate;
use mesh_model::{ClusterId, ClusterLimit, Identity, Labels};

/// The IDs of a cluster's label sets: for each the first free candidate, as from an apiserver with an empty journal.
#[derive(Debug)]
pub(crate) struct IdentityAllocator {
    cluster: ClusterId,
    limit: ClusterLimit,
    given: BTreeMap<Labels, Identity>,
    taken: BTreeSet<Identity>,
}

/// All IDs of the cluster are allocated.
#[derive(Debug, thiserror::Error)]
#[error("all identity IDs of the cluster are taken")]
pub(crate) struct Exhausted;

// === impl IdentityAllocator ===

impl IdentityAllocator {
    pub(crate) fn new(cluster: ClusterId, limit: ClusterLimit) -> Self {
        Self { cluster, limit, given: BTreeMap::new(), taken: BTreeSet::new() }
    }

    /// Reserves IDs, which are then not allocated.
    pub(crate) fn keep(&mut self, ids: impl Iterator<Item = Identity>) {
        self.taken.extend(ids);
    }

    /// All allocated IDs.
    pub(crate) fn given(&self) -> impl Iterator<Item = (&Labels, Identity)> {
        self.given.iter().map(|(labels, identity)| (labels, *identity))
    }
}

impl Allocate for IdentityAllocator {
    type Error = Exhausted;

    fn identity(&mut self, labels: &Labels) -> Result<Option<Identity>, Exhausted> {
        if let Some(identity) = self.given.get(labels) {
            return Ok(Some(*identity));
        }
        let mut free = candidates(labels, self.cluster, self.limit);
        let identity = free.find(|identity| !self.taken.contains(identity)).ok_or(Exhausted)?;
        self.taken.insert(identity);
        self.given.insert(labels.clone(), identity);
        Ok(Some(identity))
    }
}
