//! What one cluster says.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use mesh_model::{AddressKind, ClusterId, Identity, Node, RecordKind, ServiceName};

use crate::{claims::Judge, services::ServicePart};

/// A cluster's records, each with the round it was told in.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) id: ClusterId,
    pub(crate) judge: Judge,
    /// It has a number that is another's: nothing that it says is taken.
    pub(crate) held: bool,
    rounds: BTreeMap<RecordKind, u32>,
    pub(crate) nodes: BTreeMap<String, (NodeEntry, u32)>,
    pub(crate) identities: HashMap<Identity, (Box<str>, u32)>,
    pub(crate) addresses: HashMap<IpNet, AddressEntry>,
    hosts: Hosts,
    pub(crate) services: HashMap<Arc<ServiceName>, (ServicePart, u32)>,
    /// Kinds that were told in full in this life.
    pub(crate) confirmed: Vec<RecordKind>,
}

/// What is kept of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeEntry {
    pub(crate) internal_ips: Vec<IpAddr>,
    pub(crate) pod_cidrs: Vec<IpNet>,
}

/// What is kept of an address. There may be a million of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AddressEntry {
    pub(crate) identity: Identity,
    pub(crate) host: HostIndex,
    pub(crate) round: u32,
}

/// A host in [`Hosts`]; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostIndex(u32);

/// The hosts that addresses are on: few, and named by all.
#[derive(Debug, Default)]
struct Hosts {
    by_ip: HashMap<IpAddr, HostIndex>,
    ips: Vec<IpAddr>,
}

/// How much a cluster says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Nodes.
    pub nodes: usize,
    /// Identities.
    pub identities: usize,
    /// Addresses.
    pub addresses: usize,
    /// Services.
    pub services: usize,
}

impl Cluster {
    pub(crate) fn new(judge: Judge) -> Self {
        Self {
            id: ClusterId::NONE,
            judge,
            held: false,
            rounds: BTreeMap::new(),
            nodes: BTreeMap::new(),
            identities: HashMap::new(),
            addresses: HashMap::new(),
            hosts: Hosts::default(),
            services: HashMap::new(),
            confirmed: Vec::new(),
        }
    }

    /// All records of a kind are told from now on.
    pub(crate) fn begin(&mut self, kind: RecordKind) {
        *self.rounds.entry(kind).or_default() += 1;
    }

    pub(crate) fn round(&self, kind: RecordKind) -> u32 {
        self.rounds.get(&kind).copied().unwrap_or_default()
    }

    pub(crate) fn host(&mut self, ip: Option<IpAddr>) -> HostIndex {
        ip.map_or(HostIndex::default(), |ip| self.hosts.index(ip))
    }

    /// The node that an address is on, if its cluster said so.
    pub(crate) fn node_of(&self, address: IpAddr) -> Option<&str> {
        let host = match self.addresses.get(&IpNet::from(address)) {
            Some(entry) => self.hosts.ip(entry.host)?,
            None => address,
        };
        let has = |(_, (node, _)): &(&String, &(NodeEntry, u32))| node.internal_ips.contains(&host);
        self.nodes.iter().find(has).map(|(name, _)| name.as_str())
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            nodes: self.nodes.len(),
            identities: self.identities.len(),
            addresses: self.addresses.len(),
            services: self.services.len(),
        }
    }
}

impl NodeEntry {
    pub(crate) fn new(node: &Node) -> Self {
        let internal = node.addresses.iter().filter(|a| a.kind == AddressKind::Internal);
        Self { internal_ips: internal.map(|a| a.ip).collect(), pod_cidrs: node.pod_cidrs.clone() }
    }

    /// Its pod ranges, each with the address that leads there.
    pub(crate) fn routes(&self) -> impl Iterator<Item = (IpNet, IpAddr)> {
        self.pod_cidrs.iter().filter_map(|range| {
            let via = self.internal_ips.iter().find(|ip| ip.is_ipv4() == range.addr().is_ipv4())?;
            Some((*range, *via))
        })
    }
}

impl Hosts {
    fn index(&mut self, ip: IpAddr) -> HostIndex {
        let Self { by_ip, ips } = self;
        *by_ip.entry(ip).or_insert_with(|| {
            ips.push(ip);
            HostIndex(u32::try_from(ips.len()).unwrap_or_default())
        })
    }

    fn ip(&self, index: HostIndex) -> Option<IpAddr> {
        let at = usize::try_from(index.0).ok()?.checked_sub(1)?;
        self.ips.get(at).copied()
    }
}
