//! The backends whose sockets are to be ended, and from when on.

use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};

use mesh_layout::{ListedSocket, address_bytes};
use mesh_model::{Protocol, lb::Backend};

/// A backend whose sockets are to be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The id by which sockets remember it. Another backend does not have it, nor this one when it comes back.
    pub id: u32,
    /// The backend.
    pub backend: Backend,
}

/// Why sockets are ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Their backend is gone: its cluster removed it.
    Removed,
    /// Nothing reaches their backend, which may come back.
    Unreachable,
}

/// All of them, by id.
#[derive(Clone, Debug, Default)]
pub(crate) struct TerminationQueue(HashMap<u32, Entry>);

/// One backend. The two reasons do not know of each other: one that was removed while nothing reached it stays removed
/// when the rest of its cluster is back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    backend: Backend,
    /// When its sockets end because it was removed.
    removed: Option<Instant>,
    /// When they end because nothing reaches it.
    unreachable: Option<Instant>,
}

/// How many IDs are kept at most: as many as a table of the default size has backends. Sockets of those beyond are left
/// to their owners' timers.
const ROOM: usize = mesh_layout::default_sizes::BACKENDS;

// === impl TerminationQueue ===

impl TerminationQueue {
    /// Adds a backend, or another time for one. Sockets of a removed backend end at the earliest time that was given.
    /// For an unreachable one the last time counts: the caller counts from the backend's last answer, which may be
    /// later than before.
    pub(crate) fn add(&mut self, target: Target, reason: Reason, due: Instant) {
        let Target { id, backend } = target;
        if self.0.len() >= ROOM && !self.0.contains_key(&id) {
            return;
        }
        let new = Entry { backend, removed: None, unreachable: None };
        let entry = self.0.entry(id).or_insert(new);
        if entry.backend != backend {
            *entry = new;
        }
        match reason {
            Reason::Removed => {
                entry.removed = Some(entry.removed.map_or(due, |before| before.min(due)));
            }
            Reason::Unreachable => entry.unreachable = Some(due),
        }
    }

    /// Unreachable backends answer again, for which `answers` returns true.
    pub(crate) fn spare(&mut self, answers: impl Fn(&Backend) -> bool) {
        self.forget(|entry| {
            if answers(&entry.backend) {
                entry.unreachable = None;
            }
        });
    }

    /// Removed backends exist again, for which `is_back` returns true: it may be the same process.
    pub(crate) fn restored(&mut self, is_back: impl Fn(&Backend) -> bool) {
        self.forget(|entry| {
            if is_back(&entry.backend) {
                entry.removed = None;
            }
        });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// When the first is due; `None` if there is none.
    pub(crate) fn first_due(&self) -> Option<Instant> {
        self.0.values().filter_map(Entry::first_due).min()
    }

    /// Those that are due.
    pub(crate) fn due(&self, now: Instant) -> Self {
        let due = self.0.iter().map(|(id, entry)| (*id, entry.due(now)));
        Self(due.filter(|(_, entry)| entry.first_due().is_some()).collect())
    }

    /// The backends of a scan that found all sockets are done, unless they were added again meanwhile.
    pub(crate) fn done(&mut self, done: &Self) {
        for (id, done) in &done.0 {
            let Some(entry) = self.0.get_mut(id).filter(|entry| entry.backend == done.backend)
            else {
                continue;
            };
            if entry.removed == done.removed {
                entry.removed = None;
            }
            if entry.unreachable == done.unreachable {
                entry.unreachable = None;
            }
        }
        self.forget(|_| ());
    }

    /// Why a socket is to be ended now, by the backend in its storage; `None` if it is not.
    pub(crate) fn reason(&self, socket: &ListedSocket, now: Instant) -> Option<Reason> {
        let entry = self.0.get(&socket.backend())?;
        let same = address_bytes(entry.backend.address) == socket.address()
            && entry.backend.port.to_be_bytes() == socket.port();
        let due = entry.due(now);
        match (due.removed, due.unreachable) {
            (Some(_), _) => Some(Reason::Removed).filter(|_| same),
            (None, Some(_)) => Some(Reason::Unreachable).filter(|_| same),
            (None, None) => None,
        }
    }

    /// Over which protocols sockets are to be ended.
    pub(crate) fn protocols(&self) -> HashSet<Protocol> {
        self.0.values().map(|entry| entry.backend.protocol).collect()
    }

    fn forget(&mut self, change: impl Fn(&mut Entry)) {
        self.0.retain(|_, entry| {
            change(entry);
            entry.first_due().is_some()
        });
    }
}

// === impl Entry ===

impl Entry {
    fn first_due(&self) -> Option<Instant> {
        self.removed.into_iter().chain(self.unreachable).min()
    }

    /// The part of it that is due.
    fn due(&self, now: Instant) -> Self {
        let due = |at: &Instant| *at <= now;
        let (removed, unreachable) = (self.removed.filter(due), self.unreachable.filter(due));
        Self { backend: self.backend, removed, unreachable }
    }
}

#[cfg(test)]
mod tests;
