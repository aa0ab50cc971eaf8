//! The names and addresses in a lab. They all follow from the lab's name and from numbers.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use sha2::{Digest as _, Sha256};

use crate::error::LabError;

/// A lab's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LabName(String);

/// The number of a cluster in the lab, counted from 1. It is also the cluster's ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ClusterNumber(u8);

/// The number of a node in its cluster, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NodeNumber(u8);

/// The folder with the state of all labs.
const STATE_ROOT: &str = "/run/clustermesh-lab";
/// The folder with the pinned tables of all labs.
pub(crate) const PINS_ROOT: &str = "/sys/fs/bpf/clustermesh-lab";
/// The largest number of clusters, and of nodes in a cluster: the address plan has room for no more.
const MAX: usize = 99;

// === impl LabName ===

impl LabName {
    pub(crate) fn new(name: &str) -> Result<Self, LabError> {
        let valid = (1..=12).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if valid { Ok(Self(name.into())) } else { Err(LabError::Name(name.into())) }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The folder with all of the lab's state.
    pub(crate) fn folder(&self) -> PathBuf {
        Path::new(STATE_ROOT).join(&self.0)
    }

    /// The prefix of the names of all its network namespaces.
    pub(crate) fn netns_prefix(&self) -> String {
        format!("cm-{}-", self.0)
    }

    /// The network namespace with the network between the nodes. No cluster has this name.
    pub(crate) fn underlay(&self) -> String {
        format!("cm-{}-underlay", self.0)
    }

    pub(crate) fn node(&self, cluster: &str, node: &str) -> String {
        format!("cm-{}-{cluster}-{node}", self.0)
    }

    pub(crate) fn pod(&self, cluster: &str, node: &str, namespace: &str, pod: &str) -> String {
        let name = format!("cm-{}-{cluster}-{node}-{namespace}.{pod}", self.0);
        // File names are limited to 255 bytes.
        if name.len() <= 200 {
            name
        } else {
            format!("cm-{}-{cluster}-{node}-{}", self.0, hash(&name))
        }
    }

    /// The lab's cgroup below a cgroup2 mount.
    pub(crate) fn cgroup(&self, cgroup2: &Path) -> PathBuf {
        cgroup2.join("clustermesh-lab").join(&self.0)
    }

    /// The folder with the lab's pinned tables.
    pub(crate) fn pins(&self) -> PathBuf {
        Path::new(PINS_ROOT).join(&self.0)
    }

    /// The name of a node's link at the underlay. Interface names are limited to 15 bytes.
    pub(crate) fn link(&self, cluster: &str, node: &str) -> String {
        format!("cm{}", hash(&self.node(cluster, node)))
    }
}

/// Ten hexadecimal digits, a hash of a name.
fn hash(name: &str) -> String {
    Sha256::digest(name).iter().take(5).map(|byte| format!("{byte:02x}")).collect()
}

/// The name of a cluster: a to z, then a1 to z1, and so on.
pub(crate) fn cluster_name(number: ClusterNumber) -> String {
    let index = number.0 - 1;
    let letter = char::from(b'a' + index % 26);
    if index < 26 { letter.into() } else { format!("{letter}{}", index / 26) }
}

pub(crate) fn node_name(number: NodeNumber) -> String {
    format!("n{}", number.0)
}

/// The numbers of clusters, from 1.
pub(crate) fn clusters(count: usize) -> Result<Vec<ClusterNumber>, LabError> {
    numbers(count).map(|numbers| numbers.map(ClusterNumber).collect())
}

/// The numbers of nodes, from 1.
pub(crate) fn nodes(count: usize) -> Result<Vec<NodeNumber>, LabError> {
    numbers(count).map(|numbers| numbers.map(NodeNumber).collect())
}

fn numbers(count: usize) -> Result<std::ops::RangeInclusive<u8>, LabError> {
    match u8::try_from(count) {
        Ok(last) if (1..=MAX).contains(&count) => Ok(1..=last),
        _ => Err(LabError::Size),
    }
}

// === impl ClusterNumber ===

impl ClusterNumber {
    pub(crate) fn get(self) -> u8 {
        self.0
    }

    pub(crate) fn pod_cidrs(self) -> Vec<IpNet> {
        vec![v4([10, self.0, 0, 0], 16), v6([0xfd00, 0x10, self.digits(), 0, 0, 0, 0, 0], 48)]
    }

    pub(crate) fn service_cidrs(self) -> Vec<IpNet> {
        vec![
            v4([10, 100 + self.0, 0, 0], 16),
            v6([0xfd00, 0x100, self.digits(), 0, 0, 0, 0, 0], 112),
        ]
    }

    pub(crate) fn node_cidrs(self) -> Vec<IpNet> {
        vec![v4([172, 31, self.0, 0], 24), v6([0xfd00, 0x172, 0, 0, 0, 0, self.digits(), 0], 112)]
    }

    /// The addresses of a node, IPv4 and IPv6, each with the prefix length of the network that all nodes share.
    pub(crate) fn node_ips(self, node: NodeNumber) -> [(IpAddr, u8); 2] {
        let v6 = Ipv6Addr::new(0xfd00, 0x172, 0, 0, 0, 0, self.digits(), node.digits());
        [(Ipv4Addr::new(172, 31, self.0, node.0).into(), 16), (v6.into(), 64)]
    }

    /// The ranges of a node's pods, IPv4 and IPv6.
    pub(crate) fn node_pod_cidrs(self, node: NodeNumber) -> [IpNet; 2] {
        [
            v4([10, self.0, node.0, 0], 24),
            v6([0xfd00, 0x10, self.digits(), node.digits(), 0, 0, 0, 0], 64),
        ]
    }

    /// The `last`th cluster IPs, IPv4 and IPv6.
    pub(crate) fn service_ips(self, last: u16) -> [IpAddr; 2] {
        let [high, low] = last.to_be_bytes();
        let v6 = Ipv6Addr::new(0xfd00, 0x100, self.digits(), 0, 0, 0, 0, last);
        [Ipv4Addr::new(10, 100 + self.0, high, low).into(), v6.into()]
    }

    /// The number with its decimal digits as hexadecimal ones: cluster 12 has `fd00:10:12::`.
    fn digits(self) -> u16 {
        digits(self.0)
    }
}

impl NodeNumber {
    pub(crate) fn get(self) -> u8 {
        self.0
    }

    fn digits(self) -> u16 {
        digits(self.0)
    }
}

fn digits(number: u8) -> u16 {
    u16::from(number / 10) * 16 + u16::from(number % 10)
}

fn v4([a, b, c, d]: [u8; 4], length: u8) -> IpNet {
    IpNet::new_assert(Ipv4Addr::new(a, b, c, d).into(), length)
}

fn v6([a, b, c, d, e, f, g, h]: [u16; 8], length: u8) -> IpNet {
    IpNet::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h).into(), length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_like_their_numbers() {
        let (cluster, node) = (clusters(12).unwrap()[11], nodes(10).unwrap()[9]);
        let text = |nets: &[IpNet]| nets.iter().map(IpNet::to_string).collect::<Vec<_>>();
        assert_eq!(text(&cluster.pod_cidrs()), ["10.12.0.0/16", "fd00:10:12::/48"]);
        assert_eq!(text(&cluster.service_cidrs()), ["10.112.0.0/16", "fd00:100:12::/112"]);
        assert_eq!(text(&cluster.node_cidrs()), ["172.31.12.0/24", "fd00:172::12:0/112"]);
        assert_eq!(text(&cluster.node_pod_cidrs(node)), ["10.12.10.0/24", "fd00:10:12:10::/64"]);
        assert_eq!(
            cluster.node_ips(node).map(|(ip, _)| ip.to_string()),
            ["172.31.12.10", "fd00:172::12:10"]
        );
        assert_eq!(
            cluster.service_ips(300).map(|ip| ip.to_string()),
            ["10.112.1.44", "fd00:100:12::12c"]
        );
    }

    #[test]
    fn names() {
        let lab = LabName::new("default").unwrap();
        assert_eq!(lab.node("a", "n1"), "cm-default-a-n1");
        assert_eq!(lab.link("a", "n1").len(), 12);
        assert_ne!(lab.link("a", "n1"), lab.link("a", "n2"));
        for bad in ["", "A", "a-b", "a/b", "averylongname1"] {
            assert!(LabName::new(bad).is_err(), "{bad}");
        }
        let all: std::collections::BTreeSet<_> =
            clusters(99).unwrap().into_iter().map(cluster_name).collect();
        assert_eq!(all.len(), 99);
        assert!(clusters(0).is_err() && clusters(100).is_err());
    }
}
