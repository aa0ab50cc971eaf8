//! Where the pods of each cluster may be. An address in a range that no record names is *unknown of the range's cluster*.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use mesh_model::ClusterName;

use crate::accounting::leaf;

/// Whose ranges count: those of the first cluster in this order, and of these the longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    /// The local cluster.
    Local,
    /// A peer whose file grants it ranges.
    Granted,
    /// Any other.
    Ungranted,
}

/// A change of the ranges that count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RangeDelta {
    /// An unknown address of this range is a pod of this cluster, which is new or was another.
    Set {
        /// The range. If another one inside it counts too, that one decides about its addresses.
        range: IpNet,
        /// The cluster.
        cluster: ClusterName,
    },
    /// The range no longer counts.
    Removed {
        /// The range.
        range: IpNet,
    },
}

/// The ranges of all clusters.
#[derive(Debug, Default)]
pub(crate) struct Ranges {
    /// Each with the clusters that have it, of one rank by name, and how many times they do.
    all: BTreeMap<(IpNet, Option<Owner>), u32>,
    /// How many entries there are of each family (IPv4: true) and length.
    lengths: BTreeMap<(bool, u8), usize>,
}

/// A cluster that has a range.
pub(crate) type Owner = (Rank, Arc<ClusterName>);

/// The bytes that a range of a cluster takes.
pub(crate) const BYTES: u64 = leaf::<((IpNet, Option<Owner>), u32)>();

// === impl Ranges ===

impl Ranges {
    /// A cluster has a range, possibly once more. Whether it had not.
    pub(crate) fn add(
        &mut self,
        range: IpNet,
        owner: &Owner,
        deltas: &mut impl Extend<RangeDelta>,
    ) -> bool {
        let key = (range.trunc(), Some(owner.clone()));
        if let Some(times) = self.all.get_mut(&key) {
            *times += 1;
            return false;
        }
        self.compare(key.0, deltas, |ranges| {
            *ranges.lengths.entry(length(&key.0)).or_default() += 1;
            ranges.all.insert(key, 1);
        });
        true
    }

    /// A cluster has a range once less. Whether it no longer has it.
    pub(crate) fn remove(
        &mut self,
        range: IpNet,
        owner: &Owner,
        deltas: &mut impl Extend<RangeDelta>,
    ) -> bool {
        let key = (range.trunc(), Some(owner.clone()));
        let Some(times) = self.all.get_mut(&key) else { return false };
        *times -= 1;
        if *times > 0 {
            return false;
        }
        self.compare(key.0, deltas, |ranges| {
            ranges.all.remove(&key);
            if let Some(count) = ranges.lengths.get_mut(&length(&key.0)) {
                *count -= 1;
            }
            ranges.lengths.retain(|_, count| *count > 0);
        });
        true
    }

    /// The cluster in whose range an address is.
    pub(crate) fn of(&self, address: IpAddr) -> Option<&ClusterName> {
        // The longest range comes first, and of several that are equally good the first counts.
        let owners = self.containing(address.into());
        owners.min_by_key(|(rank, _)| *rank).map(|(_, cluster)| &**cluster)
    }

    /// Whether an address is in a range of a cluster.
    pub(crate) fn is_of(&self, address: IpAddr, cluster: &ClusterName) -> bool {
        self.containing(address.into()).any(|(_, owner)| **owner == *cluster)
    }

    /// The owners of the ranges around one, the longest first.
    fn containing(&self, range: IpNet) -> impl Iterator<Item = &Owner> {
        let (is_v4, length) = length(&range);
        let lengths = self.lengths.range((is_v4, 0)..=(is_v4, length)).rev();
        let around = lengths.filter_map(move |((_, length), _)| {
            IpNet::new(range.addr(), *length).ok().map(|around| around.trunc())
        });
        around.flat_map(|around| self.owners(around))
    }

    /// The clusters that have a range, in their order.
    fn owners(&self, range: IpNet) -> impl Iterator<Item = &Owner> {
        let from = self.all.range((range, None)..);
        let owners = from.take_while(move |((found, _), _)| *found == range);
        owners.filter_map(|((_, owner), _)| owner.as_ref())
    }

    /// The cluster for which a range counts: none if a range around it counts more.
    fn counting(&self, range: IpNet) -> Option<&ClusterName> {
        let (first, cluster) = self.owners(range).next()?;
        let covered = self.containing(range).any(|(rank, _)| rank < first);
        (!covered).then_some(&**cluster)
    }

    /// Makes a change of a range, and says for which ranges it matters: for itself, and for those inside it.
    fn compare(
        &mut self,
        range: IpNet,
        deltas: &mut impl Extend<RangeDelta>,
        change: impl FnOnce(&mut Self),
    ) {
        let before = self.counting_within(range);
        change(self);
        let now = self.counting_within(range);
        let set = now.iter().filter(|(range, cluster)| before.get(range) != Some(cluster));
        let set =
            set.map(|(range, cluster)| RangeDelta::Set { range: *range, cluster: cluster.clone() });
        deltas.extend(set);
        let gone = before.keys().filter(|range| !now.contains_key(range));
        deltas.extend(gone.map(|range| RangeDelta::Removed { range: *range }));
    }

    fn counting_within(&self, range: IpNet) -> BTreeMap<IpNet, ClusterName> {
        // In their order the ranges inside one follow it.
        let inside = self.all.range((range, None)..).map(|((inside, _), _)| *inside);
        let inside = inside.take_while(|inside| range.contains(inside));
        inside.filter_map(|inside| Some((inside, self.counting(inside)?.clone()))).collect()
    }
}

fn length(range: &IpNet) -> (bool, u8) {
    (range.addr().is_ipv4(), range.prefix_len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Arc<ClusterName> {
        Arc::new(ClusterName::new(text).unwrap())
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn told(deltas: Vec<RangeDelta>) -> Vec<String> {
        let told = deltas.into_iter().map(|delta| match delta {
            RangeDelta::Set { range, cluster } => format!("{range} {cluster}"),
            RangeDelta::Removed { range } => format!("{range} -"),
        });
        told.collect()
    }

    #[test]
    fn the_longest_range_of_the_first_rank_counts() {
        let (a, b, c) = (name("a"), name("b"), name("c"));
        let local = || (Rank::Local, Arc::clone(&a));
        let granted = |cluster: &Arc<ClusterName>| (Rank::Granted, Arc::clone(cluster));
        let ungranted = |cluster: &Arc<ClusterName>| (Rank::Ungranted, Arc::clone(cluster));
        let mut ranges = Ranges::default();
        let mut add = |range: &str, owner: Owner, expected: &[&str]| {
            let mut deltas = Vec::new();
            ranges.add(net(range), &owner, &mut deltas);
            assert_eq!(told(deltas), expected, "{range}");
        };
        add("10.2.0.0/16", granted(&b), &["10.2.0.0/16 b"]);
        add("10.0.0.0/8", ungranted(&c), &["10.0.0.0/8 c"]);
        // Inside another's grant it does not count, and a grant inside a grant does.
        add("10.2.7.0/24", ungranted(&c), &[]);
        add("10.2.8.0/24", granted(&c), &["10.2.8.0/24 c"]);
        add("10.2.7.0/24", ungranted(&c), &[]);
        add("10.2.0.0/16", granted(&c), &[]);
        for (address, cluster) in [
            ("10.2.7.1", Some(&b)),
            ("10.2.8.1", Some(&c)),
            ("10.3.0.1", Some(&c)),
            ("11.0.0.1", None),
        ] {
            assert_eq!(
                ranges.of(address.parse().unwrap()),
                cluster.map(|cluster| &**cluster),
                "{address}"
            );
        }
        assert!(ranges.is_of("10.2.7.1".parse().unwrap(), &c));
        let mut deltas = Vec::new();
        // Ours covers all of them.
        ranges.add(net("10.0.0.0/8"), &local(), &mut deltas);
        assert_eq!(
            told(std::mem::take(&mut deltas)),
            ["10.0.0.0/8 a", "10.2.0.0/16 -", "10.2.8.0/24 -"]
        );
        ranges.remove(net("10.0.0.0/8"), &local(), &mut deltas);
        assert_eq!(
            told(std::mem::take(&mut deltas)),
            ["10.0.0.0/8 c", "10.2.0.0/16 b", "10.2.8.0/24 c"]
        );
        ranges.remove(net("10.2.0.0/16"), &granted(&b), &mut deltas);
        assert_eq!(told(std::mem::take(&mut deltas)), ["10.2.0.0/16 c"]);
        ranges.remove(net("10.2.0.0/16"), &granted(&c), &mut deltas);
        assert_eq!(told(std::mem::take(&mut deltas)), ["10.2.7.0/24 c", "10.2.0.0/16 -"]);
    }

    proptest! {
        /// The deltas, added up, say of each address what the ranges say.
        #[test]
        fn deltas_add_up(steps in prop::collection::vec((any::<bool>(), 0u8..3, 0usize..3, 0usize..6), 0..40)) {
            const RANGES: [&str; 6] =
                ["10.0.0.0/8", "10.2.0.0/16", "10.2.3.0/24", "10.2.3.4/32", "10.3.0.0/16", "fd00::/16"];
            let clusters = [name("a"), name("b"), name("c")];
            let (mut ranges, mut sum) = (Ranges::default(), BTreeMap::new());
            let mut list: Vec<(Rank, usize, IpNet)> = Vec::new();
            for (add, rank, cluster, range) in steps {
                let rank = [Rank::Local, Rank::Granted, Rank::Ungranted][usize::from(rank)];
                let owner = (rank, cluster, net(RANGES[range]));
                let known = list.iter().position(|known| *known == owner);
                let mut deltas = Vec::new();
                match (add, known) {
                    (true, _) => {
                        ranges.add(owner.2, &(rank, Arc::clone(&clusters[cluster])), &mut deltas);
                        list.push(owner);
                    }
                    (false, known) => {
                        ranges.remove(owner.2, &(rank, Arc::clone(&clusters[cluster])), &mut deltas);
                        known.map(|at| list.remove(at));
                    }
                }
                for delta in deltas {
                    match delta {
                        RangeDelta::Set { range, cluster } => {
                            prop_assert!(sum.insert(range, cluster.clone()) != Some(cluster));
                        }
                        RangeDelta::Removed { range } => prop_assert!(sum.remove(&range).is_some()),
                    }
                }
                for address in ["10.9.0.1", "10.2.0.1", "10.2.3.1", "10.2.3.4", "10.3.3.4", "fd00::1", "11.0.0.1"] {
                    let address: IpAddr = address.parse().unwrap();
                    let around = list.iter().filter(|(.., range)| range.contains(&address));
                    let best = around.min_by_key(|(rank, cluster, range)| {
                        (*rank, u8::MAX - range.prefix_len(), *cluster)
                    });
                    let expected = best.map(|(_, cluster, _)| &*clusters[*cluster]);
                    prop_assert_eq!(ranges.of(address), expected);
                    let summed = sum.iter().filter(|(range, _)| range.contains(&address));
                    let summed = summed.max_by_key(|(range, _)| range.prefix_len());
                    prop_assert_eq!(summed.map(|(_, cluster)| cluster), expected);
                }
            }
            if list.is_empty() {
                prop_assert!(ranges.all.is_empty() && ranges.lengths.is_empty());
            }
        }
    }
}
