//! How a cluster is, for readiness and status.

use std::time::{Duration, Instant};

use mesh_admin::v1::Problem;
use mesh_export::DrainState;

/// How a cluster is, as its thread found it last.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    /// Everything was read once.
    pub(crate) complete: bool,
    /// What is wrong, each with what to do.
    pub(crate) problems: Vec<Problem>,
    /// Since when the source cannot be reached, and why.
    pub(crate) away: Option<(Instant, String)>,
    /// Objects that are known.
    pub(crate) objects: usize,
    /// Identity IDs that are given out.
    pub(crate) identities: usize,
    /// Keys that the etcd should have.
    pub(crate) desired_keys: usize,
    /// What is drained.
    pub(crate) drained: DrainState,
}

/// How long a replica whose source is away vouches for what it has.
const SOURCE_AWAY: Duration = Duration::from_secs(10);

impl View {
    /// Why the source is away, if that is so for too long: other replicas may know better by now.
    pub(crate) fn away(&self, now: Instant) -> Option<&str> {
        let (since, why) = self.away.as_ref()?;
        (now.saturating_duration_since(*since) >= SOURCE_AWAY).then_some(why)
    }
}
