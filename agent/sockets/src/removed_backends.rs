//! Backends that no connection is sent to any more: which of them are gone, and which merely not chosen.
//!
//! A pod that shuts down is not chosen, and answers its connected clients until it is gone. It is gone when its own
//! cluster removes it.

use std::collections::HashMap;

use mesh_model::lb::Backend;

use crate::queue::Target;

/// Backends that no frontend leads to, by the ids that sockets may remember them by.
#[derive(Debug, Default)]
pub struct RemovedBackends(HashMap<Backend, Vec<u32>>);

/// How many IDs of one backend are remembered, the last ones: it may be chosen and not chosen many times.
const REMEMBERED: usize = 8;

impl RemovedBackends {
    /// No frontend leads to a backend any more.
    pub fn released(&mut self, released: Target) {
        let ids = self.0.entry(released.backend).or_default();
        ids.push(released.id);
        if ids.len() > REMEMBERED {
            ids.remove(0);
        }
    }

    /// Its cluster removed a backend: returns the IDs under which sockets may still use it.
    pub fn taken_back(&mut self, backend: &Backend) -> Vec<Target> {
        let ids = self.0.remove(backend).unwrap_or_default();
        ids.into_iter().map(|id| Target { id, backend: *backend }).collect()
    }

    /// Those that are gone for another reason than their cluster's removal.
    pub fn gone(&mut self, is_gone: impl Fn(&Backend) -> bool) -> Vec<Target> {
        let gone: Vec<Backend> =
            self.0.keys().filter(|backend| is_gone(backend)).copied().collect();
        gone.iter().flat_map(|backend| self.taken_back(backend)).collect()
    }

    /// Those for which `is_meant` returns true; they stay here.
    pub fn among(&self, is_meant: impl Fn(&Backend) -> bool) -> Vec<Target> {
        let meant = self.0.iter().filter(|(backend, _)| is_meant(backend));
        let target = |backend: &Backend, id: &u32| Target { id: *id, backend: *backend };
        meant.flat_map(|(backend, ids)| ids.iter().map(|id| target(backend, id))).collect()
    }
}

#[cfg(test)]
mod tests {
    use mesh_model::{ClusterId, Protocol};

    use super::*;

    fn backend(last: u8) -> Backend {
        let address = [10, 2, 0, last].into();
        Backend { address, port: 53, protocol: Protocol::Udp, cluster: ClusterId::NONE }
    }

    fn target(id: u32, last: u8) -> Target {
        Target { id, backend: backend(last) }
    }

    #[test]
    fn what_is_not_chosen_is_gone_when_its_cluster_takes_it_back() {
        let mut removed_backends = RemovedBackends::default();
        assert_eq!(removed_backends.taken_back(&backend(1)), [], "frontends still lead to it");
        removed_backends.released(target(7, 1));
        removed_backends.released(target(8, 2));
        // Chosen once more meanwhile, and not chosen again.
        removed_backends.released(target(9, 1));
        assert_eq!(removed_backends.among(|found| *found == backend(2)), [target(8, 2)]);
        assert_eq!(removed_backends.taken_back(&backend(1)), [target(7, 1), target(9, 1)]);
        assert_eq!(removed_backends.taken_back(&backend(1)), []);
        assert_eq!(removed_backends.gone(|_| true), [target(8, 2)]);
        assert_eq!(removed_backends.among(|_| true), []);
    }

    #[test]
    fn who_comes_and_goes_takes_no_more_room() {
        let mut removed_backends = RemovedBackends::default();
        (1..=100).for_each(|id| removed_backends.released(target(id, 1)));
        let last: Vec<Target> = (93..=100).map(|id| target(id, 1)).collect();
        assert_eq!(removed_backends.taken_back(&backend(1)), last);
    }
}
