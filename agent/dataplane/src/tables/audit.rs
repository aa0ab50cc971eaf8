//! Comparing the kernel with what should be in it.
//!
//! Nothing but the writer writes the tables, and it writes what it was told: both comparisons find nothing. If they do find
//! something, there is a bug here or a stranger at the maps; it is repaired, and counted so that somebody asks which.

use std::collections::{HashMap, HashSet};

use mesh_layout::{FrontendKey, Header, ServiceRef};
use mesh_model::lb::{Backend, Change, Frontend, Group, Settings};

use super::{BackendUse, Tables, TablesError};
use crate::{convert, kernel::Kernel};

/// How many entries of each table were not what was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repairs {
    /// Frontends missing, too many or leading elsewhere.
    pub frontends: u64,
    /// Headers.
    pub headers: u64,
    /// Slots.
    pub slots: u64,
    /// Backends missing, too many or others.
    pub backends: u64,
}

impl Repairs {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.frontends + self.headers + self.slots + self.backends
    }
}

impl<K: Kernel> Tables<K> {
    /// Compares what is in the kernel with what was written there, and writes what differs: first what others lead to.
    /// Costs a look at every place for a backend, and at what is in use of the rest.
    pub fn audit(&mut self) -> Result<Repairs, TablesError> {
        let services = self
            .kernel
            .services()
            .map_err(|source| TablesError::Kernel { map: "cm_services", source })?;
        let stray = self.missing_backends();
        let mut repairs = Repairs { backends: stray.repaired, ..Repairs::default() };
        for service in self.services.values() {
            let header = Header::new(service.range.base, service.count());
            for (slot, (id, _)) in (header.base()..).zip(&service.slots) {
                if self.kernel.slot(slot) != *id {
                    self.kernel.set_slot(slot, *id);
                    repairs.slots += 1;
                }
            }
            if self.kernel.header(service.index) != header {
                self.kernel.set_header(service.index, header);
                repairs.headers += 1;
            }
        }
        repairs.frontends = self.audit_frontends(services)?;
        for id in stray.places {
            self.kernel.clear_backend(id);
            repairs.backends += 1;
        }
        Ok(repairs)
    }

    /// What would have to change for the tables to be as wanted: every frontend with its backends. What a predecessor left
    /// and nobody has claimed is neither wanted nor too much.
    pub fn deviations(&self, wanted: &HashMap<Frontend, HashSet<Backend>>) -> Vec<Change> {
        let mut changes = Vec::new();
        for (frontend, backends) in wanted {
            let service = self.services.get(frontend);
            if service.is_none() {
                changes.push(Change::SetFrontend(*frontend, Settings::default()));
            }
            let has = |backend: &&Backend| {
                service.is_some_and(|service| service.positions.contains_key(*backend))
            };
            let missing = backends.iter().filter(|backend| !has(backend));
            changes.extend(
                missing.map(|backend| Change::AddBackend(*frontend, *backend, Group::FIRST)),
            );
            let there = service.into_iter().flat_map(|service| {
                let claimed = service.positions.keys();
                claimed.filter(|backend| !service.held_backends.contains(*backend))
            });
            let surplus = there.filter(|backend| !backends.contains(*backend));
            changes.extend(surplus.map(|backend| Change::RemoveBackend(*frontend, *backend)));
        }
        let claimed = self.services.iter().filter(|(_, service)| !service.held);
        let surplus = claimed.filter(|(frontend, _)| !wanted.contains_key(*frontend));
        changes.extend(surplus.map(|(frontend, _)| Change::RemoveFrontend(*frontend)));
        changes
    }

    fn audit_frontends(
        &mut self,
        found: Vec<(FrontendKey, ServiceRef)>,
    ) -> Result<u64, TablesError> {
        let error = |source| TablesError::Kernel { map: "cm_services", source };
        let mut found: HashMap<FrontendKey, ServiceRef> = found.into_iter().collect();
        let mut repaired = 0;
        for (frontend, service) in &self.services {
            let key = convert::frontend_key(frontend);
            let wanted = ServiceRef::new(service.index, key.tag());
            if found.remove(&key) != Some(wanted) {
                self.kernel.put_service(&key, wanted).map_err(error)?;
                repaired += 1;
            }
        }
        for key in found.keys() {
            self.kernel.delete_service(key).map_err(error)?;
            repaired += 1;
        }
        Ok(repaired)
    }

    /// Writes the backends that are not as they were written; finds those that nobody wrote.
    fn missing_backends(&mut self) -> Stray {
        let size = self.kernel.sizes().backends;
        let entry = |(backend, used): (&Backend, &BackendUse)| {
            (used.id % size, convert::backend_entry(used.id, backend))
        };
        let mut wanted: Vec<(u32, mesh_layout::Backend)> =
            self.backends.iter().map(entry).collect();
        wanted.sort_unstable_by_key(|(place, _)| *place);
        let mut wanted = wanted.into_iter().peekable();
        let mut stray = Stray::default();
        for place in 0..size {
            let found = self.kernel.backend(place);
            match wanted.next_if(|(at, _)| *at == place) {
                Some((_, wanted)) if found == wanted => {}
                Some((_, wanted)) => {
                    // Nobody takes one for the other while it is written.
                    self.kernel.clear_backend(wanted.id());
                    self.kernel.set_backend(wanted);
                    stray.repaired += 1;
                }
                None if found.id() != 0 => stray.places.push(place),
                None => {}
            }
        }
        stray
    }
}

/// What was found among the backends.
#[derive(Debug, Default)]
struct Stray {
    repaired: u64,
    /// Places that should be free.
    places: Vec<u32>,
}
