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
    lb::{Frontend, Route, RouteDelta, ServiceDelta},
};

use crate::{
    accounting::{slot, text},
    admission::{Claims, LocalRanges, RefusedRecord, Validator},
    cluster::{ADDRESS_BYTES, AddressEntry, Cluster},
    nodes::NodeEntry,
};

mod claimants;
mod frontends;
mod grants;
mod local;
mod prune;
mod services;
mod views;

pub use claimants::AddressState;
use claimants::Claimants;
pub use local::PodName;
pub use prune::Expired;

/// The records of all clusters.
#[derive(Debug)]
pub struct Merge {
    local: ClusterName,
    ranges: LocalRanges,
    clusters: BTreeMap<ClusterName, Cluster>,
    /// The grants of the peers that have one.
    grants: BTreeMap<ClusterName, Claims>,
    /// Which of our services has each frontend.
    frontends: HashMap<Frontend, Arc<ServiceName>>,
    /// The other local services that would have it.
    waiting: BTreeMap<Frontend, BTreeSet<Arc<ServiceName>>>,
    claimants: Claimants,
    deltas: Vec<Delta>,
}

/// A change that follows from what a cluster reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delta {
    /// About a service.
    Service(ServiceDelta),
    /// About the way to a cluster's pods.
    Route(RouteDelta),
    /// Whose an address is, or its identity: [`Merge::address`] may say something else than before.
    Address(IpNet),
    /// An identity of a cluster is new, has other labels, or is gone: [`Merge::labels_of`].
    Identity(ClusterName, Identity),
    /// About a pod of the local cluster: it is new, changed or gone.
    Pod(PodName),
    /// The location of addresses: [`Merge::node_of`] may return more than before.
    Located {
        /// The cluster's ID.
        id: ClusterId,
        /// Which addresses.
        addresses: Located,
    },
    /// A cluster has reported all its records of a kind.
    Confirmed {
        /// The cluster.
        cluster: ClusterName,
        /// Its ID.
        id: ClusterId,
        /// The kind.
        kind: RecordKind,
    },
}

/// Addresses whose node may be another than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Located {
    /// This one: its record names another host.
    One(IpAddr),
    /// Any of the cluster: a node has other ranges.
    Any,
}

/// Two clusters with one ID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the ID {id} is {other}'s")]
pub struct IdInUse {
    /// The ID.
    pub id: ClusterId,
    /// The cluster that has it.
    pub other: ClusterName,
}

// === impl Merge ===

impl Merge {
    /// The local cluster, which has reported nothing yet.
    pub fn new(local: ClusterName, ranges: LocalRanges) -> Self {
        let clusters = BTreeMap::from([(local.clone(), Cluster::new(Validator::Local))]);
        Self {
            local,
            ranges,
            clusters,
            grants: BTreeMap::new(),
            frontends: HashMap::new(),
            waiting: BTreeMap::new(),
            claimants: Claimants::default(),
            deltas: Vec::new(),
        }
    }

    /// A peer that is gone takes everything with it that it reported.
    pub fn remove_peer(&mut self, name: &ClusterName) {
        if *name != self.local {
            self.grants.remove(name);
            self.set_overlapping(name);
            self.forget(name);
            self.clusters.remove(name);
        }
    }

    /// The ID of a cluster, from its config. Its records under another ID are removed. If another cluster has or is
    /// granted the ID, no record of the cluster is accepted until it has an ID of its own; its former records stay.
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

    /// Takes a cluster's event. A record that it may not claim is refused, and the one before stays.
    pub fn apply(
        &mut self,
        name: &ClusterName,
        event: RecordEvent,
    ) -> Result<(), Box<RefusedRecord>> {
        let Some(cluster) = self.clusters.get_mut(name).filter(|cluster| !cluster.held) else {
            return Ok(());
        };
        match event {
            RecordEvent::Begin(kind) => cluster.begin(kind),
            RecordEvent::Upsert(record) => {
                if let Err(refused) = cluster.judge.check(&record) {
                    let key = record.key();
                    self.keep(name, &key);
                    return Err(Box::new(RefusedRecord { key, refused }));
                }
                self.upsert(name, record);
            }
            RecordEvent::Keep(key) => self.keep(name, &key),
            RecordEvent::Remove(key) => self.remove(name, &key),
            RecordEvent::Confirmed(kind) => self.confirm(name, kind),
            RecordEvent::Without(kind) => self.without(name, kind),
        }
        Ok(())
    }

    /// The deltas since the last call, in order.
    pub fn take_deltas(&mut self) -> Vec<Delta> {
        std::mem::take(&mut self.deltas)
    }

    fn upsert(&mut self, name: &ClusterName, record: Record) {
        match record {
            Record::Node(node) => self.set_node(name, &node.name.clone(), Some(&node)),
            Record::Identity(identity, labels) => self.set_identity(name, identity, &labels),
            Record::Address(address) => self.set_address(name, &address),
            Record::Service(service) => {
                self.set_service(name, Arc::new(service.name.clone()), Some(&service));
            }
            Record::EndpointSlice(ref slice) | Record::LocalEndpointSlice(ref slice) => {
                self.set_slice(name, &record.key(), Some(slice));
            }
            Record::LocalService(service) => {
                self.set_local_service(name, Arc::new(service.name.clone()), Some(*service));
            }
            Record::Namespace(namespace) => self.set_namespace(name, *namespace),
            Record::Pod(pod) => self.set_pod(name, *pod),
            // Nothing here enforces policies yet.
            Record::Policy(_) => {}
        }
    }

    fn remove(&mut self, name: &ClusterName, key: &RecordKey) {
        match key {
            RecordKey::Node(node) => self.set_node(name, node, None),
            RecordKey::Service(service) => {
                self.set_service(name, Arc::new(service.clone()), None);
            }
            RecordKey::Identity(identity) => {
                if let Some(cluster) = self.clusters.get_mut(name)
                    && let Some((labels, round)) = cluster.identities.remove(identity)
                {
                    self.deltas.push(Delta::Identity(name.clone(), *identity));
                    cluster.note(
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
                    cluster.note(RecordKind::Address, Some((ADDRESS_BYTES, entry.round)), None);
                    self.unclaim(name, *net, self.is_ungranted(name));
                }
            }
            RecordKey::EndpointSlice(_) | RecordKey::LocalEndpointSlice(_) => {
                self.set_slice(name, key, None);
            }
            RecordKey::LocalService(service) => {
                self.set_local_service(name, Arc::new(service.clone()), None);
            }
            RecordKey::Namespace(namespace) => self.remove_namespace(name, namespace),
            RecordKey::Pod { node, namespace, name: pod } => {
                self.remove_pod(name, node, &PodName::new(namespace, pod));
            }
            RecordKey::Policy(_) => {}
        }
    }

    fn set_identity(&mut self, name: &ClusterName, identity: Identity, labels: &Labels) {
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        let round = cluster.round(RecordKind::Identity);
        let labels: Box<str> = labels.to_string().into();
        let bytes = identity_bytes(&labels);
        let before = cluster.identities.insert(identity, (labels, round));
        let known = cluster.identities.get(&identity).map(|(labels, _)| labels);
        if before.as_ref().map(|(labels, _)| labels) != known {
            self.deltas.push(Delta::Identity(name.clone(), identity));
        }
        let before = before.map(|(labels, round)| (identity_bytes(&labels), round));
        cluster.note(RecordKind::Identity, before, Some(bytes));
    }

    fn set_address(&mut self, name: &ClusterName, address: &EndpointAddress) {
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        let round = cluster.round(RecordKind::Address);
        let host = cluster.host(address.host);
        let entry = AddressEntry { identity: address.identity, host, round };
        let before = cluster.addresses.insert(address.net, entry);
        let is_moved = before.as_ref().map(|entry| entry.host).unwrap_or_default() != host;
        if is_moved && address.net == IpNet::from(address.net.addr()) {
            let (id, addresses) = (cluster.id, Located::One(address.net.addr()));
            self.deltas.push(Delta::Located { id, addresses });
        }
        let is_known = before.map(|entry| entry.identity);
        let before = before.map(|entry| (ADDRESS_BYTES, entry.round));
        cluster.note(RecordKind::Address, before, Some(ADDRESS_BYTES));
        match is_known {
            None => self.claim(name, address.net),
            Some(identity) if identity != address.identity => {
                self.deltas.push(Delta::Address(address.net));
            }
            Some(_) => {}
        }
    }

    fn set_node(&mut self, name: &ClusterName, node: &str, record: Option<&Node>) {
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        let round = cluster.round(RecordKind::Node);
        let entry = record.map(NodeEntry::new);
        let routed = cluster.judge.has_routes();
        let routes = |entry: Option<&NodeEntry>| -> BTreeSet<(IpNet, IpAddr)> {
            let entry = entry.filter(|_| routed);
            entry.map(|entry| entry.routes().collect()).unwrap_or_default()
        };
        let before = routes(cluster.nodes.get(node));
        let now = routes(entry.as_ref());
        if cluster.nodes.get(node) != entry.as_ref() {
            self.deltas.push(Delta::Located { id: cluster.id, addresses: Located::Any });
        }
        let bytes = entry.as_ref().map(|entry| entry.bytes(node));
        let replaced = cluster.nodes.set(node, entry.map(|entry| (entry, round)));
        let replaced = replaced.map(|(entry, round)| (entry.bytes(node), round));
        cluster.note(RecordKind::Node, replaced, bytes);
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
}

fn identity_bytes(labels: &str) -> u64 {
    slot::<Identity, (Box<str>, u32)>() + text(labels)
}

#[cfg(test)]
mod tests;
