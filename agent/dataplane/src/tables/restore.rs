//! Rebuilding the mirror from the kernel, whatever a predecessor left there.

use std::{collections::BTreeMap, time::Instant};

use mesh_layout::{GroupSet, Header};
use mesh_model::lb::{Frontend, Group, Weights};

use super::{
    Backends, IdAllocator, Shares, Tables, TablesError,
    service::{Others, Position, Service},
};
use crate::{
    convert,
    kernel::{Kernel, Sizes},
    slots::{Range, SlotRanges},
};

impl<K: Kernel> Tables<K> {
    /// Takes over what is in the kernel. All of it is inherited ([`Tables::inherited`]) until a change claims it or
    /// [`Tables::prune_backends`] and [`Tables::prune_frontends`] remove it. What contradicts itself (the previous
    /// writer died between two writes) is repaired.
    pub fn restore(kernel: K, now: Instant) -> Result<Self, TablesError> {
        let Sizes { services, backends, slots, groups } = kernel.sizes();
        let mut tables = Self {
            kernel,
            services: BTreeMap::new(),
            backends: Backends::new(backends),
            service_indices: IdAllocator::new("cm_services", services),
            set_indices: IdAllocator::new("cm_groups", groups),
            slots: SlotRanges::new(slots),
            shares: Shares::new(backends, slots),
            freed: 0,
            settling: Vec::new(),
            released: Vec::new(),
        };
        tables.restore_backends();
        tables.restore_services(now)?;
        for id in tables.backends.unused() {
            tables.kernel.clear_backend(id);
            tables.backends.leave(id, now);
        }
        for (_, backend) in tables.backends.iter() {
            tables.shares.backends.add(backend.cluster, 1);
        }
        Ok(tables)
    }

    /// Reads every backend; no service uses it yet.
    fn restore_backends(&mut self) {
        let size = self.kernel.sizes().backends;
        for place in 0..size {
            let entry = self.kernel.backend(place);
            let id = entry.id();
            if id == 0 {
                continue;
            }
            let sound = convert::backend(&entry).filter(|_| id % size == place);
            if !sound.is_some_and(|backend| self.backends.claim(id, backend)) {
                self.kernel.clear_backend(place);
            }
        }
    }

    fn restore_services(&mut self, now: Instant) -> Result<(), TablesError> {
        let services = self
            .kernel
            .services()
            .map_err(|source| TablesError::Kernel { map: "cm_services", source })?;
        let mut claimed: Vec<(Frontend, Found)> = Vec::with_capacity(services.len());
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
            claimed.push((frontend, self.claim(index)));
        }
        // Only now: a range for an entry that has to be rewritten must not belong to another service.
        for (frontend, found) in claimed {
            let restored = self.restore_service(found, now)?;
            self.services.insert(frontend, restored);
        }
        Ok(())
    }

    /// Finds what a service leads to, and takes as much of it as no other has.
    fn claim(&mut self, index: u32) -> Found {
        let header = self.kernel.header(index);
        let set = header.group_set().filter(|set| *set < self.kernel.sizes().groups);
        let set = set.filter(|set| self.set_indices.claim(*set));
        let headers = match (set, header.group_set()) {
            (Some(set), _) => *self.kernel.group_set(set).headers(),
            // Groups that are another's.
            (None, Some(_)) => [Header::default(); Group::COUNT],
            (None, None) => {
                let mut headers = [Header::default(); Group::COUNT];
                headers.first_mut().into_iter().for_each(|first| *first = header);
                headers
            }
        };
        let headers = headers.map(|header| {
            let range = range_of(header);
            let is_sound = range.is_none_or(|range| self.slots.claim(range));
            (header, is_sound)
        });
        Found { index, set, headers }
    }

    /// Reads one service's slots. Where they are not what a finished writer leaves, they are rewritten elsewhere.
    fn restore_service(
        &mut self,
        Found { index, set, headers }: Found,
        now: Instant,
    ) -> Result<Service, TablesError> {
        let settings = convert::settings_of(self.kernel.settings(index));
        let mut service = Service::new(index, settings);
        (service.held, service.held_weights) = (true, true);
        if let Some(set) = set {
            service.weights = weights(&self.kernel.group_set(set));
            service.others = Some(Box::new(Others { set, groups: Default::default() }));
        }
        for (group, (header, is_sound)) in (0..).map_while(Group::new).zip(headers) {
            self.read_slots(&mut service, group, header);
            let found = range_of(header);
            let Some(slots) = service.slots_mut(group) else { continue };
            if is_sound && slots.count() == header.count() {
                slots.range = found;
                continue;
            }
            if is_sound {
                found.into_iter().for_each(|range| self.slots.give_back(range, now));
            }
            if slots.ids.is_empty() {
                continue;
            }
            let order = Range::order_for(slots.count());
            let size = self.kernel.sizes().slots;
            let range = self.slots.take(order, now);
            slots.range = Some(range.ok_or(TablesError::Full { map: "cm_slots", size })?);
            for (slot, id) in slots.ids() {
                self.kernel.set_slot(slot, id);
            }
        }
        self.finish(&mut service, now);
        Ok(service)
    }

    /// Takes the backends of a group's slots that there are, each once.
    fn read_slots(&mut self, service: &mut Service, group: Group, header: Header) {
        let size = self.kernel.sizes().slots;
        let end = header.base().saturating_add(header.count()).min(size);
        for slot in header.base()..end {
            let id = self.kernel.slot(slot);
            if service.positions.contains_key(&id) {
                continue;
            }
            let Some(backend) = self.backends.claim_use(id) else { continue };
            let cluster = backend.cluster;
            let Some(slots) = service.slots_mut(group) else { return };
            let position = Position { group, slot: slots.count() };
            slots.ids.push(id);
            // Which cluster needed the range is not known: the last one that was read.
            slots.payer = Some(cluster);
            service.positions.insert(id, position);
            service.inherited_backends.insert(id);
            self.shares.slots.add(cluster, 1);
        }
    }

    /// Has readers see what was restored.
    fn finish(&mut self, service: &mut Service, now: Instant) {
        for (payer, reserve) in service.groups().filter_map(|(_, slots)| slots.reserve()) {
            self.shares.slots.add(payer, reserve);
        }
        if service.is_plain()
            && let Some(others) = service.others.take()
        {
            self.set_indices.give_back(others.set, now);
        }
        match &service.others {
            Some(_) => service.publish_groups(&mut self.kernel),
            None if self.kernel.header(service.index) == service.header() => {}
            None => self.kernel.set_header(service.index, service.header()),
        }
    }
}

/// What a service leads to, and of each group's range whether it is its own.
struct Found {
    index: u32,
    set: Option<u32>,
    headers: [(Header, bool); Group::COUNT],
}

/// The range that a header refers to: the shortest that holds its slots.
fn range_of(header: Header) -> Option<Range> {
    let count = header.count();
    (count > 0).then(|| Range { base: header.base(), order: Range::order_for(count) })
}

/// What sums of weights were made of.
fn weights(set: &GroupSet) -> Weights {
    let mut before = 0;
    Weights(set.cumulative().map(|sum| {
        let weight = sum.saturating_sub(before);
        before = sum;
        weight
    }))
}
