//! What each peer may claim, and which ID it has.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use mesh_model::{
    ClusterId, ClusterName, RecordKey, ServiceName,
    lb::{Route, RouteDelta},
};

use super::{Delta, IdInUse, Merge, addresses::claimed};
use crate::{
    addresses::single,
    admission::{Claims, Validator},
    cluster::Cluster,
    ranges::Rank,
    services::SourceId,
};

impl Merge {
    /// Sets a peer, new or with another grant. What the grant no longer covers is removed; everything else that it
    /// reported stays. Returns the cluster that had the ID in the grant: nothing more is accepted from it, and all that
    /// it reported is removed.
    pub fn set_peer(&mut self, name: &ClusterName, claims: Option<Claims>) -> Option<ClusterName> {
        match claims {
            Some(claims) => self.grants.insert(name.clone(), claims),
            None => self.grants.remove(name),
        };
        let starting = !self.is_started;
        self.clusters.entry(name.clone()).or_insert_with(|| {
            let mut cluster = Cluster::new(name, Validator::Local);
            cluster.claims.starting = starting;
            cluster
        });
        let peers: Vec<ClusterName> =
            self.clusters.keys().filter(|name| **name != self.local).cloned().collect();
        for name in peers {
            self.set_judge(&name);
        }
        let id = self.grants.get(name)?.id?;
        let holds = |(other, cluster): &(&ClusterName, &Cluster)| {
            *other != name && cluster.id == id && self.reserved(other, id).is_some()
        };
        let (holder, _) = self.clusters.iter().find(holds)?;
        let holder = holder.clone();
        self.forget(&holder);
        self.assign_id(&holder, ClusterId::NONE);
        if let Some(cluster) = self.clusters.get_mut(&holder) {
            cluster.held = true;
        }
        Some(holder)
    }

    /// The cluster that an ID is reserved for, if that is another than `name`. A grant with this ID reserves it, and
    /// the local cluster has its own.
    fn reserved(&self, name: &ClusterName, id: ClusterId) -> Option<&ClusterName> {
        let granted = |name: &ClusterName| self.grants.get(name).and_then(|claims| claims.id);
        if *name == self.local || granted(name) == Some(id) {
            return None;
        }
        self.grants.keys().find(|other| granted(other) == Some(id))
    }

    /// Checks a peer by the present grants, including its existing records.
    fn set_judge(&mut self, name: &ClusterName) {
        let judge = match self.grants.get(name) {
            Some(claims) => Validator::Granted {
                claims: claims.clone(),
                ours: self.ranges.all().copied().collect(),
            },
            None => {
                let granted = self.grants.values();
                let granted = granted.flat_map(|c| c.pod_cidrs.iter().chain(&c.node_cidrs));
                Validator::Ungranted { taken: self.ranges.all().chain(granted).copied().collect() }
            }
        };
        let Some(cluster) = self.clusters.get(name).filter(|cluster| cluster.judge != judge) else {
            return;
        };
        let routed = cluster.judge.has_routes();
        let ranges = self.replace_judge(name, judge);
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        let judge = &cluster.judge;
        if judge.has_routes() != routed {
            let change: fn(Route) -> RouteDelta =
                if routed { RouteDelta::Removed } else { RouteDelta::Added };
            for (node, entry, _) in cluster.nodes.iter() {
                let routes = entry.routes().map(|(range, via)| Route {
                    cluster: name.clone(),
                    node: node.into(),
                    range,
                    via,
                });
                self.deltas.extend(routes.map(|route| Delta::Route(change(route))));
            }
        }
        let nodes = cluster.nodes.iter();
        let nodes = nodes.filter(|(node, entry, _)| judge.check_node(node, entry).is_err());
        let nodes: Vec<String> = nodes.map(|(node, ..)| node.to_owned()).collect();
        let addresses = |service: &ServiceName, source| {
            let part = cluster.services.get(service).into_iter();
            part.flat_map(move |part| part.addresses(source))
        };
        let services = cluster.services.keys().filter(|service| {
            judge.check_service(service, addresses(service, SourceId::RECORD)).is_err()
        });
        let services: Vec<Arc<ServiceName>> = services.cloned().collect();
        let slices = cluster.slices.iter().filter(|(_, slice)| {
            let service = slice.service.as_ref();
            service
                .is_some_and(|name| judge.check_slice(name, addresses(name, slice.source)).is_err())
        });
        let slices: Vec<RecordKey> = slices.map(|(key, _)| key.clone()).collect();
        services.into_iter().for_each(|service| self.set_service(name, service, None));
        slices.iter().for_each(|slice| self.set_slice(name, slice, None));
        nodes.iter().for_each(|node| self.set_node(name, node, None));
        let (rank, gone) = ranges;
        gone.into_iter().for_each(|range| self.set_range(name, rank, range, false));
        if self.clusters.get(name).is_some_and(|cluster| cluster.rank() != rank) {
            self.count_strays(name);
        }
    }

    /// Checks a peer's addresses by another grant than before. Returns the ranges that are no longer its, with their rank.
    fn replace_judge(&mut self, name: &ClusterName, judge: Validator) -> (Rank, Vec<IpNet>) {
        let Some(cluster) = self.clusters.get(name) else { return (Rank::Ungranted, Vec::new()) };
        let (was, is) = (self.ranges_by(cluster, &cluster.judge), self.ranges_by(cluster, &judge));
        let (rank_before, rank) = (cluster.judge.rank(), judge.rank());
        let records = cluster.addresses.iter();
        let gone = records.filter(|(net, _)| judge.check_address(*net).is_err());
        let gone: Vec<IpNet> = gone.map(|(net, _)| net).collect();
        // Others are now first where it was, and its reserved identities mean something else.
        let affected: Vec<IpAddr> = match rank == rank_before {
            true => {
                let records = cluster.addresses.iter();
                let reserved = records.filter(|(_, entry)| entry.identity.is_reserved());
                let reserved = reserved.filter_map(|(net, _)| single(net));
                reserved.chain(self.table.contested_of(cluster.id)).collect()
            }
            false => claimed(cluster),
        };
        // Ranges come before addresses, and go after them.
        let added: Vec<IpNet> = match rank == rank_before {
            true => is.iter().filter(|range| !was.contains(range)).copied().collect(),
            false => is.clone(),
        };
        added.into_iter().for_each(|range| self.set_range(name, rank, range, true));
        let kept = self.contested_of(name).into_iter().flat_map(|ip| self.table.claims(ip));
        let kept: BTreeSet<ClusterId> =
            kept.chain([self.id_of(name).unwrap_or_default()]).collect();
        self.deltas.extend(kept.into_iter().map(|id| Delta::Claims { id }));
        let before = self.before(affected);
        if let Some(cluster) = self.clusters.get_mut(name) {
            cluster.judge = judge;
        }
        self.announce(before);
        gone.into_iter().for_each(|net| self.remove_address(name, net));
        match rank == rank_before {
            true => (rank, was.into_iter().filter(|range| !is.contains(range)).collect()),
            false => (rank_before, was),
        }
    }

    /// The pod ranges of a peer by a grant, or without one by its nodes.
    fn ranges_by(&self, cluster: &Cluster, judge: &Validator) -> Vec<IpNet> {
        match judge {
            Validator::Local => Vec::new(),
            Validator::Granted { claims, .. } => {
                let ranges: BTreeSet<IpNet> = claims.pod_cidrs.iter().map(IpNet::trunc).collect();
                ranges.into_iter().collect()
            }
            Validator::Ungranted { .. } => {
                let nodes = cluster.nodes.iter();
                nodes.flat_map(|(_, node, _)| node.pod_cidrs.iter().copied()).collect()
            }
        }
    }

    /// A peer that is gone takes everything with it that it reported.
    pub fn remove_peer(&mut self, name: &ClusterName) {
        if *name == self.local {
            return;
        }
        self.grants.remove(name);
        self.forget(name);
        self.assign_id(name, ClusterId::NONE);
        if let Some(cluster) = self.clusters.get(name) {
            // Those of a peer without a grant went with its nodes.
            let (rank, ranges) = (cluster.rank(), self.ranges_by(cluster, &cluster.judge));
            ranges.into_iter().for_each(|range| self.set_range(name, rank, range, false));
        }
        self.clusters.remove(name);
    }

    /// The ID of a cluster, from its config. Its records under another ID are removed. If another cluster has or is
    /// granted the ID, no record of the cluster is accepted until it has an ID of its own; its former records stay.
    pub fn set_id(&mut self, name: &ClusterName, id: ClusterId) -> Result<(), IdInUse> {
        let holds =
            |(other, cluster): &(&ClusterName, &Cluster)| *other != name && cluster.id == id;
        let holder = self.clusters.iter().find(holds).map(|(other, _)| other);
        if let Some(other) = holder.or_else(|| self.reserved(name, id)) {
            let in_use = IdInUse { id, other: other.clone() };
            self.set_held(name, true);
            return Err(in_use);
        }
        if self
            .clusters
            .get(name)
            .is_some_and(|cluster| cluster.id != id && cluster.id != ClusterId::NONE)
        {
            self.forget(name);
        }
        self.assign_id(name, id);
        if let Some(cluster) = self.clusters.get_mut(name) {
            cluster.claims.restored_id = false;
        }
        self.set_held(name, false);
        Ok(())
    }

    /// Whether a cluster waits for an ID of its own: nothing more of it is accepted.
    fn set_held(&mut self, name: &ClusterName, held: bool) {
        let before = self.before(self.contested_of(name));
        if let Some(cluster) = self.clusters.get_mut(name) {
            cluster.held = held;
        }
        self.announce(before);
    }

    /// A cluster has another ID, or [`ClusterId::NONE`]: nothing of it is in the table under the one before.
    pub(super) fn assign_id(&mut self, name: &ClusterName, id: ClusterId) {
        let Some(cluster) = self.clusters.get_mut(name).filter(|cluster| cluster.id != id) else {
            return;
        };
        self.by_id.remove(&cluster.id);
        cluster.id = id;
        if id != ClusterId::NONE {
            let claimed = claimed(cluster);
            self.by_id.insert(id, name.clone());
            let before = self.before(claimed.iter().copied());
            claimed.into_iter().for_each(|ip| self.update_claim(name, ip));
            self.announce(before);
        }
    }
}
