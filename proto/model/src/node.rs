//! Nodes as clusters export them to each other.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

use crate::cluster::{ClusterId, ClusterName};

/// The label of a node that names its zone.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// The purpose of a node's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressKind {
    /// Reachable from other nodes: the end of routes and tunnels.
    Internal,
    /// Reachable from outside the cluster.
    External,
    /// The address of Cilium's own host interface.
    CiliumInternal,
}

/// One address of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeAddress {
    /// Its purpose.
    pub kind: AddressKind,
    /// The address.
    pub ip: IpAddr,
}

/// A node record (`cilium/state/nodes/v1/<cluster>/<name>`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Unique in its cluster.
    pub name: String,
    /// Its cluster, as the record names it.
    pub cluster: ClusterName,
    /// That cluster's ID.
    pub cluster_id: ClusterId,
    /// In the writer's order. Routes use the first `Internal` address of a family.
    pub addresses: Vec<NodeAddress>,
    /// The ranges of its pods, of both families. The first of each family is the primary one.
    pub pod_cidrs: Vec<IpNet>,
    /// The addresses at which Cilium's health endpoint answers.
    pub health_ips: FamilyPair,
    /// The addresses at which the node's ingress listens.
    pub ingress_ips: FamilyPair,
    /// The kind of source that the writer had; `custom-resource` for Kubernetes.
    pub source: String,
    /// The IPsec key index; 0: not encrypted.
    pub encryption_key: u8,
    /// The Node's labels.
    pub labels: BTreeMap<String, String>,
    /// The Node's annotations.
    pub annotations: BTreeMap<String, String>,
    /// The public key of its WireGuard device, or empty.
    pub wireguard_public_key: String,
    /// An ID that changes with each boot, or empty.
    pub boot_id: String,
}

/// At most one address of each family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FamilyPair {
    /// The IPv4 address.
    pub v4: Option<IpAddr>,
    /// The IPv6 address.
    pub v6: Option<IpAddr>,
}

// === impl Node ===

impl Node {
    /// The address to which other nodes send, of the same family as `like`.
    pub fn internal_ip(&self, like: IpAddr) -> Option<IpAddr> {
        self.addresses
            .iter()
            .find(|a| a.kind == AddressKind::Internal && a.ip.is_ipv4() == like.is_ipv4())
            .map(|a| a.ip)
    }
}
