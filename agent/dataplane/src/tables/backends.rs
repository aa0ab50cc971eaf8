//! The backends that services lead to: each once, by its content and by its position.

use std::{
    collections::{BTreeMap, HashMap},
    time::Instant,
};

use mesh_model::{ClusterId, lb::Backend};

use super::{TablesError, id_allocator::IdAllocator};

/// All of them.
#[derive(Debug)]
pub(super) struct Backends {
    ids: HashMap<Backend, u32>,
    /// By their places.
    used: HashMap<u32, BackendUse>,
    /// How many of these each cluster has.
    by_cluster: BTreeMap<ClusterId, u32>,
    /// By their places, the ids of those that are used no longer and that programs may still be reading.
    resting: HashMap<u32, u32>,
    allocator: IdAllocator,
    size: u32,
}

/// A backend, shared by the services that lead to it.
#[derive(Debug)]
pub(super) struct BackendUse {
    pub(super) id: u32,
    pub(super) backend: Backend,
    services: u32,
}

/// What should be in a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place<'a> {
    /// This backend, by its id.
    Used(u32, &'a Backend),
    /// The ID of the former content: it is cleared when it has rested.
    Resting(u32),
    /// Nothing.
    Free,
}

// === impl Backends ===

impl Backends {
    /// An empty one, for a table of this many entries. IDs differ from those of a previous run.
    pub(super) fn new(size: u32) -> Self {
        let allocator = IdAllocator::new("cm_backends", size).unlike_before();
        let (ids, used, resting) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { ids, used, by_cluster: BTreeMap::new(), resting, allocator, size }
    }

    pub(super) fn len(&self) -> u32 {
        self.allocator.used
    }

    pub(super) fn id_of(&self, backend: &Backend) -> Option<u32> {
        self.ids.get(backend).copied()
    }

    pub(super) fn get(&self, id: u32) -> Option<&Backend> {
        let found = self.used.get(&(id % self.size)).filter(|found| found.id == id);
        found.map(|found| &found.backend)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Backend)> {
        self.used.values().map(|used| (used.id, &used.backend))
    }

    pub(super) fn in_place(&self, place: u32) -> Place<'_> {
        match (self.used.get(&place), self.resting.get(&place)) {
            (Some(used), _) => Place::Used(used.id, &used.backend),
            (None, Some(id)) => Place::Resting(*id),
            (None, None) => Place::Free,
        }
    }

    /// Takes in what was found in a place; false if it is taken already. The same backend may be found in several: where it
    /// was before it was removed and came back, it rests, or rested when the previous writer ended.
    pub(super) fn claim(&mut self, id: u32, backend: Backend) -> bool {
        let fresh = self.allocator.claim(id);
        if fresh {
            self.put(BackendUse { id, backend, services: 0 });
        }
        fresh
    }

    /// A slot was found to name this id: one service more uses the backend. `None` if there is none, or if other slots name
    /// that backend by another id.
    pub(super) fn claim_use(&mut self, id: u32) -> Option<&Backend> {
        let used = self.used.get_mut(&(id % self.size)).filter(|used| used.id == id)?;
        if *self.ids.entry(used.backend).or_insert(id) != id {
            return None;
        }
        used.services += 1;
        Some(&used.backend)
    }

    /// Makes an entry for a new one. No service uses it yet.
    pub(super) fn add(&mut self, backend: Backend, now: Instant) -> Result<u32, TablesError> {
        let id = self.allocator.take(now)?;
        self.ids.insert(backend, id);
        self.put(BackendUse { id, backend, services: 0 });
        Ok(id)
    }

    /// Takes in all of another table. Each has the id that it had there, wherever the place is free.
    pub(super) fn adopt(
        &mut self,
        former: Self,
        now: Instant,
    ) -> Result<HashMap<u32, u32>, TablesError> {
        let former: Vec<BackendUse> = former.used.into_values().collect();
        let before: Vec<u32> = former.iter().map(|used| used.id).collect();
        let ids = self.allocator.adopt(before.clone(), now)?;
        for (BackendUse { backend, services, .. }, id) in former.into_iter().zip(&ids) {
            self.ids.insert(backend, *id);
            self.put(BackendUse { id: *id, backend, services });
        }
        Ok(before.into_iter().zip(ids).collect())
    }

    /// One service more uses it.
    pub(super) fn join(&mut self, id: u32) {
        if let Some(used) = self.used.get_mut(&(id % self.size)) {
            used.services += 1;
        }
    }

    /// One service less uses it. The backend, if that was the last one: its place rests.
    pub(super) fn leave(&mut self, id: u32, now: Instant) -> Option<Backend> {
        let place = id % self.size;
        let used = self.used.get_mut(&place)?;
        used.services = used.services.saturating_sub(1);
        if used.services > 0 {
            return None;
        }
        let used = self.used.remove(&place)?;
        self.uncount(used.backend.cluster);
        if self.ids.get(&used.backend) == Some(&id) {
            self.ids.remove(&used.backend);
        }
        self.resting.insert(place, id);
        self.allocator.give_back(id, now);
        Some(used.backend)
    }

    /// How many places each cluster's backends are in.
    pub(super) fn by_cluster(&self) -> &BTreeMap<ClusterId, u32> {
        &self.by_cluster
    }

    fn put(&mut self, used: BackendUse) {
        *self.by_cluster.entry(used.backend.cluster).or_default() += 1;
        if let Some(before) = self.used.insert(used.id % self.size, used) {
            self.uncount(before.backend.cluster);
        }
    }

    fn uncount(&mut self, cluster: ClusterId) {
        if let Some(count) = self.by_cluster.get_mut(&cluster) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.by_cluster.remove(&cluster);
            }
        }
    }

    /// Those that no service uses.
    pub(super) fn unused(&self) -> Vec<u32> {
        self.used.values().filter(|used| used.services == 0).map(|used| used.id).collect()
    }

    /// When the next place has rested.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.allocator.next_wake()
    }

    /// The next one whose entry has rested: it may be cleared, and is free.
    pub(super) fn wake(&mut self, now: Instant) -> Option<u32> {
        let id = self.allocator.wake(now)?;
        self.resting.remove(&(id % self.size));
        Some(id)
    }
}
