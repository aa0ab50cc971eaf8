//! Identity numbers without a journal.

use std::collections::{BTreeMap, BTreeSet};

use mesh_alloc::candidates;
use mesh_export::Allocate;
use mesh_model::{ClusterId, ClusterLimit, Identity, Labels};

/// The numbers of a cluster's label sets: the first that is free, as an apiserver with an empty journal gives them.
#[derive(Debug)]
pub(crate) struct Numbers {
    cluster: ClusterId,
    limit: ClusterLimit,
    given: BTreeMap<Labels, Identity>,
    taken: BTreeSet<Identity>,
}

/// Every number of the cluster is another label set's.
#[derive(Debug, thiserror::Error)]
#[error("all identity numbers of the cluster are taken")]
pub(crate) struct Exhausted;

// === impl Numbers ===

impl Numbers {
    pub(crate) fn new(cluster: ClusterId, limit: ClusterLimit) -> Self {
        Self { cluster, limit, given: BTreeMap::new(), taken: BTreeSet::new() }
    }

    /// All that were given.
    pub(crate) fn given(&self) -> impl Iterator<Item = (&Labels, Identity)> {
        self.given.iter().map(|(labels, identity)| (labels, *identity))
    }
}

impl Allocate for Numbers {
    type Error = Exhausted;

    fn identity(&mut self, labels: &Labels) -> Result<Identity, Exhausted> {
        if let Some(identity) = self.given.get(labels) {
            return Ok(*identity);
        }
        let mut free = candidates(labels, self.cluster, self.limit);
        let identity = free.find(|identity| !self.taken.contains(identity)).ok_or(Exhausted)?;
        self.taken.insert(identity);
        self.given.insert(labels.clone(), identity);
        Ok(identity)
    }
}
