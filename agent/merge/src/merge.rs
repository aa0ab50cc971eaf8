//! All clusters together.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use mesh_model::{
    ClusterId, ClusterName, Identity, KnownAddress, Labels, Node, PolicyRef, Record, RecordEvent,
    RecordKey, RecordKind, ServiceName,
    lb::{Frontend, Route, RouteDelta, ServiceDelta},
};

use crate::{
    accounting::{slot, text},
    address_table::AddressTable,
    admission::{Claims, LocalRanges, RefusedRecord, Validator},
    cluster::Cluster,
    nodes::NodeEntry,
    ranges::{RangeDelta, Ranges, Rank},
};

mod addresses;
mod frontends;
mod grants;
mod local;
mod prune;
mod services;
mod views;

pub use addresses::{AddressClaim, AddressDelta, AddressHolder};
pub use local::PodName;
pub use prune::Expired;

/// The records of all clusters.
#[derive(Debug)]
pub struct Merge {
    local: ClusterName,
    ranges: LocalRanges,
    clusters: BTreeMap<ClusterName, Cluster>,
    by_id: HashMap<ClusterId, ClusterName>,
    /// The grants of the peers that have one.
    grants: BTreeMap<ClusterName, Claims>,
    table: AddressTable,
    pod_ranges: Ranges,
    /// How many of them our nodes have outside the ranges in our settings.
    local_nodes_ranges: usize,
    /// Clusters that are new now were not there when this run began.
    is_started: bool,
    /// Which of our services has each frontend.
    frontends: HashMap<Frontend, Arc<ServiceName>>,
    /// The other local services that would have it.
    waiting: BTreeMap<Frontend, BTreeSet<Arc<ServiceName>>>,
    deltas: Vec<Delta>,
}

/// A change that follows from what a cluster reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delta {
    /// About a service.
    Service(ServiceDelta),
    /// About the way to a cluster's pods.
    Route(RouteDelta),
    /// About an address.
    Address(AddressDelta),
    /// About a range of addresses.
    Range(RangeDelta),
    /// A cluster's claims come before or after others than before: [`Merge::known_identities`] returns something else.
    Claims {
        /// The ID of the cluster.
        id: ClusterId,
    },
    /// An identity has labels, has others than before, or has none any more.
    Identity {
        /// The ID of the cluster.
        id: ClusterId,
        /// The identity.
        identity: Identity,
    },
    /// About a pod of the local cluster: it is new, changed or gone.
    Pod(PodName),
    /// About a policy of the local cluster: it is new, changed or gone.
    Policy(PolicyRef),
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
        let cluster = Cluster::new(&local, Validator::Local);
        let mut pod_ranges = Ranges::default();
        let owner = (Rank::Local, Arc::clone(&cluster.name));
        let mut deltas = Vec::new();
        for range in &ranges.pod_cidrs {
            pod_ranges.add(*range, &owner, &mut deltas);
        }
        Self {
            clusters: BTreeMap::from([(local.clone(), cluster)]),
            local,
            ranges,
            by_id: HashMap::new(),
            grants: BTreeMap::new(),
            table: AddressTable::default(),
            pod_ranges,
            local_nodes_ranges: 0,
            is_started: false,
            frontends: HashMap::new(),
            waiting: BTreeMap::new(),
            deltas: deltas.into_iter().map(Delta::Range).collect(),
        }
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
            RecordEvent::Begin(kind) => self.begin(name, kind),
            RecordEvent::Upsert(record) => {
                if let Err(refused) = cluster.judge.check(&record) {
                    let key = record.key();
                    self.keep(name, &key);
                    return Err(Box::new(RefusedRecord { key, refused }));
                }
                self.upsert(name, record);
            }
            RecordEvent::Keep(key) => self.keep(name, &key),
            RecordEvent::Doubt(key) => self.doubt(name, &key),
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
            Record::Address(address) => {
                let (net, identity, host) = (address.net, address.identity, address.host);
                self.set_address(name, KnownAddress { net, identity, host });
            }
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
            Record::Policy(policy) => self.set_policy(name, *policy),
        }
    }

    fn remove(&mut self, name: &ClusterName, key: &RecordKey) {
        match key {
            RecordKey::Node(node) => self.set_node(name, node, None),
            RecordKey::Service(service) => {
                self.set_service(name, Arc::new(service.clone()), None);
            }
            RecordKey::Identity(identity) => {
                let Some(cluster) = self.clusters.get_mut(name) else { return };
                let Some((labels, round)) = cluster.identities.remove(identity) else { return };
                let was = Some((identity_bytes(&labels), round));
                cluster.note(RecordKind::Identity, was, None);
                self.deltas.push(Delta::Identity { id: cluster.id, identity: *identity });
            }
            RecordKey::Address(net) => self.remove_address(name, *net),
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
            RecordKey::Policy(policy) => self.remove_policy(name, policy),
        }
    }

    fn set_identity(&mut self, name: &ClusterName, identity: Identity, labels: &Labels) {
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        let round = cluster.round(RecordKind::Identity);
        let labels: Arc<str> = labels.to_string().into();
        let bytes = identity_bytes(&labels);
        let before = cluster.identities.insert(identity, (Arc::clone(&labels), round));
        if before.as_ref().is_none_or(|(before, _)| *before != labels) {
            self.deltas.push(Delta::Identity { id: cluster.id, identity });
        }
        let before = before.map(|(labels, round)| (identity_bytes(&labels), round));
        cluster.note(RecordKind::Identity, before, Some(bytes));
    }

    fn set_node(&mut self, name: &ClusterName, node: &str, record: Option<&Node>) {
        let Some(cluster) = self.clusters.get(name) else { return };
        let entry = record.map(NodeEntry::new);
        let known = cluster.nodes.get(node);
        let ips = |entry: Option<&NodeEntry>| -> Vec<IpAddr> {
            entry.map(|entry| entry.internal_ips.clone()).unwrap_or_default()
        };
        let ips: Vec<IpAddr> = ips(known).into_iter().chain(ips(entry.as_ref())).collect();
        let ranges = |entry: Option<&NodeEntry>| {
            entry.map(|entry| self.announced(cluster, &entry.pod_cidrs)).unwrap_or_default()
        };
        let ranges = [ranges(entry.as_ref()), ranges(known)];
        self.change_node(name, (ips, ranges), |merge| merge.replace_node(name, node, entry));
    }

    fn replace_node(&mut self, name: &ClusterName, node: &str, entry: Option<NodeEntry>) {
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        let round = cluster.round(RecordKind::Node);
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
    slot::<Identity, (Arc<str>, u32)>() + text(labels)
}

#[cfg(test)]
mod tests;
