//! What one cluster says.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use mesh_model::{
    ClusterId, Identity, LocalNamespace, LocalPod, RecordKey, RecordKind, ServiceName,
};

use crate::{
    admission::Validator,
    merge::PodName,
    nodes::Nodes,
    services::{ServicePart, SourceId},
};

/// A cluster's records, each with the round it was told in.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) id: ClusterId,
    pub(crate) judge: Validator,
    /// It has a number that is another's: nothing that it says is taken.
    pub(crate) held: bool,
    rounds: BTreeMap<RecordKind, u32>,
    /// What was told of each kind in its round.
    tallies: BTreeMap<RecordKind, Tally>,
    pub(crate) nodes: Nodes,
    pub(crate) identities: HashMap<Identity, (Box<str>, u32)>,
    pub(crate) addresses: HashMap<IpNet, AddressEntry>,
    hosts: Hosts,
    pub(crate) services: HashMap<Arc<ServiceName>, ServicePart>,
    /// The slices of those services, by their keys.
    pub(crate) slices: HashMap<RecordKey, SliceEntry>,
    /// What the next slice is among its service's sources.
    next_source: u64,
    /// What only the own cluster tells.
    pub(crate) namespaces: HashMap<String, (LocalNamespace, u32)>,
    pub(crate) pods: HashMap<PodName, (LocalPod, u32)>,
    /// Kinds that were told in full in this life.
    pub(crate) confirmed: Vec<RecordKind>,
}

/// Where a slice's endpoints are kept.
#[derive(Clone, Debug)]
pub(crate) struct SliceEntry {
    /// The service, if it has one and endpoints.
    pub(crate) service: Option<Arc<ServiceName>>,
    pub(crate) source: SourceId,
    pub(crate) bytes: u64,
    pub(crate) round: u32,
}

/// What is kept of an address. There may be a million of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AddressEntry {
    /// As its cluster gave it; what it may stand for follows from the grant.
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
    /// Namespaces, as the own nodes are told.
    pub namespaces: usize,
    /// Pods, as the own node is told.
    pub pods: usize,
}

/// How much a cluster has told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Records.
    pub keys: u64,
    /// What they take here, about.
    pub bytes: u64,
}

/// The round of what was not told in this life.
pub(crate) const UNTOLD: u32 = 0;

/// Hosts beyond the number of addresses that are worth no look: few addresses are on a host of their own.
const FREE_HOSTS: usize = 1_024;

/// What an entry takes in a table besides what it points to: its key, its value and the table's slack.
pub(crate) const ENTRY_BYTES: u64 = 64;

impl Cluster {
    pub(crate) fn new(judge: Validator) -> Self {
        Self {
            id: ClusterId::NONE,
            judge,
            held: false,
            rounds: BTreeMap::new(),
            tallies: BTreeMap::new(),
            nodes: Nodes::default(),
            identities: HashMap::new(),
            addresses: HashMap::new(),
            hosts: Hosts::default(),
            services: HashMap::new(),
            slices: HashMap::new(),
            next_source: 0,
            namespaces: HashMap::new(),
            pods: HashMap::new(),
            confirmed: Vec::new(),
        }
    }

    /// All records of a kind are told from now on.
    pub(crate) fn begin(&mut self, kind: RecordKind) {
        *self.rounds.entry(kind).or_default() += 1;
        self.tallies.remove(&kind);
    }

    /// All records of all kinds that were ever told are told from now on, in whatever order.
    pub(crate) fn begin_all(&mut self) {
        self.rounds.values_mut().for_each(|round| *round += 1);
        self.tallies.clear();
    }

    /// Takes note of a record: what it was, with its round, and what it is now.
    pub(crate) fn tell(&mut self, kind: RecordKind, before: Option<(u64, u32)>, now: Option<u64>) {
        let round = self.round(kind);
        let tally = self.tallies.entry(kind).or_default();
        if let Some((bytes, _)) = before.filter(|(_, told)| *told == round) {
            tally.keys = tally.keys.saturating_sub(1);
            tally.bytes = tally.bytes.saturating_sub(bytes);
        }
        if let Some(bytes) = now {
            tally.keys += 1;
            tally.bytes += bytes;
        }
    }

    /// All kinds' tallies together.
    pub(crate) fn told(&self) -> Tally {
        self.tallies.values().fold(Tally::default(), |all, one| Tally {
            keys: all.keys + one.keys,
            bytes: all.bytes + one.bytes,
        })
    }

    /// Nothing was told.
    pub(crate) fn forget_tallies(&mut self) {
        self.tallies.clear();
    }

    /// Nothing of a kind was told.
    pub(crate) fn forget_tally(&mut self, kind: RecordKind) {
        self.tallies.remove(&kind);
    }

    /// Whether it has not begun to tell anything in this life.
    pub(crate) fn is_unheard(&self) -> bool {
        self.rounds.is_empty()
    }

    pub(crate) fn round(&self, kind: RecordKind) -> u32 {
        self.rounds.get(&kind).copied().unwrap_or_default()
    }

    pub(crate) fn host(&mut self, ip: Option<IpAddr>) -> HostIndex {
        // Hosts go with nobody's address. Whoever names ever new ones does not fill the memory with them.
        if self.hosts.ips.len() > self.addresses.len() + FREE_HOSTS {
            self.forget_hosts();
        }
        ip.map_or(HostIndex::default(), |ip| self.hosts.index(ip))
    }

    /// Forgets the hosts that no address is on any more.
    fn forget_hosts(&mut self) {
        let before = std::mem::take(&mut self.hosts);
        for entry in self.addresses.values_mut() {
            let ip = before.ip(entry.host);
            entry.host = ip.map_or(HostIndex::default(), |ip| self.hosts.index(ip));
        }
    }

    /// The node that an address is on: the one that its record names, else the one that has it in its ranges.
    pub(crate) fn node_of(&self, address: IpAddr) -> Option<&Arc<str>> {
        let entry = self.addresses.get(&IpNet::from(address));
        let host = entry.and_then(|entry| self.hosts.ip(entry.host));
        host.and_then(|host| self.nodes.having(host)).or_else(|| self.nodes.having(address))
    }

    /// A service's name as the table has it.
    pub(crate) fn service_name(&self, service: Arc<ServiceName>) -> Arc<ServiceName> {
        self.services.get_key_value(&service).map_or(service, |(known, _)| Arc::clone(known))
    }

    /// A number for one more slice.
    pub(crate) fn new_source(&mut self) -> SourceId {
        self.next_source += 1;
        SourceId(self.next_source)
    }

    /// Whether it has told its services in full, in whichever form it tells them.
    pub(crate) fn has_told_services(&self) -> bool {
        let has = |kind| self.confirmed.contains(&kind);
        let local = [RecordKind::LocalService, RecordKind::LocalEndpointSlice];
        has(RecordKind::Service) || has(RecordKind::EndpointSlice) || local.into_iter().all(has)
    }

    #[cfg(test)]
    pub(crate) fn hosts(&self) -> usize {
        self.hosts.ips.len()
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            nodes: self.nodes.len(),
            identities: self.identities.len(),
            addresses: self.addresses.len(),
            services: self.services.len(),
            namespaces: self.namespaces.len(),
            pods: self.pods.len(),
        }
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
