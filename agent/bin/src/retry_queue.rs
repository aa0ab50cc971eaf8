//! Changes that the tables did not take: kept, told, and tried again.

use std::collections::{BTreeMap, HashMap};

use mesh_dataplane::TablesError;
use mesh_model::lb::{Backend, Change, Frontend};

/// Changes that were not made, each with its reason. Of two about the same the later counts.
#[derive(Debug, Default)]
pub(crate) struct RetryQueue {
    by_frontend: BTreeMap<Frontend, BTreeMap<Subject, (Change, String)>>,
}

/// What of a frontend a change is about, in the order in which one needs the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Itself,
    Backend(Backend),
    Weights,
}

/// How many services an operator is told of by name.
const TOLD: usize = 8;

/// The flag that a table's size is.
pub(crate) fn flag_of(map: &str) -> &'static str {
    match map {
        "cm_services" => "--max-services",
        "cm_backends" => "--max-backends",
        "cm_groups" => "--max-weighted-services",
        _ => "--max-slots",
    }
}

fn subject(change: &Change) -> (Frontend, Subject) {
    match change {
        Change::SetFrontend(frontend, _) | Change::RemoveFrontend(frontend) => {
            (*frontend, Subject::Itself)
        }
        Change::AddBackend(frontend, backend, _) | Change::RemoveBackend(frontend, backend) => {
            (*frontend, Subject::Backend(*backend))
        }
        Change::SetWeights(frontend, _) => (*frontend, Subject::Weights),
    }
}

// === impl RetryQueue ===

impl RetryQueue {
    /// A change was made: what was not made of the same before is not to be tried again.
    pub(crate) fn made(&mut self, change: &Change) {
        let (frontend, subject) = subject(change);
        if matches!(change, Change::RemoveFrontend(_)) {
            self.by_frontend.remove(&frontend);
            return;
        }
        if let Some(changes) = self.by_frontend.get_mut(&frontend) {
            changes.remove(&subject);
            if changes.is_empty() {
                self.by_frontend.remove(&frontend);
            }
        }
    }

    /// A change was not made. Whether that is new.
    pub(crate) fn refused(&mut self, change: Change, error: &TablesError) -> bool {
        let reason = match error {
            TablesError::Full { map, .. } => format!("{error} ({})", flag_of(map)),
            TablesError::Kernel { .. } | TablesError::NoFrontend(_) => error.to_string(),
        };
        let (frontend, subject) = subject(&change);
        let before = self.by_frontend.entry(frontend).or_default();
        let before = before.insert(subject, (change, reason));
        before.is_none_or(|(before, _)| before != change)
    }

    /// All of them, in an order in which they can be made.
    pub(crate) fn changes(&self) -> Vec<Change> {
        let changes = self.by_frontend.values().flat_map(BTreeMap::values);
        changes.map(|(change, _)| *change).collect()
    }

    /// Whether a change is one of them.
    pub(crate) fn contains(&self, change: &Change) -> bool {
        let (frontend, subject) = subject(change);
        let found = self.by_frontend.get(&frontend).and_then(|changes| changes.get(&subject));
        found.is_some_and(|(found, _)| found == change)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.by_frontend.values().map(BTreeMap::len).sum()
    }

    /// The first reason.
    pub(crate) fn reason(&self) -> Option<&str> {
        let (_, reason) = self.by_frontend.values().find_map(|changes| changes.values().next())?;
        Some(reason)
    }

    /// Which services they are of, a line for each; names are of the service that a frontend is of.
    pub(crate) fn problems(&self, names: &HashMap<Frontend, String>) -> Vec<String> {
        let line = |(frontend, changes): (&Frontend, &BTreeMap<Subject, (Change, String)>)| {
            // The others need the first.
            let (change, reason) = changes.values().next()?;
            let name = names.get(frontend).map(String::as_str).unwrap_or("a service");
            let what = match change {
                Change::SetFrontend(..) => format!("{name} ({frontend}) cannot be added"),
                Change::AddBackend(..) => {
                    format!("{name} ({frontend}): {} backends cannot be added", changes.len())
                }
                Change::RemoveFrontend(_) | Change::RemoveBackend(..) | Change::SetWeights(..) => {
                    format!("{name} ({frontend}) cannot be changed")
                }
            };
            Some(format!("{what}: {reason}"))
        };
        let mut problems: Vec<String> =
            self.by_frontend.iter().take(TOLD).filter_map(line).collect();
        let more = self.by_frontend.len().saturating_sub(TOLD);
        if more > 0 {
            problems.push(format!("{more} more services do not have all that they should"));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use mesh_model::{
        ClusterId, ClusterLimit, Protocol,
        lb::{Group, Settings, Weights},
    };

    use super::*;

    fn frontend(port: u16) -> Frontend {
        Frontend { address: [10, 101, 0, 10].into(), port, protocol: Protocol::Tcp }
    }

    fn backend(last: u8) -> Backend {
        let cluster = ClusterId::new(2, ClusterLimit::Max255).unwrap();
        let address = [10, 2, 0, last].into();
        Backend { address, port: 8080, protocol: Protocol::Tcp, cluster }
    }

    fn full(map: &'static str) -> TablesError {
        TablesError::Full { map, size: 4 }
    }

    #[test]
    fn of_two_changes_of_the_same_the_later_counts() {
        let second = Group::new(1).unwrap();
        let mut retry_queue = RetryQueue::default();
        let first = Change::AddBackend(frontend(80), backend(1), Group::FIRST);
        let moved = Change::AddBackend(frontend(80), backend(1), second);
        assert!(retry_queue.refused(first, &full("cm_slots")));
        assert!(!retry_queue.refused(first, &full("cm_slots")));
        assert!(retry_queue.refused(moved, &full("cm_slots")));
        assert_eq!((retry_queue.changes(), retry_queue.contains(&first)), (vec![moved], false));
        retry_queue.made(&Change::RemoveBackend(frontend(80), backend(1)));
        assert_eq!(retry_queue.len(), 0);

        let weights = Change::SetWeights(frontend(80), Weights::ONE);
        let frontend_set = Change::SetFrontend(frontend(80), Settings::default());
        for change in [weights, first, frontend_set] {
            retry_queue.refused(change, &full("cm_services"));
        }
        assert_eq!(retry_queue.changes(), [frontend_set, first, weights], "as one needs the other");
        retry_queue.made(&Change::RemoveFrontend(frontend(80)));
        assert_eq!(retry_queue.len(), 0);
    }

    #[test]
    fn an_operator_is_told_which_service_and_which_table() {
        let mut retry_queue = RetryQueue::default();
        retry_queue
            .refused(Change::SetFrontend(frontend(80), Settings::default()), &full("cm_services"));
        let no_frontend = TablesError::NoFrontend(frontend(80));
        retry_queue
            .refused(Change::AddBackend(frontend(80), backend(1), Group::FIRST), &no_frontend);
        for last in 1..4 {
            let add = Change::AddBackend(frontend(81), backend(last), Group::FIRST);
            retry_queue.refused(add, &full("cm_slots"));
        }
        let names = [(80, "shop/web"), (81, "shop/api")];
        let names = names.map(|(port, name)| (frontend(port), name.to_owned()));
        let names = HashMap::from(names);
        assert_eq!(
            retry_queue.problems(&names),
            [
                "shop/web (10.101.0.10:80/TCP) cannot be added: cm_services is full: all of 4 entries are in use \
                 (--max-services)",
                "shop/api (10.101.0.10:81/TCP): 3 backends cannot be added: cm_slots is full: all of 4 entries are in \
                 use (--max-slots)",
            ]
        );
        for port in 100..120 {
            retry_queue.refused(
                Change::SetFrontend(frontend(port), Settings::default()),
                &full("cm_services"),
            );
        }
        let problems = retry_queue.problems(&names);
        assert_eq!(problems.len(), 9);
        assert_eq!(problems.last().unwrap(), "14 more services do not have all that they should");
    }
}
