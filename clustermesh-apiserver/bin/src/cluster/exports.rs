//! The changes that the cluster's thread passes to the writer.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use mesh_export::EtcdKey;
use tokio::sync::watch;

/// Changes that the writer has not taken yet. Both sides hold the lock only briefly.
#[derive(Debug, Default)]
pub(crate) struct Exports {
    pending: Mutex<ExportChanges>,
    /// Increases whenever there is something to take.
    changed: watch::Sender<u64>,
}

/// Changes since the writer last took them.
#[derive(Clone, Debug, Default)]
pub(crate) struct ExportChanges {
    /// The fingerprints of the desired values of keys; `None`: the key should not exist.
    pub(crate) keys: BTreeMap<EtcdKey, Option<u64>>,
    /// The version of each kind of the source, to which these keys and all taken before correspond; `None` if it is not
    /// known.
    pub(crate) versions: Option<BTreeMap<String, String>>,
    /// Whether the source has been read completely. Then keys without a desired value may be deleted.
    pub(crate) complete: bool,
}

// === impl Exports ===

impl Exports {
    /// Adds changes.
    pub(super) fn publish(&self, changes: ExportChanges) {
        let ExportChanges { keys, versions, complete } = changes;
        {
            let mut pending = self.lock();
            pending.keys.extend(keys);
            (pending.versions, pending.complete) = (versions, complete);
        }
        self.changed.send_modify(|generation| *generation += 1);
    }

    /// Takes all changes.
    pub(crate) fn take(&self) -> ExportChanges {
        let mut pending = self.lock();
        let keys = std::mem::take(&mut pending.keys);
        ExportChanges { keys, ..pending.clone() }
    }

    /// A receiver that changes whenever there is something to take.
    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, ExportChanges> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
