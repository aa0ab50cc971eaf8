//! Whose sockets are to be ended, and from when on.

use std::{collections::HashMap, time::Instant};

use mesh_layout::{ListedSocket, address_bytes};
use mesh_model::{Protocol, lb::Backend};

use crate::terminator::Reason;

/// A backend whose sockets are to be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The id by which sockets remember it. Another backend does not have it, nor this one when it comes back.
    pub id: u32,
    /// The backend.
    pub backend: Backend,
}

/// All of them, by id.
#[derive(Debug, Default)]
pub(crate) struct TerminationQueue(HashMap<u32, Entry>);

/// Why the sockets of one are to be ended, and from when on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    backend: Backend,
    pub(crate) reason: Reason,
    due: Instant,
}

// === impl TerminationQueue ===

impl TerminationQueue {
    /// One more. Who is wanted already is from the earlier time on.
    pub(crate) fn add(&mut self, target: Target, reason: Reason, due: Instant) {
        let Target { id, backend } = target;
        let due = self.0.get(&id).map_or(due, |before| before.due.min(due));
        self.0.insert(id, Entry { backend, reason, due });
    }

    /// Those that could not be reached can be again, as far as `back` says so.
    pub(crate) fn spare(&mut self, back: impl Fn(&Backend) -> bool) {
        self.0.retain(|_, entry| entry.reason == Reason::Removed || !back(&entry.backend));
    }

    /// When the first is due; `None` if there is none.
    pub(crate) fn first_due(&self) -> Option<Instant> {
        self.0.values().map(|entry| entry.due).min()
    }

    /// Those that are due.
    pub(crate) fn due(&self, now: Instant) -> Self {
        let due = self.0.iter().filter(|(_, entry)| entry.due <= now);
        Self(due.map(|(id, entry)| (*id, *entry)).collect())
    }

    /// Those of a pass are done, unless they were asked for anew meanwhile.
    pub(crate) fn remove(&mut self, done: &Self) {
        self.0.retain(|id, entry| done.0.get(id) != Some(entry));
    }

    /// Over which protocol a socket is to be ended, and why, as it keeps which backend it got; `None` if it is not.
    pub(crate) fn verdict(&self, socket: &ListedSocket) -> Option<(Protocol, Reason)> {
        let Entry { backend, reason, .. } = self.0.get(&socket.backend())?;
        let same = address_bytes(backend.address) == socket.address()
            && backend.port.to_be_bytes() == socket.port();
        same.then_some((backend.protocol, *reason))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mesh_layout::{Backend as Entry, FrontendKey, SocketState, mapped};
    use mesh_model::{ClusterId, ClusterLimit};

    use super::*;

    fn target(id: u32, last: u8, cluster: u32) -> Target {
        let cluster = ClusterId::new(cluster, ClusterLimit::Max255).unwrap();
        let address = [10, 2, 0, last].into();
        Target { id, backend: Backend { address, port: 53, protocol: Protocol::Udp, cluster } }
    }

    fn socket(id: u32, last: u8, port: u16) -> ListedSocket {
        let service = FrontendKey::new(mapped([10, 96, 0, 1]), [0, 53], 17);
        let backend = Entry::new(id, 2, mapped([10, 2, 0, last]), port.to_be_bytes(), 17);
        ListedSocket::new(1, &SocketState::new(&service, &backend, 0))
    }

    #[test]
    fn a_socket_is_wanted_by_the_id_and_the_address_that_it_keeps() {
        let mut wanted = TerminationQueue::default();
        wanted.add(target(7, 9, 2), Reason::Removed, Instant::now());
        let verdict = |id, last, port| wanted.verdict(&socket(id, last, port));
        assert_eq!(verdict(7, 9, 53), Some((Protocol::Udp, Reason::Removed)));
        // Of a former or a later one of this address; of another that has got the id after four billion.
        assert_eq!(verdict(8, 9, 53), None);
        assert_eq!(verdict(7, 8, 53), None);
        assert_eq!(verdict(7, 9, 54), None);
    }

    #[test]
    fn what_is_back_is_spared_and_what_is_removed_is_not() {
        let now = Instant::now();
        let mut wanted = TerminationQueue::default();
        wanted.add(target(1, 1, 2), Reason::Removed, now);
        wanted.add(target(2, 2, 2), Reason::Unreachable, now);
        wanted.add(target(3, 3, 3), Reason::Unreachable, now);
        wanted.spare(|backend| backend.cluster.get() == 2);
        let mut left: Vec<u32> = wanted.0.keys().copied().collect();
        left.sort_unstable();
        assert_eq!(left, [1, 3]);
    }

    #[test]
    fn what_is_due_is_done_unless_it_was_asked_for_anew() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let mut wanted = TerminationQueue::default();
        assert_eq!(wanted.first_due(), None);
        wanted.add(target(1, 1, 2), Reason::Removed, later);
        wanted.add(target(2, 2, 2), Reason::Unreachable, now);
        wanted.add(target(3, 3, 2), Reason::Unreachable, now);
        assert_eq!(wanted.first_due(), Some(now));
        let pass = wanted.due(now);
        assert_eq!(pass.0.len(), 2);
        wanted.add(target(3, 3, 2), Reason::Removed, later);
        wanted.remove(&pass);
        let mut left: Vec<u32> = wanted.0.keys().copied().collect();
        left.sort_unstable();
        assert_eq!(left, [1, 3]);
    }
}
