//! One table of all addresses: which cluster has each, and with which identity.
//!
//! A claim is a record of an address, or a node that has it. Of several claims our own count first, then a peer's that
//! has a grant, then the earliest. A claim may be out of date: its cluster is unreachable, or has not reported it again
//! in a list. It names the address as long as no other cluster of its rank claims it too; then the address is unknown,
//! as it is after a staleness budget.

use std::net::IpAddr;

use ipnet::IpNet;
use mesh_model::{ClusterId, ClusterName, Identity, KnownAddress, RecordKey, RecordKind};

use super::{Delta, Located, Merge, RangeDelta};
use crate::{
    addresses::{self, AddressEntry, single},
    admission::Validator,
    cluster::{Claim, Cluster, DOUBTED},
    ranges::Rank,
    strays::{self, Strays},
};

/// The cluster that has an address, and its identity there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressHolder {
    /// The cluster.
    pub cluster: ClusterId,
    /// The identity: [`Identity::REMOTE_NODE`] of all nodes, this one included. [`Identity::UNKNOWN`]: the address is
    /// unknown of the cluster; so it is with an identity without labels ([`Merge::labels_of`]), until these are known.
    pub identity: Identity,
}

/// A change of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressDelta {
    /// An address that no cluster had.
    Added(IpAddr, AddressHolder),
    /// Another cluster has it, or it has another identity.
    Changed(IpAddr, AddressHolder),
    /// No cluster has it any more: it is unknown of the cluster in whose pod range it is, or outside the mesh.
    Removed(IpAddr),
}

/// A cluster's claim of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressClaim<'a> {
    /// The cluster.
    pub cluster: &'a ClusterName,
    /// The identity that the cluster gives it, as far as it may.
    pub identity: Identity,
    /// Whether the claim may be out of date.
    pub held: bool,
    /// Whether the cluster was unreachable for so long that nothing of it counts.
    pub stale: bool,
}

/// A claim, with what decides whether it counts.
#[derive(Clone, Copy)]
struct Ranked<'a> {
    cluster: &'a Cluster,
    claim: Claim,
    rank: Rank,
}

/// Holders before a change.
type Before = Vec<(IpAddr, Option<AddressHolder>)>;

// === impl Ranked ===

impl Ranked<'_> {
    fn order(&self) -> (Rank, bool) {
        (self.rank, self.cluster.claims.stale)
    }
}

// === impl Merge ===

impl Merge {
    /// The cluster that has an address; `None` if none claims it.
    pub fn holder(&self, address: IpAddr) -> Option<AddressHolder> {
        let mut claims = self.ranked(address);
        let mut first = claims.next()?;
        // Of equal ones the earliest counts, and another one that counts makes a doubtful one unknown.
        let mut rivals = 0;
        for claim in claims {
            match claim.order().cmp(&first.order()) {
                std::cmp::Ordering::Less => (first, rivals) = (claim, 0),
                std::cmp::Ordering::Equal => rivals += 1,
                std::cmp::Ordering::Greater => {}
            }
        }
        let local = self.local_nodes_ranges > 0 && first.rank != Rank::Local;
        if local && self.pod_ranges.is_of(address, &self.local) {
            let cluster = self.local().map(|local| local.id).unwrap_or_default();
            return Some(AddressHolder { cluster, identity: Identity::UNKNOWN });
        }
        let unknown = first.cluster.claims.stale || (first.claim.held && rivals > 0);
        let identity = if unknown { Identity::UNKNOWN } else { first.claim.identity };
        Some(AddressHolder { cluster: first.cluster.id, identity })
    }

    /// What is known of an address: its cluster, and its identity if that has labels or is reserved; `None` outside the
    /// mesh.
    pub fn identity_at(&self, address: IpAddr) -> Option<(&ClusterName, Identity)> {
        let Some(AddressHolder { cluster, identity }) = self.holder(address) else {
            return Some((self.pod_ranges.of(address)?, Identity::UNKNOWN));
        };
        let name = self.by_id.get(&cluster)?;
        let known = identity.is_reserved() || self.labels_of(name, identity).is_some();
        Some((name, if known { identity } else { Identity::UNKNOWN }))
    }

    /// The clusters that claim an address: first the one that has it, then the others in the order in which they would.
    pub fn claims(&self, address: IpAddr) -> Vec<AddressClaim<'_>> {
        let mut claims: Vec<Ranked<'_>> = self.ranked(address).collect();
        claims.sort_by_key(Ranked::order);
        let claims = claims.into_iter().map(|Ranked { cluster, claim, .. }| AddressClaim {
            cluster: &cluster.name,
            identity: claim.identity,
            held: claim.held,
            stale: cluster.claims.stale,
        });
        claims.collect()
    }

    /// How many addresses more than one cluster claims.
    pub fn contested(&self) -> usize {
        self.table.contested()
    }

    /// These addresses, in order.
    pub fn contested_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.table.contested_addresses()
    }

    /// The cluster in whose pod range an address is.
    pub fn range_of(&self, address: IpAddr) -> Option<&ClusterName> {
        self.pod_ranges.of(address)
    }

    /// Pods' addresses that are outside the ranges that their clusters announce: how many, and some of them.
    pub fn strays(&self) -> impl Iterator<Item = (&ClusterName, usize, Vec<IpAddr>)> {
        let strays = self.clusters.iter().map(|(name, cluster)| (name, &cluster.claims.strays));
        let strays = strays.filter(|(_, strays)| strays.count() > 0);
        strays.map(|(name, strays)| (name, strays.count(), strays.named().collect()))
    }

    /// How many of these are a cluster's.
    pub fn strays_of(&self, name: &ClusterName) -> usize {
        self.clusters.get(name).map_or(0, |cluster| cluster.claims.strays.count())
    }

    /// A peer is unreachable, or is not: what it reported may be out of date.
    pub fn set_silent(&mut self, name: &ClusterName, silent: bool) {
        let Some(cluster) = self.clusters.get(name).filter(|c| c.claims.silent != silent) else {
            return;
        };
        let contested: Vec<IpAddr> = self.table.contested_of(cluster.id).collect();
        let before = self.before(contested);
        if let Some(cluster) = self.clusters.get_mut(name) {
            cluster.claims.silent = silent;
        }
        self.announce(before);
    }

    /// A peer was unreachable for too long: its addresses are unknown; or it has been listed again.
    pub fn set_stale(&mut self, name: &ClusterName, stale: bool) {
        let Some(cluster) = self.clusters.get(name).filter(|c| c.claims.stale != stale) else {
            return;
        };
        let before = self.before(claimed(cluster));
        if let Some(cluster) = self.clusters.get_mut(name) {
            cluster.claims.stale = stale;
        }
        self.announce(before);
    }

    /// All peers that were there when this run began are known: what others claim comes after these.
    pub fn started(&mut self) {
        self.is_started = true;
    }

    /// Those that have listed nothing until now come after others too.
    pub fn start_is_over(&mut self) {
        self.is_started = true;
        self.clusters.values_mut().for_each(|cluster| cluster.claims.starting = false);
    }

    pub(super) fn set_address(&mut self, name: &ClusterName, address: KnownAddress) {
        let KnownAddress { net, identity, host } = address;
        let before = single(net).map(|ip| (ip, self.holder(ip)));
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        let round = cluster.round(RecordKind::Address);
        let host = cluster.host(host);
        let entry = AddressEntry { identity, host, round };
        let replaced = cluster.addresses.insert(net, entry);
        let bytes = addresses::bytes(net);
        cluster.note(RecordKind::Address, replaced.map(|entry| (bytes, entry.round)), Some(bytes));
        let Some(ip) = single(net) else { return };
        if replaced.map(|entry| entry.host).unwrap_or_default() != host {
            self.deltas.push(Delta::Located { id: cluster.id, addresses: Located::One(ip) });
        }
        let was = replaced.is_some_and(|entry| is_pods(&entry));
        self.note_stray(name, ip, was, is_pods(&entry));
        self.update_claim(name, ip);
        self.announce(before);
    }

    pub(super) fn remove_address(&mut self, name: &ClusterName, net: IpNet) {
        let before = single(net).map(|ip| (ip, self.holder(ip)));
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        let Some(entry) = cluster.addresses.remove(net) else { return };
        cluster.note(RecordKind::Address, Some((addresses::bytes(net), entry.round)), None);
        let Some(ip) = single(net) else { return };
        self.note_stray(name, ip, is_pods(&entry), false);
        self.update_claim(name, ip);
        self.announce(before);
    }

    /// A record is gone, or its cluster's writer is: it stays until a list says which, and may be out of date.
    pub(super) fn doubt(&mut self, name: &ClusterName, key: &RecordKey) {
        let before = self.before(self.claimed_by(name, key));
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        let doubted = match key {
            RecordKey::Address(net) => {
                let bytes = addresses::bytes(*net);
                cluster.addresses.get_mut(*net).map(|entry| (bytes, &mut entry.round))
            }
            RecordKey::Node(node) => {
                cluster.nodes.round_mut(node).map(|(entry, round)| (entry.bytes(node), round))
            }
            _ => None,
        };
        if let Some((bytes, round)) = doubted {
            let round = std::mem::replace(round, DOUBTED);
            cluster.note(key.kind(), Some((bytes, round)), Some(bytes));
        }
        self.announce(before);
    }

    /// The addresses that a record of a cluster claims.
    pub(super) fn claimed_by(&self, name: &ClusterName, key: &RecordKey) -> Vec<IpAddr> {
        match key {
            RecordKey::Address(net) => single(*net).into_iter().collect(),
            RecordKey::Node(node) => {
                let node = self.clusters.get(name).and_then(|cluster| cluster.nodes.get(node));
                node.map(|node| node.internal_ips.clone()).unwrap_or_default()
            }
            _ => Vec::new(),
        }
    }

    /// Makes a change of a node: of its own addresses, and of the ranges of its pods.
    pub(super) fn change_node(
        &mut self,
        name: &ClusterName,
        (ips, ranges): (Vec<IpAddr>, [Vec<IpNet>; 2]),
        change: impl FnOnce(&mut Self),
    ) {
        let [come, gone] = ranges;
        let before = self.before(ips.iter().copied());
        change(self);
        let rank = self.clusters.get(name).map_or(Rank::Ungranted, Cluster::rank);
        come.into_iter().for_each(|range| self.set_range(name, rank, range, true));
        gone.into_iter().for_each(|range| self.set_range(name, rank, range, false));
        ips.into_iter().for_each(|ip| self.update_claim(name, ip));
        self.announce(before);
    }

    /// The pod ranges of a node that count as such: a grant, and the ranges in our settings, contain what matters.
    pub(super) fn announced(&self, cluster: &Cluster, ranges: &[IpNet]) -> Vec<IpNet> {
        let ours = |range: &IpNet| self.ranges.pod_cidrs.iter().any(|ours| ours.contains(range));
        let counts = |range: &&IpNet| match cluster.judge {
            Validator::Local => !ours(range),
            Validator::Ungranted { .. } => true,
            Validator::Granted { .. } => false,
        };
        ranges.iter().filter(counts).copied().collect()
    }

    /// A cluster has a range of pods, possibly once more or less.
    pub(super) fn set_range(&mut self, name: &ClusterName, rank: Rank, range: IpNet, has: bool) {
        let Some(cluster) = self.clusters.get(name) else { return };
        let owner = (rank, cluster.name.clone());
        let is_local = rank == Rank::Local;
        let before = match is_local {
            true => self.before(self.table.within(range.trunc())),
            false => Before::new(),
        };
        let mut strays = if has { self.strays_within(cluster, range) } else { Vec::new() };
        let mut deltas: Vec<RangeDelta> = Vec::new();
        let changed = match has {
            true => self.pod_ranges.add(range, &owner, &mut deltas),
            false => self.pod_ranges.remove(range, &owner, &mut deltas),
        };
        if !changed {
            return;
        }
        self.deltas.extend(deltas.into_iter().map(Delta::Range));
        if !has && let Some(cluster) = self.clusters.get(name) {
            strays = self.strays_within(cluster, range);
        }
        if let Some(cluster) = self.clusters.get_mut(name) {
            let change = if has { Strays::remove } else { Strays::add };
            strays.into_iter().for_each(|ip| change(&mut cluster.claims.strays, ip));
        }
        if is_local {
            match has {
                true => self.local_nodes_ranges += 1,
                false => self.local_nodes_ranges -= 1,
            }
            self.announce(before);
        }
    }

    fn strays_within(&self, cluster: &Cluster, range: IpNet) -> Vec<IpAddr> {
        if cluster.rank() == Rank::Granted {
            return Vec::new();
        }
        let is_pod = |ip: &IpAddr| cluster.addresses.get((*ip).into()).is_some_and(is_pods);
        let pods = self.table.within(range.trunc()).filter(is_pod);
        pods.filter(|ip| !self.pod_ranges.is_of(*ip, &cluster.name)).collect()
    }

    /// Counts the strays of a cluster again, where another rule applies to them.
    pub(super) fn count_strays(&mut self, name: &ClusterName) {
        let Some(cluster) = self.clusters.get(name) else { return };
        let counts = cluster.rank() != Rank::Granted;
        let pods = cluster.addresses.iter().filter(|(_, entry)| counts && is_pods(entry));
        let pods = pods.filter_map(|(net, _)| single(net));
        let strays: Vec<IpAddr> = pods.filter(|ip| !self.pod_ranges.is_of(*ip, name)).collect();
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        cluster.claims.strays.clear();
        strays.into_iter().for_each(|ip| cluster.claims.strays.add(ip));
    }

    /// Names some of a cluster's strays, where it has some and those that were named are none any more.
    pub(super) fn name_strays(&mut self, name: &ClusterName) {
        let Some(cluster) = self.clusters.get(name) else { return };
        if !cluster.claims.strays.lacks_names() {
            return;
        }
        let pods = cluster.addresses.iter().filter(|(_, entry)| is_pods(entry));
        let pods = pods.filter_map(|(net, _)| single(net));
        let strays = pods.filter(|ip| !self.pod_ranges.is_of(*ip, name));
        let strays: Vec<IpAddr> = strays.take(strays::NAMED).collect();
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        strays.into_iter().for_each(|ip| cluster.claims.strays.name(ip));
    }

    /// An address has a pod, where it had one or not.
    fn note_stray(&mut self, name: &ClusterName, address: IpAddr, was: bool, is: bool) {
        let Some(cluster) = self.clusters.get(name) else { return };
        if was == is || cluster.rank() == Rank::Granted || self.pod_ranges.is_of(address, name) {
            return;
        }
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        match is {
            true => cluster.claims.strays.add(address),
            false => cluster.claims.strays.remove(address),
        }
    }

    /// The holders of addresses before a change of them.
    pub(super) fn before(&self, addresses: impl IntoIterator<Item = IpAddr>) -> Before {
        let holders = addresses.into_iter().map(|address| (address, self.holder(address)));
        let mut before: Before = holders.collect();
        // An address may be in more than one record. It has one delta.
        if before.len() > 1 {
            before.sort_unstable_by_key(|(address, _)| *address);
            before.dedup_by_key(|(address, _)| *address);
        }
        before
    }

    /// Emits what is another now.
    pub(super) fn announce(
        &mut self,
        before: impl IntoIterator<Item = (IpAddr, Option<AddressHolder>)>,
    ) {
        for (address, before) in before {
            let delta = match (before, self.holder(address)) {
                (before, now) if before == now => continue,
                (None, Some(now)) => AddressDelta::Added(address, now),
                (Some(_), Some(now)) => AddressDelta::Changed(address, now),
                (_, None) => AddressDelta::Removed(address),
            };
            self.deltas.push(Delta::Address(delta));
        }
    }

    /// The table has a cluster's claim of an address, if there is one.
    pub(super) fn update_claim(&mut self, name: &ClusterName, address: IpAddr) {
        let Some(cluster) = self.clusters.get(name).filter(|c| c.id != ClusterId::NONE) else {
            return;
        };
        let matters = match cluster.claim(address).is_some() {
            true => self.table.add(address, cluster.id, cluster.made(address)),
            false => self.table.remove(address, cluster.id),
        };
        if matters {
            let claims = self.table.claims(address).map(|id| Delta::Claims { id });
            self.deltas.extend(claims);
        }
    }

    /// Whether a cluster's claim of an address comes after another's.
    pub(super) fn is_second(&self, cluster: &Cluster, address: IpAddr) -> bool {
        let first = self.ranked(address).min_by_key(|claim| claim.rank);
        first.is_some_and(|first| first.cluster.id != cluster.id)
    }

    /// The addresses that more than one cluster claims, of which a cluster is one.
    pub(super) fn contested_of(&self, name: &ClusterName) -> Vec<IpAddr> {
        let cluster = self.clusters.get(name);
        cluster.map(|c| self.table.contested_of(c.id).collect()).unwrap_or_default()
    }

    /// The claims of an address, the earliest first.
    fn ranked(&self, address: IpAddr) -> impl Iterator<Item = Ranked<'_>> {
        self.table.claims(address).filter_map(move |id| {
            let cluster = self.cluster_with(id)?;
            Some(Ranked { cluster, claim: cluster.claim(address)?, rank: cluster.rank() })
        })
    }

    /// The cluster that has an ID.
    pub(super) fn cluster_with(&self, id: ClusterId) -> Option<&Cluster> {
        self.clusters.get(self.by_id.get(&id)?)
    }
}

/// Whether a record is a pod's.
fn is_pods(entry: &AddressEntry) -> bool {
    !entry.identity.is_reserved()
}

/// All addresses that a cluster claims.
pub(super) fn claimed(cluster: &Cluster) -> Vec<IpAddr> {
    let records = cluster.addresses.iter().filter_map(|(net, _)| single(net));
    let nodes = cluster.nodes.iter().flat_map(|(_, node, _)| &node.internal_ips);
    let mut all: Vec<IpAddr> = records.chain(nodes.copied()).collect();
    all.sort_unstable();
    all.dedup();
    all
}
