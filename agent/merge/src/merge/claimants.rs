//! Whose an address is, over all clusters.
//!
//! An address is of the cluster that reports it. Where several do, the local cluster comes first, then the one that did so
//! first; after a start from snapshots, which do not say who was first, the lowest cluster ID. A grant decides before that:
//! nobody else's report of an address in it is taken.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use ipnet::IpNet;
use mesh_model::{ClusterId, ClusterName, Identity, RecordKind};

use super::{Delta, Merge};
use crate::{
    admission::{Claims, Validator, overlap},
    cluster::UNREPORTED,
};

/// Addresses that several clusters report.
#[derive(Debug, Default)]
pub(super) struct Claimants {
    /// Addresses of peers without a grant, with the number of those that report them. Of others no more than one reports
    /// an address, unless grants overlap.
    ungranted: HashMap<IpNet, u16>,
    /// Peers whose grants have addresses in common.
    overlapping: BTreeMap<ClusterName, BTreeSet<ClusterName>>,
    /// Who reports an address that several report. The first has it.
    contested: BTreeMap<IpNet, Vec<ClusterName>>,
}

/// What is known of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressState {
    /// It has this identity, which its cluster gave it.
    Known {
        /// The cluster.
        cluster: ClusterName,
        /// The identity.
        identity: Identity,
    },
    /// It is one of the cluster's pods, if it is anything: more is not known. It is never the world.
    UnknownOf(ClusterName),
    /// It is no pod's or node's of the mesh.
    Outside,
}

// === impl Merge ===

impl Merge {
    /// The clusters that report an address, each with the identity that it may give it. The first has it.
    pub fn claimants(&self, address: IpAddr) -> Vec<(&ClusterName, Identity)> {
        let net = IpNet::from(address);
        let claim = |name| Some((name, self.identity_of(name, net)?));
        match self.claimants.contested.get(&net) {
            Some(names) => names.iter().filter_map(claim).collect(),
            None => self.clusters.keys().find_map(claim).into_iter().collect(),
        }
    }

    /// What is known of an address, as far as records and ranges say.
    pub fn address(&self, address: IpAddr) -> AddressState {
        let holder = self.claimants(address).into_iter().next();
        match holder {
            Some((cluster, identity)) if identity != Identity::UNKNOWN => {
                AddressState::Known { cluster: cluster.clone(), identity }
            }
            Some((cluster, _)) => AddressState::UnknownOf(cluster.clone()),
            None => match self.range_of(address) {
                Some(cluster) => AddressState::UnknownOf(cluster.clone()),
                None => AddressState::Outside,
            },
        }
    }

    /// The cluster in whose pod ranges an address is: ours, granted ones, and what nodes of a peer without a grant name.
    pub fn range_of(&self, address: IpAddr) -> Option<&ClusterName> {
        let within = |ranges: &[IpNet]| ranges.iter().any(|range| range.contains(&address));
        if within(&self.ranges.pod_cidrs) {
            return Some(&self.local);
        }
        let granted = self.grants.iter().find(|(_, claims)| within(&claims.pod_cidrs));
        granted.map(|(name, _)| name).or_else(|| {
            let has = |name: &&ClusterName| {
                let cluster = self.clusters.get(*name);
                let mut nodes = cluster.into_iter().flat_map(|cluster| cluster.nodes.iter());
                nodes.any(|(_, node, _)| within(&node.pod_cidrs))
            };
            self.clusters.keys().find(has)
        })
    }

    /// The addresses that several clusters report, each with these clusters. The first has it.
    pub fn contested(&self) -> impl ExactSizeIterator<Item = (IpAddr, &[ClusterName])> {
        self.claimants.contested.iter().map(|(net, names)| (net.addr(), names.as_slice()))
    }

    /// A cluster reports an address that it did not report before.
    pub(super) fn claim(&mut self, name: &ClusterName, net: IpNet) {
        let ungranted = self.is_ungranted(name);
        if ungranted {
            let count = self.claimants.ungranted.entry(net).or_default();
            *count = count.saturating_add(1);
        }
        let others = self.others(name, net, ungranted);
        if others.is_empty() {
            self.deltas.push(Delta::Address(net));
            return;
        }
        let place = |merge: &Self, names: &[ClusterName]| {
            if *name == merge.local {
                return 0;
            }
            match merge.restored_id(name) {
                Some(id) => {
                    let later = |other: &ClusterName| {
                        *other != merge.local
                            && merge.restored_id(other).is_some_and(|other| other > id)
                    };
                    names.iter().position(later).unwrap_or(names.len())
                }
                None => names.len(),
            }
        };
        let mut names = self.claimants.contested.remove(&net).unwrap_or(others);
        if !names.contains(name) {
            let place = place(self, &names);
            names.insert(place, name.clone());
            if place == 0 {
                self.deltas.push(Delta::Address(net));
            }
        }
        self.claimants.contested.insert(net, names);
    }

    /// A cluster no longer reports an address. `ungranted`: it had no grant when it did.
    pub(super) fn unclaim(&mut self, name: &ClusterName, net: IpNet, ungranted: bool) {
        let Claimants { ungranted: counts, contested, .. } = &mut self.claimants;
        if ungranted && let Some(count) = counts.get_mut(&net) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&net);
            }
        }
        let Some(names) = contested.get_mut(&net) else {
            return self.deltas.push(Delta::Address(net));
        };
        if names.first() == Some(name) {
            self.deltas.push(Delta::Address(net));
        }
        names.retain(|one| one != name);
        if names.len() < 2 {
            contested.remove(&net);
        }
    }

    /// Whether several clusters report an address.
    pub(super) fn is_contested(&self, net: &IpNet) -> bool {
        self.claimants.contested.contains_key(net)
    }

    /// Whether a peer has no grant: what it may report overlaps with that of others.
    pub(super) fn is_ungranted(&self, name: &ClusterName) -> bool {
        let judge = self.clusters.get(name).map(|cluster| &cluster.judge);
        matches!(judge, Some(Validator::Ungranted { .. }))
    }

    /// A peer's grant is another. Returns whether it has addresses in common with another peer's.
    pub(super) fn set_overlapping(&mut self, name: &ClusterName) -> bool {
        let ranges = |claims: &Claims| -> Vec<IpNet> {
            claims.pod_cidrs.iter().chain(&claims.node_cidrs).copied().collect()
        };
        let own = self.grants.get(name).map(ranges).unwrap_or_default();
        let meets = |claims: &Claims| {
            let other = ranges(claims);
            own.iter().any(|one| other.iter().any(|other| overlap(one, other)))
        };
        let others = self.grants.iter().filter(|(other, claims)| *other != name && meets(claims));
        let others: BTreeSet<ClusterName> = others.map(|(other, _)| other.clone()).collect();
        let all = &mut self.claimants.overlapping;
        for (other, names) in all.iter_mut().filter(|(other, _)| *other != name) {
            if !others.contains(other) {
                names.remove(name);
            }
        }
        for other in &others {
            all.entry(other.clone()).or_default().insert(name.clone());
        }
        all.retain(|_, names| !names.is_empty());
        let is_any = !others.is_empty();
        match is_any {
            true => all.insert(name.clone(), others),
            false => all.remove(name),
        };
        is_any
    }

    /// The other clusters that report an address, the local one first.
    fn others(&self, name: &ClusterName, net: IpNet, ungranted: bool) -> Vec<ClusterName> {
        let has = |other: &&ClusterName| {
            *other != name
                && self.clusters.get(*other).is_some_and(|one| one.addresses.contains_key(&net))
        };
        let local = [&self.local].into_iter().filter(has);
        let is_crowded = self.claimants.ungranted.get(&net).is_some_and(|count| *count > 1);
        let mut all: Vec<ClusterName> = local.cloned().collect();
        // Only what may report it is asked: not each of many clusters for each of many addresses.
        if *name == self.local || ungranted && is_crowded {
            let peers = self.clusters.keys().filter(|other| **other != self.local);
            all.extend(peers.filter(has).cloned());
        } else if let Some(others) = self.claimants.overlapping.get(name) {
            all.extend(others.iter().filter(has).cloned());
        }
        all
    }

    /// The ID of a cluster whose addresses are known from a snapshot only.
    fn restored_id(&self, name: &ClusterName) -> Option<ClusterId> {
        let cluster = self.clusters.get(name)?;
        (cluster.round(RecordKind::Address) == UNREPORTED).then_some(cluster.id)
    }
}
