//! Fills tables of other sizes from the existing ones, before a program reads them.
//!
//! Sockets and affinities know backends by their IDs and services by their indices: these stay, as far as the new
//! tables have room at these positions.

use std::{collections::HashMap, fmt, time::Instant};

use mesh_layout::ServiceRef;
use mesh_model::lb::{Frontend, Group};

use super::{
    Tables, TablesError,
    service::{Others, Service, Slots},
};
use crate::{
    convert,
    kernel::{Kernel, Sizes},
    room::larger_table,
    slots::Range,
};

/// A table that is too small for what is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// The table.
    pub map: &'static str,
    /// How many entries it would have.
    pub size: u32,
    /// How many it has to have at least.
    pub needed: u32,
}

impl<K: Kernel> Tables<K> {
    /// Which tables of these sizes would not hold what is in use.
    pub fn shortages(&self, sizes: Sizes) -> Vec<Shortage> {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let slots: u64 = self.services.values().flat_map(Service::groups).map(needed_slots).sum();
        let slots = u32::try_from(slots.next_power_of_two()).unwrap_or(u32::MAX);
        let sets = self.services.values().filter(|service| service.others.is_some()).count();
        let of = [
            ("cm_services", sizes.services, count(self.services.len())),
            ("cm_backends", sizes.backends, self.backends.len().next_power_of_two()),
            ("cm_slots", sizes.slots, slots),
            ("cm_groups", sizes.groups, count(sets)),
        ];
        let short = of.into_iter().filter(|(_, size, needed)| needed > size);
        short.map(|(map, size, needed)| Shortage { map, size, needed }).collect()
    }

    /// Fills tables, which are empty and which no program reads, with what is in `former`. What was held there is held
    /// here.
    pub fn adopt<F: Kernel>(
        former: Tables<F>,
        kernel: K,
        now: Instant,
    ) -> Result<Self, TablesError> {
        let mut tables = Self::restore(kernel, now)?;
        tables.shares.local = former.shares.local;
        let ids = tables.backends.adopt(former.backends, now)?;
        for (id, backend) in tables.backends.iter() {
            tables.kernel.set_backend(convert::backend_entry(id, backend));
            tables.shares.backends.add(backend.cluster, 1);
        }
        let mut services: Vec<(Frontend, Service)> = former.services.into_iter().collect();
        let Sizes { services: size, groups: sets, .. } = tables.kernel.sizes();
        let indices = services.iter().map(|(_, service)| service.index).collect();
        let indices = tables.service_indices.adopt(indices, now)?;
        for ((_, service), index) in services.iter_mut().zip(indices) {
            service.index = index % size;
        }
        let mut others: Vec<&mut Others> =
            services.iter_mut().filter_map(|(_, service)| service.others.as_deref_mut()).collect();
        let numbers = others.iter().map(|others| others.set).collect();
        let numbers = tables.set_indices.adopt(numbers, now)?;
        for (others, number) in others.iter_mut().zip(numbers) {
            others.set = number % sets;
        }
        tables.adopt_slots(&mut services, &ids, now)?;
        for (_, service) in &mut services {
            service.remap_ids(&ids);
        }
        for (frontend, service) in services {
            tables.kernel.set_settings(service.index, service.shown_settings());
            match &service.others {
                Some(_) => service.publish_groups(&mut tables.kernel),
                None => tables.kernel.set_header(service.index, service.header()),
            }
            let key = convert::frontend_key(&frontend);
            let put = tables.kernel.put_service(&key, ServiceRef::new(service.index, key.tag()));
            put.map_err(|source| TablesError::Kernel { map: "cm_services", source })?;
            tables.services.insert(frontend, service);
        }
        Ok(tables)
    }

    /// Writes the slots, the longest first: so they fit wherever they can.
    fn adopt_slots(
        &mut self,
        services: &mut [(Frontend, Service)],
        ids: &HashMap<u32, u32>,
        now: Instant,
    ) -> Result<(), TablesError> {
        let slots = services.iter_mut().flat_map(|(_, service)| service.groups_mut());
        let mut slots: Vec<&mut Slots> = slots.filter(|slots| slots.count() > 0).collect();
        slots.sort_by_key(|slots| std::cmp::Reverse(slots.count()));
        for slots in slots {
            slots.range = Some(self.take_range(Range::order_for(slots.count()), now)?);
            for id in &mut slots.ids {
                *id = ids.get(id).copied().unwrap_or(0);
                if let Some(backend) = self.backends.get(*id) {
                    self.shares.slots.add(backend.cluster, 1);
                }
            }
            if let Some((payer, reserve)) = slots.reserve() {
                self.shares.slots.add(payer, reserve);
            }
            for (slot, id) in slots.ids() {
                self.kernel.set_slot(slot, id);
            }
        }
        Ok(())
    }
}

/// How many slots the shortest range has that holds a group's backends.
fn needed_slots((_, slots): (Group, &Slots)) -> u64 {
    if slots.count() == 0 { 0 } else { 1 << Range::order_for(slots.count()) }
}

// === impl Shortage ===

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { map, size, needed } = self;
        let larger = larger_table(map, *size, needed.saturating_sub(*size));
        write!(f, "{map} would have room for {size}, and what is in use needs {needed}: {larger}")
    }
}
