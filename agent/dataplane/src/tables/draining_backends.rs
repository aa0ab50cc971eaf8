//! Which backends sockets may still use although no new connection is sent there.

use mesh_model::{ClusterId, lb::Backend};

use super::Tables;
use crate::kernel::Kernel;

/// A backend by the id that sockets remember it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendWithId {
    /// The id. No backend gets it again for as long as ids last, nor this one when it comes back.
    pub id: u32,
    /// The backend.
    pub backend: Backend,
}

impl<K: Kernel> Tables<K> {
    /// The backends to which no frontend leads any more, since the last call. If no caller asks, as many are kept as
    /// the table has entries.
    pub fn take_released(&mut self) -> Vec<BackendWithId> {
        std::mem::take(&mut self.released)
    }

    /// Whether a frontend leads to a backend.
    pub fn is_used(&self, backend: &Backend) -> bool {
        self.backends.id_of(backend).is_some()
    }

    /// The backends of a cluster that frontends lead to.
    pub fn backends_in(&self, cluster: ClusterId) -> impl Iterator<Item = BackendWithId> {
        let of = self.backends.iter().filter(move |(_, backend)| backend.cluster == cluster);
        of.map(|(id, backend)| BackendWithId { id, backend: *backend })
    }

    pub(super) fn remember_released(&mut self, id: u32, backend: Backend) {
        let room = self.kernel.sizes().backends;
        if u32::try_from(self.released.len()).is_ok_and(|kept| kept < room) {
            self.released.push(BackendWithId { id, backend });
        }
    }
}
