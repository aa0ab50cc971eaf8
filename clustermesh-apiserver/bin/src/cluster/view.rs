//! The state of a cluster for readiness and status.

use std::time::{Duration, Instant};

use mesh_admin::v1::Problem;
use mesh_export::DrainState;

use super::policies::PolicyView;

/// The state of a cluster that its thread published last.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    /// Whether the source has been read completely once.
    pub(crate) complete: bool,
    /// The problems of the source and its objects.
    pub(crate) problems: Vec<Problem>,
    /// Since when the source cannot be read, and why.
    pub(crate) away: Option<(Instant, String)>,
    /// The number of objects.
    pub(crate) objects: usize,
    /// The number of allocated identity IDs.
    pub(crate) identities: usize,
    /// The number of keys that the etcd should have.
    pub(crate) desired_keys: usize,
    /// What is drained.
    pub(crate) drained: DrainState,
    /// The policies.
    pub(crate) policies: PolicyView,
}

/// How long a replica reports its position while it cannot read its source.
const SOURCE_AWAY: Duration = Duration::from_secs(10);

impl View {
    /// Why the source cannot be read, if that has lasted too long: other replicas may have newer objects.
    pub(crate) fn away(&self, now: Instant) -> Option<&str> {
        let (since, why) = self.away.as_ref()?;
        (now.saturating_duration_since(*since) >= SOURCE_AWAY).then_some(why)
    }
}
