//! From what clusters report of services, and the health of their nodes, to the backends that clients connect to.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use mesh_model::{
    ClusterId, ClusterName, ServiceName,
    lb::{BackendState, Change, Frontend, NodeHealth, ServiceDelta},
};

use crate::{
    cluster::{ClusterState, ClusterView},
    locality::Client,
    nodes::Nodes,
    pool::{Pool, PoolKey},
    traffic_policy::TrafficPolicy,
    unplaced::Unplaced,
};

mod content;
mod explain;
mod other_names;
mod rules;
mod steps;

pub use self::{content::KnownBackend, rules::Rules};

/// Chooses backends. Changes go in, and the resulting changes of the tables come out; the cost follows the change.
#[derive(Debug)]
pub struct Balancer {
    pub(crate) rules: Rules,
    pub(crate) clusters: BTreeMap<ClusterId, ClusterView>,
    /// All clusters are known: there are no others than these.
    all_known: bool,
    synced: rules::SyncStatus,
    /// Where the clients are.
    pub(crate) client: Client,
    pub(crate) nodes: Nodes,
    pub(crate) services: HashMap<Arc<ServiceName>, Service>,
    pub(crate) frontends: HashMap<Frontend, (Arc<ServiceName>, PoolKey)>,
    /// Backends whose node is not known.
    unplaced: Unplaced,
    /// Services with a frontend that leads nowhere: what these do depends on which clusters are synced.
    empty: HashSet<Arc<ServiceName>>,
    /// Services that name clusters, in weights or tiers.
    named: HashSet<Arc<ServiceName>>,
}

/// A service of which a cluster has something.
#[derive(Debug, Default)]
pub(crate) struct Service {
    /// The local cluster's settings for the service; `None` if it has no such service.
    pub(crate) policy: Option<TrafficPolicy>,
    pub(crate) pools: BTreeMap<PoolKey, Pool>,
}

// === impl Balancer ===

impl Balancer {
    /// Knows nothing yet except the local cluster's name.
    pub fn new(rules: Rules, local: ClusterName) -> Self {
        let view = ClusterView { name: local, state: ClusterState::InUse, synced: false };
        Self {
            clusters: BTreeMap::from([(rules.local, view)]),
            all_known: false,
            synced: rules::SyncStatus::default(),
            client: Client { cluster: rules.local, node: rules.node.clone(), zone: None },
            rules,
            nodes: Nodes::default(),
            services: HashMap::new(),
            frontends: HashMap::new(),
            unplaced: Unplaced::default(),
            empty: HashSet::new(),
            named: HashSet::new(),
        }
    }

    /// The settings that hold for all services.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Takes a change of the merge. `node_of` returns the node of a backend whose cluster does not name it.
    pub fn apply<N: AsRef<str>>(
        &mut self,
        delta: &ServiceDelta,
        node_of: impl Fn(ClusterId, IpAddr) -> Option<N>,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        match delta {
            ServiceDelta::ServiceSet { service, traffic } => {
                self.set_traffic(service, Some(Arc::clone(traffic)), &mut changes);
            }
            ServiceDelta::ServiceRemoved { service } => {
                self.set_traffic(service, None, &mut changes);
            }
            ServiceDelta::FrontendAdded { service, port_name, frontend } => {
                self.add_frontend(service, port_name, *frontend, &mut changes);
            }
            ServiceDelta::FrontendRemoved { service, frontend } => {
                if self.frontends.get(frontend).is_some_and(|(owner, _)| owner == service) {
                    self.remove_frontend(frontend, &mut changes);
                }
            }
            ServiceDelta::BackendSet { service, port_name, backend, state } => {
                let key = PoolKey::of_backend(port_name, backend);
                let mut state = state.clone();
                if state.node.is_none() {
                    let node = node_of(backend.cluster, backend.address);
                    state.node = node.map(|node| node.as_ref().into());
                    state.node_is_derived = state.node.is_some();
                }
                self.set_backend(service, &key, *backend, state, &mut changes);
            }
            ServiceDelta::BackendRemoved { service, port_name, backend } => {
                let key = PoolKey::of_backend(port_name, backend);
                self.remove_backend(service, &key, backend, &mut changes);
            }
        }
        changes
    }

    /// How a node is. All are alive until this is called.
    pub fn set_node(&mut self, cluster: ClusterId, node: &str, health: NodeHealth) -> Vec<Change> {
        let mut changes = Vec::new();
        if !self.nodes.set_health(cluster, node, health) {
            return changes;
        }
        for service in self.nodes.services(cluster, node) {
            self.each_pool(&service, &mut changes, |pool| pool.set_node(cluster, node, health));
        }
        changes
    }

    /// Sets what is known of a cluster; `None` if there is none of that ID, nor anything to know of its nodes. Backends
    /// of a cluster that was never set are used like those of a cluster in use that no Service names. The local cluster
    /// always exists.
    pub fn set_cluster(&mut self, cluster: ClusterId, view: Option<ClusterView>) -> Vec<Change> {
        let mut changes = Vec::new();
        let before = match view.clone() {
            None if cluster == self.rules.local => return changes,
            Some(view) => self.clusters.insert(cluster, view),
            None => self.clusters.remove(&cluster),
        };
        if view.is_none() {
            // The known health of its nodes was of the cluster that had this ID.
            for node in self.nodes.unwell(cluster) {
                changes.extend(self.set_node(cluster, &node, NodeHealth::Alive));
            }
        }
        let name = |view: &Option<ClusterView>| view.as_ref().map(|view| view.name.clone());
        let state = |view: &Option<ClusterView>| view.as_ref().map(|view| view.state);
        let mut affected = Vec::new();
        if name(&before) != name(&view) {
            affected.extend(self.named.iter().cloned());
            self.new_policies();
        }
        if name(&before) != name(&view)
            || state(&before).unwrap_or_default() != state(&view).unwrap_or_default()
        {
            affected.extend(self.nodes.services_of(cluster));
        }
        affected.extend(self.update_sync_status());
        // In their order, so that one agent does as another.
        for service in affected.into_iter().collect::<BTreeSet<_>>() {
            self.each_pool(&service, &mut changes, |_| Vec::new());
        }
        changes
    }

    /// The zone of the node that clients are on; `None` where it is not known. It is not known until this is called.
    pub fn set_zone(&mut self, zone: Option<&str>) -> Vec<Change> {
        let mut changes = Vec::new();
        if self.client.zone.as_deref() == zone {
            return changes;
        }
        self.client.zone = zone.map(Into::into);
        let follows = |service: &Service| {
            service.policy.as_ref().is_some_and(|policy| policy.traffic.topology_hints)
        };
        let affected = self.services.iter().filter(|(_, service)| follows(service));
        let client = self.client.clone();
        // In their order, so that one agent does as another.
        for service in affected.map(|(name, _)| Arc::clone(name)).collect::<BTreeSet<_>>() {
            let policy = self.services.get(&service).and_then(|service| service.policy.as_ref());
            let traffic = policy.map(|policy| Arc::clone(&policy.traffic));
            self.each_pool(&service, &mut changes, |pool| {
                pool.set_localities(&client, traffic.as_deref())
            });
        }
        changes
    }

    /// The clusters that were set.
    pub fn clusters(&self) -> impl Iterator<Item = ClusterId> {
        self.clusters.keys().copied()
    }

    /// Whether there are no other clusters in the mesh than those that were set. Another one could have backends that are not
    /// known.
    pub fn set_all_known(&mut self, all_known: bool) -> Vec<Change> {
        let mut changes = Vec::new();
        self.all_known = all_known;
        for service in self.update_sync_status().into_iter().collect::<BTreeSet<_>>() {
            self.each_pool(&service, &mut changes, |_| Vec::new());
        }
        changes
    }

    /// A cluster reported something about an address, so backends there whose node is not known are looked up again.
    pub fn place_at<N: AsRef<str>>(
        &mut self,
        cluster: ClusterId,
        address: IpAddr,
        node_of: impl FnOnce(IpAddr) -> Option<N>,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        let unplaced = self.unplaced.at(cluster, address);
        if unplaced.is_empty() {
            return changes;
        }
        let Some(node) = node_of(address) else { return changes };
        let node: Arc<str> = node.as_ref().into();
        for (service, key, backend) in unplaced {
            let pool = self.services.get(&service).and_then(|service| service.pools.get(&key));
            let Some((_, member)) = pool.and_then(|pool| pool.get(&backend)) else { continue };
            let condition = member.backend_health.condition();
            let state = BackendState {
                condition,
                node: Some(Arc::clone(&node)),
                node_is_derived: true,
                zone: member.zone.clone(),
                hints: member.hints.clone(),
            };
            self.set_backend(&service, &key, backend, state, &mut changes);
        }
        changes
    }

    /// A cluster reported something about its nodes, so all its backends whose node is not known are looked up again.
    pub fn place<N: AsRef<str>>(
        &mut self,
        cluster: ClusterId,
        node_of: impl Fn(IpAddr) -> Option<N>,
    ) -> Vec<Change> {
        let addresses = self.unplaced.addresses(cluster);
        let placed = addresses.into_iter().flat_map(|ip| self.place_at(cluster, ip, &node_of));
        placed.collect()
    }

    /// Whether [`Balancer::nodes_in_use`] are others, or were meanwhile, since this was asked last.
    pub fn take_in_use_moved(&mut self) -> bool {
        self.nodes.take_moved()
    }

    /// The nodes that own backends in use, and those that are not well and own any: the ones that are to be probed.
    pub fn nodes_in_use(&self) -> impl Iterator<Item = (ClusterId, &Arc<str>)> {
        self.nodes.in_use()
    }
}
