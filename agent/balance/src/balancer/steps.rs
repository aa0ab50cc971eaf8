//! The effect of each kind of change on a service's pools.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use mesh_model::{
    ServiceName, ServiceTraffic,
    lb::{Backend, BackendState, Change, Frontend, Group, Settings},
};

use super::{Balancer, rules::SyncStatus};
use crate::{
    backend_health::BackendHealth,
    cluster::{ClusterState, ClusterView},
    nodes::Nodes,
    plan::Plan,
    pool::{Choice, Member, Moved, Pool, PoolKey},
    traffic_policy::TrafficPolicy,
};

impl Balancer {
    pub(super) fn set_traffic(
        &mut self,
        name: &Arc<ServiceName>,
        traffic: Option<Arc<ServiceTraffic>>,
        changes: &mut Vec<Change>,
    ) {
        let names = |traffic: &Arc<ServiceTraffic>| {
            traffic.global && !(traffic.weights.is_empty() && traffic.tiers.is_empty())
        };
        match traffic.as_ref().is_some_and(names) {
            true => self.named.insert(Arc::clone(name)),
            false => self.named.remove(name),
        };
        let policy =
            traffic.map(|traffic| TrafficPolicy::new(traffic, self.rules.local, &self.clusters));
        let client = self.client.clone();
        let service = self.services.entry(Arc::clone(name)).or_default();
        let was_taken = self.rules.takes(service);
        let before = std::mem::replace(&mut service.policy, policy);
        let takes = self.rules.takes(service);
        let asked = service.policy.as_ref().map(|policy| Arc::clone(&policy.traffic));
        let locates =
            |traffic: &ServiceTraffic| (traffic.internal_traffic_local, traffic.topology_hints);
        let before = before.map(|policy| locates(&policy.traffic));
        let moved = before.unwrap_or_default() != asked.as_deref().map(locates).unwrap_or_default();
        let locate = |pool: &mut Pool| match moved {
            true => pool.set_localities(&client, asked.as_deref()),
            false => Vec::new(),
        };
        if was_taken == takes {
            self.each_pool(name, changes, locate);
            self.tidy(name);
            return;
        }
        if was_taken {
            let frontends = service.pools.values().flat_map(|pool| &pool.frontends);
            changes.extend(frontends.map(|frontend| Change::RemoveFrontend(*frontend)));
        }
        // The service that had the frontend keeps it until all is there.
        self.each_pool(name, &mut Vec::new(), locate);
        let pools = self.services.get(name).into_iter().flat_map(|service| service.pools.values());
        for pool in pools.filter(|_| takes) {
            for frontend in &pool.frontends {
                let settings = Settings { pass_if_empty: true, ..pool.settings() };
                let first = changes.len();
                pool.announce(*frontend, changes);
                if settings != pool.settings() {
                    changes.push(Change::SetFrontend(*frontend, pool.settings()));
                    let lenient = Change::SetFrontend(*frontend, settings);
                    changes.iter_mut().skip(first).take(1).for_each(|change| *change = lenient);
                }
            }
        }
        self.tidy(name);
    }

    pub(super) fn add_frontend(
        &mut self,
        name: &Arc<ServiceName>,
        port_name: &Arc<str>,
        frontend: Frontend,
        changes: &mut Vec<Change>,
    ) {
        let key = PoolKey::of_frontend(port_name, &frontend);
        let before = self.frontends.insert(frontend, (Arc::clone(name), key.clone()));
        if before.as_ref() == Some(&(Arc::clone(name), key.clone())) {
            return;
        }
        // A frontend that existed leads elsewhere from now on.
        let former = before.map(|(owner, key)| {
            let taken = self.services.get(&owner).filter(|service| self.rules.takes(service));
            let pool = taken.and_then(|service| service.pools.get(&key));
            let led_to: Option<HashMap<Backend, Group>> = pool.map(|pool| pool.in_use().collect());
            self.leave(&owner, &key, &frontend);
            led_to
        });
        let former = former.flatten();
        let service = self.services.entry(Arc::clone(name)).or_default();
        let pool = service.pools.entry(key.clone()).or_default();
        let is_first = pool.frontends.is_empty();
        pool.frontends.insert(frontend);
        if is_first {
            let moved = self.add_by_other_names(name, &key);
            self.settle_moved(name, &key, moved, &mut Vec::new());
        }
        // Without anything that moved, so that the choice is made anew.
        self.settle(name, &key, &[], &mut Vec::new());
        let taken = self.services.get(name).filter(|service| self.rules.takes(service));
        let Some(pool) = taken.and_then(|service| service.pools.get(&key)) else {
            changes.extend(former.map(|_| Change::RemoveFrontend(frontend)));
            return;
        };
        let mut announced = Vec::new();
        pool.announce(frontend, &mut announced);
        let former = former.unwrap_or_default();
        let is_there = |change: &Change| matches!(change, Change::AddBackend(_, b, group) if former.get(b) == Some(group));
        changes.extend(announced.into_iter().filter(|change| !is_there(change)));
        if !former.is_empty() {
            changes.push(Change::SetWeights(frontend, pool.chosen().weights));
            let stay: HashSet<Backend> = pool.in_use().map(|(backend, _)| backend).collect();
            let go = former.into_keys().filter(|backend| !stay.contains(backend));
            changes.extend(go.map(|backend| Change::RemoveBackend(frontend, backend)));
        }
    }

    pub(super) fn remove_frontend(&mut self, frontend: &Frontend, changes: &mut Vec<Change>) {
        let Some((owner, key)) = self.frontends.remove(frontend) else { return };
        if self.services.get(&owner).is_some_and(|service| self.rules.takes(service)) {
            changes.push(Change::RemoveFrontend(*frontend));
        }
        self.leave(&owner, &key, frontend);
    }

    /// A frontend no longer leads to a pool.
    pub(super) fn leave(&mut self, owner: &Arc<ServiceName>, key: &PoolKey, frontend: &Frontend) {
        let service = self.services.get_mut(owner);
        let mut moved = Vec::new();
        if let Some(pool) = service.and_then(|service| service.pools.get_mut(key)) {
            pool.frontends.remove(frontend);
            if pool.frontends.is_empty() {
                moved = pool.remove_by_other_names();
            }
        }
        self.settle_moved(owner, key, moved, &mut Vec::new());
        self.tidy(owner);
    }

    pub(super) fn set_backend(
        &mut self,
        name: &Arc<ServiceName>,
        key: &PoolKey,
        backend: Backend,
        state: BackendState,
        changes: &mut Vec<Change>,
    ) {
        let node = state.node.clone().unwrap_or_else(|| Nodes::UNKNOWN.into());
        let health = self.nodes.health(backend.cluster, &node);
        self.nodes.add(backend.cluster, &node, name);
        let is_placed = *node != *Nodes::UNKNOWN;
        let service = self.services.entry(Arc::clone(name)).or_default();
        let BackendState { condition, node: _, node_is_derived, zone, hints } = state;
        let traffic = service.policy.as_ref().map(|policy| &*policy.traffic);
        let location = (backend.cluster, &*node, node_is_derived);
        let locality = self.client.locality(traffic, location, hints.as_deref());
        let backend_health = BackendHealth::new(condition, health, locality);
        let member = Member { backend_health, node_is_derived, zone, hints, by_other_name: false };
        let moved = service.pools.entry(key.clone()).or_default().set(backend, node, member);
        self.settle_moved(name, key, vec![moved], changes);
        if !is_placed {
            self.unplaced.add(name, key, backend);
        }
        self.update_other_names(name, key, &backend, changes);
    }

    /// Settles a pool after some of its backends moved, which are no more where they were.
    pub(super) fn settle_moved(
        &mut self,
        name: &Arc<ServiceName>,
        key: &PoolKey,
        moved: Vec<Moved>,
        changes: &mut Vec<Change>,
    ) {
        self.settle(name, key, &moved, changes);
        for Moved { backend, before, .. } in moved {
            self.forget_place(name, key, &backend, before);
        }
    }

    /// A backend is not where it was, if it was anywhere.
    fn forget_place(
        &mut self,
        name: &Arc<ServiceName>,
        key: &PoolKey,
        backend: &Backend,
        before: Option<(Arc<str>, BackendHealth)>,
    ) {
        if let Some((node, _)) = before {
            self.nodes.remove(backend.cluster, &node, name);
            if *node == *Nodes::UNKNOWN {
                self.unplaced.remove(name, key, *backend);
            }
        }
    }

    pub(super) fn remove_backend(
        &mut self,
        name: &Arc<ServiceName>,
        key: &PoolKey,
        backend: &Backend,
        changes: &mut Vec<Change>,
    ) {
        let pool = self.services.get_mut(name).and_then(|service| service.pools.get_mut(key));
        if !pool.is_some_and(|pool| pool.is_no_more_reported(backend)) {
            return;
        }
        // Where another name leads there as well, it stays.
        let moved = self.place_by_other_name(name, key, backend);
        self.settle_moved(name, key, moved.into_iter().collect(), changes);
        self.update_other_names(name, key, backend, changes);
        self.tidy(name);
    }

    /// Does something to each of a service's pools, and settles what it makes of it.
    pub(super) fn each_pool(
        &mut self,
        name: &Arc<ServiceName>,
        changes: &mut Vec<Change>,
        mut act: impl FnMut(&mut Pool) -> Vec<Moved>,
    ) {
        let Some(service) = self.services.get_mut(name) else { return };
        let moved: Vec<(PoolKey, Vec<Moved>)> =
            service.pools.iter_mut().map(|(key, pool)| (key.clone(), act(pool))).collect();
        for (key, moved) in moved {
            self.settle(name, &key, &moved, changes);
        }
    }

    pub(super) fn settle(
        &mut self,
        name: &Arc<ServiceName>,
        key: &PoolKey,
        moved: &[Moved],
        changes: &mut Vec<Change>,
    ) {
        let synced = self.synced;
        let Some(service) = self.services.get_mut(name) else { return };
        let taken = self.rules.takes(service);
        let policy = service.policy.as_ref().filter(|_| taken);
        let Some(pool) = service.pools.get_mut(key) else { return };
        let choice = match policy.filter(|_| !pool.frontends.is_empty()) {
            // The backends that moved left a state that others still have, for a state that others have too.
            Some(policy) if !moved.is_empty() && pool.is_shaped_as_before() && !policy.counts() => {
                None
            }
            Some(policy) => {
                let chosen = Plan::new(policy, &self.clusters, &pool.counts).chosen;
                let settings = self.rules.settings(name, policy, &chosen, synced);
                Some(Choice { chosen, settings })
            }
            None => Some(Choice::default()),
        };
        let was_empty = pool.chosen().is_empty();
        pool.settle(choice, moved, &mut self.nodes, changes);
        let is_empty = pool.chosen().is_empty();
        if was_empty || is_empty {
            let leads_nowhere =
                |pool: &Pool| !pool.frontends.is_empty() && pool.chosen().is_empty();
            match taken && service.pools.values().any(leads_nowhere) {
                true => self.empty.insert(Arc::clone(name)),
                false => self.empty.remove(name),
            };
        }
    }

    /// Recomputes the policies of services that name clusters, because the set of clusters changed.
    pub(super) fn new_policies(&mut self) {
        for name in &self.named {
            let service = self.services.get_mut(name);
            if let Some(policy) = service.and_then(|service| service.policy.as_mut()) {
                let traffic = Arc::clone(&policy.traffic);
                *policy = TrafficPolicy::new(traffic, self.rules.local, &self.clusters);
            }
        }
    }

    /// Looks again of which clusters all services are known. Returns the services that do otherwise by that: those that lead
    /// nowhere.
    pub(super) fn update_sync_status(&mut self) -> Vec<Arc<ServiceName>> {
        let local = self.clusters.get(&self.rules.local).is_some_and(|view| view.synced);
        let is_synced = |view: &ClusterView| view.synced && view.state != ClusterState::Stale;
        let all = self.all_known && self.clusters.values().all(is_synced);
        let synced = SyncStatus { local, all };
        let before = std::mem::replace(&mut self.synced, synced);
        self.empty.iter().filter(|_| before != synced).cloned().collect()
    }

    /// Forgets a service of which no cluster has anything.
    pub(super) fn tidy(&mut self, name: &ServiceName) {
        if let Some(service) = self.services.get_mut(name) {
            service.pools.retain(|_, pool| !pool.is_empty());
            if service.policy.is_none() && service.pools.is_empty() {
                self.services.remove(name);
                self.empty.remove(name);
            }
        }
    }
}
