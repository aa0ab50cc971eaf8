//! What the cluster's thread asks of where its objects come from.
//!
//! A source may block: the thread that owns it has nothing else to do, and nothing else waits for that thread.

use std::{collections::BTreeMap, time::Instant};

use mesh_alloc::{Found, Lost};
use mesh_export::Exporter;
use mesh_files::Moment;
use mesh_source::Drain;

use crate::drain::{Changed, NotChanged};

mod manifests;

pub(crate) use manifests::Manifests;

/// Where a cluster's objects come from, with what only the source knows how to keep: identity IDs, what is drained, how far it
/// is.
pub(crate) trait Source: Send {
    /// Hands what changed to the exporter.
    fn look(&mut self, exporter: &mut Exporter, at: Moment);

    /// Does what is due with time: what other replicas decided, IDs that are not in use any more. `synced`: the etcd has
    /// everything, so that no address there still has one of them.
    fn tick(&mut self, exporter: &mut Exporter, synced: bool, at: Moment) -> Ticked;

    /// Compares the IDs with those in an etcd, before anything is written there.
    fn recognise(&mut self, found: &Found, exporter: &mut Exporter) -> Result<(), Lost>;

    /// Changes what is drained, for all replicas. The next look finds it.
    fn change_drain(
        &mut self,
        change: &mut dyn FnMut(&mut Drain) -> Result<(), NotChanged>,
    ) -> Result<Changed, NotChanged>;

    /// How it is.
    fn state(&self) -> SourceState;

    /// When a look says more, although nothing is noticed until then.
    fn next_look(&self) -> Option<Instant>;
}

/// What came of a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ticked {
    /// Nothing.
    Nothing,
    /// The exporter, or the source's state, may be otherwise.
    Changed,
}

/// How a source is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SourceState {
    /// Everything was reported once.
    pub(crate) complete: bool,
    /// The version of each kind that the exporter has, if it can be compared with other replicas'.
    pub(crate) versions: Option<BTreeMap<String, String>>,
    /// Why it cannot be reached now.
    pub(crate) away: Option<String>,
    /// What is wrong with it, each with what to do.
    pub(crate) problems: Vec<String>,
    /// How many identity IDs are given out.
    pub(crate) identities: usize,
}
