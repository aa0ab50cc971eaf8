//! Looking at what all clusters say.

use std::net::IpAddr;

use ipnet::IpNet;
use mesh_model::{
    ClusterId, ClusterName, Identity, Record, RecordKind, ServiceName,
    lb::{Backend, Frontend},
};

use super::{Merge, backend, frontend};
use crate::{
    claims::overlap,
    cluster::{Cluster, Counts, Tally},
    services::Place,
};

impl Merge {
    /// Our services, with the frontends of each.
    pub fn services(
        &self,
    ) -> impl Iterator<Item = (&ServiceName, impl Iterator<Item = (Frontend, &str)>)> {
        let own = self.clusters.get(&self.own).into_iter().flat_map(|own| &own.services);
        own.map(|(name, (part, _))| {
            let mine = |place: &&Place| self.frontends.get(&frontend(place)) == Some(name);
            let frontends = part.frontends.iter().filter(mine);
            (name.as_ref(), frontends.map(|place| (frontend(place), place.port_name.as_ref())))
        })
    }

    /// The frontends of one of our services, with their port names.
    pub fn frontends_of(&self, service: &ServiceName) -> impl Iterator<Item = (Frontend, &str)> {
        let own = self.clusters.get(&self.own);
        let part = own.and_then(|own| own.services.get_key_value(service));
        part.into_iter().flat_map(|(name, (part, _))| {
            let mine = |place: &&Place| self.frontends.get(&frontend(place)) == Some(name);
            part.frontends
                .iter()
                .filter(mine)
                .map(|place| (frontend(place), place.port_name.as_ref()))
        })
    }

    /// All backends of a service, of all clusters, with the names of the ports they serve.
    pub fn backends_of(&self, service: &ServiceName) -> impl Iterator<Item = (Backend, &str)> {
        self.clusters.values().flat_map(move |cluster| {
            let part = cluster.services.get(service).into_iter();
            part.flat_map(|(part, _)| {
                part.backends
                    .iter()
                    .map(|place| (backend(cluster.id, place), place.port_name.as_ref()))
            })
        })
    }

    /// The clusters by name, with their numbers.
    pub fn clusters(&self) -> impl Iterator<Item = (&ClusterName, ClusterId)> {
        self.clusters.iter().map(|(name, cluster)| (name, cluster.id))
    }

    /// The number that a peer's grant keeps for it.
    pub fn granted_id(&self, name: &ClusterName) -> Option<ClusterId> {
        self.grants.get(name)?.id
    }

    /// How much a cluster says.
    pub fn counts(&self, name: &ClusterName) -> Counts {
        self.clusters.get(name).map(Cluster::counts).unwrap_or_default()
    }

    /// Whether a cluster has told all records of a kind in this life.
    pub fn is_confirmed(&self, name: &ClusterName, kind: RecordKind) -> bool {
        self.clusters.get(name).is_some_and(|cluster| cluster.confirmed.contains(&kind))
    }

    /// The node that an address of a cluster is on, where the cluster said so.
    pub fn node_of(&self, id: ClusterId, address: IpAddr) -> Option<&str> {
        self.clusters.values().find(|cluster| cluster.id == id)?.node_of(address)
    }

    /// The identity that an address of a cluster has, as far as the cluster may give it one.
    pub fn identity_of(&self, name: &ClusterName, net: IpNet) -> Option<Identity> {
        let cluster = self.clusters.get(name)?;
        let entry = cluster.addresses.get(&net)?;
        Some(cluster.judge.identity(net, entry.identity))
    }

    /// The internal addresses of a cluster's nodes.
    pub fn nodes(&self, name: &ClusterName) -> impl Iterator<Item = (&str, &[IpAddr])> {
        let nodes = self.clusters.get(name).into_iter().flat_map(|cluster| &cluster.nodes);
        nodes.map(|(name, (node, _))| (name.as_str(), node.internal_ips.as_slice()))
    }

    /// How much a cluster has told of each kind since its last list of that kind began.
    pub fn told(&self, name: &ClusterName) -> Tally {
        self.clusters.get(name).map(Cluster::told).unwrap_or_default()
    }

    /// What a cluster says of its nodes and services, as records: enough to fill tables and routes again. `None` before
    /// it has told all of both.
    pub fn records(&self, name: &ClusterName) -> Option<(ClusterId, Vec<Record>)> {
        let confirmed = |kind| self.is_confirmed(name, kind);
        if !confirmed(RecordKind::Node) || !confirmed(RecordKind::Service) {
            return None;
        }
        let cluster = self.clusters.get(name)?;
        let nodes = cluster.nodes.iter();
        let nodes = nodes.map(|(node, (entry, _))| entry.record(node, name, cluster.id));
        let services = cluster.services.iter();
        let services = services.map(|(service, (part, _))| part.record(service, name, cluster.id));
        Some((cluster.id, nodes.chain(services).collect()))
    }

    /// Whether a peer's pod range touches one of ours.
    pub fn overlaps_own(&self, range: &IpNet) -> bool {
        self.ranges.all().any(|own| overlap(own, range))
    }
}
