//! Services as clusters report them: as one record for each service, or as its slices.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use mesh_model::{
    ClusterId, ClusterName, EndpointSlice, GlobalService, LocalService, RecordKey, RecordKind,
    ServiceName, ServiceTraffic,
    lb::{Backend, ServiceDelta},
};

use super::{Delta, Merge};
use crate::{
    backend_set::{BackendId, BackendSet},
    cluster::Cluster,
    services::{Changes, LocalEntry, RecordEntry, ServicePart, SliceEntry, SourceId, slice_bytes},
};

/// A service of ours before it changes, as clients see it.
type Seen = (Option<Arc<ServiceTraffic>>, BTreeSet<BackendId>);

impl Merge {
    /// Replaces a cluster's service v1. One without anything is none.
    pub(super) fn set_service(
        &mut self,
        name: &ClusterName,
        service: Arc<ServiceName>,
        record: Option<&GlobalService>,
    ) {
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        let round = cluster.round(RecordKind::Service);
        let mut interner = std::mem::take(&mut cluster.interner);
        let node_of = |address| cluster.node_of(address).cloned();
        let backends = record.map(|record| BackendSet::of_service(record, &mut interner, node_of));
        let (backends, unusable) = backends.unwrap_or_default();
        let frontends: BTreeSet<BackendId> = record
            .into_iter()
            .flat_map(|record| &record.frontends)
            .flat_map(|(ip, ports)| BackendId::all(*ip, ports, &mut interner).collect::<Vec<_>>())
            .collect();
        cluster.interner = interner;
        let there = !(frontends.is_empty() && backends.is_empty() && unusable.is_empty());
        let entry = there.then_some(RecordEntry { frontends, round });
        let of = Arc::clone(&service);
        self.change(name, service, |cluster, part| {
            let bytes = |part: &ServicePart| part.record_bytes(&of);
            let before = part.record.as_ref().map(|record| (bytes(part), record.round));
            part.record = entry;
            let changes = part.set_backends(SourceId::RECORD, backends);
            part.set_unusable(SourceId::RECORD, unusable);
            let now = part.record.as_ref().map(|_| bytes(part));
            cluster.note(RecordKind::Service, before, now);
            changes
        });
    }

    /// Replaces a service of the local cluster.
    pub(super) fn set_local_service(
        &mut self,
        name: &ClusterName,
        service: Arc<ServiceName>,
        local: Option<LocalService>,
    ) {
        if *name != self.local {
            return;
        }
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        match local.as_ref().is_some_and(LocalService::needs_kube_proxy) {
            true => cluster.left_to_kube_proxy.insert(Arc::clone(&service)),
            false => cluster.left_to_kube_proxy.remove(&service),
        };
        let round = cluster.round(RecordKind::LocalService);
        let interner = &mut cluster.interner;
        let entry = local.map(|local| Box::new(LocalEntry::new(local, round, interner)));
        self.change(name, service, |cluster, part| {
            let was = part.local.as_ref().map(|entry| (entry.bytes(), entry.round));
            let now = entry.as_ref().map(|entry| entry.bytes());
            cluster.note(RecordKind::LocalService, was, now);
            part.local = entry;
            Changes::default()
        });
    }

    /// Replaces a slice. Its backends belong to its service: if that changes, they are added there before they are
    /// removed here.
    pub(super) fn set_slice(
        &mut self,
        name: &ClusterName,
        key: &RecordKey,
        slice: Option<&EndpointSlice>,
    ) {
        let is_local = *name == self.local;
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        let kind = key.kind();
        let before = cluster.slices.remove(key);
        let source = before.as_ref().map_or_else(|| cluster.new_source(), |before| before.source);
        // A copy of another cluster's record leads nowhere: that cluster reports it itself.
        let used = slice.filter(|slice| !slice.is_copy());
        let service = used.and_then(EndpointSlice::service);
        let (backends, unusable) = used
            .map(|slice| BackendSet::of_slice(slice, is_local, &mut cluster.interner))
            .unwrap_or_default();
        let key_name = match key {
            RecordKey::EndpointSlice(name) | RecordKey::LocalEndpointSlice(name) => name,
            _ => return,
        };
        let sets = (&backends, &unusable);
        let bytes = slice.map(|_| slice_bytes(key_name, service.as_ref(), sets));
        cluster.note(kind, before.as_ref().map(|before| (before.bytes, before.round)), bytes);
        let was = before.and_then(|before| before.service);
        let service = service.filter(|_| !(backends.is_empty() && unusable.is_empty()));
        let service = match (&was, service) {
            (Some(was), Some(service)) if **was == service => Some(Arc::clone(was)),
            (_, service) => service.map(|service| cluster.service_name(service.into())),
        };
        if let Some(bytes) = bytes {
            let round = cluster.round(kind);
            let entry = SliceEntry { service: service.clone(), source, bytes, round };
            cluster.slices.insert(key.clone(), entry);
        }
        if let Some(service) = &service {
            self.change(name, Arc::clone(service), |_, part| {
                part.set_unusable(source, unusable);
                part.set_backends(source, backends)
            });
        }
        if let Some(was) = was.filter(|was| Some(was) != service.as_ref()) {
            self.change(name, was, |_, part| {
                part.set_unusable(source, BackendSet::default());
                part.set_backends(source, BackendSet::default())
            });
        }
    }

    /// All nodes or addresses of a cluster are known: backends that are reported without a node are placed by them.
    pub(super) fn place_anew(&mut self, name: &ClusterName) {
        let Some(cluster) = self.clusters.get(name) else { return };
        let node_of = |address: IpAddr| cluster.node_of(address).cloned();
        let moved = cluster.services.iter().filter_map(|(service, part)| {
            let backends = part.backend_set(SourceId::RECORD)?.placed_anew(node_of)?;
            Some((Arc::clone(service), backends))
        });
        let moved: Vec<(Arc<ServiceName>, BackendSet)> = moved.collect();
        for (service, backends) in moved {
            self.change(name, service, |_, part| part.set_backends(SourceId::RECORD, backends));
        }
    }

    /// Changes a cluster's part of a service, and returns what follows: additions before removals.
    fn change(
        &mut self,
        name: &ClusterName,
        service: Arc<ServiceName>,
        change: impl FnOnce(&mut Cluster, &mut ServicePart) -> Changes,
    ) {
        let local = *name == self.local;
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        let id = cluster.id;
        let service = cluster.service_name(service);
        let mut part = cluster.services.remove(&service).unwrap_or_default();
        let seen = |part: &ServicePart| if local { seen(part) } else { Seen::default() };
        let before = seen(&part);
        let Changes { set, removed } = change(cluster, &mut part);
        let now = seen(&part);
        if !part.is_empty() {
            cluster.services.insert(Arc::clone(&service), part);
        }
        if let (was, Some(traffic)) = (&before.0, &now.0)
            && was.as_ref() != Some(traffic)
        {
            let (service, traffic) = (Arc::clone(&service), Arc::clone(traffic));
            self.deltas.push(Delta::Service(ServiceDelta::ServiceSet { service, traffic }));
        }
        now.1.difference(&before.1).for_each(|place| self.add_frontend(&service, place));
        self.deltas.extend(set.into_iter().map(|(place, state)| {
            let (service, backend) = (Arc::clone(&service), backend(id, &place));
            let port_name = place.port_name;
            Delta::Service(ServiceDelta::BackendSet { service, port_name, backend, state })
        }));
        self.deltas.extend(removed.into_iter().map(|place| {
            let (service, backend) = (Arc::clone(&service), backend(id, &place));
            let port_name = place.port_name;
            Delta::Service(ServiceDelta::BackendRemoved { service, port_name, backend })
        }));
        before.1.difference(&now.1).for_each(|place| self.remove_frontend(&service, place));
        if before.0.is_some() && now.0.is_none() {
            self.deltas.push(Delta::Service(ServiceDelta::ServiceRemoved { service }));
        }
    }
}

fn seen(part: &ServicePart) -> Seen {
    (part.traffic().cloned(), part.frontends().cloned().collect())
}

pub(super) fn backend(cluster: ClusterId, place: &BackendId) -> Backend {
    Backend {
        address: place.address,
        port: place.port.number,
        protocol: place.port.protocol,
        cluster,
    }
}
