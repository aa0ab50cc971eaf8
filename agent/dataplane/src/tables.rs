//! The writer's side of the tables.
//!
//! The order of writes is what keeps readers right at every moment, and what keeps the tables usable when the writer dies
//! between any two of them: a backend is there before a slot names it, a slot before the header counts it, a header
//! before a frontend leads to it; and they go in the opposite order.

use std::{
    collections::{HashMap, HashSet},
    io,
    time::Instant,
};

use mesh_layout::{Header, ServiceRef};
use mesh_model::{
    ClusterId,
    lb::{Backend, Change, Frontend},
};

use crate::{
    convert,
    kernel::{Kernel, Sizes},
    slots::{Range, SlotRanges},
};

mod audit;
mod indices;
mod released;
mod restore;

pub use audit::Repairs;
use indices::Indices;
pub use released::Numbered;

/// The tables, and a mirror of what is in them.
#[derive(Debug)]
pub struct Tables<K> {
    kernel: K,
    services: HashMap<Frontend, Service>,
    backends: HashMap<Backend, BackendUse>,
    service_indices: Indices,
    backend_indices: Indices,
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
}

/// What a predecessor left in the kernel and nobody has claimed in this life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
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

/// One frontend's service.
#[derive(Debug)]
struct Service {
    index: u32,
    range: Range,
    /// What the slots hold, in order.
    slots: Vec<(u32, Backend)>,
    /// Where each backend is in `slots`.
    positions: HashMap<Backend, u32>,
    /// Found in the kernel, and not claimed in this life.
    held: bool,
    /// Backends found in the kernel, and not claimed in this life.
    held_backends: HashSet<Backend>,
}

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
            Change::SetFrontend(frontend, _) => self.add_frontend(frontend, now),
            Change::RemoveFrontend(frontend) => self.remove_frontend(&frontend, now),
            Change::AddBackend(frontend, backend, _) => self.add_backend(frontend, backend, now),
            Change::RemoveBackend(frontend, backend) => {
                self.remove_backend(&frontend, &backend, now);
                Ok(())
            }
            Change::SetWeights(..) => Ok(()),
        }
    }

    /// Lets go of held backends of the clusters that `listed` says have told all they have.
    pub fn prune_backends(&mut self, listed: impl Fn(ClusterId) -> bool, now: Instant) {
        let gone: Vec<(Frontend, Backend)> = self
            .services
            .iter()
            .flat_map(|(frontend, service)| service.held_backends.iter().map(|b| (*frontend, *b)))
            .filter(|(_, backend)| listed(backend.cluster))
            .collect();
        for (frontend, backend) in gone {
            self.remove_backend(&frontend, &backend, now);
        }
    }

    /// Lets go of held frontends: the own cluster has told all it has.
    pub fn prune_frontends(&mut self, now: Instant) -> Result<(), TablesError> {
        let held = |(frontend, service): (&Frontend, &Service)| service.held.then_some(*frontend);
        let gone: Vec<Frontend> = self.services.iter().filter_map(held).collect();
        gone.iter().try_for_each(|frontend| self.remove_frontend(frontend, now))
    }

    /// What is still held.
    pub fn held(&self) -> Held {
        self.services.values().fold(Held::default(), |held, service| Held {
            frontends: held.frontends + usize::from(service.held),
            backends: held.backends + service.held_backends.len(),
        })
    }

    /// A frontend's backends, in the order of its slots; `None` where there is no such frontend.
    pub fn backends(&self, frontend: &Frontend) -> Option<impl Iterator<Item = &Backend>> {
        Some(self.services.get(frontend)?.slots.iter().map(|(_, backend)| backend))
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
        }
    }

    fn add_frontend(&mut self, frontend: Frontend, now: Instant) -> Result<(), TablesError> {
        if let Some(service) = self.services.get_mut(&frontend) {
            service.held = false;
            return Ok(());
        }
        let range = self.take_range(0, now)?;
        let number = match self.service_indices.take(now) {
            Ok(number) => number,
            Err(full) => {
                self.slots.undo(range);
                return Err(full);
            }
        };
        let index = number % self.kernel.sizes().services;
        self.kernel.set_header(index, Header::new(range.base, 0));
        let key = convert::frontend_key(&frontend);
        if let Err(source) = self.kernel.put_service(&key, ServiceRef::new(index, key.tag())) {
            self.slots.undo(range);
            self.service_indices.give_back(number, now);
            return Err(TablesError::Kernel { map: "cm_services", source });
        }
        self.services.insert(frontend, Service::new(index, range));
        Ok(())
    }

    fn remove_frontend(&mut self, frontend: &Frontend, now: Instant) -> Result<(), TablesError> {
        let Some(service) = self.services.get(frontend) else {
            return Ok(());
        };
        self.kernel
            .delete_service(&convert::frontend_key(frontend))
            .map_err(|source| TablesError::Kernel { map: "cm_services", source })?;
        let Range { base, .. } = service.range;
        self.kernel.set_header(service.index, Header::new(base, 0));
        if let Some(service) = self.services.remove(frontend) {
            for (_, backend) in service.slots {
                self.release_backend(&backend, now);
            }
            self.slots.give_back(service.range, now);
            self.service_indices.give_back(service.index, now);
        }
        Ok(())
    }

    fn add_backend(
        &mut self,
        frontend: Frontend,
        backend: Backend,
        now: Instant,
    ) -> Result<(), TablesError> {
        let Some(service) = self.services.get_mut(&frontend) else {
            return Err(TablesError::NoFrontend(frontend));
        };
        if service.positions.contains_key(&backend) {
            service.held_backends.remove(&backend);
            return Ok(());
        }
        let (count, range) = (service.count(), service.range);
        let grown =
            if count < range.len() { None } else { Some(self.take_range(range.order + 1, now)?) };
        let id = match self.use_backend(backend, now) {
            Ok(id) => id,
            Err(full) => {
                grown.into_iter().for_each(|range| self.slots.undo(range));
                return Err(full);
            }
        };
        let Some(service) = self.services.get_mut(&frontend) else {
            return Err(TablesError::NoFrontend(frontend));
        };
        if let Some(grown) = grown {
            for (slot, (id, _)) in (grown.base..).zip(&service.slots) {
                self.kernel.set_slot(slot, *id);
            }
            self.slots.give_back(service.range, now);
            service.range = grown;
        }
        let base = service.range.base;
        self.kernel.set_slot(base + count, id);
        self.kernel.set_header(service.index, Header::new(base, count + 1));
        service.positions.insert(backend, count);
        service.slots.push((id, backend));
        Ok(())
    }

    fn remove_backend(&mut self, frontend: &Frontend, backend: &Backend, now: Instant) {
        let Some(service) = self.services.get_mut(frontend) else {
            return;
        };
        let Some(position) = service.positions.remove(backend) else {
            return;
        };
        service.held_backends.remove(backend);
        let Some((last_id, last)) = service.slots.pop() else {
            return;
        };
        let base = service.range.base;
        let hole = usize::try_from(position).ok().and_then(|at| service.slots.get_mut(at));
        // The last one itself leaves no hole.
        if let Some(hole) = hole {
            self.kernel.set_slot(base + position, last_id);
            *hole = (last_id, last);
            service.positions.insert(last, position);
        }
        self.kernel.set_header(service.index, Header::new(base, service.count()));
        self.release_backend(backend, now);
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

// === impl Service ===

impl Service {
    fn new(index: u32, range: Range) -> Self {
        Self {
            index,
            range,
            slots: Vec::new(),
            positions: HashMap::new(),
            held: false,
            held_backends: HashSet::new(),
        }
    }

    fn count(&self) -> u32 {
        u32::try_from(self.slots.len()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests;
