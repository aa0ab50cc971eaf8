//! IDs for the positions of an array.

use std::{
    collections::{HashSet, VecDeque},
    hash::{BuildHasher as _, RandomState},
    time::Instant,
};

use super::TablesError;
use crate::slots::REST;

/// Places in an array that are given out, rest after use, and come back.
#[derive(Debug)]
pub(super) struct IdAllocator {
    map: &'static str,
    size: u32,
    /// What places are first called by, in multiples of the size.
    round: u32,
    next: u32,
    /// Found in use at start, so `next` must pass over them.
    claimed: HashSet<u32>,
    /// When each was freed, and what it was last called.
    resting: VecDeque<(Instant, u32)>,
    /// Rested, by what they were last called.
    rested: VecDeque<u32>,
    pub(super) used: u32,
}

// === impl IdAllocator ===

impl IdAllocator {
    pub(super) fn new(map: &'static str, size: u32) -> Self {
        Self {
            map,
            size,
            round: 1,
            next: 0,
            claimed: HashSet::new(),
            resting: VecDeque::new(),
            rested: VecDeque::new(),
            used: 0,
        }
    }

    /// The same, with ids that a previous run will not have given out: what still remembers those finds no backend.
    pub(super) fn unlike_before(self) -> Self {
        let random = RandomState::new().hash_one(self.map);
        let rounds = u64::from(u32::MAX / self.size).saturating_sub(1).max(1);
        Self { round: 1 + u32::try_from(random % rounds).unwrap_or(0), ..self }
    }

    /// An id whose remainder by the size is a free place. A place is called by another id each time, so that what still names
    /// the former owner is seen to be stale; 0 names none.
    pub(super) fn take(&mut self, now: Instant) -> Result<u32, TablesError> {
        while self.wake(now).is_some() {}
        while self.next < self.size && self.claimed.remove(&self.next) {
            self.next += 1;
        }
        let id = if self.next < self.size {
            self.next += 1;
            // Not the very first round: that holds 0.
            self.size * self.round + (self.next - 1)
        } else if let Some(last) = self.rested.pop_front() {
            match last.checked_add(self.size) {
                Some(next) => next,
                None => self.size + last % self.size,
            }
        } else {
            return Err(TablesError::Full { map: self.map, size: self.size });
        };
        self.used += 1;
        Ok(id)
    }

    /// The next ID whose entry has rested, once.
    pub(super) fn wake(&mut self, now: Instant) -> Option<u32> {
        let rested = |(since, _): &(Instant, u32)| now.saturating_duration_since(*since) >= REST;
        self.resting.front().filter(|front| rested(front))?;
        let (_, id) = self.resting.pop_front()?;
        self.rested.push_back(id);
        Some(id)
    }

    /// When the next place has rested.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.resting.front().map(|(since, _)| *since + REST)
    }

    /// Marks an id found in use; false if its place is taken already.
    pub(super) fn claim(&mut self, id: u32) -> bool {
        let fresh = self.claimed.insert(id % self.size);
        self.used += u32::from(fresh);
        fresh
    }

    /// For each id that was in use elsewhere the one that it has here: the same, unless its place is another's.
    pub(super) fn adopt(&mut self, ids: Vec<u32>, now: Instant) -> Result<Vec<u32>, TablesError> {
        let stays: Vec<bool> = ids.iter().map(|id| self.claim(*id)).collect();
        let adopted = ids.into_iter().zip(stays);
        adopted.map(|(id, stays)| if stays { Ok(id) } else { self.take(now) }).collect()
    }

    pub(super) fn give_back(&mut self, id: u32, now: Instant) {
        self.used -= 1;
        self.resting.push_back((now, id));
    }
}
