//! All clusters together.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use mesh_model::{
    ClusterId, ClusterName, EndpointAddress, Identity, Labels, Node, Record, RecordEvent,
    RecordKey, RecordKind, ServiceName,
    lb::{Backend, BackendState, Frontend, Route, RouteDelta, ServiceDelta},
};

use crate::{
    claims::{Claims, Judge, OwnRanges, Refused},
    cluster::{AddressEntry, Cluster, ENTRY_BYTES, NodeEntry},
    services::{Place, ServicePart},
};

mod local;
mod sweep;
mod views;

pub use local::PodName;
pub use sweep::Expired;

/// What all clusters say.
#[derive(Debug)]
pub struct Merge {
    own: ClusterName,
    ranges: OwnRanges,
    clusters: BTreeMap<ClusterName, Cluster>,
    /// The grants of the peers that have one.
    grants: BTreeMap<ClusterName, Claims>,
    /// Which of our services has each frontend.
    frontends: HashMap<Frontend, Arc<ServiceName>>,
    deltas: Vec<Delta>,
}

/// A change that follows from what a cluster said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delta {
    /// About a service.
    Service(ServiceDelta),
    /// About the way to a cluster's pods.
    Route(RouteDelta),
    /// About a pod of the own cluster: it is new, changed or gone.
    Pod(PodName),
    /// A cluster has told all its records of a kind.
    Confirmed {
        /// The cluster.
        cluster: ClusterName,
        /// Its number.
        id: ClusterId,
        /// The kind.
        kind: RecordKind,
    },
}

/// Two clusters with one number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the id {id} is {other}'s")]
pub struct IdInUse {
    /// The number.
    pub id: ClusterId,
    /// Who has it.
    pub other: ClusterName,
}

// === impl Merge ===

impl Merge {
    /// Our own cluster, which has said nothing yet.
    pub fn new(own: ClusterName, ranges: OwnRanges) -> Self {
        let clusters = BTreeMap::from([(own.clone(), Cluster::new(Judge::Own))]);
        Self {
            own,
            ranges,
            clusters,
            grants: BTreeMap::new(),
            frontends: HashMap::new(),
            deltas: Vec::new(),
        }
    }

    /// A peer, new or with another grant. What the grant no longer covers is gone; all else that it said stays. Returns
    /// who had the number that the grant has: it is not heard any more, and all it said is gone.
    pub fn set_peer(&mut self, name: &ClusterName, claims: Option<Claims>) -> Option<ClusterName> {
        match claims {
            Some(claims) => self.grants.insert(name.clone(), claims),
            None => self.grants.remove(name),
        };
        self.clusters.entry(name.clone()).or_insert_with(|| Cluster::new(Judge::Own));
        let peers: Vec<ClusterName> =
            self.clusters.keys().filter(|name| **name != self.own).cloned().collect();
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
        if let Some(cluster) = self.clusters.get_mut(&holder) {
            (cluster.id, cluster.held) = (ClusterId::NONE, true);
        }
        Some(holder)
    }

    /// Who a number is kept for, if that is somebody else than `name`. A grant that says so counts, and our own number is
    /// ours.
    fn reserved(&self, name: &ClusterName, id: ClusterId) -> Option<&ClusterName> {
        let granted = |name: &ClusterName| self.grants.get(name).and_then(|claims| claims.id);
        if *name == self.own || granted(name) == Some(id) {
            return None;
        }
        self.grants.keys().find(|other| granted(other) == Some(id))
    }

    /// Judges a peer by the grants as they are, and what it said already too.
    fn set_judge(&mut self, name: &ClusterName) {
        let judge = match self.grants.get(name) {
            Some(claims) => Judge::Granted {
                claims: claims.clone(),
                ours: self.ranges.all().copied().collect(),
            },
            None => {
                let granted = self.grants.values();
                let granted = granted.flat_map(|c| c.pod_cidrs.iter().chain(&c.node_cidrs));
                Judge::Ungranted { taken: self.ranges.all().chain(granted).copied().collect() }
            }
        };
        let Some(cluster) = self.clusters.get_mut(name).filter(|cluster| cluster.judge != judge)
        else {
            return;
        };
        cluster.judge = judge;
        let judge = &cluster.judge;
        let mut gone = Vec::new();
        cluster.addresses.retain(|net, entry| {
            let stays = judge.check_address(*net).is_ok();
            if !stays {
                gone.push(entry.round);
            }
            stays
        });
        let nodes = cluster
            .nodes
            .iter()
            .filter(|(node, (entry, _))| judge.check_node(node, entry).is_err());
        let nodes: Vec<String> = nodes.map(|(node, _)| node.clone()).collect();
        let services = cluster.services.iter().filter(|(service, (part, _))| {
            judge.check_service(service, part.backends.iter().map(|place| place.address)).is_err()
        });
        let services: Vec<Arc<ServiceName>> = services.map(|(name, _)| Arc::clone(name)).collect();
        for round in gone {
            cluster.tell(RecordKind::Address, Some((ENTRY_BYTES, round)), None);
        }
        for service in services {
            self.set_service(name, service, ServicePart::default());
        }
        nodes.iter().for_each(|node| self.set_node(name, node, None));
    }

    /// A peer that is gone takes everything with it that it said.
    pub fn remove_peer(&mut self, name: &ClusterName) {
        if *name != self.own {
            self.grants.remove(name);
            self.forget(name);
            self.clusters.remove(name);
        }
    }

    /// The number of a cluster, as its config has it. What it said under another number is gone. With a number that
    /// another has or is granted it is not heard until it has one of its own; what it said before stays.
    pub fn set_id(&mut self, name: &ClusterName, id: ClusterId) -> Result<(), IdInUse> {
        let holds =
            |(other, cluster): &(&ClusterName, &Cluster)| *other != name && cluster.id == id;
        let holder = self.clusters.iter().find(holds).map(|(other, _)| other);
        if let Some(other) = holder.or_else(|| self.reserved(name, id)) {
            let in_use = IdInUse { id, other: other.clone() };
            if let Some(cluster) = self.clusters.get_mut(name) {
                cluster.held = true;
            }
            return Err(in_use);
        }
        if self
            .clusters
            .get(name)
            .is_some_and(|cluster| cluster.id != id && cluster.id != ClusterId::NONE)
        {
            self.forget(name);
        }
        if let Some(cluster) = self.clusters.get_mut(name) {
            cluster.id = id;
            cluster.held = false;
        }
        Ok(())
    }

    /// Takes what a cluster says. A record that it may not say is refused, and what it said before stays.
    pub fn apply(&mut self, name: &ClusterName, event: RecordEvent) -> Result<(), Refused> {
        let Some(cluster) = self.clusters.get_mut(name).filter(|cluster| !cluster.held) else {
            return Ok(());
        };
        match event {
            RecordEvent::Begin(kind) => cluster.begin(kind),
            RecordEvent::Upsert(record) => {
                if let Err(refused) = cluster.judge.check(&record) {
                    self.keep(name, &record.key());
                    return Err(refused);
                }
                self.upsert(name, record);
            }
            RecordEvent::Keep(key) => self.keep(name, &key),
            RecordEvent::Remove(key) => self.remove(name, &key),
            RecordEvent::Confirmed(kind) => self.confirm(name, kind),
        }
        Ok(())
    }

    /// What followed since the last call, in order.
    pub fn take_deltas(&mut self) -> Vec<Delta> {
        std::mem::take(&mut self.deltas)
    }

    fn upsert(&mut self, name: &ClusterName, record: Record) {
        match record {
            Record::Node(node) => self.set_node(name, &node.name.clone(), Some(&node)),
            Record::Identity(identity, labels) => self.set_identity(name, identity, &labels),
            Record::Address(address) => self.set_address(name, &address),
            Record::Service(service) => {
                let part = ServicePart::new(&service);
                self.set_service(name, Arc::new(service.name), part);
            }
            // Read from the next issue's service v2 on.
            Record::EndpointSlice(_) | Record::LocalService(_) | Record::LocalEndpointSlice(_) => {}
            Record::Namespace(namespace) => self.set_namespace(name, *namespace),
            Record::Pod(pod) => self.set_pod(name, *pod),
        }
    }

    fn remove(&mut self, name: &ClusterName, key: &RecordKey) {
        match key {
            RecordKey::Node(node) => self.set_node(name, node, None),
            RecordKey::Service(service) => {
                self.set_service(name, Arc::new(service.clone()), ServicePart::default());
            }
            RecordKey::Identity(identity) => {
                if let Some(cluster) = self.clusters.get_mut(name)
                    && let Some((labels, round)) = cluster.identities.remove(identity)
                {
                    cluster.tell(
                        RecordKind::Identity,
                        Some((identity_bytes(&labels), round)),
                        None,
                    );
                }
            }
            RecordKey::Address(net) => {
                if let Some(cluster) = self.clusters.get_mut(name)
                    && let Some(entry) = cluster.addresses.remove(net)
                {
                    cluster.tell(RecordKind::Address, Some((ENTRY_BYTES, entry.round)), None);
                }
            }
            RecordKey::EndpointSlice(_)
            | RecordKey::LocalService(_)
            | RecordKey::LocalEndpointSlice(_) => {}
            RecordKey::Namespace(namespace) => self.remove_namespace(name, namespace),
            RecordKey::Pod { node, namespace, name: pod } => {
                self.remove_pod(name, node, &PodName::new(namespace, pod));
            }
        }
    }

    fn set_identity(&mut self, name: &ClusterName, identity: Identity, labels: &Labels) {
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        let round = cluster.round(RecordKind::Identity);
        let labels: Box<str> = labels.to_string().into();
        let bytes = identity_bytes(&labels);
        let before = cluster.identities.insert(identity, (labels, round));
        let before = before.map(|(labels, round)| (identity_bytes(&labels), round));
        cluster.tell(RecordKind::Identity, before, Some(bytes));
    }

    fn set_address(&mut self, name: &ClusterName, address: &EndpointAddress) {
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        let round = cluster.round(RecordKind::Address);
        let host = cluster.host(address.host);
        let entry = AddressEntry { identity: address.identity, host, round };
        let before = cluster.addresses.insert(address.net, entry);
        let before = before.map(|entry| (ENTRY_BYTES, entry.round));
        cluster.tell(RecordKind::Address, before, Some(ENTRY_BYTES));
    }

    fn set_node(&mut self, name: &ClusterName, node: &str, record: Option<&Node>) {
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        let round = cluster.round(RecordKind::Node);
        let entry = record.map(NodeEntry::new);
        let routes = |entry: Option<&NodeEntry>| -> BTreeSet<(IpNet, IpAddr)> {
            entry.map(|entry| entry.routes().collect()).unwrap_or_default()
        };
        let before = routes(cluster.nodes.get(node).map(|(entry, _)| entry));
        let now = routes(entry.as_ref());
        let bytes = entry.as_ref().map(NodeEntry::bytes);
        let replaced = match entry {
            Some(entry) => cluster.nodes.insert(node.into(), (entry, round)),
            None => cluster.nodes.remove(node),
        };
        let replaced = replaced.map(|(entry, round)| (entry.bytes(), round));
        cluster.tell(RecordKind::Node, replaced, bytes);
        let route = |(range, via): (IpNet, IpAddr)| Route {
            cluster: name.clone(),
            node: node.into(),
            range,
            via,
        };
        let gone = before.difference(&now).map(|r| RouteDelta::Removed(route(*r)));
        let come = now.difference(&before).map(|r| RouteDelta::Added(route(*r)));
        self.deltas.extend(gone.chain(come).map(Delta::Route));
    }

    /// Replaces a cluster's part of a service, and says what changed: what comes before what goes.
    fn set_service(&mut self, name: &ClusterName, service: Arc<ServiceName>, part: ServicePart) {
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        let round = cluster.round(RecordKind::Service);
        let id = cluster.id;
        let service = cluster
            .services
            .get_key_value(&service)
            .map_or(service, |(known, _)| Arc::clone(known));
        let before = match part.is_empty() {
            true => cluster.services.remove(&service),
            false => cluster.services.insert(Arc::clone(&service), (part.clone(), round)),
        };
        let replaced = before.as_ref().map(|(part, round)| (part.bytes(), *round));
        cluster.tell(RecordKind::Service, replaced, (!part.is_empty()).then(|| part.bytes()));
        let before = before.map(|(part, _)| part).unwrap_or_default();
        if *name == self.own {
            for place in part.frontends.difference(&before.frontends) {
                self.add_frontend(&service, place);
            }
        }
        for place in part.backends.difference(&before.backends) {
            let (service, port_name) = (Arc::clone(&service), Arc::clone(&place.port_name));
            self.deltas.push(Delta::Service(ServiceDelta::BackendSet {
                service,
                port_name,
                backend: backend(id, place),
                state: BackendState::default(),
            }));
        }
        for place in before.backends.difference(&part.backends) {
            let (service, port_name) = (Arc::clone(&service), Arc::clone(&place.port_name));
            self.deltas.push(Delta::Service(ServiceDelta::BackendRemoved {
                service,
                port_name,
                backend: backend(id, place),
            }));
        }
        if *name == self.own {
            for place in before.frontends.difference(&part.frontends) {
                self.remove_frontend(&service, place);
            }
        }
    }

    /// A frontend is one service's; a second that wants it waits.
    fn add_frontend(&mut self, service: &Arc<ServiceName>, place: &Place) {
        let frontend = frontend(place);
        if self.frontends.contains_key(&frontend) {
            return;
        }
        self.frontends.insert(frontend, Arc::clone(service));
        let (service, port_name) = (Arc::clone(service), Arc::clone(&place.port_name));
        self.deltas.push(Delta::Service(ServiceDelta::FrontendAdded {
            service,
            port_name,
            frontend,
        }));
    }

    fn remove_frontend(&mut self, service: &Arc<ServiceName>, place: &Place) {
        let gone = frontend(place);
        if self.frontends.get(&gone) != Some(service) {
            return;
        }
        self.frontends.remove(&gone);
        self.deltas.push(Delta::Service(ServiceDelta::FrontendRemoved {
            service: Arc::clone(service),
            frontend: gone,
        }));
        let own = self.clusters.get(&self.own).into_iter().flat_map(|own| &own.services);
        let waiting = own.filter_map(|(name, (part, _))| {
            let place = part.frontends.iter().find(|place| frontend(place) == gone)?;
            Some((Arc::clone(name), place.clone()))
        });
        if let Some((next, place)) = waiting.min_by(|(one, _), (other, _)| one.cmp(other)) {
            self.add_frontend(&next, &place);
        }
    }
}

fn identity_bytes(labels: &str) -> u64 {
    ENTRY_BYTES + u64::try_from(labels.len()).unwrap_or(u64::MAX)
}

fn frontend(place: &Place) -> Frontend {
    Frontend { address: place.address, port: place.port.number, protocol: place.port.protocol }
}

fn backend(cluster: ClusterId, place: &Place) -> Backend {
    Backend {
        address: place.address,
        port: place.port.number,
        protocol: place.port.protocol,
        cluster,
    }
}

#[cfg(test)]
mod tests;
