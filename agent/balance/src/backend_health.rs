//! How backends are, and how many of each cluster are so.

use mesh_model::lb::{Condition, NodeHealth};

/// How a backend is: by its cluster's word, and by whether its node answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BackendHealth {
    condition: Condition,
    /// Of one that is not ready it makes no difference, and is `Alive`.
    node: NodeHealth,
}

/// How many backends of a cluster are how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    ready: OnNodes,
    terminating: OnNodes,
    not_ready: u32,
}

/// How many are on nodes that are how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct OnNodes {
    alive: u32,
    unverified: u32,
    dead: u32,
}

// === impl BackendHealth ===

impl BackendHealth {
    pub(crate) fn new(condition: Condition, node: NodeHealth) -> Self {
        let node = if condition == Condition::NotReady { NodeHealth::Alive } else { node };
        Self { condition, node }
    }

    /// The cluster's word alone.
    pub(crate) fn condition(self) -> Condition {
        self.condition
    }

    /// How its node is.
    pub(crate) fn node(self) -> NodeHealth {
        self.node
    }

    /// The same on a node that is otherwise.
    pub(crate) fn on(self, node: NodeHealth) -> Self {
        Self::new(self.condition, node)
    }
}

// === impl Counts ===

impl Counts {
    pub(crate) fn of(&self, health: BackendHealth) -> u32 {
        let mut counts = *self;
        *counts.count(health)
    }

    /// One more; returns whether it is the first.
    pub(crate) fn add(&mut self, health: BackendHealth) -> bool {
        let count = self.count(health);
        *count = count.saturating_add(1);
        *count == 1
    }

    /// One less; returns whether it was the last.
    pub(crate) fn remove(&mut self, health: BackendHealth) -> bool {
        let count = self.count(health);
        *count = count.saturating_sub(1);
        *count == 0
    }

    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Those that are meant to take connections: all but the ones that shut down.
    pub(crate) fn meant(&self) -> u32 {
        let OnNodes { alive, unverified, dead } = self.ready;
        [alive, unverified, dead, self.not_ready].into_iter().fold(0, u32::saturating_add)
    }

    fn count(&mut self, health: BackendHealth) -> &mut u32 {
        let on = match health.condition {
            Condition::Ready => &mut self.ready,
            Condition::Terminating => &mut self.terminating,
            Condition::NotReady => return &mut self.not_ready,
        };
        match health.node {
            NodeHealth::Alive => &mut on.alive,
            NodeHealth::Unverified => &mut on.unverified,
            NodeHealth::Dead => &mut on.dead,
        }
    }
}
