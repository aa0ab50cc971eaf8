//! Views of the records of all clusters.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use mesh_model::{
    ClusterId, ClusterName, Identity, KnownAddress, KnownIdentities, LocalService, Record,
    RecordKey, RecordKind, ServiceName, ServiceTraffic,
    lb::{Backend, BackendState, Frontend},
};

use super::{Merge, frontends::frontend, services::backend};
use crate::{
    accounting::Tally,
    admission::{MissingGrant, overlap},
    backend_set::BackendId,
    cluster::{Cluster, Counts},
    services::ServicePart,
};

impl Merge {
    /// The local cluster.
    pub(super) fn local(&self) -> Option<&Cluster> {
        self.clusters.get(&self.local)
    }

    /// Our services, with what each asks for and its frontends.
    pub fn services(
        &self,
    ) -> impl Iterator<Item = (&ServiceName, &Arc<ServiceTraffic>, impl Iterator<Item = (Frontend, &str)>)>
    {
        let local = self.local().into_iter().flat_map(|local| &local.services);
        local.filter_map(|(name, part)| {
            Some((name.as_ref(), part.traffic()?, self.frontends_in(name, part)))
        })
    }

    /// The settings of a local service; `None` if it is not one.
    pub fn traffic_of(&self, service: &ServiceName) -> Option<&Arc<ServiceTraffic>> {
        self.local()?.services.get(service)?.traffic()
    }

    /// What local nodes get of a local service, if our cluster reports it.
    pub fn local_service(&self, service: &ServiceName) -> Option<&LocalService> {
        Some(&self.local()?.services.get(service)?.local.as_ref()?.service)
    }

    /// The local services of which a part is a kube-proxy's, in order.
    pub fn left_to_kube_proxy(&self) -> impl Iterator<Item = &ServiceName> {
        self.local().into_iter().flat_map(|local| &local.left_to_kube_proxy).map(AsRef::as_ref)
    }

    /// The frontends of a local service, with their port names.
    pub fn frontends_of(&self, service: &ServiceName) -> impl Iterator<Item = (Frontend, &str)> {
        let part = self.local().and_then(|local| local.services.get_key_value(service));
        part.into_iter().flat_map(|(name, part)| self.frontends_in(name, part))
    }

    /// The service that has a frontend.
    pub fn service_of(&self, frontend: &Frontend) -> Option<&ServiceName> {
        self.frontends.get(frontend).map(AsRef::as_ref)
    }

    /// Those that are not another service's.
    fn frontends_in<'a>(
        &'a self,
        name: &'a ServiceName,
        part: &'a ServicePart,
    ) -> impl Iterator<Item = (Frontend, &'a str)> {
        let holds = move |place: &&BackendId| {
            self.frontends.get(&frontend(place)).is_some_and(|holder| **holder == *name)
        };
        part.frontends().filter(holds).map(|place| (frontend(place), place.port_name.as_ref()))
    }

    /// All backends of a service, of all clusters, with the names of the ports they serve and what their clusters
    /// report of them.
    pub fn backends_of(
        &self,
        service: &ServiceName,
    ) -> impl Iterator<Item = (Backend, &str, &BackendState)> {
        self.clusters.values().flat_map(move |cluster| {
            let part = cluster.services.get(service).into_iter();
            part.flat_map(ServicePart::backends)
                .map(|(place, state)| (backend(cluster.id, place), place.port_name.as_ref(), state))
        })
    }

    /// The same of those that no frontend can lead to: they have no port, which is 0 then, or SCTP alone.
    pub fn unusable_of(
        &self,
        service: &ServiceName,
    ) -> impl Iterator<Item = (Backend, &str, &BackendState)> {
        self.clusters.values().flat_map(move |cluster| {
            let part = cluster.services.get(service).into_iter();
            part.flat_map(ServicePart::unusable)
                .map(|(place, state)| (backend(cluster.id, place), place.port_name.as_ref(), state))
        })
    }

    /// The clusters by name, with their IDs.
    pub fn clusters(&self) -> impl Iterator<Item = (&ClusterName, ClusterId)> {
        self.clusters.iter().map(|(name, cluster)| (name, cluster.id))
    }

    /// A cluster's ID, once it has one.
    pub fn id_of(&self, name: &ClusterName) -> Option<ClusterId> {
        self.clusters.get(name).map(|cluster| cluster.id).filter(|id| *id != ClusterId::NONE)
    }

    /// The cluster that has an ID.
    pub fn name_of(&self, id: ClusterId) -> Option<&ClusterName> {
        self.by_id.get(&id)
    }

    /// Whether some addresses of a cluster are those of the previous run, which it has not listed again.
    pub fn has_restored_addresses(&self, name: &ClusterName) -> bool {
        self.clusters.get(name).is_some_and(|cluster| cluster.claims.restored)
    }

    /// The ID that a peer's grant keeps for it.
    pub fn granted_id(&self, name: &ClusterName) -> Option<ClusterId> {
        self.grants.get(name)?.id
    }

    /// How much a cluster reports.
    pub fn counts(&self, name: &ClusterName) -> Counts {
        self.clusters.get(name).map(Cluster::counts).unwrap_or_default()
    }

    /// Whether a cluster listed all its services in this run, in the form in which it reports them.
    pub fn has_listed_services(&self, name: &ClusterName) -> bool {
        self.clusters.get(name).is_some_and(Cluster::has_listed_services)
    }

    /// Whether a cluster has reported all records of a kind in this run.
    pub fn is_confirmed(&self, name: &ClusterName, kind: RecordKind) -> bool {
        self.clusters.get(name).is_some_and(|cluster| cluster.confirmed.contains(&kind))
    }

    /// The node that an address of a cluster is on, where the cluster reported it.
    pub fn node_of(&self, id: ClusterId, address: IpAddr) -> Option<&str> {
        self.cluster_with(id)?.node_of(address).map(AsRef::as_ref)
    }

    /// The identity that an address of a cluster has, as far as the cluster may give it one.
    pub fn identity_of(&self, name: &ClusterName, net: IpNet) -> Option<Identity> {
        let cluster = self.clusters.get(name)?;
        let entry = cluster.addresses.get(net)?;
        Some(cluster.judge.identity(net, entry.identity))
    }

    /// The internal addresses of a cluster's nodes.
    pub fn nodes(&self, name: &ClusterName) -> impl Iterator<Item = (&str, &[IpAddr])> {
        let nodes = self.clusters.get(name).into_iter().flat_map(|cluster| cluster.nodes.iter());
        nodes.map(|(name, node, _)| (name, node.internal_ips.as_slice()))
    }

    /// The internal addresses of a node.
    pub fn node_addresses(&self, name: &ClusterName, node: &str) -> &[IpAddr] {
        let node = self.clusters.get(name).and_then(|cluster| cluster.nodes.get(node));
        node.map(|node| node.internal_ips.as_slice()).unwrap_or_default()
    }

    /// The zone that one of our nodes is in.
    pub fn zone_of(&self, node: &str) -> Option<&str> {
        self.local()?.nodes.get(node)?.zone.as_deref()
    }

    /// The pod ranges of a node.
    pub fn pod_ranges(&self, name: &ClusterName, node: &str) -> &[IpNet] {
        let node = self.clusters.get(name).and_then(|cluster| cluster.nodes.get(node));
        node.map(|node| node.pod_cidrs.as_slice()).unwrap_or_default()
    }

    /// A cluster's identities with their labels as text, in no order.
    pub fn identities(&self, name: &ClusterName) -> impl Iterator<Item = (Identity, &str)> {
        let identities = self.clusters.get(name).into_iter().flat_map(|c| &c.identities);
        identities.map(|(identity, (labels, _))| (*identity, labels.as_ref()))
    }

    /// The labels of an identity of a cluster as text.
    pub fn labels_of(&self, name: &ClusterName, identity: Identity) -> Option<&str> {
        let (labels, _) = self.clusters.get(name)?.identities.get(&identity)?;
        Some(labels)
    }

    /// How many addresses each identity of a cluster has: goes through all of them.
    pub fn identity_uses(&self, name: &ClusterName) -> HashMap<Identity, u64> {
        let mut uses = HashMap::new();
        for (_, entry) in self.clusters.get(name).into_iter().flat_map(|c| c.addresses.iter()) {
            *uses.entry(entry.identity).or_default() += 1;
        }
        uses
    }

    /// How much of a cluster is kept here, records of lists that were not confirmed included. After
    /// [`Merge::begin_again`] only what came since counts.
    pub fn kept(&self, name: &ClusterName) -> Tally {
        self.clusters.get(name).map(Cluster::kept).unwrap_or_default()
    }

    /// The peers that get no routes, because their peer files do not grant ranges of pods.
    pub fn missing_grants(&self) -> impl Iterator<Item = MissingGrant> {
        let peers = self.clusters.iter().filter(|(name, _)| **name != self.local);
        peers.filter_map(|(name, cluster)| {
            let nodes = || cluster.nodes.iter().map(|(_, node, _)| node);
            let pods: Vec<IpNet> = nodes().flat_map(|node| &node.pod_cidrs).copied().collect();
            let ips = nodes().flat_map(|node| &node.internal_ips);
            let ips: Vec<IpNet> = ips.copied().map(IpNet::from).collect();
            cluster.judge.missing_grant(name, &pods, &ips)
        })
    }

    /// A cluster's nodes and services as records: enough to fill tables and routes again. `None` before it has reported
    /// all of both.
    pub fn records(&self, name: &ClusterName) -> Option<(ClusterId, Vec<Record>)> {
        if !self.is_confirmed(name, RecordKind::Node) || !self.has_listed_services(name) {
            return None;
        }
        let cluster = self.clusters.get(name)?;
        let nodes = cluster.nodes.iter();
        let nodes = nodes.map(|(node, entry, _)| entry.record(node, name, cluster.id));
        let slices = cluster.slices.iter().filter_map(|(key, slice)| {
            let (RecordKey::EndpointSlice(of) | RecordKey::LocalEndpointSlice(of)) = key else {
                return None;
            };
            let service = slice.service.as_ref()?;
            let backends = cluster.services.get(service)?.backend_set(slice.source)?;
            let record = Box::new(backends.to_slice(of, service, name, cluster.id));
            Some(match key {
                RecordKey::LocalEndpointSlice(_) => Record::LocalEndpointSlice(record),
                _ => Record::EndpointSlice(record),
            })
        });
        let services = cluster.services.iter().flat_map(|(service, part)| {
            let local = part.local.as_ref().map(|local| local.service.clone());
            let local = local.map(|local| Record::LocalService(Box::new(local)));
            part.record(service, name, cluster.id).into_iter().chain(local)
        });
        // In the order in which they are reported: a reader finds nodes before backends, and these before services.
        Some((cluster.id, nodes.chain(slices).chain(services).collect()))
    }

    /// A cluster's identities and addresses, for the next run. `None` before it has reported all of both.
    pub fn known_identities(&self, name: &ClusterName) -> Option<KnownIdentities> {
        let confirmed = |kind| self.is_confirmed(name, kind);
        if !confirmed(RecordKind::Identity) || !confirmed(RecordKind::Address) {
            return None;
        }
        let cluster = self.clusters.get(name)?;
        let identities = cluster.identities.iter();
        let identities = identities.map(|(id, (labels, _))| (*id, Arc::clone(labels)));
        let addresses = cluster.addresses.iter().map(|(net, entry)| KnownAddress {
            net,
            identity: entry.identity,
            host: cluster.host_of(entry.host),
        });
        let contested = self.table.contested_of(cluster.id);
        let second = contested.filter(|address| self.is_second(cluster, *address));
        Some(KnownIdentities {
            identities: identities.collect(),
            addresses: addresses.collect(),
            second: second.collect(),
        })
    }

    /// Whether a peer's pod range touches one of ours.
    pub fn overlaps_local(&self, range: &IpNet) -> bool {
        self.ranges.all().any(|local| overlap(local, range))
    }
}
