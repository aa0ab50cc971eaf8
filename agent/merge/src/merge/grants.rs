//! What peers may claim, and what becomes of their records when that changes.

use std::sync::Arc;

use ipnet::IpNet;
use mesh_model::{
    ClusterId, ClusterName, RecordKey, RecordKind, ServiceName,
    lb::{Route, RouteDelta},
};

use super::{Delta, Merge};
use crate::{
    admission::{Claims, Validator},
    cluster::{ADDRESS_BYTES, Cluster},
    services::SourceId,
};

// === impl Merge ===

impl Merge {
    /// Sets a peer, new or with another grant. What the grant no longer covers is removed; everything else that it
    /// reported stays. Returns the cluster that had the ID in the grant: nothing more is accepted from it, and all that
    /// it reported is removed.
    pub fn set_peer(&mut self, name: &ClusterName, claims: Option<Claims>) -> Option<ClusterName> {
        match claims {
            Some(claims) => self.grants.insert(name.clone(), claims),
            None => self.grants.remove(name),
        };
        self.clusters.entry(name.clone()).or_insert_with(|| Cluster::new(Validator::Local));
        let overlaps = self.set_overlapping(name);
        let peers: Vec<ClusterName> =
            self.clusters.keys().filter(|name| **name != self.local).cloned().collect();
        for name in peers {
            self.set_judge(&name);
        }
        if overlaps {
            self.contest(name);
        }
        let id = self.grants.get(name)?.id?;
        let holds = |(other, cluster): &(&ClusterName, &Cluster)| {
            *other != name && cluster.id == id && self.reserved(other, id).is_some()
        };
        let (holder, _) = self.clusters.iter().find(holds)?;
        let holder = holder.clone();
        self.forget(&holder);
        if let Some(cluster) = self.clusters.get_mut(&holder) {
            (cluster.id, cluster.held) = (ClusterId::NONE, true);
        }
        Some(holder)
    }

    /// The cluster that an ID is reserved for, if that is another than `name`. A grant with this ID reserves it, and
    /// the local cluster has its own.
    pub(super) fn reserved(&self, name: &ClusterName, id: ClusterId) -> Option<&ClusterName> {
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
        let Some(cluster) = self.clusters.get_mut(name).filter(|cluster| cluster.judge != judge)
        else {
            return;
        };
        let routed = cluster.judge.has_routes();
        let was_ungranted = matches!(cluster.judge, Validator::Ungranted { .. });
        cluster.judge = judge;
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
        let mut gone = Vec::new();
        cluster.addresses.retain(|net, entry| {
            let stays = judge.check_address(*net).is_ok();
            if stays && entry.identity.is_reserved() {
                // What it may be called follows from the grant.
                self.deltas.push(Delta::Address(*net));
            }
            if !stays {
                gone.push((*net, entry.round));
            }
            stays
        });
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
        for (_, round) in &gone {
            cluster.note(RecordKind::Address, Some((ADDRESS_BYTES, *round)), None);
        }
        gone.into_iter().for_each(|(net, _)| self.unclaim(name, net, was_ungranted));
        if was_ungranted != self.is_ungranted(name) {
            let stay = self.clusters.get(name).into_iter().flat_map(|one| one.addresses.keys());
            let stay: Vec<IpNet> = stay.copied().collect();
            for net in stay {
                self.unclaim(name, net, was_ungranted);
                self.claim(name, net);
            }
        }
        services.into_iter().for_each(|service| self.set_service(name, service, None));
        slices.iter().for_each(|slice| self.set_slice(name, slice, None));
        nodes.iter().for_each(|node| self.set_node(name, node, None));
    }

    /// Compares the addresses of a peer whose grant overlaps with another's.
    fn contest(&mut self, name: &ClusterName) {
        let ungranted = self.is_ungranted(name);
        let addresses = self.clusters.get(name).into_iter().flat_map(|one| one.addresses.keys());
        let addresses = addresses.filter(|net| !self.is_contested(net));
        let addresses: Vec<IpNet> = addresses.copied().collect();
        for net in addresses {
            self.unclaim(name, net, ungranted);
            self.claim(name, net);
        }
    }
}
