//! What the cluster's thread hands to the writer.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use mesh_export::Value;
use tokio::sync::watch;

/// Changes that the writer has not taken yet. Both sides hold its lock for a moment only.
#[derive(Debug, Default)]
pub(crate) struct Exports {
    pending: Mutex<ExportChanges>,
    /// Goes up whenever there is something to take.
    changed: watch::Sender<u64>,
}

/// What changed since the writer took the last changes.
#[derive(Clone, Debug, Default)]
pub(crate) struct ExportChanges {
    /// Keys with the values that they should have; `None`: they should not be there.
    pub(crate) values: BTreeMap<String, Option<Value>>,
    /// The version of each of the source's kinds that these values, and all taken before, are of.
    pub(crate) versions: Option<BTreeMap<String, String>>,
    /// The source reported everything once: what is not among the values may be removed.
    pub(crate) complete: bool,
}

// === impl Exports ===

impl Exports {
    /// Adds changes.
    pub(super) fn publish(&self, changes: ExportChanges) {
        let ExportChanges { values, versions, complete } = changes;
        {
            let mut pending = self.lock();
            pending.values.extend(values);
            (pending.versions, pending.complete) = (versions, complete);
        }
        self.changed.send_modify(|generation| *generation += 1);
    }

    /// Takes all changes there are.
    pub(crate) fn take(&self) -> ExportChanges {
        let mut pending = self.lock();
        let values = std::mem::take(&mut pending.values);
        ExportChanges { values, ..pending.clone() }
    }

    /// Wakes whenever there is something to take.
    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, ExportChanges> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
