//! Our routes in the kernel, as far as is known.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use ipnet::IpNet;

use super::{NextHop, change::is_over};
use crate::netlink::route::{Hop, RouteEntry};

#[derive(Debug, Default)]
pub(super) struct Mirror {
    by_range: BTreeMap<IpNet, Vec<RouteEntry>>,
    /// How many of them leave by an interface.
    by_interface: HashMap<u32, usize>,
}

/// Whether a report was news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    Known,
    New,
}

// === impl Mirror ===

impl Mirror {
    pub(super) fn new(entries: Vec<RouteEntry>) -> Self {
        let mut mirror = Self::default();
        for entry in entries {
            mirror.add(entry);
        }
        mirror
    }

    pub(super) fn contains(&self, range: &IpNet) -> bool {
        self.by_range.contains_key(range)
    }

    pub(super) fn get(&self, range: &IpNet) -> Vec<RouteEntry> {
        self.by_range.get(range).cloned().unwrap_or_default()
    }

    pub(super) fn set(&mut self, range: IpNet, entries: Vec<RouteEntry>) {
        for entry in self.get(&range) {
            self.remove(&entry);
        }
        for entry in entries {
            self.add(entry);
        }
    }

    /// A route was added.
    pub(super) fn add(&mut self, entry: RouteEntry) -> News {
        let entries = self.by_range.entry(entry.range).or_default();
        if let Some(known) = entries.iter_mut().find(|known| is_same(known, &entry)) {
            // The interface of a route is known from the kernel only.
            if let (Hop::Via { interface: 0, .. }, Hop::Via { interface, .. }) =
                (known.hop, entry.hop)
            {
                known.hop = entry.hop;
                *self.by_interface.entry(interface).or_default() += 1;
            }
            return News::Known;
        }
        if let Some(interface) = interface(&entry) {
            *self.by_interface.entry(interface).or_default() += 1;
        }
        entries.push(entry);
        News::New
    }

    /// A route of ours was made: adds what only the kernel knows of it, if it still is the wanted one.
    pub(super) fn confirm(&mut self, entry: &RouteEntry) -> News {
        let known = self.by_range.get(&entry.range);
        if known.is_some_and(|entries| entries.iter().any(|known| is_same(known, entry))) {
            self.add(entry.clone());
        }
        News::Known
    }

    /// A route is gone.
    pub(super) fn remove(&mut self, entry: &RouteEntry) -> News {
        let Some(entries) = self.by_range.get_mut(&entry.range) else { return News::Known };
        let Some(at) = entries.iter().position(|known| is_same(known, entry)) else {
            return News::Known;
        };
        let gone = entries.remove(at);
        if entries.is_empty() {
            self.by_range.remove(&entry.range);
        }
        if let Some(interface) = interface(&gone)
            && let Some(count) = self.by_interface.get_mut(&interface)
        {
            *count -= 1;
            if *count == 0 {
                self.by_interface.remove(&interface);
            }
        }
        News::New
    }

    /// Another program's route took the place of ours with this metric.
    pub(super) fn remove_metric(&mut self, range: &IpNet, metric: u32) -> News {
        let mut news = News::Known;
        for entry in self.get(range).into_iter().filter(|entry| entry.metric == metric) {
            self.remove(&entry);
            news = News::New;
        }
        news
    }

    /// Whether a route of ours leaves by an interface.
    pub(super) fn leaves_by(&self, interface: u32) -> bool {
        self.by_interface.contains_key(&interface)
    }

    /// The state that a writer compares with the wanted one.
    pub(super) fn next_hops(&self) -> BTreeMap<IpNet, NextHop> {
        self.by_range.iter().map(|(range, entries)| (*range, next_hop(entries))).collect()
    }
}

/// In the form that we make: one route, with our metric, over one neighbour.
fn next_hop(entries: &[RouteEntry]) -> NextHop {
    match entries {
        [entry @ RouteEntry { hop: Hop::Via { via, .. }, .. }] if is_over(entry, *via) => {
            NextHop::Via(*via)
        }
        _ => NextHop::Otherwise,
    }
}

fn interface(entry: &RouteEntry) -> Option<u32> {
    match entry.hop {
        Hop::Via { interface, .. } => (interface != 0).then_some(interface),
        Hop::OnLink | Hop::Other => None,
    }
}

fn via(entry: &RouteEntry) -> Option<IpAddr> {
    match entry.hop {
        Hop::Via { via, .. } => Some(via),
        Hop::OnLink | Hop::Other => None,
    }
}

fn is_same(one: &RouteEntry, other: &RouteEntry) -> bool {
    one.metric == other.metric && via(one) == via(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{METRIC, PROTOCOL, metric};

    fn route(via: &str, interface: u32, metric: u32) -> RouteEntry {
        let hop = Hop::Via { via: via.parse().unwrap(), interface };
        RouteEntry { range: "10.2.1.0/24".parse().unwrap(), metric, protocol: PROTOCOL, hop }
    }

    #[test]
    fn what_we_made_is_known_again_with_its_interface() {
        let mut mirror = Mirror::default();
        let ours = metric("172.31.2.1".parse().unwrap());
        mirror.set("10.2.1.0/24".parse().unwrap(), vec![route("172.31.2.1", 0, ours)]);
        assert!(!mirror.leaves_by(7));
        // The kernel's report of our own request.
        assert_eq!(mirror.add(route("172.31.2.1", 7, ours)), News::Known);
        assert!(mirror.leaves_by(7));
        let hops = mirror.next_hops();
        assert_eq!(hops.values().next(), Some(&NextHop::Via("172.31.2.1".parse().unwrap())));
        // One of an earlier release beside it.
        assert_eq!(mirror.add(route("172.31.2.1", 7, METRIC)), News::New);
        assert_eq!(mirror.next_hops().values().next(), Some(&NextHop::Otherwise));
        assert_eq!(mirror.remove(&route("172.31.2.9", 7, METRIC)), News::Known);
        assert_eq!(mirror.remove(&route("172.31.2.1", 7, METRIC)), News::New);
        assert!(mirror.leaves_by(7));
        assert_eq!(mirror.remove(&route("172.31.2.1", 7, ours)), News::New);
        assert!(!mirror.leaves_by(7) && mirror.next_hops().is_empty());
    }
}
