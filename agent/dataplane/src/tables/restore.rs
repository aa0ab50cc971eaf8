//! Rebuilding the mirror from the kernel, whatever a predecessor left there.

use std::{collections::HashMap, time::Instant};

use mesh_layout::Header;
use mesh_model::lb::Backend;

use super::{BackendUse, Indices, Service, Tables, TablesError};
use crate::{
    convert,
    kernel::{Kernel, Sizes},
    slots::{Range, SlotRanges},
};

impl<K: Kernel> Tables<K> {
    /// Takes over what is in the kernel. Whatever is in there is held ([`Tables::held`]) until a change claims it or
    /// [`Tables::prune_backends`] and [`Tables::prune_frontends`] let it go. What contradicts itself (a predecessor
    /// died between two writes) is repaired.
    pub fn restore(kernel: K, now: Instant) -> Result<Self, TablesError> {
        let Sizes { services, backends, slots, groups: _ } = kernel.sizes();
        let mut tables = Self {
            kernel,
            services: HashMap::new(),
            backends: HashMap::new(),
            service_indices: Indices::new("cm_services", services),
            backend_indices: Indices::new("cm_backends", backends),
            slots: SlotRanges::new(slots),
            released: Vec::new(),
        };
        tables.restore_backends();
        tables.restore_services(now)?;
        let unused: Vec<u32> =
            tables.backends.values().filter(|b| b.services == 0).map(|b| b.id).collect();
        tables.backends.retain(|_, backend| backend.services != 0);
        for id in unused {
            tables.kernel.clear_backend(id);
            tables.backend_indices.give_back(id, now);
        }
        Ok(tables)
    }

    /// Reads every backend; none is used yet.
    fn restore_backends(&mut self) {
        for index in 0..self.kernel.sizes().backends {
            let entry = self.kernel.backend(index);
            let in_place = entry.id() % self.kernel.sizes().backends == index;
            if entry.id() == 0 {
                continue;
            }
            match convert::backend(&entry) {
                Some(backend) if in_place && !self.backends.contains_key(&backend) => {
                    self.backend_indices.claim(entry.id());
                    self.backends.insert(backend, BackendUse { id: entry.id(), services: 0 });
                }
                _ => self.kernel.clear_backend(index),
            }
        }
    }

    fn restore_services(&mut self, now: Instant) -> Result<(), TablesError> {
        let by_id: HashMap<u32, Backend> = self.backends.iter().map(|(b, u)| (u.id, *b)).collect();
        let services = self
            .kernel
            .services()
            .map_err(|source| TablesError::Kernel { map: "cm_services", source })?;
        let mut claimed = Vec::with_capacity(services.len());
        for (key, service) in services {
            let index = service.index();
            let frontend = convert::frontend(&key)
                .filter(|_| service.tag() == key.tag() && self.service_indices.claim(index));
            let Some(frontend) = frontend else {
                self.kernel
                    .delete_service(&key)
                    .map_err(|source| TablesError::Kernel { map: "cm_services", source })?;
                continue;
            };
            let header = self.kernel.header(index);
            let count = header.count().min(self.kernel.sizes().slots);
            let found = Range { base: header.base(), order: Range::order_for(count) };
            let mine = count == header.count() && self.slots.claim(found);
            claimed.push((frontend, index, header, mine));
        }
        // Only now: a range that is taken for one that has to be written anew must be nobody else's.
        for (frontend, index, header, mine) in claimed {
            let restored = self.restore_service(index, header, mine, &by_id, now)?;
            self.services.insert(frontend, restored);
        }
        Ok(())
    }

    /// Reads one service's slots. Where they are not what a finished writer leaves, they are written anew elsewhere.
    fn restore_service(
        &mut self,
        index: u32,
        header: Header,
        mine: bool,
        by_id: &HashMap<u32, Backend>,
        now: Instant,
    ) -> Result<Service, TablesError> {
        let count = header.count().min(self.kernel.sizes().slots);
        let found = Range { base: header.base(), order: Range::order_for(count) };
        let mut service = Service::new(index, found);
        service.held = true;
        for slot in (header.base()..).take(usize::try_from(count).unwrap_or(usize::MAX)) {
            if slot >= self.kernel.sizes().slots {
                break;
            }
            let id = self.kernel.slot(slot);
            if let Some(backend) = by_id.get(&id)
                && !service.positions.contains_key(backend)
            {
                service.positions.insert(*backend, service.count());
                service.slots.push((id, *backend));
                service.held_backends.insert(*backend);
                if let Some(known) = self.backends.get_mut(backend) {
                    known.services += 1;
                }
            }
        }
        if !mine || service.count() != count {
            if mine {
                self.slots.give_back(found, now);
            }
            service.range = self.take_range(Range::order_for(service.count()), now)?;
            for (slot, (id, _)) in (service.range.base..).zip(&service.slots) {
                self.kernel.set_slot(slot, *id);
            }
            self.kernel.set_header(index, Header::new(service.range.base, service.count()));
        }
        Ok(service)
    }
}
