//! Nodes as clusters export them to each other.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

use crate::cluster::{ClusterId, ClusterName};

/// The label of a node that names its zone.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// What a node address is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressKind {
    /// Reachable from the other nodes: where routes and tunnels end.
    Internal,
    /// Reachable from outside.
    External,
    /// The address of Cilium's own host interface.
    CiliumInternal,
}

/// One address of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeAddress {
    /// What it is for.
    pub kind: AddressKind,
    /// The address.
    pub ip: IpAddr,
}

/// A node record (`cilium/state/nodes/v1/<cluster>/<name>`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Unique in its cluster.
    pub name: String,
    /// The cluster it says it belongs to.
    pub cluster: ClusterName,
    /// That cluster's ID.
    pub cluster_id: ClusterId,
    /// In the writer's order: the first `Internal` of a family is the one to route to.
    pub addresses: Vec<NodeAddress>,
    /// Pod ranges, v4 and v6 mixed; the first of each family is the primary one.
    pub pod_cidrs: Vec<IpNet>,
    /// Where the node answers health probes, by family.
    pub health_ips: FamilyPair,
    /// Where the node's ingress listens, by family.
    pub ingress_ips: FamilyPair,
    /// Which of its objects the writer made the record from, `custom-resource` for Kubernetes.
    pub source: String,
    /// IPsec key index; 0 is plain text.
    pub encryption_key: u8,
    /// Kubernetes labels.
    pub labels: BTreeMap<String, String>,
    /// Kubernetes annotations.
    pub annotations: BTreeMap<String, String>,
    /// Public key of the node's WireGuard device, or empty.
    pub wireguard_public_key: String,
    /// Changes with each boot, or empty.
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
    /// The address other nodes send to, in the family of `like`.
    pub fn internal_ip(&self, like: IpAddr) -> Option<IpAddr> {
        self.addresses
            .iter()
            .find(|a| a.kind == AddressKind::Internal && a.ip.is_ipv4() == like.is_ipv4())
            .map(|a| a.ip)
    }
}
