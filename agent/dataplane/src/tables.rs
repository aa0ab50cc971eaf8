//! The writer's side of the tables.
//!
//! The order of writes keeps readers right at every moment, and keeps the tables usable when the writer dies between
//! any two of them: a backend exists before a slot names it, a slot before the header counts it, a header before a
//! group set or a frontend leads to it; they are removed in the opposite order.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use mesh_layout::{Header, ServiceRef};
use mesh_model::{
    ClusterId,
    lb::{Backend, Change, Content, Frontend, Group, Settings, Weights},
};

use crate::{
    convert,
    error::MapsError,
    kernel::{Kernel, Sizes},
    maps::{KernelMaps, PeerStates},
    slots::{Range, SlotRanges},
};

mod adopt;
mod audit;
mod backends;
mod draining_backends;
mod error;
mod id_allocator;
mod members;
mod restore;
mod service;
mod shares;

pub use adopt::Shortage;
pub use audit::{AuditCursor, Repairs};
use backends::Backends;
pub use draining_backends::BackendWithId;
pub use error::TablesError;
use id_allocator::IdAllocator;
use service::Service;
use shares::Shares;

/// The tables, and a mirror of their content.
#[derive(Debug)]
pub struct Tables<K> {
    kernel: K,
    services: BTreeMap<Frontend, Service>,
    backends: Backends,
    service_indices: IdAllocator,
    set_indices: IdAllocator,
    slots: SlotRanges,
    shares: Shares,
    /// Backends and slots that were freed since the last call.
    freed: u64,
    /// Frontends whose backends may still come in this batch of changes.
    settling: Vec<Frontend>,
    /// No longer used, and not asked for yet.
    released: Vec<BackendWithId>,
}

/// How full each table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occupancy {
    /// The tables' sizes.
    pub sizes: Sizes,
    /// Frontends.
    pub services: u32,
    /// Backends.
    pub backends: u32,
    /// Slots, those of ranges that are not full included.
    pub slots: u32,
    /// Frontends with several groups.
    pub groups: u32,
}

/// How much a cluster has of the tables in which peers have a part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClusterUse {
    /// Backends.
    pub backends: u32,
    /// Slots: those of its backends, and those in reserve that one of its backends needed.
    pub slots: u32,
}

/// What a previous run left in the kernel and no cluster has claimed in this one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inherited {
    /// Frontends.
    pub frontends: usize,
    /// Places of backends in services.
    pub backends: usize,
}

/// A look at a frontend in the tables.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    service: &'a Service,
    backends: &'a Backends,
}

// === impl Tables ===

impl<K: Kernel> Tables<K> {
    /// Makes a change. What is already so costs no write. After a batch of changes [`Tables::commit`] is called: a frontend
    /// that was made in it, or became strict while it had no backend, refuses no connection before.
    pub fn apply(&mut self, change: Change, now: Instant) -> Result<(), TablesError> {
        self.clear_rested(now);
        match change {
            Change::SetFrontend(frontend, settings) => self.set_frontend(frontend, settings, now),
            Change::RemoveFrontend(frontend) => self.remove_frontend(&frontend, now),
            Change::AddBackend(frontend, backend, group) => {
                self.add_backend(frontend, backend, group, now)
            }
            Change::RemoveBackend(frontend, backend) => {
                self.remove_backend(&frontend, &backend, now);
                Ok(())
            }
            Change::SetWeights(frontend, weights) => self.set_weights(frontend, weights),
        }
    }

    /// All changes of a batch were requested: frontends that were made in it get their final settings now. If some
    /// backends of a frontend were refused, it goes on letting connections pass while it has none.
    pub fn commit(&mut self, now: Instant) {
        self.clear_rested(now);
        for frontend in std::mem::take(&mut self.settling) {
            if let Some(service) = self.services.get_mut(&frontend) {
                service.change_settings(&mut self.kernel, |service| service.is_settling = false);
            }
        }
    }

    /// When there is something to be cleared that no program uses any more: [`Tables::clear_rested`].
    pub fn next_rested(&self) -> Option<Instant> {
        self.backends.next_wake()
    }

    /// From now on every other cluster may have a part of the tables only ([`TablesError::Share`]).
    pub fn set_local_cluster(&mut self, cluster: ClusterId) {
        self.shares.local = Some(cluster);
    }

    /// How much a cluster has of the tables.
    pub fn used_by(&self, cluster: ClusterId) -> ClusterUse {
        let Shares { backends, slots, .. } = &self.shares;
        ClusterUse { backends: backends.has(cluster), slots: slots.has(cluster) }
    }

    /// How many backends and slots were freed since the last call: as many changes that were refused may be retried.
    pub fn take_freed(&mut self) -> u64 {
        std::mem::take(&mut self.freed)
    }

    /// Removes inherited backends of the clusters for which `listed` returns true: those that were listed in full.
    pub fn prune_backends(&mut self, listed: impl Fn(ClusterId) -> bool, now: Instant) {
        let backends = &self.backends;
        let inherited = self.services.iter().flat_map(|(frontend, service)| {
            let ids = service.inherited_backends.iter();
            ids.filter_map(|id| Some((*frontend, *backends.get(*id)?)))
        });
        let gone: Vec<(Frontend, Backend)> =
            inherited.filter(|(_, backend)| listed(backend.cluster)).collect();
        for (frontend, backend) in gone {
            self.remove_backend(&frontend, &backend, now);
        }
    }

    /// Removes inherited frontends, and inherited weights of those that are not: the local cluster was listed in full.
    pub fn prune_frontends(&mut self, now: Instant) -> Result<(), TablesError> {
        let weighed = |(frontend, service): (&Frontend, &Service)| {
            (!service.held && service.held_weights).then_some(*frontend)
        };
        let weighed: Vec<Frontend> = self.services.iter().filter_map(weighed).collect();
        weighed.iter().try_for_each(|frontend| self.set_weights(*frontend, Weights::ONE))?;
        let held = |(frontend, service): (&Frontend, &Service)| service.held.then_some(*frontend);
        let gone: Vec<Frontend> = self.services.iter().filter_map(held).collect();
        gone.iter().try_for_each(|frontend| self.remove_frontend(frontend, now))
    }

    /// What is still inherited.
    pub fn inherited(&self) -> Inherited {
        self.services.values().fold(Inherited::default(), |held, service| Inherited {
            frontends: held.frontends + usize::from(service.held),
            backends: held.backends + service.inherited_backends.len(),
        })
    }

    /// How many frontends lead to no backend.
    pub fn frontends_without_backends(&self) -> usize {
        self.services.values().filter(|service| service.positions.is_empty()).count()
    }

    /// A frontend's backends, in the order of its slots; `None` where there is no such frontend.
    pub fn backends(&self, frontend: &Frontend) -> Option<impl Iterator<Item = &Backend>> {
        let groups = self.services.get(frontend)?.groups();
        Some(groups.flat_map(|(_, slots)| slots.ids.iter().filter_map(|id| self.backends.get(*id))))
    }

    /// What a frontend is like, and its backends by group; `None` where there is no such frontend.
    pub fn frontend(&self, frontend: &Frontend) -> Option<View<'_>> {
        let service = self.services.get(frontend)?;
        Some(View { service, backends: &self.backends })
    }

    /// All frontends.
    pub fn frontends(&self) -> impl Iterator<Item = &Frontend> {
        self.services.keys()
    }

    /// How full the tables are.
    pub fn occupancy(&self) -> Occupancy {
        Occupancy {
            sizes: self.kernel.sizes(),
            services: self.service_indices.used,
            backends: self.backends.len(),
            slots: self.slots.used(),
            groups: self.set_indices.used,
        }
    }

    /// How many backends of each cluster they hold.
    pub fn backends_by_cluster(&self) -> &BTreeMap<ClusterId, u32> {
        self.backends.by_cluster()
    }

    fn set_frontend(
        &mut self,
        frontend: Frontend,
        settings: Settings,
        now: Instant,
    ) -> Result<(), TablesError> {
        if let Some(service) = self.services.get_mut(&frontend) {
            service.held = false;
            let becomes_strict = service.settings.pass_if_empty && !settings.pass_if_empty;
            if becomes_strict && service.positions.is_empty() && !service.is_settling {
                self.settling.push(frontend);
                service.is_settling = true;
            }
            service.change_settings(&mut self.kernel, |service| service.settings = settings);
            return Ok(());
        }
        let id = self.service_indices.take(now)?;
        let index = id % self.kernel.sizes().services;
        let mut service = Service::new(index, settings);
        service.is_settling = !settings.pass_if_empty;
        // The entry of a removed service may lack a backend, but not have another's settings.
        if self.kernel.settings(index) != service.shown_settings() {
            self.kernel.set_settings(index, service.shown_settings());
        }
        if self.kernel.header(index) != Header::default() {
            self.kernel.set_header(index, Header::default());
        }
        let key = convert::frontend_key(&frontend);
        if let Err(source) = self.kernel.put_service(&key, ServiceRef::new(index, key.tag())) {
            self.service_indices.give_back(id, now);
            return Err(TablesError::Kernel { map: "cm_services", source });
        }
        if service.is_settling {
            self.settling.push(frontend);
        }
        self.services.insert(frontend, service);
        Ok(())
    }

    /// Nothing but the frontend is written: a program that found it before finds all that it leads to, until that has rested.
    fn remove_frontend(&mut self, frontend: &Frontend, now: Instant) -> Result<(), TablesError> {
        if !self.services.contains_key(frontend) {
            return Ok(());
        }
        self.kernel
            .delete_service(&convert::frontend_key(frontend))
            .map_err(|source| TablesError::Kernel { map: "cm_services", source })?;
        let Some(service) = self.services.remove(frontend) else { return Ok(()) };
        for (_, slots) in service.groups() {
            if let Some((payer, reserve)) = slots.reserve() {
                self.shares.slots.remove(payer, reserve);
            }
            for id in &slots.ids {
                if let Some(backend) = self.backends.get(*id) {
                    self.shares.slots.remove(backend.cluster, 1);
                }
                self.freed += 1;
                self.release_backend(*id, now);
            }
            slots.range.into_iter().for_each(|range| self.slots.give_back(range, now));
        }
        self.give_back_set(service.others.map(|others| others.set), now);
        self.service_indices.give_back(service.index, now);
        Ok(())
    }

    fn set_weights(&mut self, frontend: Frontend, weights: Weights) -> Result<(), TablesError> {
        let Some(service) = self.services.get_mut(&frontend) else {
            return Err(TablesError::NoFrontend(frontend));
        };
        service.held_weights = false;
        service.weights = weights;
        service.publish_cumulative(&mut self.kernel);
        Ok(())
    }

    fn take_range(&mut self, order: u32, now: Instant) -> Result<Range, TablesError> {
        let size = self.kernel.sizes().slots;
        self.slots.take(order, now).ok_or(TablesError::Full { map: "cm_slots", size })
    }
}

impl Tables<KernelMaps> {
    /// How often the kernel's tables were written to, stores and system calls alike.
    pub fn writes(&self) -> u64 {
        self.kernel.writes()
    }

    /// The states of clusters, to be written by another thread than the one that has the tables.
    pub fn peer_states(&self) -> PeerStates {
        self.kernel.peer_states()
    }

    /// Takes a cluster's backends out of use, or back into it: one write, whatever their number.
    pub fn set_cut(&mut self, cluster: ClusterId, cut: bool) {
        self.kernel.peer_states().set_cut(cluster, cut);
    }

    /// The clusters whose backends are out of use, those that a previous agent took out included.
    pub fn cut(&self) -> impl Iterator<Item = ClusterId> {
        self.kernel.peer_states().cut().collect::<Vec<_>>().into_iter()
    }

    /// The bits of the local state word, as they were set last, possibly by a previous agent.
    pub fn local_state(&self) -> u32 {
        self.kernel.local_state()
    }

    /// Sets the bits of the local state word: [`mesh_layout::LOCAL_UNSYNCED`], [`mesh_layout::LOCAL_PLAIN_PASSES`]. One
    /// write, or none.
    pub fn set_local_state(&mut self, bits: u32) {
        self.kernel.set_local_state(bits);
    }

    /// Lets the sockets of these network namespaces, by their cookies, pass untouched, and of no others.
    pub fn set_unbalanced(&mut self, cookies: &BTreeSet<u64>) -> Result<(), MapsError> {
        self.kernel.set_unbalanced(cookies)
    }

    /// The pods whose sockets pass untouched, by the cookies of their network namespaces.
    pub fn unbalanced(&self) -> Result<BTreeSet<u64>, MapsError> {
        self.kernel.unbalanced()
    }
}

// === impl View ===

impl View<'_> {
    /// What it should be like. While some of its backends may be missing, programs let connections pass instead of refusing
    /// them.
    pub fn settings(self) -> Settings {
        self.service.settings
    }

    /// How connections are spread over its groups.
    pub fn weights(self) -> Weights {
        self.service.weights
    }

    /// The group of a backend; `None` if it is in none.
    pub fn group_of(self, backend: &Backend) -> Option<Group> {
        let id = self.backends.id_of(backend)?;
        Some(self.service.positions.get(&id)?.group)
    }

    /// All of it.
    pub fn content(self) -> Content {
        let positions = self.service.positions.iter();
        let backends = positions.filter_map(|(id, at)| Some((*self.backends.get(*id)?, at.group)));
        let backends = backends.collect();
        Content { settings: self.service.settings, weights: self.service.weights, backends }
    }

    /// How many backends each group has.
    pub fn counts(self) -> [u32; Group::COUNT] {
        let mut counts = [0; Group::COUNT];
        for (count, (_, slots)) in counts.iter_mut().zip(self.service.groups()) {
            *count = slots.count();
        }
        counts
    }
}

#[cfg(test)]
mod tests;
