//! Backends whose node is not known, by their address. Clusters report nodes and addresses at any time; each such
//! report then costs only a look at the backends that it may be about.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use mesh_model::{ClusterId, ServiceName, lb::Backend};

use crate::pool::PoolKey;

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Unplaced(BTreeMap<ClusterId, BTreeMap<IpAddr, BTreeSet<Entry>>>);

/// A backend's place in a pool.
pub(crate) type Entry = (Arc<ServiceName>, PoolKey, Backend);

// === impl Unplaced ===

impl Unplaced {
    pub(crate) fn add(&mut self, service: &Arc<ServiceName>, key: &PoolKey, backend: Backend) {
        let of_cluster = self.0.entry(backend.cluster).or_default();
        let entry = (Arc::clone(service), key.clone(), backend);
        of_cluster.entry(backend.address).or_default().insert(entry);
    }

    pub(crate) fn remove(&mut self, service: &Arc<ServiceName>, key: &PoolKey, backend: Backend) {
        let Some(of_cluster) = self.0.get_mut(&backend.cluster) else { return };
        if let Some(entries) = of_cluster.get_mut(&backend.address) {
            entries.remove(&(Arc::clone(service), key.clone(), backend));
            if entries.is_empty() {
                of_cluster.remove(&backend.address);
            }
        }
        if of_cluster.is_empty() {
            self.0.remove(&backend.cluster);
        }
    }

    /// Those of a cluster that have an address.
    pub(crate) fn at(&self, cluster: ClusterId, address: IpAddr) -> Vec<Entry> {
        let entries = self.0.get(&cluster).and_then(|of_cluster| of_cluster.get(&address));
        entries.into_iter().flatten().cloned().collect()
    }

    /// The addresses of all of a cluster.
    pub(crate) fn addresses(&self, cluster: ClusterId) -> Vec<IpAddr> {
        self.0.get(&cluster).into_iter().flat_map(BTreeMap::keys).copied().collect()
    }
}
