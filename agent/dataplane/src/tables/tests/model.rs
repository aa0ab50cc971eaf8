//! The tables against a model that knows nothing of them.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

/// A change to the tables, or the end of their writer.
#[derive(Clone, Debug)]
enum Step {
    SetFrontend(u8, Settings),
    RemoveFrontend(u8),
    /// A backend comes, or moves to another group.
    Add(u8, u32, u16, usize),
    Remove(u8, u32, u16),
    Weights(u8, [u32; 8]),
    /// The writer dies after so many more writes; a new one takes over and gets everything again.
    Die(usize),
    /// A new writer takes over, and gets nothing of one cluster.
    Restart(u32),
    /// A new writer takes over, into tables of other sizes.
    Resize(usize),
}

/// A frontend as it was asked for.
#[derive(Clone, Debug, PartialEq)]
struct Model {
    settings: Settings,
    weights: [u32; 8],
    backends: BTreeMap<Backend, usize>,
}

impl Default for Model {
    fn default() -> Self {
        let weights = [1, 0, 0, 0, 0, 0, 0, 0];
        Self { settings: Settings::default(), weights, backends: BTreeMap::new() }
    }
}

impl Model {
    /// The share of each backend: its group's weight among the groups that have backends, by the number in its group. Where
    /// all these weights are 0, the first group takes all.
    fn seen(&self) -> Seen {
        let in_group =
            |n: usize| self.backends.values().filter(|group| **group == n).count() as u64;
        let used: BTreeSet<usize> = self.backends.values().copied().collect();
        let weightless = used.iter().all(|n| self.weights[*n] == 0);
        let weight = |n: usize| match weightless {
            true => u64::from(Some(&n) == used.first()),
            false => u64::from(self.weights[n]),
        };
        let total: u64 = used.iter().map(|n| weight(*n)).sum();
        let shares = self.backends.iter();
        let shares = shares.map(|(b, n)| (*b, share(weight(*n), total * in_group(*n)))).collect();
        (self.settings, shares)
    }
}

type All = BTreeMap<u8, Model>;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let f = 0u8..4;
    let settings = (0u32..3, any::<bool>(), any::<bool>()).prop_map(|(n, plain, pass_if_empty)| {
        Settings { session_affinity: n * 100, plain, pass_if_empty }
    });
    let backend = || (0u8..4, 1u32..3, 0u16..6);
    // Most backends are in the first group, so that services have one group, several and one again.
    let group = prop_oneof![3 => Just(0usize), 2 => 0usize..8];
    let step = prop_oneof![
        3 => (f.clone(), settings).prop_map(|(f, s)| Step::SetFrontend(f, s)),
        1 => f.clone().prop_map(Step::RemoveFrontend),
        10 => (backend(), group).prop_map(|((f, c, b), g)| Step::Add(f, c, b, g)),
        6 => backend().prop_map(|(f, c, b)| Step::Remove(f, c, b)),
        3 => (f, prop::array::uniform8(0u32..4)).prop_map(|(f, w)| Step::Weights(f, w)),
        2 => (0usize..24).prop_map(Step::Die),
        1 => (1u32..3).prop_map(Step::Restart),
        1 => (0usize..3).prop_map(Step::Resize),
    ];
    prop::collection::vec(step, 0..60)
}

/// Makes a step in the model; the change that asks the tables for the same, if any.
fn change(step: &Step, all: &mut All) -> Option<Change> {
    match *step {
        Step::SetFrontend(f, settings) => {
            all.entry(f).or_default().settings = settings;
            Some(Change::SetFrontend(frontend(f), settings))
        }
        Step::RemoveFrontend(f) => {
            all.remove(&f);
            Some(Change::RemoveFrontend(frontend(f)))
        }
        Step::Add(f, c, b, group) => {
            all.get_mut(&f)?.backends.insert(backend(c, b), group);
            Some(Change::AddBackend(frontend(f), backend(c, b), Group::new(group)?))
        }
        Step::Remove(f, c, b) => {
            if let Some(model) = all.get_mut(&f) {
                model.backends.remove(&backend(c, b));
            }
            Some(Change::RemoveBackend(frontend(f), backend(c, b)))
        }
        Step::Weights(f, weights) => {
            all.get_mut(&f)?.weights = weights;
            Some(Change::SetWeights(frontend(f), Weights(weights)))
        }
        Step::Die(_) | Step::Restart(_) | Step::Resize(_) => None,
    }
}

/// Reports the present state to a new writer, except one cluster's backends.
fn report(tables: &mut Tables<Memory>, all: &All, unreported: Option<u32>, now: Instant) {
    for (f, model) in all {
        tables.apply(Change::SetFrontend(frontend(*f), model.settings), now).unwrap();
        for (backend, group) in &model.backends {
            if unreported != Some(backend.cluster.get().into()) {
                let group = Group::new(*group).unwrap();
                tables.apply(Change::AddBackend(frontend(*f), *backend, group), now).unwrap();
            }
        }
        // A new frontend has all weight on its first group by default.
        if model.weights != Weights::ONE.0 {
            let weights = Weights(model.weights);
            tables.apply(Change::SetWeights(frontend(*f), weights), now).unwrap();
        }
    }
    tables.prune_frontends(now).unwrap();
    tables.commit(now);
}

/// What programs find while a change is half made: nothing that is in neither the old nor the new state, everything
/// that is in both.
fn check_half_made(memory: &Memory, before: &All, after: &All) -> Result<(), TestCaseError> {
    let found = memory.all();
    let backends = |all: &All, f: u8| -> Option<BTreeSet<Backend>> {
        Some(all.get(&f)?.backends.keys().copied().collect())
    };
    for f in 0..4 {
        let (before, after) = (backends(before, f), backends(after, f));
        let found = found.get(&frontend(f));
        prop_assert!(found.is_none() || before.is_some() || after.is_some());
        if let (Some(before), Some(after)) = (&before, &after) {
            let found = found.cloned().unwrap_or_default();
            prop_assert!(found.is_subset(&(before | after)), "{f}: {found:?}");
            prop_assert!(found.is_superset(&(before & after)), "{f}: {found:?}");
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_024, ..ProptestConfig::default() })]
    /// Whatever happens, programs find exactly what the model has, each backend with its share; a writer may die
    /// between any two writes, and the writer that takes over writes nothing that is there.
    #[test]
    fn tables_equal_the_model(steps in steps(), budget in 1..40usize) {
        let mut memory = Memory::new(8, 32, 128);
        let mut now = Instant::now();
        let mut tables = Tables::restore(memory.clone(), now).unwrap();
        let mut model = All::new();
        let mut cursor = AuditCursor::default();
        for step in steps {
            now += REST;
            let before = model.clone();
            match step {
                Step::Die(writes) => {
                    memory.dies_after.set(memory.writes.get() + writes);
                    continue;
                }
                Step::Restart(unreported) if memory.dies_after.get() == usize::MAX => {
                    // What rests, and is used no more, is cleared.
                    let used: BTreeSet<_> = model.values().flat_map(|m| m.backends.keys()).collect();
                    let writes = memory.writes.get() + memory.backends_in_use() - used.len();
                    tables = Tables::restore(memory.clone(), now).unwrap();
                    report(&mut tables, &model, Some(unreported), now);
                    tables.prune_backends(|cluster| u32::from(cluster.get()) != unreported, now);
                    prop_assert_eq!(memory.writes.get(), writes, "nothing differed");
                    let held = model.values().flat_map(|m| m.backends.keys());
                    let held = held.filter(|b| u32::from(b.cluster.get()) == unreported).count();
                    prop_assert_eq!(tables.inherited(), Inherited { frontends: 0, backends: held });
                    check(&memory, &model)?;
                    tables.prune_backends(|_| true, now);
                    for frontend in model.values_mut() {
                        frontend.backends.retain(|b, _| u32::from(b.cluster.get()) != unreported);
                    }
                }
                Step::Resize(size) if memory.dies_after.get() == usize::MAX => {
                    // The smallest holds just what there can be.
                    let sizes = [(8, 32, 128), (16, 64, 512), (4, 16, 128)][size];
                    let other = Memory::new(sizes.0, sizes.1, sizes.2);
                    prop_assert_eq!(tables.shortages(other.sizes), []);
                    let held = tables.inherited();
                    tables = Tables::adopt(tables, other.clone(), now).unwrap();
                    prop_assert_eq!(tables.inherited(), held);
                    memory = other;
                    check(&memory, &model)?;
                    // As much as a new writer knows: nothing that only the mirror has.
                    let writes = memory.writes.get();
                    tables = Tables::restore(memory.clone(), now).unwrap();
                    report(&mut tables, &model, None, now);
                    prop_assert_eq!(memory.writes.get(), writes);
                }
                Step::Restart(_) | Step::Resize(_) => continue,
                _ => match change(&step, &mut model) {
                    Some(change) => {
                        tables.apply(change, now).unwrap();
                        tables.commit(now);
                    }
                    None => continue,
                }
            }
            if memory.writes.get() > memory.dies_after.get() {
                // Between its death and the next run programs read on; `read` asserts that they meet nothing false.
                check_half_made(&memory, &before, &model)?;
                memory.dies_after.set(usize::MAX);
                tables = Tables::restore(memory.clone(), now).unwrap();
                check_half_made(&memory, &before, &model)?;
                prop_assert_eq!(tables.audit().unwrap(), Repairs::default());
                report(&mut tables, &model, None, now);
                tables.prune_backends(|_| true, now);
            }
            check(&memory, &model)?;
            prop_assert_eq!(tables.audit().unwrap(), Repairs::default());
            // As far as it goes, it reports nothing that changes meanwhile.
            prop_assert_eq!(tables.audit_slice(&mut cursor, budget).unwrap(), Repairs::default());
            if cursor.is_done() {
                cursor = AuditCursor::default();
            }
            shares::check(&tables);
            let wanted: HashMap<_, _> = model.iter().map(|(f, m)| (frontend(*f), wanted(m))).collect();
            prop_assert_eq!(tables.deviations(&wanted), []);
            let mut by_cluster = BTreeMap::new();
            for backend in model.values().flat_map(|m| m.backends.keys()).collect::<BTreeSet<_>>() {
                *by_cluster.entry(backend.cluster).or_insert(0) += 1;
            }
            prop_assert_eq!(tables.backends_by_cluster(), &by_cluster);
            for (frontend, whole) in wanted {
                prop_assert_eq!(tables.frontend(&frontend).unwrap().content(), whole);
            }
        }
        memory.dies_after.set(usize::MAX);
        tables.commit(now + REST);
        let distinct: BTreeSet<_> = model.values().flat_map(|m| m.backends.keys()).collect();
        prop_assert_eq!(memory.backends_in_use(), distinct.len());
        let grouped = |m: &&Model| m.backends.values().any(|group| *group > 0);
        let grouped = model.values().filter(grouped).count();
        prop_assert_eq!(usize::try_from(tables.occupancy().groups).unwrap(), grouped);
    }
}

fn check(memory: &Memory, model: &All) -> Result<(), TestCaseError> {
    let expected: BTreeMap<_, _> = model.iter().map(|(f, m)| (frontend(*f), m.seen())).collect();
    prop_assert_eq!(memory.see_all(), expected);
    Ok(())
}

fn wanted(model: &Model) -> Whole {
    let backends = model.backends.iter().map(|(b, n)| (*b, Group::new(*n).unwrap())).collect();
    Whole { settings: model.settings, weights: Weights(model.weights), backends }
}
