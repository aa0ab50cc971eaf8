//! A set of address ranges, some of which may be inside others.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    ops::Bound::{Included, Unbounded},
};

use ipnet::IpNet;

/// Ranges, each with a value. Its outermost ranges are those that are in no other: together they cover the same addresses.
#[derive(Debug)]
pub(crate) struct PrefixSet<V> {
    ranges: BTreeMap<IpNet, V>,
}

// === impl PrefixSet ===

impl<V> Default for PrefixSet<V> {
    fn default() -> Self {
        Self { ranges: BTreeMap::new() }
    }
}

impl<V> PrefixSet<V> {
    pub(crate) fn insert(&mut self, range: IpNet, value: V) {
        self.ranges.insert(range, value);
    }

    pub(crate) fn remove(&mut self, range: &IpNet) {
        self.ranges.remove(range);
    }

    pub(crate) fn get(&self, range: &IpNet) -> Option<&V> {
        self.ranges.get(range)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&IpNet, &V)> {
        self.ranges.iter()
    }

    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&IpNet, &V) -> bool) {
        self.ranges.retain(|range, value| keep(range, value));
    }

    /// The outermost range that contains this one, which may be itself. Costs a look-up for each length.
    pub(crate) fn outermost(&self, range: &IpNet) -> Option<IpNet> {
        (0..=range.prefix_len()).find_map(|length| {
            let outer = IpNet::new(range.network(), length).ok()?.trunc();
            self.ranges.contains_key(&outer).then_some(outer)
        })
    }

    /// The outermost of the ranges inside this one, in their order. Costs a look-up for each that it finds.
    pub(crate) fn outermost_in(&self, within: IpNet) -> impl Iterator<Item = IpNet> {
        // Ranges are ordered by address, and then the shorter prefix first.
        let mut from = Some(within);
        std::iter::from_fn(move || {
            let (found, _) = self.ranges.range((Included(from?), Unbounded)).next()?;
            if !within.contains(found) {
                return None;
            }
            from = next(found.broadcast()).and_then(|address| IpNet::new(address, 0).ok());
            Some(*found)
        })
    }
}

/// The address after this one.
pub(crate) fn next(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => u32::from(v4).checked_add(1).map(|v4| IpAddr::V4(v4.into())),
        IpAddr::V6(v6) => u128::from(v6).checked_add(1).map(|v6| IpAddr::V6(v6.into())),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Small ranges of both families, so that many are inside others.
    fn range() -> impl Strategy<Value = IpNet> {
        let v4 = (0..16_u32, 26..=32_u8).prop_map(|(last, length)| {
            IpNet::new(IpAddr::V4((0xffff_fff0 + last).into()), length).unwrap().trunc()
        });
        let v6 = (0..16_u128, 122..=128_u8).prop_map(|(last, length)| {
            IpNet::new(IpAddr::V6((u128::MAX - 15 + last).into()), length).unwrap().trunc()
        });
        prop_oneof![3 => v4, 2 => v6, 1 => Just("0.0.0.0/0".parse().unwrap())]
    }

    proptest! {
        #[test]
        fn outermost_ranges_are_those_in_no_other(
            ops in prop::collection::vec((range(), any::<bool>()), 1..60), asked in range(),
        ) {
            let mut set = PrefixSet::default();
            let mut model: BTreeSet<IpNet> = BTreeSet::new();
            for (range, insert) in ops {
                if insert {
                    set.insert(range, ());
                    model.insert(range);
                } else {
                    set.remove(&range);
                    model.remove(&range);
                }
            }
            // A walk over all of them, as one would do it by hand.
            let outermost = |range: &&IpNet| !model.iter().any(|o| o != *range && o.contains(*range));
            let all: Vec<IpNet> = model.iter().filter(outermost).copied().collect();
            let all_of = |family: &str| set.outermost_in(family.parse().unwrap());
            let found: Vec<IpNet> = all_of("0.0.0.0/0").chain(all_of("::/0")).collect();
            prop_assert_eq!(&found, &all);
            let covers = all.iter().find(|range| range.contains(&asked)).copied();
            prop_assert_eq!(set.outermost(&asked), covers);
            let inside: BTreeSet<&IpNet> = model.iter().filter(|range| asked.contains(*range)).collect();
            let first = |range: &&&IpNet| !inside.iter().any(|o| o != *range && o.contains(**range));
            let inside: Vec<IpNet> = inside.iter().filter(first).map(|range| **range).collect();
            prop_assert_eq!(set.outermost_in(asked).collect::<Vec<IpNet>>(), inside);
        }
    }
}
