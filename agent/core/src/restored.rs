//! State of the previous run, restored from disk for a kernel that has none: a node that starts while a cluster is
//! unreachable begins with that cluster's last reported state. It is dropped as soon as the cluster is synced, turns
//! out to be another, or stays away for too long.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use mesh_model::ClusterName;
use uuid::Uuid;

use crate::{
    input::RestoredCluster,
    problem::{Problem, ProblemKind},
};

/// The rest of the previous run's state.
#[derive(Debug)]
pub(crate) struct Restored {
    /// Snapshots of clusters that are not followed yet.
    snapshots: BTreeMap<ClusterName, RestoredCluster>,
    /// Clusters of which something is known from a snapshot alone.
    in_use: BTreeMap<ClusterName, InUse>,
    began: Instant,
    budget: Duration,
    /// The budget of clusters that were not synced until now is spent.
    is_spent: bool,
    /// Clusters whose restored state expired.
    expired: BTreeSet<ClusterName>,
}

/// A cluster's snapshot.
#[derive(Clone, Copy, Debug)]
struct InUse {
    /// Which cluster it was.
    uuid: Option<Uuid>,
    /// There are more than identities and addresses.
    services: bool,
}

impl Restored {
    /// The state on disk at the start of this run. It is used for `budget`.
    pub(crate) fn new(
        snapshots: BTreeMap<ClusterName, RestoredCluster>,
        budget: Duration,
        now: Instant,
    ) -> Self {
        let (in_use, expired) = (BTreeMap::new(), BTreeSet::new());
        Self { snapshots, in_use, began: now, budget, is_spent: false, expired }
    }

    /// A cluster is followed: takes its snapshot, unless it is of another cluster than `expected`.
    pub(crate) fn take(
        &mut self,
        cluster: &ClusterName,
        expected: Option<Uuid>,
    ) -> Option<RestoredCluster> {
        let snapshot = self.snapshots.remove(cluster)?;
        if let (Some(expected), Some(found)) = (expected, snapshot.uuid)
            && expected != found
        {
            tracing::warn!(peer = %cluster, %found, %expected, "a snapshot is of another cluster");
            return None;
        }
        Some(snapshot)
    }

    /// A cluster's snapshot is in use; with `services`, all of it.
    pub(crate) fn used(&mut self, cluster: &ClusterName, uuid: Option<Uuid>, services: bool) {
        self.in_use.insert(cluster.clone(), InUse { uuid, services });
    }

    /// A cluster shows its UUID. Whether its snapshot was in use and is of another.
    pub(crate) fn is_another(&mut self, cluster: &ClusterName, uuid: Option<Uuid>) -> bool {
        let was = self.in_use.get(cluster).and_then(|in_use| in_use.uuid);
        let another = was.zip(uuid).is_some_and(|(was, is)| was != is);
        if another {
            self.in_use.remove(cluster);
        }
        another
    }

    /// A cluster is synced: its restored state is no longer needed.
    pub(crate) fn synced(&mut self, cluster: &ClusterName) {
        self.in_use.remove(cluster);
        self.expired.remove(cluster);
    }

    /// Whether a cluster's services are the ones that the previous run knew.
    pub(crate) fn is_in_use(&self, cluster: &ClusterName) -> bool {
        self.in_use.get(cluster).is_some_and(|in_use| in_use.services)
    }

    /// Whether clusters that were not synced until now were away for too long.
    pub(crate) fn is_spent(&self) -> bool {
        self.is_spent
    }

    /// When they are.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        (!self.is_spent).then(|| self.began + self.budget)
    }

    /// The budget is spent, once. Returns whose state is dropped: all clusters' but the local one's, for which there is no
    /// other source.
    pub(crate) fn spend(&mut self, local: &ClusterName, now: Instant) -> Option<Vec<ClusterName>> {
        if self.is_spent || now.saturating_duration_since(self.began) < self.budget {
            return None;
        }
        self.is_spent = true;
        let gone = self.in_use.extract_if(.., |cluster, _| cluster != local);
        Some(gone.map(|(cluster, _)| cluster).collect())
    }

    /// A cluster's restored state was dropped, and there was some.
    pub(crate) fn expired(&mut self, cluster: ClusterName) {
        self.expired.insert(cluster);
    }

    /// Only these clusters are followed.
    pub(crate) fn retain(&mut self, is_followed: impl Fn(&ClusterName) -> bool) {
        self.snapshots.retain(|cluster, _| is_followed(cluster));
        self.in_use.retain(|cluster, _| is_followed(cluster));
        self.expired.retain(|cluster| is_followed(cluster));
    }

    /// Problems for an operator.
    pub(crate) fn problems(&self) -> impl Iterator<Item = Problem> {
        self.expired.iter().map(|cluster| {
            let message = format!(
                "{cluster}: not reached since the agent started, {} s ago or more: its state from before is no longer used",
                self.budget.as_secs()
            );
            Problem::of(ProblemKind::PeerStale, cluster, message)
        })
    }
}

#[cfg(test)]
mod tests {
    use mesh_model::{ClusterId, ClusterLimit, KnownIdentities};

    use super::*;

    fn snapshot(uuid: Option<Uuid>) -> RestoredCluster {
        let id = ClusterId::new(2, ClusterLimit::Max255).unwrap();
        RestoredCluster { id, uuid, records: Vec::new(), known: KnownIdentities::default() }
    }

    #[test]
    fn a_snapshot_is_used_once_for_its_cluster_alone_and_for_so_long() {
        let (a, b) = (ClusterName::new("a").unwrap(), ClusterName::new("b").unwrap());
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let now = Instant::now();
        let snapshots = [(a.clone(), snapshot(None)), (b.clone(), snapshot(Some(one)))];
        let budget = Duration::from_secs(900);
        let open = || Restored::new(snapshots.clone().into(), budget, now);
        assert!(open().take(&b, Some(other)).is_none(), "another cluster's");
        let mut restored = open();
        for name in [&a, &b] {
            let taken = restored.take(name, None).unwrap();
            restored.used(name, taken.uuid, true);
            assert!(restored.take(name, None).is_none());
        }
        assert!(!restored.is_another(&b, Some(one)) && !restored.is_another(&b, None));
        assert!(!restored.is_another(&a, Some(other)), "it did not say which it was");
        assert_eq!(restored.spend(&a, now + budget / 2), None);
        assert_eq!(restored.spend(&a, now + budget), Some(vec![b.clone()]));
        assert_eq!((restored.spend(&a, now + budget * 2), restored.next_timeout()), (None, None));
        assert!(restored.is_in_use(&a) && !restored.is_in_use(&b));
        restored.expired(b.clone());
        assert_eq!(restored.problems().count(), 1);
        restored.synced(&b);
        assert_eq!(restored.problems().count(), 0);

        let mut restored = open();
        let taken = restored.take(&b, Some(one)).unwrap();
        restored.used(&b, taken.uuid, true);
        assert!(restored.is_another(&b, Some(other)) && !restored.is_in_use(&b));
        restored.retain(|_| false);
        assert!(restored.take(&a, None).is_none());
    }
}
