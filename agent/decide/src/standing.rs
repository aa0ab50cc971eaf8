//! How backends stand, and how many of each cluster.

use mesh_model::lb::Condition;

/// How a backend stands: by its cluster's word, and by whether its node answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Standing {
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

// === impl Standing ===

impl Standing {
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
    pub(crate) fn of(&self, standing: Standing) -> u32 {
        match standing {
            Standing::Ready => self.ready,
            Standing::ReadyDead => self.ready_dead,
            Standing::Terminating => self.terminating,
            Standing::TerminatingDead => self.terminating_dead,
            Standing::NotReady => self.not_ready,
        }
    }

    pub(crate) fn add(&mut self, standing: Standing) {
        let count = self.count(standing);
        *count = count.saturating_add(1);
    }

    pub(crate) fn remove(&mut self, standing: Standing) {
        let count = self.count(standing);
        *count = count.saturating_sub(1);
    }

    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Those that are meant to take connections: all but the ones that shut down.
    pub(crate) fn meant(&self) -> u32 {
        self.ready.saturating_add(self.ready_dead).saturating_add(self.not_ready)
    }

    fn count(&mut self, standing: Standing) -> &mut u32 {
        match standing {
            Standing::Ready => &mut self.ready,
            Standing::ReadyDead => &mut self.ready_dead,
            Standing::Terminating => &mut self.terminating,
            Standing::TerminatingDead => &mut self.terminating_dead,
            Standing::NotReady => &mut self.not_ready,
        }
    }
}
