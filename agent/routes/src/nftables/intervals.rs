//! The elements of a set of intervals.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

use crate::prefix_set::next;

/// Disjoint intervals by their first address; each with its last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Intervals(BTreeMap<IpAddr, IpAddr>);

/// An interval: its first address and its last.
pub(crate) type Interval = (IpAddr, IpAddr);

// === impl Intervals ===

impl Intervals {
    /// From elements as the kernel lists them: each the begin of an interval, or the first address after one.
    pub(crate) fn from_elements(mut elements: Vec<(IpAddr, bool)>) -> Self {
        // An end before the begin at the same address: it belongs to the interval before.
        elements.sort_by_key(|(address, is_end)| (*address, !is_end));
        let (mut intervals, mut open) = (BTreeMap::new(), None);
        for (address, is_end) in elements {
            let before = open.take();
            if let Some(first) = before {
                intervals.insert(first, previous(address).unwrap_or(address));
            }
            if !is_end {
                open = Some(address);
            }
        }
        if let Some(first) = open {
            intervals.insert(first, last_of_family(first));
        }
        Self(intervals)
    }

    pub(crate) fn has(&self, range: &IpNet) -> bool {
        self.0.get(&range.network()) == Some(&range.broadcast())
    }

    pub(crate) fn insert(&mut self, (first, last): Interval) {
        self.0.insert(first, last);
    }

    pub(crate) fn remove(&mut self, (first, _): &Interval) {
        self.0.remove(first);
    }

    /// Those that have an address in common with a range.
    pub(crate) fn overlapping(&self, range: &IpNet) -> Vec<Interval> {
        let (from, to) = (range.network(), range.broadcast());
        // They are disjoint: of those that begin before it only the last can reach into it.
        let before = self.0.range(..from).next_back().filter(|(_, last)| **last >= from);
        before.into_iter().chain(self.0.range(from..=to)).map(|(f, l)| (*f, *l)).collect()
    }

    /// Those that are a range in the form that we write.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = IpNet> {
        self.0.iter().filter_map(|(first, last)| range(*first, *last))
    }
}

/// The range that begins and ends there, if there is one.
fn range(first: IpAddr, last: IpAddr) -> Option<IpNet> {
    let bits = match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            (u32::from(first) ^ u32::from(last)).leading_zeros()
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            (u128::from(first) ^ u128::from(last)).leading_zeros()
        }
        _ => return None,
    };
    let range = IpNet::new(first, u8::try_from(bits).ok()?).ok()?;
    (range.network() == first && range.broadcast() == last).then_some(range)
}

/// The elements of an interval: its begin, and the first address after it if there is one.
pub(crate) fn elements((first, last): Interval) -> (IpAddr, Option<IpAddr>) {
    (first, next(last))
}

fn previous(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => u32::from(v4).checked_sub(1).map(|v4| IpAddr::V4(v4.into())),
        IpAddr::V6(v6) => u128::from(v6).checked_sub(1).map(|v6| IpAddr::V6(v6.into())),
    }
}

fn last_of_family(address: IpAddr) -> IpAddr {
    if address.is_ipv4() { IpAddr::from([255; 4]) } else { IpAddr::from([255_u8; 16]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn elements_in_any_order_are_intervals() {
        // As the kernel has 10.2.0.0/24, 10.2.1.0/24 and 240.0.0.0/4, with the empty begin that nft adds.
        let elements = [
            ("240.0.0.0", false),
            ("10.2.2.0", true),
            ("10.2.1.0", false),
            ("10.2.1.0", true),
            ("10.2.0.0", false),
            ("0.0.0.0", true),
        ];
        let intervals =
            Intervals::from_elements(elements.map(|(text, end)| (ip(text), end)).to_vec());
        let ranges: Vec<String> = intervals.ranges().map(|range| range.to_string()).collect();
        assert_eq!(ranges, ["10.2.0.0/24", "10.2.1.0/24", "240.0.0.0/4"]);
        let overlapping = |range: &str| intervals.overlapping(&range.parse().unwrap()).len();
        assert_eq!(overlapping("10.0.0.0/8"), 2);
        assert_eq!(overlapping("10.2.1.7/32"), 1);
        assert_eq!(overlapping("10.2.2.0/24"), 0);
        assert_eq!(overlapping("255.255.255.255/32"), 1);
        assert!(intervals.has(&"10.2.1.0/24".parse().unwrap()));
        assert!(!intervals.has(&"10.2.0.0/23".parse().unwrap()));
    }

    #[test]
    fn what_is_no_range_of_ours_is_none_and_in_the_way() {
        let elements = vec![(ip("fd00::1"), false), (ip("fd00::4"), true), (ip("::"), true)];
        let intervals = Intervals::from_elements(elements);
        assert_eq!(intervals.ranges().count(), 0);
        let found = intervals.overlapping(&"fd00::/64".parse().unwrap());
        assert_eq!(found, [(ip("fd00::1"), ip("fd00::3"))]);
        let all = Intervals::from_elements(vec![(ip("::"), false)]);
        assert_eq!(all.ranges().map(|range| range.to_string()).collect::<Vec<_>>(), ["::/0"]);
        assert_eq!(elements_of("::/0"), (ip("::"), None));
        assert_eq!(elements_of("10.2.0.0/24"), (ip("10.2.0.0"), Some(ip("10.2.1.0"))));
    }

    fn elements_of(range: &str) -> (IpAddr, Option<IpAddr>) {
        let range: IpNet = range.parse().unwrap();
        elements((range.network(), range.broadcast()))
    }
}
