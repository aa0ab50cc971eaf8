//! Backends are added to groups, move between them and are removed.
//!
//! A service whose backends are all in its first group has that group's slots in its header. Any other has an entry in
//! `cm_groups`, and leads there. Both changes are one store: the target is complete before it, and the former target
//! rests after it.

use std::time::Instant;

use mesh_model::{
    ClusterId,
    lb::{Backend, Frontend, Group},
};

use super::{
    Tables, TablesError,
    service::{Others, Position, Service, Slots},
    shares::{Charges, Growth},
};
use crate::{
    convert,
    kernel::Kernel,
    slots::{Range, SlotRanges},
};

/// What one more backend in a group takes, got before anything is written.
#[derive(Debug, Default)]
struct Room {
    /// A longer range for the group, and whose backend needs it.
    range: Option<(Range, ClusterId)>,
    /// A place for the service's groups, by its id.
    set: Option<u32>,
}

/// The ranges above it are freed in halves until a group uses more than one part in so many.
const SPARSE: u32 = 4;

impl<K: Kernel> Tables<K> {
    /// Adds a backend, or moves it to another group. What is refused is remembered: the frontend is not strict before it is
    /// made, or not wanted any more.
    pub(super) fn add_backend(
        &mut self,
        frontend: Frontend,
        backend: Backend,
        group: Group,
        now: Instant,
    ) -> Result<(), TablesError> {
        let added = self.enter(&frontend, backend, group, now);
        if let Some(service) = self.services.get_mut(&frontend) {
            let is_there = |id| service.positions.contains_key(&id);
            let is_refused = added.is_err() && !self.backends.id_of(&backend).is_some_and(is_there);
            service.change_settings(&mut self.kernel, |s| s.set_refused(backend, is_refused));
        }
        added
    }

    /// A backend will be added, and was not tried yet: until [`Tables::commit`] a frontend without any refuses no connection.
    pub(crate) fn expect_backend(&mut self, frontend: &Frontend) {
        let Some(service) = self.services.get_mut(frontend) else { return };
        if service.positions.is_empty() && !service.is_settling {
            self.settling.push(*frontend);
            service.change_settings(&mut self.kernel, |service| service.is_settling = true);
        }
    }

    fn enter(
        &mut self,
        frontend: &Frontend,
        backend: Backend,
        group: Group,
        now: Instant,
    ) -> Result<(), TablesError> {
        let known = self.backends.id_of(&backend);
        let Some(service) = self.services.get_mut(frontend) else {
            return Err(TablesError::NoFrontend(*frontend));
        };
        let before = known.and_then(|id| service.positions.get(&id).copied());
        if before.is_some_and(|before| before.group == group) {
            known.map(|id| service.inherited_backends.remove(&id));
            return Ok(());
        }
        // A backend that has a slot may always move: its old slot is free afterwards.
        if before.is_none() {
            self.shares.may_add(
                backend.cluster,
                Growth { own: u32::from(known.is_none()), others: 0 },
                growth(service, group, backend.cluster),
            )?;
        }
        let room = self.room_for(frontend, group, backend.cluster, now)?;
        let id = match known {
            Some(id) => id,
            None => match self.make_backend(backend, now) {
                Ok(id) => id,
                Err(full) => {
                    self.undo(room, now);
                    return Err(full);
                }
            },
        };
        let Some(service) = self.services.get_mut(frontend) else {
            return Err(TablesError::NoFrontend(*frontend));
        };
        service.inherited_backends.remove(&id);
        self.shares.slots.add(backend.cluster, 1);
        let (position, outgrown) = recharged(service, group, &mut self.shares.slots, |service| {
            service.enter(&mut self.kernel, id, group, room)
        });
        service.positions.insert(id, position);
        outgrown.into_iter().for_each(|range| self.slots.give_back(range, now));
        match before {
            Some(before) => self.leave(frontend, backend.cluster, before, now),
            None => self.backends.join(id),
        }
        Ok(())
    }

    pub(super) fn remove_backend(&mut self, frontend: &Frontend, backend: &Backend, now: Instant) {
        let id = self.backends.id_of(backend);
        let Some(service) = self.services.get_mut(frontend) else { return };
        service.change_settings(&mut self.kernel, |s| s.set_refused(*backend, false));
        let Some(id) = id else { return };
        let Some(position) = service.positions.remove(&id) else { return };
        service.inherited_backends.remove(&id);
        self.leave(frontend, backend.cluster, position, now);
        self.release_backend(id, now);
    }

    /// Takes the backend at a position out of its group.
    fn leave(&mut self, frontend: &Frontend, cluster: ClusterId, at: Position, now: Instant) {
        let Some(service) = self.services.get_mut(frontend) else { return };
        self.shares.slots.remove(cluster, 1);
        self.freed += 1;
        let left = recharged(service, at.group, &mut self.shares.slots, |service| {
            service.leave(&mut self.kernel, &mut self.slots, at, now)
        });
        self.give_back_set(left, now);
    }

    /// Writes a new backend, which no service uses yet. Returns its ID.
    fn make_backend(&mut self, backend: Backend, now: Instant) -> Result<u32, TablesError> {
        self.clear_rested(now);
        let id = self.backends.add(backend, now)?;
        self.shares.backends.add(backend.cluster, 1);
        self.kernel.set_backend(convert::backend_entry(id, &backend));
        Ok(id)
    }

    /// One service less uses a backend; after the last one its entry is free, once it has rested: a program that read
    /// an old slot or header still finds it.
    pub(super) fn release_backend(&mut self, id: u32, now: Instant) {
        if let Some(backend) = self.backends.leave(id, now) {
            self.shares.backends.remove(backend.cluster, 1);
            self.freed += 1;
            self.remember_released(id, backend);
        }
    }

    /// Clears the places that have rested.
    pub fn clear_rested(&mut self, now: Instant) {
        while let Some(id) = self.backends.wake(now) {
            if self.kernel.backend(id % self.kernel.sizes().backends).id() == id {
                self.kernel.clear_backend(id);
            }
        }
    }

    /// Takes what one more backend in a group needs.
    fn room_for(
        &mut self,
        frontend: &Frontend,
        group: Group,
        cluster: ClusterId,
        now: Instant,
    ) -> Result<Room, TablesError> {
        let Some(service) = self.services.get(frontend) else { return Ok(Room::default()) };
        let order = longer(service.slots(group));
        let grouped = service.others.is_none() && group != Group::FIRST;
        let range = order.map(|order| self.take_range(order, now)).transpose()?;
        let mut room = Room { range: range.map(|range| (range, cluster)), set: None };
        if grouped {
            match self.set_indices.take(now) {
                Ok(id) => room.set = Some(id),
                Err(full) => {
                    self.undo(room, now);
                    return Err(full);
                }
            }
        }
        Ok(room)
    }

    /// No program has seen it.
    fn undo(&mut self, room: Room, now: Instant) {
        room.range.into_iter().for_each(|(range, _)| self.slots.undo(range));
        self.give_back_set(room.set, now);
    }

    pub(super) fn give_back_set(&mut self, set: Option<u32>, now: Instant) {
        set.into_iter().for_each(|set| self.set_indices.give_back(set, now));
    }
}

/// The order of the range that one more backend needs; `None` where there is a slot for it.
fn longer(slots: Option<&Slots>) -> Option<u32> {
    match slots {
        Some(Slots { range: Some(range), ids, .. }) => {
            let is_full = ids.len() >= usize::try_from(range.len()).unwrap_or(usize::MAX);
            is_full.then_some(range.order + 1)
        }
        _ => Some(0),
    }
}

/// What one more backend of a cluster in a group makes of the slots.
fn growth(service: &Service, group: Group, cluster: ClusterId) -> Growth {
    let slots = service.slots(group);
    match longer(slots) {
        // All of the longer range but what is in use already.
        Some(order) => {
            let count = slots.map_or(0, Slots::count);
            Growth { own: (1u32 << order.min(31)).saturating_sub(count), others: 0 }
        }
        None => match slots.and_then(Slots::reserve) {
            Some((payer, _)) if payer == cluster => Growth::default(),
            Some(_) => Growth { own: 1, others: 1 },
            None => Growth { own: 1, others: 0 },
        },
    }
}

/// Changes a group's slots, and charges what is then in reserve to whose backend needed it.
fn recharged<T>(
    service: &mut Service,
    group: Group,
    charges: &mut Charges,
    change: impl FnOnce(&mut Service) -> T,
) -> T {
    if let Some((payer, reserve)) = service.slots(group).and_then(Slots::reserve) {
        charges.remove(payer, reserve);
    }
    let changed = change(service);
    if let Some((payer, reserve)) = service.slots(group).and_then(Slots::reserve) {
        charges.add(payer, reserve);
    }
    changed
}

impl Service {
    /// Puts a backend into a group. It exists before anything leads to it. Returns its position, and the range that was
    /// too short.
    fn enter<K: Kernel>(
        &mut self,
        kernel: &mut K,
        id: u32,
        group: Group,
        room: Room,
    ) -> (Position, Option<Range>) {
        let sets = kernel.sizes().groups;
        let is_new = room.set.map(|set| {
            self.others = Some(Box::new(Others { set: set % sets, groups: Default::default() }));
        });
        let Some(slots) = self.slots_mut(group) else { return (Position { group, slot: 0 }, None) };
        let slot = slots.count();
        let outgrown = room.range.and_then(|(range, payer)| {
            for (slot, id) in (range.base..).zip(&slots.ids) {
                kernel.set_slot(slot, *id);
            }
            slots.payer = Some(payer);
            slots.range.replace(range)
        });
        slots.ids.push(id);
        kernel.set_slot(slots.header().base() + slot, id);
        match is_new {
            Some(()) => self.publish_groups(kernel),
            None => {
                self.publish(kernel, group);
                if slot == 0 {
                    self.publish_cumulative(kernel);
                }
            }
        }
        (Position { group, slot }, outgrown)
    }

    /// Takes the backend at a position out of its group; the last one takes its slot. The entry of the service's groups
    /// is freed when only the first group is left.
    fn leave<K: Kernel>(
        &mut self,
        kernel: &mut K,
        ranges: &mut SlotRanges,
        Position { group, slot }: Position,
        now: Instant,
    ) -> Option<u32> {
        let slots = self.slots_mut(group)?;
        let last = slots.ids.pop()?;
        let hole = usize::try_from(slot).ok().and_then(|at| slots.ids.get_mut(at));
        // The last one itself leaves no hole.
        let moved = hole.map(|hole| std::mem::replace(hole, last));
        if moved.is_some() {
            kernel.set_slot(slots.header().base() + slot, last);
        }
        let is_empty = slots.ids.is_empty();
        let freed = slots.shorten();
        if moved.is_some() {
            self.positions.insert(last, Position { group, slot });
        }
        let left = if self.is_plain() { self.others.take() } else { None };
        if left.is_some() || self.others.is_none() {
            kernel.set_header(self.index, self.header());
        } else {
            if is_empty {
                self.publish_cumulative(kernel);
            }
            self.publish(kernel, group);
        }
        freed.into_iter().for_each(|range| ranges.give_back(range, now));
        left.map(|others| others.set)
    }
}

impl Slots {
    /// Gives up the range that no backend is in, or its upper half where that is never missed.
    fn shorten(&mut self) -> Option<Range> {
        let range = self.range?;
        if self.ids.is_empty() {
            self.payer = None;
            return self.range.take();
        }
        if self.count() > range.len() / SPARSE {
            return None;
        }
        let (low, high) = range.halves()?;
        self.range = Some(low);
        Some(high)
    }
}
