//! Comparing the kernel with what should be in it.
//!
//! Nothing but the writer writes the tables, and it writes what it was told: both comparisons find nothing. If they do find
//! something, there is a bug here or a stranger at the maps; it is repaired, and counted so that somebody asks which.

use std::collections::HashMap;

use mesh_layout::{FrontendKey, ServiceRef};
use mesh_model::lb::{Backend, Change, Content, Frontend, Weights};

use super::{BackendUse, Tables, TablesError, service::Service};
use crate::{convert, kernel::Kernel};

/// How many entries of each table were not what was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repairs {
    /// Frontends missing, too many or leading elsewhere.
    pub frontends: u64,
    /// Headers.
    pub headers: u64,
    /// Settings of frontends.
    pub settings: u64,
    /// Frontends whose groups have other slots or weights.
    pub groups: u64,
    /// Slots.
    pub slots: u64,
    /// Backends missing, too many or others.
    pub backends: u64,
}

impl Repairs {
    /// All of them.
    pub fn total(&self) -> u64 {
        let Self { frontends, headers, settings, groups, slots, backends } = self;
        frontends + headers + settings + groups + slots + backends
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
            audit_service(&mut self.kernel, service, &mut repairs);
        }
        repairs.frontends = self.audit_frontends(services)?;
        for id in stray.places {
            self.kernel.clear_backend(id);
            repairs.backends += 1;
        }
        Ok(repairs)
    }

    /// What would have to change for the tables to be as wanted. What a predecessor left and nobody has claimed is neither
    /// wanted nor too much.
    pub fn deviations(&self, wanted: &HashMap<Frontend, Content>) -> Vec<Change> {
        let mut changes = Vec::new();
        for (frontend, wanted) in wanted {
            let Some(service) = self.services.get(frontend) else {
                changes.push(Change::SetFrontend(*frontend, wanted.settings));
                let all = wanted.backends.iter();
                changes.extend(all.map(|(b, group)| Change::AddBackend(*frontend, *b, *group)));
                if wanted.weights != Weights::ONE {
                    changes.push(Change::SetWeights(*frontend, wanted.weights));
                }
                continue;
            };
            if service.settings != wanted.settings {
                changes.push(Change::SetFrontend(*frontend, wanted.settings));
            }
            let group_of = |backend| service.positions.get(backend).map(|at| at.group);
            let missing = wanted.backends.iter().filter(|(b, group)| group_of(b) != Some(**group));
            changes.extend(missing.map(|(b, group)| Change::AddBackend(*frontend, *b, *group)));
            let claimed =
                service.positions.keys().filter(|b| !service.inherited_backends.contains(*b));
            let surplus = claimed.filter(|backend| !wanted.backends.contains_key(*backend));
            changes.extend(surplus.map(|backend| Change::RemoveBackend(*frontend, *backend)));
            if service.weights != wanted.weights && !service.held_weights {
                changes.push(Change::SetWeights(*frontend, wanted.weights));
            }
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

/// Looks at one service, from its slots to what leads to them.
fn audit_service<K: Kernel>(kernel: &mut K, service: &Service, repairs: &mut Repairs) {
    for (slot, id) in service.groups().flat_map(|(_, slots)| slots.ids()) {
        if kernel.slot(slot) != id {
            kernel.set_slot(slot, id);
            repairs.slots += 1;
        }
    }
    if let Some(others) = &service.others {
        let found = kernel.group_set(others.set);
        if found != service.group_set() {
            for group in service.stale_groups(&found) {
                service.publish(kernel, group);
            }
            service.publish_cumulative(kernel);
            repairs.groups += 1;
        }
    }
    let settings = convert::settings(service.settings);
    if kernel.settings(service.index) != settings {
        kernel.set_settings(service.index, settings);
        repairs.settings += 1;
    }
    if kernel.header(service.index) != service.header() {
        kernel.set_header(service.index, service.header());
        repairs.headers += 1;
    }
}

/// What was found among the backends.
#[derive(Debug, Default)]
struct Stray {
    repaired: u64,
    /// Places that should be free.
    places: Vec<u32>,
}
