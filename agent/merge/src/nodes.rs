//! A cluster's nodes, and which of them has an address.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use mesh_model::{
    AddressKind, ClusterId, ClusterName, Node, NodeAddress, Record,
    node::{FamilyPair, ZONE_LABEL},
};

use crate::{
    accounting::{leaf, list, text},
    address_table, ranges,
};

/// The nodes by name, each with the round it was reported in.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    all: BTreeMap<Arc<str>, (NodeEntry, u32)>,
    /// Their internal addresses as single ones, and their pod ranges. Two nodes may claim one; the first by name has it.
    ranges: BTreeSet<(IpNet, Option<Arc<str>>)>,
    /// How many ranges there are of each family (IPv4: true) and length.
    lengths: BTreeMap<(bool, u8), usize>,
}

/// The entry of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeEntry {
    pub(crate) internal_ips: Vec<IpAddr>,
    pub(crate) pod_cidrs: Vec<IpNet>,
    /// The zone in its label.
    pub(crate) zone: Option<Box<str>>,
}

// === impl Nodes ===

impl Nodes {
    pub(crate) fn get(&self, name: &str) -> Option<&NodeEntry> {
        self.all.get(name).map(|(entry, _)| entry)
    }

    /// A node and the round in which it was reported.
    pub(crate) fn round_mut(&mut self, name: &str) -> Option<(&NodeEntry, &mut u32)> {
        self.all.get_mut(name).map(|(entry, round)| (&*entry, round))
    }

    /// Replaces a node; returns what it was before.
    pub(crate) fn set(
        &mut self,
        name: &str,
        entry: Option<(NodeEntry, u32)>,
    ) -> Option<(NodeEntry, u32)> {
        let known = self.all.get_key_value(name).map(|(known, _)| Arc::clone(known));
        let name = known.unwrap_or_else(|| name.into());
        let before = self.all.remove(&name);
        for range in before.iter().flat_map(|(entry, _)| entry.ranges()) {
            if self.ranges.remove(&(range, Some(Arc::clone(&name)))) {
                let length = length(&range);
                match self.lengths.get_mut(&length) {
                    Some(count) if *count > 1 => *count -= 1,
                    _ => drop(self.lengths.remove(&length)),
                }
            }
        }
        if let Some((entry, round)) = entry {
            for range in entry.ranges() {
                if self.ranges.insert((range, Some(Arc::clone(&name)))) {
                    *self.lengths.entry(length(&range)).or_default() += 1;
                }
            }
            self.all.insert(name, (entry, round));
        }
        before
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// All of them, by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &NodeEntry, u32)> {
        self.all.iter().map(|(name, (entry, round))| (name.as_ref(), entry, *round))
    }

    /// The node that has an address, itself or in its pod ranges. The longest range counts.
    pub(crate) fn having(&self, address: IpAddr) -> Option<&Arc<str>> {
        let lengths = self.lengths.keys().rev();
        let mut lengths = lengths.filter(|(v4, _)| *v4 == address.is_ipv4());
        lengths.find_map(|(_, length)| {
            let range = IpNet::new(address, *length).ok()?.trunc();
            self.with_range(range).next()
        })
    }

    /// The round of the node that has an address itself, the first by name.
    pub(crate) fn round_of(&self, address: IpAddr) -> Option<u32> {
        let mut nodes = self.with_range(address.into()).filter_map(|name| self.all.get(name));
        let (_, round) = nodes.find(|(entry, _)| entry.internal_ips.contains(&address))?;
        Some(*round)
    }

    /// The nodes that have a range, in order.
    fn with_range(&self, range: IpNet) -> impl Iterator<Item = &Arc<str>> {
        let from = self.ranges.range((range, None)..);
        from.take_while(move |(found, _)| *found == range).filter_map(|(_, name)| name.as_ref())
    }
}

fn length(range: &IpNet) -> (bool, u8) {
    (range.addr().is_ipv4(), range.prefix_len())
}

// === impl NodeEntry ===

impl NodeEntry {
    pub(crate) fn new(node: &Node) -> Self {
        let internal = node.addresses.iter().filter(|a| a.kind == AddressKind::Internal);
        let zone = node.labels.get(ZONE_LABEL).filter(|zone| !zone.is_empty());
        Self {
            internal_ips: internal.map(|a| a.ip).collect(),
            pod_cidrs: node.pod_cidrs.clone(),
            zone: zone.map(|zone| zone.as_str().into()),
        }
    }

    /// Its bytes in all tables, by its name.
    pub(crate) fn bytes(&self, name: &str) -> u64 {
        let ranges = self.internal_ips.len() + self.pod_cidrs.len();
        let zone = self.zone.as_deref().map_or(0, text);
        let table = leaf::<(Arc<str>, (Self, u32))>() + text(name) + zone;
        let claims = self.internal_ips.iter().map(|ip| address_table::bytes(*ip)).sum::<u64>();
        let pods = ranges::BYTES * u64::try_from(self.pod_cidrs.len()).unwrap_or(u64::MAX);
        table
            + claims
            + pods
            + list::<IpAddr>(self.internal_ips.len())
            + list::<IpNet>(self.pod_cidrs.len())
            + leaf::<(IpNet, Option<Arc<str>>)>() * u64::try_from(ranges).unwrap_or(u64::MAX)
    }

    /// The node's entry, as a record.
    pub(crate) fn record(&self, name: &str, cluster: &ClusterName, id: ClusterId) -> Record {
        let internal = |ip: &IpAddr| NodeAddress { kind: AddressKind::Internal, ip: *ip };
        Record::Node(Box::new(Node {
            name: name.into(),
            cluster: cluster.clone(),
            cluster_id: id,
            addresses: self.internal_ips.iter().map(internal).collect(),
            pod_cidrs: self.pod_cidrs.clone(),
            health_ips: FamilyPair::default(),
            ingress_ips: FamilyPair::default(),
            source: String::new(),
            encryption_key: 0,
            labels: self.zone.iter().map(|zone| (ZONE_LABEL.into(), zone.to_string())).collect(),
            annotations: BTreeMap::new(),
            wireguard_public_key: String::new(),
            boot_id: String::new(),
        }))
    }

    /// Its pod ranges, each with the address that leads there.
    pub(crate) fn routes(&self) -> impl Iterator<Item = (IpNet, IpAddr)> {
        self.pod_cidrs.iter().filter_map(|range| {
            let via = self.internal_ips.iter().find(|ip| ip.is_ipv4() == range.addr().is_ipv4())?;
            Some((*range, *via))
        })
    }

    /// Where addresses are its: its own and its pods'.
    fn ranges(&self) -> impl Iterator<Item = IpNet> {
        let pods = self.pod_cidrs.iter().map(IpNet::trunc);
        self.internal_ips.iter().copied().map(IpNet::from).chain(pods)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(ip: &str, ranges: &[&str]) -> Option<(NodeEntry, u32)> {
        let pod_cidrs = ranges.iter().map(|range| range.parse().unwrap()).collect();
        Some((NodeEntry { internal_ips: vec![ip.parse().unwrap()], pod_cidrs, zone: None }, 1))
    }

    fn having<'a>(nodes: &'a Nodes, address: &str) -> Option<&'a str> {
        nodes.having(address.parse().unwrap()).map(AsRef::as_ref)
    }

    #[test]
    fn an_address_is_the_nodes_whose_range_is_the_longest() {
        let mut nodes = Nodes::default();
        nodes.set("n1", entry("172.31.2.1", &["10.2.0.0/16", "fd00:10:2::/64"]));
        nodes.set("n2", entry("172.31.2.2", &["10.2.7.0/24"]));
        for (address, node) in [
            ("172.31.2.1", Some("n1")),
            ("172.31.2.3", None),
            ("10.2.1.1", Some("n1")),
            ("10.2.7.1", Some("n2")),
            ("fd00:10:2::9", Some("n1")),
            ("fd00:10:2:1::9", None),
        ] {
            assert_eq!(having(&nodes, address), node, "{address}");
        }
        // Another claims the same: the first by name has it, and the other when that is gone.
        nodes.set("n0", entry("172.31.2.9", &["10.2.7.0/24"]));
        assert_eq!(having(&nodes, "10.2.7.1"), Some("n0"));
        nodes.set("n0", entry("172.31.2.9", &["10.2.8.0/24"]));
        assert_eq!(having(&nodes, "10.2.7.1"), Some("n2"));
        nodes.set("n2", None);
        assert_eq!(having(&nodes, "10.2.7.1"), Some("n1"));
        nodes.set("n1", None);
        nodes.set("n0", None);
        assert_eq!((having(&nodes, "10.2.7.1"), nodes.len()), (None, 0));
        assert!(nodes.ranges.is_empty() && nodes.lengths.is_empty());
    }
}
