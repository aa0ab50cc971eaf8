//! Who connects is refused only where there is surely no backend.

use super::*;

const STRICT: Settings = Settings { session_affinity: 0, plain: false, pass_if_empty: false };
const LENIENT: Settings = Settings { pass_if_empty: true, ..STRICT };

fn refuses(memory: &Memory, f: u8) -> bool {
    memory.see(&frontend(f)).is_some_and(|(settings, _)| !settings.pass_if_empty)
}

/// After each single write of a new frontend: it is there with a backend, or lets connections pass.
#[test]
fn a_new_frontend_is_never_strict_before_its_backends_are_there() {
    let now = Instant::now();
    let changes = [
        Change::SetFrontend(frontend(1), STRICT),
        Change::AddBackend(frontend(1), backend(1, 1), Group::FIRST),
        Change::AddBackend(frontend(1), backend(1, 2), Group::new(1).unwrap()),
    ];
    for writes in 0.. {
        let memory = Memory::new(4, 8, 16);
        let mut tables = Tables::restore(memory.clone(), now).unwrap();
        memory.dies_after.set(writes);
        changes.iter().for_each(|change| tables.apply(*change, now).unwrap());
        tables.commit(now);
        let found = memory.read(&frontend(1));
        let is_refused = refuses(&memory, 1) && found.as_ref().is_some_and(BTreeSet::is_empty);
        assert!(!is_refused, "after {writes} writes");
        if memory.writes.get() <= writes {
            assert!(refuses(&memory, 1));
            assert_eq!(found.unwrap().len(), 2);
            break;
        }
    }
    // One that has none at all is strict when that is sure.
    let memory = Memory::new(4, 8, 16);
    let mut tables = Tables::restore(memory.clone(), now).unwrap();
    tables.apply(changes[0], now).unwrap();
    assert!(!refuses(&memory, 1));
    tables.commit(now);
    assert!(refuses(&memory, 1));
    assert_eq!(tables.frontend(&frontend(1)).unwrap().settings(), STRICT);
    // And one that was there, as the next change asks.
    tables.apply(Change::SetFrontend(frontend(1), LENIENT), now).unwrap();
    tables.apply(Change::SetFrontend(frontend(1), STRICT), now).unwrap();
    assert!(!refuses(&memory, 1));
    tables.commit(now);
    assert!(refuses(&memory, 1));
}

/// A service is announced leniently, its backends do not fit, and it is made strict: kube-proxy serves it until they do.
#[test]
fn a_frontend_is_not_strict_while_its_backends_do_not_fit() {
    let now = Instant::now();
    let memory = Memory::new(4, 2, 16);
    let mut tables = Tables::restore(memory.clone(), now).unwrap();
    add(&mut tables, 1, &[backend(1, 1), backend(1, 2)], now);
    let add_to = |n| Change::AddBackend(frontend(2), backend(1, n), Group::FIRST);
    tables.apply(Change::SetFrontend(frontend(2), LENIENT), now).unwrap();
    for n in [3, 4] {
        assert!(matches!(tables.apply(add_to(n), now), Err(TablesError::Full { .. })));
    }
    tables.apply(Change::SetFrontend(frontend(2), STRICT), now).unwrap();
    tables.commit(now);
    assert!(!refuses(&memory, 2));
    assert_eq!(tables.audit().unwrap(), Repairs::default(), "so it should be");
    assert_eq!(tables.frontend(&frontend(2)).unwrap().settings(), STRICT);
    // One is not wanted any more, the other finds room.
    tables.apply(Change::RemoveBackend(frontend(2), backend(1, 3)), now).unwrap();
    assert!(!refuses(&memory, 2));
    tables.apply(Change::RemoveBackend(frontend(1), backend(1, 1)), now).unwrap();
    let later = now + REST;
    tables.apply(add_to(4), later).unwrap();
    assert!(refuses(&memory, 2));
    // The last one goes: that there is none is sure.
    tables.apply(Change::RemoveBackend(frontend(2), backend(1, 4)), later).unwrap();
    assert!(refuses(&memory, 2));
    assert_eq!(memory.read(&frontend(2)), Some(BTreeSet::new()));
    // One that cannot move is there all the same.
    let memory = Memory::new(4, 8, 1);
    let mut tables = Tables::restore(memory.clone(), now).unwrap();
    add(&mut tables, 1, &[backend(1, 1)], now);
    let moved = Change::AddBackend(frontend(1), backend(1, 1), Group::new(1).unwrap());
    assert!(tables.apply(moved, now).is_err());
    assert!(refuses(&memory, 1));
}

/// A program that found a frontend finds all that it leads to for a second after it is gone: it connects as it would have a
/// moment before, and is not refused.
#[test]
fn what_a_frontend_led_to_rests_with_it() {
    let now = Instant::now();
    let memory = Memory::new(2, 4, 8);
    let mut tables = Tables::restore(memory.clone(), now).unwrap();
    let second = Group::new(1).unwrap();
    add(&mut tables, 1, &[backend(1, 1), backend(1, 2)], now);
    tables.apply(Change::AddBackend(frontend(1), backend(1, 3), second), now).unwrap();
    let before = memory.see(&frontend(1)).unwrap();
    let key = convert::frontend_key(&frontend(1));
    let found = memory.content.borrow().services[&key];
    tables.apply(Change::RemoveFrontend(frontend(1)), now).unwrap();
    assert_eq!(memory.read(&frontend(1)), None);
    // As the program that had read the frontend before goes on; until another has the places.
    let as_before = || {
        memory.content.borrow_mut().services.insert(key, found);
        let seen = memory.see(&frontend(1));
        memory.content.borrow_mut().services.remove(&key);
        seen.unwrap()
    };
    assert_eq!(as_before(), before);
    let moment = now + REST - Duration::from_millis(1);
    add(&mut tables, 2, &[backend(2, 9)], moment);
    assert_eq!(as_before(), before);
    assert_eq!(memory.backends_in_use(), 4);
    tables.commit(now + REST);
    assert_eq!(memory.backends_in_use(), 1);
    assert_eq!(tables.audit().unwrap(), Repairs::default());
}
