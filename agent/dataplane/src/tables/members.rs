//! Backends come into groups, move between them and go.
//!
//! A service whose backends are all in its first group has that group's slots in its header. Any other has a place in
//! `cm_groups`, and leads there. Both ways are one store: what it leads to is whole before, and rests after.

use std::time::Instant;

use mesh_model::lb::{Backend, Frontend, Group};

use super::{
    Tables, TablesError,
    service::{Others, Position, Service, Slots},
};
use crate::{
    kernel::Kernel,
    slots::{Range, SlotRanges},
};

/// What one more backend in a group takes, got before anything is written.
#[derive(Debug, Default)]
struct Room {
    /// A longer range for the group.
    range: Option<Range>,
    /// A place for the service's groups, by its number.
    set: Option<u32>,
}

/// The ranges above it are given back in halves until a group uses more than one part in so many.
const SPARSE: u32 = 4;

impl<K: Kernel> Tables<K> {
    pub(super) fn add_backend(
        &mut self,
        frontend: Frontend,
        backend: Backend,
        group: Group,
        now: Instant,
    ) -> Result<(), TablesError> {
        let Some(service) = self.services.get_mut(&frontend) else {
            return Err(TablesError::NoFrontend(frontend));
        };
        let before = service.positions.get(&backend).copied();
        if before.is_some_and(|before| before.group == group) {
            service.inherited_backends.remove(&backend);
            return Ok(());
        }
        let room = self.room_for(&frontend, group, now)?;
        let id = match before {
            Some(_) => self.backends.get(&backend).map_or(0, |used| used.id),
            None => match self.use_backend(backend, now) {
                Ok(id) => id,
                Err(full) => {
                    self.undo(room, now);
                    return Err(full);
                }
            },
        };
        let Some(service) = self.services.get_mut(&frontend) else {
            return Err(TablesError::NoFrontend(frontend));
        };
        service.inherited_backends.remove(&backend);
        let position =
            service.enter(&mut self.kernel, &mut self.slots, id, backend, group, room, now);
        service.positions.insert(backend, position);
        if let Some(before) = before {
            let left = service.leave(&mut self.kernel, &mut self.slots, before, now);
            self.give_back_set(left, now);
        }
        Ok(())
    }

    pub(super) fn remove_backend(&mut self, frontend: &Frontend, backend: &Backend, now: Instant) {
        let Some(service) = self.services.get_mut(frontend) else { return };
        let Some(position) = service.positions.remove(backend) else { return };
        service.inherited_backends.remove(backend);
        let left = service.leave(&mut self.kernel, &mut self.slots, position, now);
        self.give_back_set(left, now);
        self.release_backend(backend, now);
    }

    /// Takes what one more backend in a group needs.
    fn room_for(
        &mut self,
        frontend: &Frontend,
        group: Group,
        now: Instant,
    ) -> Result<Room, TablesError> {
        let Some(service) = self.services.get(frontend) else { return Ok(Room::default()) };
        let order = match service.slots(group) {
            Some(Slots { range: Some(range), backends }) => {
                let is_full = backends.len() >= usize::try_from(range.len()).unwrap_or(usize::MAX);
                is_full.then_some(range.order + 1)
            }
            _ => Some(0),
        };
        let grouped = service.others.is_none() && group != Group::FIRST;
        let range = order.map(|order| self.take_range(order, now)).transpose()?;
        let mut room = Room { range, set: None };
        if grouped {
            match self.set_indices.take(now) {
                Ok(number) => room.set = Some(number),
                Err(full) => {
                    self.undo(room, now);
                    return Err(full);
                }
            }
        }
        Ok(room)
    }

    /// Nobody has seen it.
    fn undo(&mut self, room: Room, now: Instant) {
        room.range.into_iter().for_each(|range| self.slots.undo(range));
        self.give_back_set(room.set, now);
    }

    pub(super) fn give_back_set(&mut self, set: Option<u32>, now: Instant) {
        set.into_iter().for_each(|set| self.set_indices.give_back(set, now));
    }
}

impl Service {
    /// Puts a backend into a group. It is there before anything leads to it.
    #[expect(
        clippy::too_many_arguments,
        reason = "the writer's parts, which it borrows one by one"
    )]
    fn enter<K: Kernel>(
        &mut self,
        kernel: &mut K,
        ranges: &mut SlotRanges,
        id: u32,
        backend: Backend,
        group: Group,
        room: Room,
        now: Instant,
    ) -> Position {
        let sets = kernel.sizes().groups;
        let is_new = room.set.map(|number| {
            self.others = Some(Box::new(Others { set: number % sets, groups: Default::default() }));
        });
        let Some(slots) = self.slots_mut(group) else { return Position { group, slot: 0 } };
        let slot = slots.count();
        let outgrown = room.range.and_then(|range| {
            for (slot, (id, _)) in (range.base..).zip(&slots.backends) {
                kernel.set_slot(slot, *id);
            }
            slots.range.replace(range)
        });
        slots.backends.push((id, backend));
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
        outgrown.into_iter().for_each(|range| ranges.give_back(range, now));
        Position { group, slot }
    }

    /// Takes the backend at a position out of its group; the last one takes its slot. The place of the service's groups is
    /// given back when the first is the only one that is left.
    fn leave<K: Kernel>(
        &mut self,
        kernel: &mut K,
        ranges: &mut SlotRanges,
        Position { group, slot }: Position,
        now: Instant,
    ) -> Option<u32> {
        let slots = self.slots_mut(group)?;
        let last = slots.backends.pop()?;
        let hole = usize::try_from(slot).ok().and_then(|at| slots.backends.get_mut(at));
        // The last one itself leaves no hole.
        let moved = hole.map(|hole| std::mem::replace(hole, last));
        if moved.is_some() {
            kernel.set_slot(slots.header().base() + slot, last.0);
        }
        let is_empty = slots.backends.is_empty();
        let freed = slots.shorten();
        if moved.is_some() {
            self.positions.insert(last.1, Position { group, slot });
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
    /// Gives up the range that nobody is in, or its upper half where that is never missed.
    fn shorten(&mut self) -> Option<Range> {
        let range = self.range?;
        if self.backends.is_empty() {
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
