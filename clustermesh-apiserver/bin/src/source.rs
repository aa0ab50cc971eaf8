//! The interface between the cluster's thread and the source of its objects.
//!
//! A source may block: its thread has no other work, and no other task waits for that thread.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use mesh_alloc::{Found, Lost};
use mesh_export::{Exporter, RefusedPolicy};
use mesh_files::Moment;
use mesh_model::object::{Kind, ObjectKey};
use mesh_source::Drain;

use crate::drain::{Changed, NotChanged};

mod kubernetes;
mod manifests;

pub(crate) use kubernetes::{ApiServer, Kubernetes};
pub(crate) use manifests::Manifests;

/// The source of a cluster's objects. It also stores identity IDs, what is drained, and the position in the source.
pub(crate) trait Source: Send {
    /// Passes changes to the exporter.
    fn look(&mut self, exporter: &mut Exporter, at: Moment);

    /// Does periodic work: reads decisions of other replicas, and frees unused IDs. `synced`: the etcd has everything that is
    /// exported, so no address in it has an unused ID.
    fn tick(&mut self, exporter: &mut Exporter, synced: bool, at: Moment) -> Ticked;

    /// Compares the IDs with those in an etcd, before anything is written there.
    fn recognise(&mut self, found: &Found, exporter: &mut Exporter) -> Result<(), Lost>;

    /// Changes what is drained, for all replicas. The next look passes it to the exporter.
    fn change_drain(
        &mut self,
        change: &mut dyn FnMut(&mut Drain) -> Result<(), NotChanged>,
    ) -> Result<Changed, NotChanged>;

    /// Tells the authors of policies what is refused of them, if the source has a place for that. `None`: nothing is any
    /// more.
    fn tell_refused(&mut self, changed: Vec<(ObjectKey, Option<RefusedPolicy>)>);

    /// The state of the source.
    fn state(&self) -> SourceState;

    /// When to look again even if nothing changes.
    fn next_look(&self) -> Option<Instant>;
}

/// The result of a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ticked {
    /// Nothing changed.
    Nothing,
    /// The exporter or the state of the source may have changed.
    Changed,
}

/// The state of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SourceState {
    /// Whether the source has been read completely once.
    pub(crate) complete: bool,
    /// The version of each kind that the exporter has; `None` if it cannot be compared with other replicas'.
    pub(crate) versions: Option<BTreeMap<String, String>>,
    /// Why it cannot be read now.
    pub(crate) away: Option<String>,
    /// Its problems, one message each.
    pub(crate) problems: Vec<String>,
    /// The kinds that it could have and has not.
    pub(crate) absent: BTreeSet<Kind>,
    /// The number of allocated identity IDs.
    pub(crate) identities: usize,
}
