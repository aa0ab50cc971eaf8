//! What a cluster may report: its own pods and nodes, and nothing of any other cluster's.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;
use mesh_model::{ClusterId, ClusterName, Identity, Record, RecordKey, ServiceName, SliceEndpoint};

use crate::{nodes::NodeEntry, ranges::Rank};

/// What a peer may claim, as `connect` wrote it down. It does not depend on any other peer's reports, so no false
/// report displaces an honest one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// Its ID, if that is known. No other cluster gets it.
    pub id: Option<ClusterId>,
    /// Where its pods may be.
    pub pod_cidrs: Vec<IpNet>,
    /// Where its nodes may be.
    pub node_cidrs: Vec<IpNet>,
    /// Whether its services may lead to addresses that are neither.
    pub external_backends: bool,
}

/// The local cluster's ranges, which no other cluster may claim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalRanges {
    /// Where our pods are.
    pub pod_cidrs: Vec<IpNet>,
    /// Where our nodes are.
    pub node_cidrs: Vec<IpNet>,
    /// Where our services are.
    pub service_cidrs: Vec<IpNet>,
}

/// Why a record is refused. The cluster's record before it stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {net} is {reason}")]
pub struct Refused {
    /// The record.
    pub what: String,
    /// The address or range that it should not have.
    pub net: IpNet,
    /// Why not.
    pub reason: &'static str,
}

/// A record that is not taken, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{refused}")]
pub struct RefusedRecord {
    /// The record.
    pub key: RecordKey,
    /// Why.
    pub refused: Refused,
}

/// A peer whose file does not grant ranges of pods: the peer itself could claim any address, so no route follows from
/// it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingGrant {
    /// The peer.
    pub cluster: ClusterName,
    /// The pod ranges that its nodes name, joined; the first of them.
    pub pods: Vec<IpNet>,
    /// The addresses that its nodes name, likewise.
    pub nodes: Vec<IpNet>,
    /// How many there are besides.
    pub more: usize,
}

/// Ranges that a message shows.
const SHOWN: usize = 8;

/// How a cluster's records are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Validator {
    /// The local cluster: it may report anything about itself.
    Local,
    /// A peer with a grant.
    Granted {
        /// What it may claim.
        claims: Claims,
        /// Ranges that it may not claim, whatever the grant contains.
        ours: Vec<IpNet>,
    },
    /// A peer whose file has no grant, like those that Cilium's tools write: it may claim all that is not ours, not
    /// granted to another, and an address that a pod or node can have.
    Ungranted {
        /// Ours, and other peers' grants.
        taken: Vec<IpNet>,
    },
}

impl LocalRanges {
    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = &IpNet> {
        self.pod_cidrs.iter().chain(&self.node_cidrs).chain(&self.service_cidrs)
    }
}

// === impl MissingGrant ===

impl MissingGrant {
    fn new(cluster: &ClusterName, pods: &[IpNet], nodes: &[IpNet]) -> Self {
        let (mut pods, mut nodes) = (aggregate(pods), aggregate(nodes));
        let more = pods.len().saturating_sub(SHOWN) + nodes.len().saturating_sub(SHOWN);
        pods.truncate(SHOWN);
        nodes.truncate(SHOWN);
        Self { cluster: cluster.clone(), pods, nodes, more }
    }
}

impl fmt::Display for MissingGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster, pods, nodes, more } = self;
        let list = |ranges: &[IpNet]| {
            let texts: Vec<String> = ranges.iter().map(|range| format!("\"{range}\"")).collect();
            texts.join(", ")
        };
        write!(
            f,
            "{cluster}: no routes to its pods: its peer file lacks `podCIDRs`, which says where they may be."
        )?;
        if pods.is_empty() {
            return write!(f, " Add `clustermesh: {{podCIDRs: […], nodeCIDRs: […]}}`");
        }
        let (pods, nodes) = (list(pods), list(nodes));
        let line = format!("clustermesh: {{podCIDRs: [{pods}], nodeCIDRs: [{nodes}]}}");
        let besides = if *more > 0 { format!(", and {more} more") } else { String::new() };
        write!(f, " Its nodes have these{besides}: if that is right, add `{line}`")
    }
}

// === impl Validator ===

impl Validator {
    /// Whether routes follow from its nodes: only where its peer file grants ranges of pods.
    pub(crate) fn has_routes(&self) -> bool {
        match self {
            Self::Local => true,
            Self::Granted { claims, .. } => !claims.pod_cidrs.is_empty(),
            Self::Ungranted { .. } => false,
        }
    }

    /// Whose claims of addresses count before whose.
    pub(crate) fn rank(&self) -> Rank {
        match self {
            Self::Local => Rank::Local,
            Self::Granted { .. } => Rank::Granted,
            Self::Ungranted { .. } => Rank::Ungranted,
        }
    }

    /// What its peer file lacks, if anything: with the pod ranges and addresses that its nodes name.
    pub(crate) fn missing_grant(
        &self,
        cluster: &ClusterName,
        pods: &[IpNet],
        nodes: &[IpNet],
    ) -> Option<MissingGrant> {
        (!self.has_routes()).then(|| MissingGrant::new(cluster, pods, nodes))
    }

    /// Checks every address in a record.
    pub(crate) fn check(&self, record: &Record) -> Result<(), Refused> {
        match record {
            Record::Node(node) => self.check_node(&node.name, &NodeEntry::new(node)),
            Record::Address(address) => self.check_address(address.net),
            Record::Service(service) => {
                self.check_service(&service.name, service.backends.keys().copied())
            }
            // Nothing of it is used.
            Record::EndpointSlice(slice) if slice.is_copy() => Ok(()),
            Record::EndpointSlice(slice) | Record::LocalEndpointSlice(slice) => self.check_slice(
                &ServiceName::new(&slice.namespace, &slice.name),
                slice.endpoints.iter().flat_map(SliceEndpoint::ips),
            ),
            // The wire takes the local kinds from the local cluster only.
            Record::Identity(..)
            | Record::Namespace(_)
            | Record::Pod(_)
            | Record::LocalService(_)
            | Record::Policy(_) => Ok(()),
        }
    }

    /// Only where the node can be reached from here: its other addresses mean nothing to us.
    pub(crate) fn check_node(&self, name: &str, node: &NodeEntry) -> Result<(), Refused> {
        let what = || format!("node {name}");
        let mut ips = node.internal_ips.iter();
        ips.try_for_each(|ip| self.node(what, IpNet::from(*ip)))?;
        node.pod_cidrs.iter().try_for_each(|net| self.pods(what, *net))
    }

    /// A pod's address, or a node's.
    pub(crate) fn check_address(&self, net: IpNet) -> Result<(), Refused> {
        let what = || format!("address {net}");
        self.pods(what, net).or_else(|refused| self.node(what, net).map_err(|_| refused))
    }

    /// The identity that an address may have: reserved identities have another meaning there than here. A host is a
    /// remote node where the grant has nodes, and everything else is unknown. Of the local cluster those are believed that
    /// an address can have.
    pub(crate) fn identity(&self, net: IpNet, identity: Identity) -> Identity {
        match self {
            _ if !identity.is_reserved() => identity,
            // Which of them is this one, its own addresses say.
            Self::Local if identity == Identity::HOST => Identity::REMOTE_NODE,
            Self::Local if Identity::OF_RECORDS.contains(&identity) => identity,
            Self::Granted { claims, .. }
                if [Identity::HOST, Identity::REMOTE_NODE].contains(&identity)
                    && claims.node_cidrs.iter().any(|range| range.contains(&net)) =>
            {
                Identity::REMOTE_NODE
            }
            Self::Local | Self::Granted { .. } | Self::Ungranted { .. } => Identity::UNKNOWN,
        }
    }

    pub(crate) fn check_service(
        &self,
        service: &ServiceName,
        backends: impl IntoIterator<Item = IpAddr>,
    ) -> Result<(), Refused> {
        self.check_backends(|| format!("service {service}"), backends)
    }

    pub(crate) fn check_slice(
        &self,
        slice: &ServiceName,
        backends: impl IntoIterator<Item = IpAddr>,
    ) -> Result<(), Refused> {
        self.check_backends(|| format!("endpoint slice {slice}"), backends)
    }

    /// Pods, nodes, and addresses that are neither where the grant allows them. Any other backend refuses the whole
    /// record.
    fn check_backends(
        &self,
        what: impl Fn() -> String + Copy,
        backends: impl IntoIterator<Item = IpAddr>,
    ) -> Result<(), Refused> {
        for net in backends.into_iter().map(IpNet::from) {
            let Err(refused) = self.pods(what, net) else { continue };
            let external = match self {
                Self::Granted { claims, ours } => {
                    claims.external_backends
                        && !is_special(net)
                        && !ours.iter().any(|range| overlap(range, &net))
                }
                Self::Local | Self::Ungranted { .. } => false,
            };
            if !external && self.node(what, net).is_err() {
                let reason = match refused.reason {
                    OUTSIDE_PODS => OUTSIDE_THE_MESH,
                    other => other,
                };
                return Err(Refused { reason, ..refused });
            }
        }
        Ok(())
    }

    fn pods(&self, what: impl Fn() -> String, net: IpNet) -> Result<(), Refused> {
        self.within(what, net, |claims| &claims.pod_cidrs, OUTSIDE_PODS)
    }

    fn node(&self, what: impl Fn() -> String, net: IpNet) -> Result<(), Refused> {
        self.within(
            what,
            net,
            |claims| &claims.node_cidrs,
            "outside the node ranges that this cluster may claim",
        )
    }

    fn within(
        &self,
        what: impl Fn() -> String,
        net: IpNet,
        ranges: impl Fn(&Claims) -> &Vec<IpNet>,
        outside: &'static str,
    ) -> Result<(), Refused> {
        let refused = |reason| Err(Refused { what: what(), net, reason });
        if is_special(net) {
            return refused("no address that a pod or node can have");
        }
        let taken = |ranges: &[IpNet]| ranges.iter().any(|range| overlap(range, &net));
        match self {
            Self::Local => Ok(()),
            Self::Granted { ours, .. } if taken(ours) => refused("ours"),
            Self::Granted { claims, .. }
                if ranges(claims).iter().any(|range| range.contains(&net)) =>
            {
                Ok(())
            }
            Self::Granted { .. } => refused(outside),
            Self::Ungranted { taken: others } if taken(others) => {
                refused("ours, or another cluster's by its grant")
            }
            Self::Ungranted { .. } => Ok(()),
        }
    }
}

const OUTSIDE_PODS: &str = "outside the pod ranges that this cluster may claim";
/// The same of a backend, which an operator may allow to be anywhere.
const OUTSIDE_THE_MESH: &str = "outside the pod ranges that this cluster may claim: if it is a backend outside the mesh, \
                                write `externalBackends: true` below `clustermesh` in the peer's file";

/// The same addresses in as few ranges as there can be.
fn aggregate(ranges: &[IpNet]) -> Vec<IpNet> {
    IpNet::aggregate(&ranges.to_vec())
}

/// Whether two ranges have an address in common.
pub(crate) fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}

/// Ranges that no pod and no node outside this machine has: a route to them would take something from the machine
/// itself.
fn is_special(net: IpNet) -> bool {
    if net.prefix_len() == 0 {
        return true;
    }
    match net.addr() {
        IpAddr::V4(ip) => {
            ip.is_loopback()
                || ip.is_link_local()
                || ip.is_multicast()
                || ip.is_broadcast()
                || ip.octets()[0] == 0
        }
        IpAddr::V6(ip) => {
            ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_multicast()
                || ip.is_unicast_link_local()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mesh_model::{
        AddressKind, ClusterId, ClusterName, EndpointAddress, GlobalService, Node, NodeAddress,
        node::FamilyPair,
    };

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn granted(external_backends: bool) -> Validator {
        let pod_cidrs = vec![net("10.2.0.0/16"), net("fd00:10:2::/48")];
        let claims = Claims {
            id: None,
            pod_cidrs,
            node_cidrs: vec![net("172.31.2.0/24")],
            external_backends,
        };
        Validator::Granted { claims, ours: vec![net("10.1.0.0/16"), net("172.31.1.0/24")] }
    }

    fn ungranted() -> Validator {
        Validator::Ungranted { taken: vec![net("10.1.0.0/16"), net("172.31.1.0/24")] }
    }

    fn address(ip: &str, identity: u32) -> Record {
        Record::Address(Box::new(EndpointAddress {
            net: net(ip),
            host: None,
            identity: Identity::new(identity),
            encryption_key: 0,
            metadata: String::new(),
            namespace: String::new(),
            pod: String::new(),
            service_account: String::new(),
            named_ports: Vec::new(),
        }))
    }

    fn service(backend: &str) -> Record {
        Record::Service(Box::new(GlobalService {
            cluster: ClusterName::new("b").unwrap(),
            cluster_id: ClusterId::NONE,
            name: ServiceName::new("shop", "web"),
            frontends: BTreeMap::new(),
            backends: BTreeMap::from([(backend.parse().unwrap(), BTreeMap::new())]),
            hostnames: BTreeMap::new(),
            zones: BTreeMap::new(),
            labels: BTreeMap::new(),
            selector: BTreeMap::new(),
            include_external: true,
            shared: true,
        }))
    }

    fn node(ip: &str, pods: &str) -> Record {
        Record::Node(Box::new(Node {
            name: "n1".into(),
            cluster: ClusterName::new("b").unwrap(),
            cluster_id: ClusterId::NONE,
            addresses: vec![NodeAddress { kind: AddressKind::Internal, ip: ip.parse().unwrap() }],
            pod_cidrs: vec![net(pods)],
            health_ips: FamilyPair::default(),
            ingress_ips: FamilyPair::default(),
            source: String::new(),
            encryption_key: 0,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            wireguard_public_key: String::new(),
            boot_id: String::new(),
        }))
    }

    #[test]
    fn who_may_say_what() {
        for (record, with_grant, external, without) in [
            (address("10.2.1.5/32", 131_072), true, true, true),
            (address("fd00:10:2:1::5/128", 131_072), true, true, true),
            (address("10.1.1.5/32", 131_072), false, false, false),
            (address("10.3.1.5/32", 131_072), false, false, true),
            (address("172.31.2.1/32", 6), true, true, true),
            (address("172.31.2.1/32", 131_072), true, true, true),
            (address("172.31.1.1/32", 6), false, false, false),
            (address("127.0.0.1/32", 131_072), false, false, false),
            (address("0.0.0.0/0", 131_072), false, false, false),
            (address("10.0.0.0/8", 131_072), false, false, false),
            (service("10.2.1.5"), true, true, true),
            (service("172.31.2.1"), true, true, true),
            (service("192.0.2.1"), false, true, true),
            (service("172.31.1.1"), false, false, false),
            (service("169.254.169.254"), false, false, false),
            (node("172.31.2.1", "10.2.1.0/24"), true, true, true),
            (node("172.31.1.1", "10.2.1.0/24"), false, false, false),
            (node("172.31.2.1", "10.1.0.0/24"), false, false, false),
            (node("172.31.2.1", "0.0.0.0/0"), false, false, false),
            (node("172.31.2.1", "10.2.0.0/15"), false, false, true),
        ] {
            assert_eq!(granted(false).check(&record).is_ok(), with_grant, "granted: {record:?}");
            assert_eq!(granted(true).check(&record).is_ok(), external, "external: {record:?}");
            assert_eq!(ungranted().check(&record).is_ok(), without, "ungranted: {record:?}");
        }
        for (ip, number, expected) in [
            ("172.31.2.1/32", 1, Identity::REMOTE_NODE),
            ("172.31.2.1/32", 6, Identity::REMOTE_NODE),
            ("10.2.1.5/32", 6, Identity::UNKNOWN),
            ("10.2.1.5/32", 0, Identity::UNKNOWN),
            ("172.31.2.1/32", 4, Identity::UNKNOWN),
            ("10.2.1.5/32", 131_072, Identity::new(131_072)),
        ] {
            assert_eq!(granted(false).identity(net(ip), Identity::new(number)), expected, "{ip}");
        }
        let refused = granted(false).check(&node("172.31.3.1", "10.2.1.0/24")).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "node n1: 172.31.3.1/32 is outside the node ranges that this cluster may claim"
        );
    }
}
