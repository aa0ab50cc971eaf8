//! The states of backends, and how many backends of each cluster are in each.

use std::collections::BTreeMap;

use mesh_model::lb::{Condition, NodeHealth};

use crate::locality::{Locality, Narrowing};

/// A backend's state: what its cluster reports, whether its node answers, and its location as seen by clients of this
/// node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BackendHealth {
    condition: Condition,
    /// For a backend that is not ready it makes no difference, and is `Alive`.
    node: NodeHealth,
    locality: Locality,
}

/// How many backends of a cluster are how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    ready: OnNodes,
    terminating: OnNodes,
    not_ready: u32,
    /// Those whose location matters: few services ask for that.
    located: BTreeMap<BackendHealth, u32>,
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
    pub(crate) fn new(condition: Condition, node: NodeHealth, locality: Locality) -> Self {
        let node = if condition == Condition::NotReady { NodeHealth::Alive } else { node };
        Self { condition, node, locality }
    }

    /// The condition that its cluster reports.
    pub(crate) fn condition(self) -> Condition {
        self.condition
    }

    /// How its node is.
    pub(crate) fn node(self) -> NodeHealth {
        self.node
    }

    /// Where it is for clients of this node.
    pub(crate) fn locality(self) -> Locality {
        self.locality
    }

    /// The same on a node that is otherwise.
    pub(crate) fn on(self, node: NodeHealth) -> Self {
        Self::new(self.condition, node, self.locality)
    }

    /// The same elsewhere.
    pub(crate) fn at(self, locality: Locality) -> Self {
        Self { locality, ..self }
    }
}

// === impl Counts ===

impl Counts {
    pub(crate) fn of(&self, health: BackendHealth) -> u32 {
        let of = |on: &OnNodes| match health.node {
            NodeHealth::Alive => on.alive,
            NodeHealth::Unverified => on.unverified,
            NodeHealth::Dead => on.dead,
        };
        match health.condition {
            _ if health.locality != Locality::Any => {
                self.located.get(&health).copied().unwrap_or_default()
            }
            Condition::Ready => of(&self.ready),
            Condition::Terminating => of(&self.terminating),
            Condition::NotReady => self.not_ready,
        }
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
        let is_last = *count == 0;
        if is_last {
            self.located.remove(&health);
        }
        is_last
    }

    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Those that count in health: all except the ones that shut down, and those that are for clients elsewhere.
    pub(crate) fn meant(&self, narrowing: Option<Narrowing>) -> u32 {
        let OnNodes { alive, unverified, dead } = self.ready;
        let located = self.located.iter().filter(|(health, _)| {
            health.condition != Condition::Terminating && health.locality.is_used(narrowing)
        });
        let located = located.map(|(_, count)| *count);
        [alive, unverified, dead, self.not_ready]
            .into_iter()
            .chain(located)
            .fold(0, u32::saturating_add)
    }

    /// Where those are that could be used now, as far as it matters.
    pub(crate) fn usable(&self) -> impl Iterator<Item = Locality> + Clone {
        self.localities_of(Condition::Ready, NodeHealth::Alive)
    }

    /// Where those are that are so, as far as it matters.
    pub(crate) fn localities_of(
        &self,
        condition: Condition,
        node: NodeHealth,
    ) -> impl Iterator<Item = Locality> + Clone {
        let of =
            move |health: &&BackendHealth| (health.condition, health.node) == (condition, node);
        self.located.keys().filter(of).map(|health| health.locality)
    }

    fn count(&mut self, health: BackendHealth) -> &mut u32 {
        if health.locality != Locality::Any {
            return self.located.entry(health).or_default();
        }
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
