//! From what clusters say of services, and how their nodes are, to what clients connect to.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use mesh_model::{
    ClusterId, ClusterName, ServiceName,
    lb::{BackendState, Change, Frontend, ServiceDelta},
};

use crate::{
    cluster::{ClusterState, ClusterView},
    nodes::Nodes,
    pool::{Pool, PoolKey},
    traffic_policy::TrafficPolicy,
};

mod content;
mod explain;
mod rules;
mod steps;

pub use self::{content::Known, rules::Rules};

/// Chooses backends. What changes goes in, what that means for the tables comes out; and what it costs follows the
/// change.
#[derive(Debug)]
pub struct Balancer {
    pub(crate) rules: Rules,
    pub(crate) clusters: BTreeMap<ClusterId, ClusterView>,
    /// There are no other clusters than these.
    all_known: bool,
    sure: rules::SyncStatus,
    pub(crate) nodes: Nodes,
    pub(crate) services: HashMap<Arc<ServiceName>, Service>,
    pub(crate) frontends: HashMap<Frontend, (Arc<ServiceName>, PoolKey)>,
    /// Services with a frontend that leads nowhere: what these do depends on who could still say something.
    empty: HashSet<Arc<ServiceName>>,
    /// Services that name clusters, in weights or tiers.
    named: HashSet<Arc<ServiceName>>,
}

/// A service that somebody has something of.
#[derive(Debug, Default)]
pub(crate) struct Service {
    /// What the own cluster asks for; `None` where it has no such service.
    pub(crate) policy: Option<TrafficPolicy>,
    pub(crate) pools: BTreeMap<PoolKey, Pool>,
}

// === impl Balancer ===

impl Balancer {
    /// Nothing is known yet but the own cluster's name.
    pub fn new(rules: Rules, own: ClusterName) -> Self {
        let view = ClusterView { name: own, state: ClusterState::InUse, sure: false };
        Self {
            clusters: BTreeMap::from([(rules.own, view)]),
            all_known: false,
            sure: rules::SyncStatus::default(),
            rules,
            nodes: Nodes::default(),
            services: HashMap::new(),
            frontends: HashMap::new(),
            empty: HashSet::new(),
            named: HashSet::new(),
        }
    }

    /// Takes what the merge says. `node_of` is asked for the node of a backend where its cluster does not name it.
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
                let node = || node_of(backend.cluster, backend.address);
                state.node = state.node.or_else(|| node().map(|node| node.as_ref().into()));
                self.set_backend(service, &key, *backend, state, &mut changes);
            }
            ServiceDelta::BackendRemoved { service, port_name, backend } => {
                let key = PoolKey::of_backend(port_name, backend);
                self.remove_backend(service, &key, backend, &mut changes);
            }
        }
        changes
    }

    /// Whether a node answers. All do until somebody says otherwise.
    pub fn set_node(&mut self, cluster: ClusterId, node: &str, alive: bool) -> Vec<Change> {
        let mut changes = Vec::new();
        if !self.nodes.set_alive(cluster, node, alive) {
            return changes;
        }
        for service in self.nodes.services(cluster, node) {
            self.each_pool(&service, &mut changes, |pool| pool.set_alive(cluster, node, alive));
        }
        changes
    }

    /// What is known of a cluster; `None` where there is none of that number, nor anything to know of its nodes. Backends of
    /// one that nobody spoke of are used as those of a cluster that is well and that no Service names. The own cluster is
    /// always there.
    pub fn set_cluster(&mut self, cluster: ClusterId, view: Option<ClusterView>) -> Vec<Change> {
        let mut changes = Vec::new();
        let before = match view.clone() {
            None if cluster == self.rules.own => return changes,
            Some(view) => self.clusters.insert(cluster, view),
            None => self.clusters.remove(&cluster),
        };
        if view.is_none() {
            // What is known of its nodes was of the cluster that had this number.
            for node in self.nodes.dead(cluster) {
                changes.extend(self.set_node(cluster, &node, true));
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
        affected.extend(self.look_who_is_sure());
        // In their order, so that one agent does as another.
        for service in affected.into_iter().collect::<BTreeSet<_>>() {
            self.each_pool(&service, &mut changes, |_| Vec::new());
        }
        changes
    }

    /// The clusters that were spoken of.
    pub fn clusters(&self) -> impl Iterator<Item = ClusterId> {
        self.clusters.keys().copied()
    }

    /// Whether there are no other clusters in the mesh than those that were spoken of: who could still have a backend that
    /// nobody knows.
    pub fn set_all_known(&mut self, all_known: bool) -> Vec<Change> {
        let mut changes = Vec::new();
        self.all_known = all_known;
        for service in self.look_who_is_sure().into_iter().collect::<BTreeSet<_>>() {
            self.each_pool(&service, &mut changes, |_| Vec::new());
        }
        changes
    }

    /// Asks again for the nodes of backends whose node is not known: clusters name their nodes when they like.
    pub fn place<N: AsRef<str>>(
        &mut self,
        node_of: impl Fn(ClusterId, IpAddr) -> Option<N>,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        for (cluster, services) in self.nodes.unplaced() {
            for service in services {
                let Some(pools) = self.services.get(&service).map(|service| &service.pools) else {
                    continue;
                };
                let unplaced = pools.iter().flat_map(|(key, pool)| {
                    let backends = pool.on_node(cluster, Nodes::UNKNOWN).into_iter();
                    backends.filter_map(|backend| {
                        let (_, member) = pool.get(&backend)?;
                        let condition = member.backend_health.condition();
                        let node = node_of(cluster, backend.address)?.as_ref().into();
                        let zone = member.zone.clone();
                        let state = BackendState { condition, node: Some(node), zone };
                        Some((key.clone(), backend, state))
                    })
                });
                for (key, backend, state) in unplaced.collect::<Vec<_>>() {
                    self.set_backend(&service, &key, backend, state, &mut changes);
                }
            }
        }
        changes
    }

    /// Whether [`Balancer::nodes_in_use`] are others, or were meanwhile, since this was asked last.
    pub fn take_in_use_moved(&mut self) -> bool {
        self.nodes.take_moved()
    }

    /// The nodes that own backends in use, and those that do not answer and own any: the ones that are worth a look.
    pub fn nodes_in_use(&self) -> impl Iterator<Item = (ClusterId, &Arc<str>)> {
        self.nodes.in_use()
    }
}
