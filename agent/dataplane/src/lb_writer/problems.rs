//! What is wrong with the tables, in sentences.

use std::collections::BTreeMap;

use mesh_model::lb::{Backend, Frontend};
use mesh_reconcile::{Class, Failure};

use super::{LbKey, LbWriter, SHARES};
use crate::{kernel::Kernel, room::larger_table};

/// How many frontends of a full table are shown by name.
const SHOWN: usize = 2;

impl<K: Kernel> LbWriter<K> {
    /// Frontends that the tables do not have as they should: a sentence for each table that is full, with the size that it
    /// should have, and one for what fails otherwise, with the first of them. `service` names the one that a frontend is of.
    pub fn problems(&self, service: impl Fn(&Frontend) -> Option<String>) -> Vec<String> {
        let mut by_frontend: BTreeMap<Frontend, (usize, &LbKey, &Failure)> = BTreeMap::new();
        let mut missing: BTreeMap<Class, usize> = BTreeMap::new();
        for (key, failure) in self.failures() {
            *missing.entry(failure.class()).or_default() += 1;
            let entry = by_frontend.entry(key.frontend()).or_insert((0, key, failure));
            entry.0 += 1;
            // The others need the frontend itself.
            if matches!(key, LbKey::Frontend(_)) {
                (entry.1, entry.2) = (key, failure);
            }
        }
        let mut by_class: BTreeMap<Class, (usize, Vec<String>, &Failure)> = BTreeMap::new();
        for (frontend, (count, key, failure)) in by_frontend {
            let class = by_class.entry(failure.class()).or_insert((0, Vec::new(), failure));
            class.0 += 1;
            if class.1.len() < SHOWN {
                let name = service(&frontend).unwrap_or_else(|| "a service".into());
                let what = match key {
                    LbKey::Frontend(_) => "cannot be added".into(),
                    LbKey::Backend(..) if count == 1 => "a backend cannot be added".into(),
                    LbKey::Backend(..) => format!("{count} backends cannot be added"),
                    LbKey::Weights(_) => "its weights cannot be set".into(),
                };
                class.1.push(format!("{name} ({frontend}): {what}"));
            }
        }
        let line = |(class, (count, shown, failure)): (Class, (usize, Vec<String>, &Failure))| {
            let examples = shown.join("; ");
            let missing = missing.get(&class).copied().unwrap_or_default();
            let larger = self.larger_table(class, missing).map(|larger| format!(": {larger}"));
            let larger = larger.unwrap_or_default();
            match count {
                1 => format!("{examples}: {failure}{larger}"),
                count => format!(
                    "{count} frontends are not complete: {failure}{larger}; such as {examples}"
                ),
            }
        };
        by_class.into_iter().map(line).collect()
    }

    /// What enlarges the room for this many more changes of a class, if room is what they lack.
    fn larger_table(&self, class: Class, missing: usize) -> Option<String> {
        let Class::NoRoom(pool) = class else { return None };
        let share = SHARES.into_iter().find(|(_, share)| *share == pool);
        let missing = u32::try_from(missing).unwrap_or(u32::MAX);
        // A peer may use no more than it leaves free for others.
        let (map, missing) =
            share.map_or((pool, missing), |(map, _)| (map, missing.saturating_mul(2)));
        Some(larger_table(map, self.tables.occupancy().sizes.of(map), missing))
    }

    /// Why a frontend's backend is not in the tables; `None` where adding it was not tried in vain.
    pub fn failure_of(&self, frontend: &Frontend, backend: &Backend) -> Option<&Failure> {
        // A backend needs the frontend itself.
        let keys = [LbKey::Frontend(*frontend), LbKey::Backend(*frontend, *backend)];
        keys.iter().find_map(|key| self.reconciler.failure(key))
    }
}
