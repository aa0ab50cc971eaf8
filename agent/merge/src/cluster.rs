//! What is known of one cluster.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use mesh_model::{
    ClusterId, Identity, LocalNamespace, LocalPod, RecordKey, RecordKind, ServiceName,
};

use crate::{
    accounting::{Account, Entry, Tally, list, slot},
    admission::Validator,
    interner::StringInterner,
    merge::PodName,
    nodes::Nodes,
    services::{ServicePart, SliceEntry, SourceId},
};

/// A cluster's records, each with the round it was reported in.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) id: ClusterId,
    pub(crate) judge: Validator,
    /// It has an id that is another's: nothing more of it is taken.
    pub(crate) held: bool,
    rounds: BTreeMap<RecordKind, u32>,
    pub(crate) account: Account,
    pub(crate) interner: StringInterner,
    pub(crate) nodes: Nodes,
    pub(crate) identities: HashMap<Identity, (Box<str>, u32)>,
    pub(crate) addresses: HashMap<IpNet, AddressEntry>,
    hosts: Hosts,
    pub(crate) services: HashMap<Arc<ServiceName>, ServicePart>,
    /// Those of the local cluster that need a kube-proxy.
    pub(crate) left_to_kube_proxy: BTreeSet<Arc<ServiceName>>,
    /// The slices of those services, by their keys.
    pub(crate) slices: HashMap<RecordKey, SliceEntry>,
    /// The number of the next slice among its service's sources.
    next_source: u64,
    /// Records that only the local cluster exports.
    pub(crate) namespaces: HashMap<String, (LocalNamespace, u32)>,
    pub(crate) pods: HashMap<PodName, (LocalPod, u32)>,
    /// Kinds whose initial sync is complete in this run.
    pub(crate) confirmed: Vec<RecordKind>,
}

/// The entry of an address. There may be a million of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AddressEntry {
    /// As its cluster reported it; the effective one follows from the grant.
    pub(crate) identity: Identity,
    pub(crate) host: HostIndex,
    pub(crate) round: u32,
}

/// The bytes of an address.
pub(crate) const ADDRESS_BYTES: u64 = slot::<IpNet, AddressEntry>();

/// A host in [`Hosts`]; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostIndex(u32);

/// The hosts that addresses are on: few, and named by all.
#[derive(Debug, Default)]
struct Hosts {
    by_ip: HashMap<IpAddr, HostIndex>,
    ips: Vec<IpAddr>,
}

/// How much a cluster reports.
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
    /// Namespaces, as the local nodes get them.
    pub namespaces: usize,
    /// Pods, as this node gets them.
    pub pods: usize,
}

/// The round of records that were not reported in this run.
pub(crate) const UNREPORTED: u32 = 0;

/// Hosts beyond the number of addresses that are worth no look: few addresses are on a host of their own.
const FREE_HOSTS: usize = 1_024;

// === impl Cluster ===

impl Cluster {
    pub(crate) fn new(judge: Validator) -> Self {
        Self {
            id: ClusterId::NONE,
            judge,
            held: false,
            rounds: BTreeMap::new(),
            account: Account::default(),
            interner: StringInterner::default(),
            nodes: Nodes::default(),
            identities: HashMap::new(),
            addresses: HashMap::new(),
            hosts: Hosts::default(),
            services: HashMap::new(),
            left_to_kube_proxy: BTreeSet::new(),
            slices: HashMap::new(),
            next_source: 0,
            namespaces: HashMap::new(),
            pods: HashMap::new(),
            confirmed: Vec::new(),
        }
    }

    /// All records of a kind follow.
    pub(crate) fn begin(&mut self, kind: RecordKind) {
        *self.rounds.entry(kind).or_default() += 1;
    }

    /// All records of all kinds are about to be listed, in any order: the present ones do not count until they come
    /// again.
    pub(crate) fn begin_all(&mut self) {
        let rounds = RecordKind::ALL.map(|kind| (kind, self.round(kind)));
        self.account.spare(rounds.into());
        self.rounds.values_mut().for_each(|round| *round += 1);
    }

    /// Takes note of a record: what it was, with its round, and what it is now.
    pub(crate) fn note(&mut self, kind: RecordKind, was: Option<Entry>, now: Option<u64>) {
        self.account.change(kind, was, now);
    }

    /// Its memory here.
    pub(crate) fn kept(&self) -> Tally {
        let Tally { keys, bytes } = self.account.kept();
        Tally { keys, bytes: bytes + self.interner.bytes() + self.hosts.bytes() }
    }

    /// Nothing of it is kept.
    pub(crate) fn forget_account(&mut self) {
        (self.account, self.interner) = (Account::default(), StringInterner::default());
    }

    /// Whether no list of it has begun in this run.
    pub(crate) fn is_unreported(&self) -> bool {
        self.rounds.is_empty()
    }

    pub(crate) fn round(&self, kind: RecordKind) -> u32 {
        self.rounds.get(&kind).copied().unwrap_or_default()
    }

    pub(crate) fn host(&mut self, ip: Option<IpAddr>) -> HostIndex {
        // Hosts do not go with addresses. A peer that names ever new ones does not fill the memory with them.
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

    /// Whether its services are synced, in whichever form it reports them.
    pub(crate) fn has_listed_services(&self) -> bool {
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

// === impl Hosts ===

impl Hosts {
    /// Their bytes.
    fn bytes(&self) -> u64 {
        let each = slot::<IpAddr, HostIndex>() + 2 * list::<IpAddr>(1);
        each * u64::try_from(self.ips.len()).unwrap_or(u64::MAX)
    }

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
