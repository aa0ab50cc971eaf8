//! The writer over tables in memory: turns of bounded length, full tables, and when a frontend refuses connections.

use mesh_model::lb::Weights;
use mesh_reconcile::Left;
use proptest::prelude::*;

use super::*;
use crate::lb_writer::LbWriter;

const LONG: Duration = Duration::from_secs(3_600);
const STRICT: Settings = Settings { session_affinity: 0, plain: false, pass_if_empty: false };
const PASSES: Settings = Settings { pass_if_empty: true, ..STRICT };

fn writer(memory: &Memory) -> LbWriter<Memory> {
    LbWriter::new(Tables::restore(memory.clone(), Instant::now()).unwrap(), 7)
}

fn added(f: u8, backend: Backend) -> Change {
    Change::AddBackend(frontend(f), backend, Group::FIRST)
}

/// Turns until nothing is due at that time.
fn settle(writer: &mut LbWriter<Memory>, now: Instant) -> Left {
    loop {
        let left = writer.turn(LONG, || now);
        if left != Left::Due {
            return left;
        }
    }
}

#[test]
fn a_frontend_refuses_only_when_all_that_is_wanted_of_it_was_made() {
    let memory = Memory::new(32, 64, 8);
    let now = Instant::now();
    let mut writer = writer(&memory);
    let passes = |memory: &Memory, f| memory.see(&frontend(f)).map(|(seen, _)| seen.pass_if_empty);
    // Without a backend and without any to come it refuses.
    writer.want([Change::SetFrontend(frontend(1), STRICT)], LONG, || now);
    assert_eq!(passes(&memory, 1), Some(false));

    // Another program has all the room: the backends exist, and cannot be added.
    for f in 10..18 {
        let changes = [Change::SetFrontend(frontend(f), STRICT), added(f, backend(1, f.into()))];
        writer.want(changes, LONG, || now);
    }
    assert_eq!(writer.status().failing, 0);
    let changes = [Change::SetFrontend(frontend(3), STRICT), added(3, backend(1, 9))];
    writer.want(changes, LONG, || now);
    assert_eq!(passes(&memory, 3), Some(true));
    assert!(matches!(settle(&mut writer, now), Left::Later(_)));
    let status = writer.status();
    assert_eq!((status.pending, status.failing), (0, 1));
    assert!(status.reasons[0].failure.reason().contains("--max-"), "{status:?}");
    let why = writer.failure_of(&frontend(3), &backend(1, 9)).unwrap().to_string();
    assert!(why.contains("cm_slots is full") && why.contains("--max-slots"), "{why}");
    assert!(writer.failure_of(&frontend(3), &backend(1, 8)).is_none());
    let [problem] = <[String; 1]>::try_from(writer.problems(|_| Some("shop/web".into()))).unwrap();
    assert!(problem.ends_with(": set --max-slots to at least 16"), "{problem}");
    // A change of its settings changes nothing of that.
    let sticky = Settings { session_affinity: 60, ..STRICT };
    writer.want([Change::SetFrontend(frontend(3), sticky)], LONG, || now);
    settle(&mut writer, now);
    assert_eq!(passes(&memory, 3), Some(true));

    // Room: what waited is made, and the frontend is strict.
    let later = now + REST;
    writer.want([Change::RemoveFrontend(frontend(10))], LONG, || later);
    let later = later + REST;
    assert_eq!(settle(&mut writer, later + LONG), Left::Nothing);
    let (settings, shares) = memory.see(&frontend(3)).unwrap();
    assert_eq!((settings, shares.len()), (sticky, 1));
}

#[test]
fn an_inherited_frontend_that_refuses_goes_on_without_a_write() {
    let memory = Memory::new(8, 8, 8);
    let now = Instant::now();
    writer(&memory).want([Change::SetFrontend(frontend(1), STRICT)], LONG, || now);
    memory.writes.set(0);
    let mut next = writer(&memory);
    next.want([Change::SetFrontend(frontend(1), STRICT)], LONG, || now);
    assert_eq!((memory.writes.get(), next.changes()), (0, 1));
}

/// The clock goes on by a microsecond each time it is asked.
#[test]
fn a_turn_ends_with_its_budget_and_the_next_goes_on() {
    let memory = Memory::new(8, 512, 2_048);
    let ticks = Cell::new(0);
    let began = Instant::now();
    let clock = || {
        ticks.set(ticks.get() + 1);
        began + Duration::from_micros(ticks.get())
    };
    let mut writer = writer(&memory);
    let backends = (1..=400).map(|n| added(1, backend(1, n)));
    let changes = [Change::SetFrontend(frontend(1), STRICT)].into_iter().chain(backends);
    // Ten looks at the clock, 32 changes each.
    writer.want(changes, Duration::from_micros(5), clock);
    let made = writer.changes();
    assert!(made > 100 && made < 250, "{made}");
    // Of two changes of one backend that wait, the later is made.
    let before = writer.status().pending;
    writer.want([Change::RemoveBackend(frontend(1), backend(1, 400))], LONG, clock);
    assert_eq!(writer.status().pending, before);
    let mut turns = 0;
    while writer.turn(Duration::from_micros(20), clock) == Left::Due {
        turns += 1;
    }
    assert!(turns > 5, "{turns}");
    assert_eq!(memory.read(&frontend(1)).unwrap().len(), 399);
}

#[derive(Clone, Debug)]
enum Step {
    Set(u8, bool),
    Drop(u8),
    Add(u8, u16, usize),
    Remove(u8, u16),
    Weigh(u8, u32),
}

fn steps() -> impl Strategy<Value = Vec<(Vec<Step>, u64, u64)>> {
    let (f, b) = (1u8..4, 1u16..7);
    let step = prop_oneof![
        3 => (f.clone(), any::<bool>()).prop_map(|(f, strict)| Step::Set(f, strict)),
        1 => f.clone().prop_map(Step::Drop),
        6 => (f.clone(), b.clone(), 0usize..2).prop_map(|(f, b, group)| Step::Add(f, b, group)),
        3 => (f.clone(), b).prop_map(|(f, b)| Step::Remove(f, b)),
        1 => (f, 1u32..4).prop_map(|(f, weight)| Step::Weigh(f, weight)),
    ];
    let batch = (prop::collection::vec(step, 1..8), 0u64..4, 0u64..3_000);
    prop::collection::vec(batch, 1..25)
}

/// What is wanted: by frontend its settings, the weight of its second group, and its backends.
type World = BTreeMap<u8, (Settings, u32, BTreeMap<u16, usize>)>;

fn weights(of_second: u32) -> Weights {
    Weights([1, of_second, 0, 0, 0, 0, 0, 0])
}

/// The changes of a batch, as the balancer makes them: about frontends that there are.
fn changes(world: &mut World, batch: &[Step]) -> Vec<Change> {
    let mut changes = Vec::new();
    for step in batch {
        let f = match step {
            Step::Set(f, _)
            | Step::Drop(f)
            | Step::Add(f, ..)
            | Step::Remove(f, _)
            | Step::Weigh(f, _) => *f,
        };
        match (step, world.get_mut(&f)) {
            (Step::Set(_, strict), entry) => {
                let settings = if *strict { STRICT } else { PASSES };
                match entry {
                    Some(entry) => entry.0 = settings,
                    None => drop(world.insert(f, (settings, 0, BTreeMap::new()))),
                }
                changes.push(Change::SetFrontend(frontend(f), settings));
            }
            (_, None) => {}
            (Step::Drop(_), Some(_)) => {
                world.remove(&f);
                changes.push(Change::RemoveFrontend(frontend(f)));
            }
            (Step::Add(_, b, group), Some((_, _, backends))) => {
                backends.insert(*b, *group);
                let group = Group::new(*group).unwrap();
                changes.push(Change::AddBackend(frontend(f), backend(1, *b), group));
            }
            (Step::Remove(_, b), Some((_, _, backends))) => {
                backends.remove(b);
                changes.push(Change::RemoveBackend(frontend(f), backend(1, *b)));
            }
            (Step::Weigh(_, weight), Some(entry)) => {
                entry.1 = *weight;
                changes.push(Change::SetWeights(frontend(f), weights(*weight)));
            }
        }
    }
    changes
}

/// Gives the batches to a writer, each with the time in microseconds that its turn may take and the pause in milliseconds
/// after it. Whatever these are and however little room there is, nothing refuses that has a backend to come; and with room at
/// last the tables are what is wanted.
fn become_what_is_wanted(batches: &[(Vec<Step>, u64, u64)], room: u32) {
    let memory = Memory::new(4, room.next_power_of_two(), 64);
    let began = Instant::now();
    let now = Cell::new(began);
    let clock = || {
        now.set(now.get() + Duration::from_micros(1));
        now.get()
    };
    let mut writer = writer(&memory);
    let mut world = World::new();
    for (batch, budget, pause) in batches {
        let changes = changes(&mut world, batch);
        writer.want(changes, Duration::from_micros(*budget), clock);
        writer.turn(Duration::from_micros(*budget), clock);
        for (f, (_, _, backends)) in &world {
            let seen = memory.see(&frontend(*f));
            let refuses =
                seen.is_some_and(|(settings, shares)| !settings.pass_if_empty && shares.is_empty());
            assert!(!refuses || backends.is_empty(), "{f} refuses: {backends:?}");
        }
        now.set(now.get() + Duration::from_millis(*pause));
    }
    // Six backends have room in the largest tables that there may be here; in smaller ones something is left over.
    for _ in 0..20 {
        now.set(now.get() + LONG);
        settle(&mut writer, now.get());
    }
    let distinct: BTreeSet<u16> =
        world.values().flat_map(|(_, _, backends)| backends.keys().copied()).collect();
    let fits = distinct.len() < usize::try_from(room.next_power_of_two()).unwrap();
    if fits {
        assert_eq!(writer.status().failing, 0);
    }
    let full = writer.status().failing > 0;
    assert!(full || memory.see_all().len() == world.len());
    for (f, (settings, _, backends)) in &world {
        let Some((seen, shares)) = memory.see(&frontend(*f)) else {
            assert!(full, "{f} is missing");
            continue;
        };
        let found: BTreeSet<Backend> = shares.into_keys().collect();
        let wanted: BTreeSet<Backend> = backends.keys().map(|b| backend(1, *b)).collect();
        assert!(full || (seen, &found) == (*settings, &wanted), "{f}: {seen:?} {found:?}");
    }
}

/// Frontend 3 refuses, because its only backend is removed before the one that waits behind that is tried.
#[test]
fn a_frontend_does_not_refuse_while_its_new_backend_waits_to_be_tried() {
    use Step::{Add, Drop, Remove, Set, Weigh};
    let batches = [
        (vec![Set(2, false), Set(1, false)], 0, 0),
        (vec![Add(1, 3, 0), Add(1, 2, 0)], 0, 0),
        (vec![Set(3, true), Add(1, 4, 0), Drop(2)], 0, 0),
        (vec![Remove(1, 3), Weigh(1, 1), Add(1, 1, 0)], 0, 0),
        (vec![Remove(1, 1), Add(3, 4, 0), Set(1, false)], 2, 0),
        (vec![Add(1, 2, 0)], 3, 0),
        (vec![Set(3, true), Remove(3, 4)], 2, 0),
        (vec![Add(3, 1, 0)], 0, 0),
    ];
    become_what_is_wanted(&batches, 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn tables_become_what_is_wanted_in_turns_of_any_length(batches in steps(), room in 2u32..20) {
        become_what_is_wanted(&batches, room);
    }
}
