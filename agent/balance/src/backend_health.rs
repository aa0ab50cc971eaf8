//! How backends stand, and how many of each cluster.

use mesh_model::lb::Condition;

/// How a backend stands: by its cluster's word, and by whether its node answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum BackendHealth {
    Ready,
    ReadyDead,
    Terminating,
    TerminatingDead,
    NotReady,
}

/// How many backends of a cluster stand how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    ready: u32,
    ready_dead: u32,
    terminating: u32,
    terminating_dead: u32,
    not_ready: u32,
}

// === impl BackendHealth ===

impl BackendHealth {
    pub(crate) fn new(condition: Condition, alive: bool) -> Self {
        match (condition, alive) {
            (Condition::Ready, true) => Self::Ready,
            (Condition::Ready, false) => Self::ReadyDead,
            (Condition::Terminating, true) => Self::Terminating,
            (Condition::Terminating, false) => Self::TerminatingDead,
            (Condition::NotReady, _) => Self::NotReady,
        }
    }

    /// The cluster's word alone.
    pub(crate) fn condition(self) -> Condition {
        match self {
            Self::Ready | Self::ReadyDead => Condition::Ready,
            Self::Terminating | Self::TerminatingDead => Condition::Terminating,
            Self::NotReady => Condition::NotReady,
        }
    }

    /// The same on a node that answers, or does not.
    pub(crate) fn on(self, alive: bool) -> Self {
        Self::new(self.condition(), alive)
    }
}

// === impl Counts ===

impl Counts {
    pub(crate) fn of(&self, backend_health: BackendHealth) -> u32 {
        match backend_health {
            BackendHealth::Ready => self.ready,
            BackendHealth::ReadyDead => self.ready_dead,
            BackendHealth::Terminating => self.terminating,
            BackendHealth::TerminatingDead => self.terminating_dead,
            BackendHealth::NotReady => self.not_ready,
        }
    }

    /// One more; returns whether it is the first.
    pub(crate) fn add(&mut self, backend_health: BackendHealth) -> bool {
        let count = self.count(backend_health);
        *count = count.saturating_add(1);
        *count == 1
    }

    /// One less; returns whether it was the last.
    pub(crate) fn remove(&mut self, backend_health: BackendHealth) -> bool {
        let count = self.count(backend_health);
        *count = count.saturating_sub(1);
        *count == 0
    }

    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Those that are meant to take connections: all but the ones that shut down.
    pub(crate) fn meant(&self) -> u32 {
        self.ready.saturating_add(self.ready_dead).saturating_add(self.not_ready)
    }

    fn count(&mut self, backend_health: BackendHealth) -> &mut u32 {
        match backend_health {
            BackendHealth::Ready => &mut self.ready,
            BackendHealth::ReadyDead => &mut self.ready_dead,
            BackendHealth::Terminating => &mut self.terminating,
            BackendHealth::TerminatingDead => &mut self.terminating_dead,
            BackendHealth::NotReady => &mut self.not_ready,
        }
    }
}
