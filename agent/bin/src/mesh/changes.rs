//! Changes to the tables, and those that they did not take.

use std::{collections::BTreeMap, time::Instant};

use mesh_dataplane::TablesError;
use mesh_model::lb::{Backend, Change, Frontend};

use super::Mesh;

/// The last change to each part of a frontend, where the tables did not take it: they had no room.
#[derive(Debug, Default)]
pub(crate) struct Failed(BTreeMap<(Frontend, Part), (Change, String)>);

/// What a change is about. In the order in which things must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Itself,
    Backend(Backend),
    Weights,
}

// === impl Failed ===

impl Failed {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// All of them with their reasons, in the order in which they are tried again.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Change, &str)> {
        self.0.values().map(|(change, reason)| (change, reason.as_str()))
    }

    /// Whether this very change failed.
    pub(crate) fn contains(&self, change: &Change) -> bool {
        self.0.get(&key(change)).is_some_and(|(failed, _)| failed == change)
    }

    /// Takes note of what became of a change. What it takes the place of is not tried again.
    fn note(&mut self, change: Change, result: Result<(), TablesError>) {
        let key = key(&change);
        if let Change::RemoveFrontend(frontend) = change {
            let parts = self.0.range((frontend, Part::Itself)..);
            let parts = parts.take_while(|((of, _), _)| *of == frontend).map(|(key, _)| *key);
            for part in parts.collect::<Vec<_>>() {
                self.0.remove(&part);
            }
        }
        match result {
            Ok(()) => {
                self.0.remove(&key);
            }
            Err(error) => {
                self.0.insert(key, (change, error.to_string()));
            }
        }
    }
}

fn key(change: &Change) -> (Frontend, Part) {
    match change {
        Change::SetFrontend(frontend, _) | Change::RemoveFrontend(frontend) => {
            (*frontend, Part::Itself)
        }
        Change::AddBackend(frontend, backend, _) | Change::RemoveBackend(frontend, backend) => {
            (*frontend, Part::Backend(*backend))
        }
        Change::SetWeights(frontend, _) => (*frontend, Part::Weights),
    }
}

impl Mesh {
    /// Makes changes, in their order.
    pub(super) fn apply(&mut self, changes: impl IntoIterator<Item = Change>, now: Instant) {
        for change in changes {
            // Other nodes may be in use by it.
            self.health.refresh();
            let result = self.tables.apply(change, now);
            match &result {
                Ok(()) => {
                    self.metrics.changes.inc();
                }
                Err(error) => {
                    tracing::error!(?change, %error, "the kernel's tables do not take a change; trying again");
                }
            }
            self.failed.note(change, result);
        }
    }

    /// Tries again what failed.
    pub(super) fn try_again(&mut self, now: Instant) {
        let failed: Vec<Change> = self.failed.iter().map(|(change, _)| *change).collect();
        self.apply(failed, now);
    }
}

#[cfg(test)]
mod tests {
    use mesh_model::{
        ClusterId, Protocol,
        lb::{Group, Settings, Weights},
    };

    use super::*;

    fn full() -> Result<(), TablesError> {
        Err(TablesError::Full { map: "cm_slots", size: 8 })
    }

    #[test]
    fn the_last_word_on_each_part_of_a_frontend_is_tried_again() {
        let frontend = |last: u8| Frontend {
            address: [10, 101, 0, last].into(),
            port: 80,
            protocol: Protocol::Tcp,
        };
        let backend = |last: u8| Backend {
            address: [10, 1, 1, last].into(),
            port: 80,
            protocol: Protocol::Tcp,
            cluster: ClusterId::NONE,
        };
        let second = Group::new(1).unwrap();
        let (one, other) = (frontend(1), frontend(2));
        let set = Change::SetFrontend(one, Settings::default());
        let weights = Change::SetWeights(one, Weights([1, 2, 0, 0, 0, 0, 0, 0]));
        let mut failed = Failed::default();
        let changes = [
            weights,
            Change::AddBackend(one, backend(1), Group::FIRST),
            Change::AddBackend(one, backend(1), second),
            Change::AddBackend(one, backend(2), second),
            set,
            Change::AddBackend(other, backend(1), Group::FIRST),
        ];
        changes.into_iter().for_each(|change| failed.note(change, full()));
        failed.note(Change::RemoveBackend(one, backend(2)), Ok(()));
        let left = |failed: &Failed| failed.iter().map(|(change, _)| *change).collect::<Vec<_>>();
        let added = Change::AddBackend(one, backend(1), second);
        let others = Change::AddBackend(other, backend(1), Group::FIRST);
        assert_eq!(left(&failed), [set, added, weights, others]);
        assert!(failed.contains(&added));
        assert!(!failed.contains(&Change::AddBackend(one, backend(1), Group::FIRST)));

        failed.note(Change::RemoveFrontend(one), full());
        assert_eq!(left(&failed), [Change::RemoveFrontend(one), others]);
        failed.note(set, Ok(()));
        assert_eq!(left(&failed), [others], "it is wanted again, and it is there");
    }
}
