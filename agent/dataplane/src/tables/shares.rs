//! How much of a table each cluster has, and how much more it may have.
//!
//! With T a table's size, U what the local cluster has, R = max(0, T/4 − U) what is reserved for it, and F = T − U − R
//! less what all peers have: a peer may add while its total after that is no more than what is then free. So one greedy
//! peer ends at half of the share for peers, n of them at one part in n + 1 each, and the next peer always finds room.
//! The local cluster may always add, and no existing entry is removed: a peer that has more than it may have now keeps
//! it.

use std::collections::HashMap;

use mesh_model::ClusterId;

use super::TablesError;

/// What each cluster has of the tables in which peers have a part.
#[derive(Debug)]
pub(super) struct Shares {
    /// The cluster of this node; `None`: not known, and all may add.
    pub(super) local: Option<ClusterId>,
    pub(super) backends: Charges,
    pub(super) slots: Charges,
}

/// What each cluster has of one table.
#[derive(Debug)]
pub(super) struct Charges {
    map: &'static str,
    size: u32,
    by_cluster: HashMap<ClusterId, u32>,
    total: u32,
}

/// What an addition makes of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Growth {
    /// The growth for the cluster that adds.
    pub(super) own: u32,
    /// The reduction for others: their reserve.
    pub(super) others: u32,
}

/// The part of a table that is kept for the local cluster, as long as it does not use it.
const RESERVED: u32 = 4;

// === impl Shares ===

impl Shares {
    pub(super) fn new(backends: u32, slots: u32) -> Self {
        let charges = |map, size| Charges { map, size, by_cluster: HashMap::new(), total: 0 };
        Self {
            local: None,
            backends: charges("cm_backends", backends),
            slots: charges("cm_slots", slots),
        }
    }

    /// Whether a cluster may add this many backends and slots.
    pub(super) fn may_add(
        &self,
        cluster: ClusterId,
        backends: Growth,
        slots: Growth,
    ) -> Result<(), TablesError> {
        let Some(local) = self.local.filter(|local| *local != cluster) else { return Ok(()) };
        self.backends.may_add(local, cluster, backends)?;
        self.slots.may_add(local, cluster, slots)
    }
}

// === impl Charges ===

impl Charges {
    pub(super) fn has(&self, cluster: ClusterId) -> u32 {
        self.by_cluster.get(&cluster).copied().unwrap_or(0)
    }

    pub(super) fn add(&mut self, cluster: ClusterId, count: u32) {
        if count > 0 {
            *self.by_cluster.entry(cluster).or_default() += count;
            self.total += count;
        }
    }

    pub(super) fn remove(&mut self, cluster: ClusterId, count: u32) {
        let Some(has) = self.by_cluster.get_mut(&cluster) else { return };
        let count = count.min(*has);
        *has -= count;
        self.total -= count;
        if *has == 0 {
            self.by_cluster.remove(&cluster);
        }
    }

    fn may_add(
        &self,
        local: ClusterId,
        cluster: ClusterId,
        Growth { own, others }: Growth,
    ) -> Result<(), TablesError> {
        if own == 0 {
            return Ok(());
        }
        let reserved = (self.size / RESERVED).saturating_sub(self.has(local));
        let taken = u64::from(self.total) + u64::from(own) + u64::from(reserved);
        let free = (u64::from(self.size) + u64::from(others)).saturating_sub(taken);
        let has = self.has(cluster);
        match u64::from(has) + u64::from(own) <= free {
            true => Ok(()),
            false => Err(TablesError::Share { map: self.map, size: self.size, cluster, has }),
        }
    }
}

#[cfg(test)]
mod tests {
    use mesh_model::ClusterLimit;

    use super::*;

    fn id(id: u32) -> ClusterId {
        ClusterId::new(id, ClusterLimit::Max511).unwrap()
    }

    fn charges(size: u32) -> Charges {
        let Shares { backends, .. } = Shares::new(size, 0);
        backends
    }

    /// Adds one by one until it is refused. How many are there then.
    fn fill(charges: &mut Charges, cluster: u32) -> u32 {
        let one = Growth { own: 1, others: 0 };
        while charges.may_add(id(1), id(cluster), one).is_ok() {
            charges.add(id(cluster), 1);
        }
        charges.has(id(cluster))
    }

    /// By the rule as it is written, with numbers by hand.
    #[test]
    fn greedy_peers_end_at_their_parts() {
        // 1,000, of which 100 are the local cluster's and 150 are kept for it: 750 are for peers.
        let begin = || {
            let mut table = charges(1_000);
            table.add(id(1), 100);
            table
        };
        let mut one = begin();
        assert_eq!(fill(&mut one, 2), 375);
        // In turns each ends at a quarter.
        let mut three = begin();
        let one_more = Growth { own: 1, others: 0 };
        for _ in 0..1_000 {
            for cluster in [2, 3, 4] {
                if three.may_add(id(1), id(cluster), one_more).is_ok() {
                    three.add(id(cluster), 1);
                }
            }
        }
        assert_eq!([2, 3, 4].map(|cluster| three.has(id(cluster))), [188, 187, 187]);
        // One after the other each has half of what the last one left.
        let mut after = begin();
        assert_eq!([2, 3, 4].map(|cluster| fill(&mut after, cluster)), [375, 187, 94]);
        // What is there stays though less may be there now, and grows no more.
        after.add(id(1), 200);
        assert_eq!(after.has(id(2)), 375);
        let refused = after.may_add(id(1), id(2), one_more).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "cm_backends: cluster 2 has 375 of 1000 entries, and may have no more: as much must be free for others"
        );
        after.remove(id(2), 375);
        assert!(after.may_add(id(1), id(2), one_more).is_ok());
    }

    #[test]
    fn what_others_had_in_reserve_is_no_growth_of_all() {
        let mut table = charges(100);
        // 75 are for peers: 30 are in use, 7 in reserve, and 38 are free.
        table.add(id(2), 30);
        table.add(id(2), 7);
        let filled = Growth { own: 1, others: 1 };
        assert!(table.may_add(id(1), id(2), Growth { own: 1, others: 0 }).is_err());
        assert!(table.may_add(id(1), id(2), filled).is_ok());
        assert!(
            table.may_add(id(1), id(2), Growth::default()).is_ok(),
            "nothing is always allowed"
        );
    }
}
