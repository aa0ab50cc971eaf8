//! What is known of one cluster.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use mesh_model::{
    ClusterId, ClusterName, Identity, LocalNamespace, LocalPod, LocalPolicy, PolicyRef, RecordKey,
    RecordKind, ServiceName,
};

use crate::{
    accounting::{Account, Entry, Tally},
    address_table::Made,
    addresses::Addresses,
    admission::Validator,
    hosts::{HostIndex, Hosts},
    interner::StringInterner,
    merge::PodName,
    nodes::Nodes,
    ranges::Rank,
    services::{ServicePart, SliceEntry, SourceId},
    strays::Strays,
};

/// A cluster's records, each with the round it was reported in.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) name: Arc<ClusterName>,
    pub(crate) id: ClusterId,
    pub(crate) judge: Validator,
    /// It has an id that is another's: nothing more of it is taken.
    pub(crate) held: bool,
    rounds: BTreeMap<RecordKind, u32>,
    pub(crate) account: Account,
    pub(crate) interner: StringInterner,
    pub(crate) nodes: Nodes,
    pub(crate) identities: HashMap<Identity, (Arc<str>, u32)>,
    pub(crate) addresses: Addresses,
    /// How its claims of addresses count beside those of others.
    pub(crate) claims: Claiming,
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
    pub(crate) policies: BTreeMap<PolicyRef, (LocalPolicy, u32)>,
    /// Kinds whose initial sync is complete in this run.
    pub(crate) confirmed: Vec<RecordKind>,
}

/// What is known of a cluster's claims of addresses as a whole.
#[derive(Debug, Default)]
pub(crate) struct Claiming {
    /// It is unreachable: what it reported may be out of date.
    pub(crate) silent: bool,
    /// It is for too long: nothing of it counts.
    pub(crate) stale: bool,
    /// It was there when this run began, and has not listed its addresses yet.
    pub(crate) starting: bool,
    /// Its claims of the previous run are being restored, and these were second to another cluster's.
    pub(crate) restoring: Option<BTreeSet<IpAddr>>,
    /// Its ID is the one that it had then: it has not named one in this run.
    pub(crate) restored_id: bool,
    /// Some of these are left, which it has not reported in this run.
    pub(crate) restored: bool,
    /// Addresses that are in none of its ranges.
    pub(crate) strays: Strays,
}

/// A cluster's claim of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) identity: Identity,
    /// It may be out of date.
    pub(crate) held: bool,
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
/// The round of records whose deletion may be an expired lease: the next list says whether they exist.
pub(crate) const DOUBTED: u32 = u32::MAX;

/// Hosts beyond the number of addresses that are worth no look: few addresses are on a host of their own.
const FREE_HOSTS: usize = 1_024;

// === impl Cluster ===

impl Cluster {
    pub(crate) fn new(name: &ClusterName, judge: Validator) -> Self {
        Self {
            name: Arc::new(name.clone()),
            id: ClusterId::NONE,
            judge,
            held: false,
            rounds: BTreeMap::new(),
            account: Account::default(),
            interner: StringInterner::default(),
            nodes: Nodes::default(),
            identities: HashMap::new(),
            addresses: Addresses::default(),
            claims: Claiming::default(),
            hosts: Hosts::default(),
            services: HashMap::new(),
            left_to_kube_proxy: BTreeSet::new(),
            slices: HashMap::new(),
            next_source: 0,
            namespaces: HashMap::new(),
            pods: HashMap::new(),
            policies: BTreeMap::new(),
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
        if self.hosts.len() > self.addresses.len() + FREE_HOSTS {
            self.forget_hosts();
        }
        ip.map_or(HostIndex::default(), |ip| self.hosts.index(ip))
    }

    /// The host in an address's entry.
    pub(crate) fn host_of(&self, index: HostIndex) -> Option<IpAddr> {
        self.hosts.ip(index)
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
        let entry = self.addresses.get(address.into());
        let host = entry.and_then(|entry| self.hosts.ip(entry.host));
        host.and_then(|host| self.nodes.having(host)).or_else(|| self.nodes.having(address))
    }

    /// Its claim of an address: what a node has is that node's, whatever a record says of it.
    pub(crate) fn claim(&self, address: IpAddr) -> Option<Claim> {
        let net = IpNet::from(address);
        let (kind, identity, round) = match self.nodes.round_of(address) {
            Some(round) => (RecordKind::Node, Identity::REMOTE_NODE, round),
            None => {
                let entry = self.addresses.get(net)?;
                let identity = self.judge.identity(net, entry.identity);
                (RecordKind::Address, identity, entry.round)
            }
        };
        let unreported = round == UNREPORTED || round != self.round(kind);
        Some(Claim { identity, held: unreported || self.claims.silent || self.held })
    }

    /// Whether its claims count before those of others.
    pub(crate) fn rank(&self) -> Rank {
        self.judge.rank()
    }

    /// When a claim counts as made that is new now.
    pub(crate) fn made(&self, address: IpAddr) -> Made {
        match &self.claims {
            Claiming { restoring: Some(second), .. } if second.contains(&address) => {
                Made::BeforeAsSecond
            }
            Claiming { restoring: Some(_), .. } => Made::Before,
            Claiming { starting: true, .. } => Made::AtStart,
            _ => Made::Now,
        }
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
        self.hosts.len()
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
