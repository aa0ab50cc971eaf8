//! The writer's side of the tables.
//!
//! The order of writes is what keeps readers right at every moment, and what keeps the tables usable when the writer dies
//! between any two of them: a backend is there before a slot names it, a slot before the header counts it, a header
//! before a group set or a frontend leads to it; and they go in the opposite order.

use std::{
    collections::{BTreeSet, HashMap},
    io,
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
mod draining_backends;
mod id_allocator;
mod members;
mod restore;
mod service;

pub use adopt::Shortage;
pub use audit::Repairs;
pub use draining_backends::Numbered;
use id_allocator::IdAllocator;
use service::Service;

/// The tables, and a mirror of what is in them.
#[derive(Debug)]
pub struct Tables<K> {
    kernel: K,
    services: HashMap<Frontend, Service>,
    backends: HashMap<Backend, BackendUse>,
    service_indices: IdAllocator,
    backend_indices: IdAllocator,
    set_indices: IdAllocator,
    slots: SlotRanges,
    /// No longer used, and not asked for yet.
    released: Vec<Numbered>,
}

/// How full each table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occupancy {
    /// What there is room for.
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

/// What a predecessor left in the kernel and nobody has claimed in this life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inherited {
    /// Frontends.
    pub frontends: usize,
    /// Places of backends in services.
    pub backends: usize,
}

/// Why a change was not made. The tables are as they were before it.
#[derive(Debug, thiserror::Error)]
pub enum TablesError {
    /// A table is full.
    #[error("{map} is full: all of {size} entries are in use")]
    Full {
        /// The table.
        map: &'static str,
        /// Its size.
        size: u32,
    },
    /// The kernel refused.
    #[error("{map}: {source}")]
    Kernel {
        /// The table.
        map: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A backend for a frontend that does not exist.
    #[error("{0} is no frontend")]
    NoFrontend(Frontend),
}

/// A look at a frontend in the tables.
#[derive(Clone, Copy, Debug)]
pub struct View<'a>(&'a Service);

/// A backend, shared by the frontends that lead to it.
#[derive(Debug)]
struct BackendUse {
    id: u32,
    services: u32,
}

// === impl Tables ===

impl<K: Kernel> Tables<K> {
    /// Makes a change. What is already so costs no write.
    pub fn apply(&mut self, change: Change, now: Instant) -> Result<(), TablesError> {
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

    /// Lets go of held backends of the clusters that `listed` says have told all they have.
    pub fn prune_backends(&mut self, listed: impl Fn(ClusterId) -> bool, now: Instant) {
        let gone: Vec<(Frontend, Backend)> = self
            .services
            .iter()
            .flat_map(|(frontend, service)| {
                service.inherited_backends.iter().map(|b| (*frontend, *b))
            })
            .filter(|(_, backend)| listed(backend.cluster))
            .collect();
        for (frontend, backend) in gone {
            self.remove_backend(&frontend, &backend, now);
        }
    }

    /// Lets go of held frontends, and of held weights of those that are not: the own cluster has told all it has.
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

    /// What is still held.
    pub fn inherited(&self) -> Inherited {
        self.services.values().fold(Inherited::default(), |held, service| Inherited {
            frontends: held.frontends + usize::from(service.held),
            backends: held.backends + service.inherited_backends.len(),
        })
    }

    /// A frontend's backends, in the order of its slots; `None` where there is no such frontend.
    pub fn backends(&self, frontend: &Frontend) -> Option<impl Iterator<Item = &Backend>> {
        let groups = self.services.get(frontend)?.groups();
        Some(groups.flat_map(|(_, slots)| slots.backends.iter().map(|(_, backend)| backend)))
    }

    /// What a frontend is like, and its backends by group; `None` where there is no such frontend.
    pub fn frontend(&self, frontend: &Frontend) -> Option<View<'_>> {
        self.services.get(frontend).map(View)
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
            backends: self.backend_indices.used,
            slots: self.slots.used(),
            groups: self.set_indices.used,
        }
    }

    fn set_frontend(
        &mut self,
        frontend: Frontend,
        settings: Settings,
        now: Instant,
    ) -> Result<(), TablesError> {
        if let Some(service) = self.services.get_mut(&frontend) {
            service.held = false;
            if service.settings != settings {
                service.settings = settings;
                self.kernel.set_settings(service.index, convert::settings(settings));
            }
            return Ok(());
        }
        let number = self.service_indices.take(now)?;
        let index = number % self.kernel.sizes().services;
        // A place of one that is gone may lack a backend, but not have another's settings.
        if self.kernel.settings(index) != convert::settings(settings) {
            self.kernel.set_settings(index, convert::settings(settings));
        }
        if self.kernel.header(index) != Header::default() {
            self.kernel.set_header(index, Header::default());
        }
        let key = convert::frontend_key(&frontend);
        if let Err(source) = self.kernel.put_service(&key, ServiceRef::new(index, key.tag())) {
            self.service_indices.give_back(number, now);
            return Err(TablesError::Kernel { map: "cm_services", source });
        }
        self.services.insert(frontend, Service::new(index, settings));
        Ok(())
    }

    fn remove_frontend(&mut self, frontend: &Frontend, now: Instant) -> Result<(), TablesError> {
        let Some(service) = self.services.get(frontend) else {
            return Ok(());
        };
        self.kernel
            .delete_service(&convert::frontend_key(frontend))
            .map_err(|source| TablesError::Kernel { map: "cm_services", source })?;
        if service.header() != Header::default() {
            self.kernel.set_header(service.index, Header::default());
        }
        if let Some(service) = self.services.remove(frontend) {
            for (_, slots) in service.groups() {
                slots.range.into_iter().for_each(|range| self.slots.give_back(range, now));
            }
            for backend in service.positions.keys() {
                self.release_backend(backend, now);
            }
            self.give_back_set(service.others.map(|others| others.set), now);
            self.service_indices.give_back(service.index, now);
        }
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

    /// The id of a backend, which is written if it is new, for one more service.
    fn use_backend(&mut self, backend: Backend, now: Instant) -> Result<u32, TablesError> {
        if let Some(known) = self.backends.get_mut(&backend) {
            known.services += 1;
            return Ok(known.id);
        }
        let id = self.backend_indices.take(now)?;
        self.kernel.set_backend(convert::backend_entry(id, &backend));
        self.backends.insert(backend, BackendUse { id, services: 1 });
        Ok(id)
    }

    /// One service less uses a backend; after the last one its place is free.
    fn release_backend(&mut self, backend: &Backend, now: Instant) {
        let Some(known) = self.backends.get_mut(backend) else {
            return;
        };
        known.services -= 1;
        if known.services == 0 {
            let id = known.id;
            self.backends.remove(backend);
            self.kernel.clear_backend(id);
            self.backend_indices.give_back(id, now);
            self.remember_released(id, *backend);
        }
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

    /// The clusters whose backends are out of use, those that a former agent took out included.
    pub fn cut(&self) -> impl Iterator<Item = ClusterId> {
        self.kernel.peer_states().cut().collect::<Vec<_>>().into_iter()
    }

    /// The bits of the node's own word, as they were set last, by a former agent perhaps.
    pub fn local_state(&self) -> u32 {
        self.kernel.local_state()
    }

    /// Sets the bits of the node's own word: [`mesh_layout::LOCAL_UNSYNCED`], [`mesh_layout::LOCAL_PLAIN_PASSES`]. One
    /// write, or none.
    pub fn set_local_state(&mut self, bits: u32) {
        self.kernel.set_local_state(bits);
    }

    /// Lets the sockets of these network namespaces, by their cookies, pass untouched, and of no others.
    pub fn set_unbalanced(&mut self, cookies: &BTreeSet<u64>) -> Result<(), MapsError> {
        self.kernel.set_unbalanced(cookies)
    }

    /// Whose sockets pass untouched, by the cookies of their network namespaces.
    pub fn unbalanced(&self) -> Result<BTreeSet<u64>, MapsError> {
        self.kernel.unbalanced()
    }
}

// === impl View ===

impl View<'_> {
    /// What it is like.
    pub fn settings(self) -> Settings {
        self.0.settings
    }

    /// How connections are spread over its groups, as it was told.
    pub fn weights(self) -> Weights {
        self.0.weights
    }

    /// Where a backend is; `None` if it is not there.
    pub fn group_of(self, backend: &Backend) -> Option<Group> {
        Some(self.0.positions.get(backend)?.group)
    }

    /// All of it.
    pub fn content(self) -> Content {
        let backends = self.0.positions.iter().map(|(backend, at)| (*backend, at.group)).collect();
        Content { settings: self.0.settings, weights: self.0.weights, backends }
    }

    /// How many backends each group has.
    pub fn counts(self) -> [u32; Group::COUNT] {
        let mut counts = [0; Group::COUNT];
        for (count, (_, slots)) in counts.iter_mut().zip(self.0.groups()) {
            *count = slots.count();
        }
        counts
    }
}

#[cfg(test)]
mod tests;
