//! An audit in slices.

use super::*;

/// Tables with something wrong in each of them, and what was right.
fn broken(now: Instant) -> (Memory, Tables<Memory>, BTreeMap<Frontend, Seen>) {
    let memory = Memory::new(64, 256, 8_192);
    let mut tables = Tables::restore(memory.clone(), now).unwrap();
    for f in 1..40 {
        let all: Vec<Backend> = (0..u16::from(f)).map(|n| backend(1, n)).collect();
        add(&mut tables, f, &all, now);
    }
    let other = Change::AddBackend(frontend(7), backend(1, 3), Group::new(3).unwrap());
    tables.apply(other, now).unwrap();
    let whole = memory.see_all();
    {
        let mut content = memory.content.borrow_mut();
        for f in [3, 30] {
            content.services.remove(&convert::frontend_key(&frontend(f)));
        }
        let of = |f: u8| content.services[&convert::frontend_key(&frontend(f))].index() as usize;
        let (five, ten, seven, forty) = (of(5), of(10), of(7), of(39));
        content.services.insert(convert::frontend_key(&frontend(99)), ServiceRef::new(3, 1));
        content.headers[five] = Header::new(8_000, 3);
        content.settings[ten] = mesh_layout::Settings::new(9, true, true);
        let set = content.headers[seven].group_set().unwrap() as usize;
        content.groups[set][1].0 = 77;
        let base = content.headers[forty].base() as usize;
        content.slots[base + 1] = 4_242;
        content.slots[base + 38] = 4_243;
        content.backends[200] = convert::backend_entry(256 + 200, &backend(2, 9));
        let place = content.backends.iter().position(|entry| entry.id() != 0).unwrap();
        content.backends[place] = content.backends[place].with_id(7);
    }
    (memory, tables, whole)
}

/// However short the slices are, they find the same, look at no more than they may, and come to an end.
#[test]
fn slices_of_any_length_find_the_same() {
    let now = Instant::now();
    let (_, mut tables, _) = broken(now);
    let expected = tables.audit().unwrap();
    let by_hand =
        Repairs { frontends: 3, headers: 1, settings: 1, groups: 1, slots: 2, backends: 2 };
    assert_eq!(expected, by_hand);
    for budget in [1, 2, 7, 50, 333, 10_000] {
        let (memory, mut tables, whole) = broken(now);
        let (mut cursor, mut found, mut slices) = (AuditCursor::default(), Repairs::default(), 0);
        while !cursor.is_done() {
            found += tables.audit_slice(&mut cursor, budget).unwrap();
            slices += 1;
            assert!(slices < 10_000, "{budget}: {cursor:?}");
        }
        assert_eq!((found, memory.see_all()), (expected, whole.clone()), "{budget}");
        // Twice 256 places, 780 slots and some, 39 services at 4, 8 and 32 each. The dearest step is 32.
        let all = 2 * 256 + 780 + 39 * (4 + 8 + 32);
        let (least, most) = (all / (budget + 32), 10 + 3 * all / budget);
        assert!((least..=most).contains(&slices), "{budget}: {slices}");
        assert_eq!(tables.audit().unwrap(), Repairs::default());
    }
}

/// A frontend, or many, is removed where a slice ended, and others come: the rest is looked at all the same.
#[test]
fn what_changes_between_slices_is_no_deviation() {
    let now = Instant::now();
    let (memory, mut tables, _) = broken(now);
    let mut cursor = AuditCursor::default();
    let mut found = Repairs::default();
    for turn in 0u16.. {
        found += tables.audit_slice(&mut cursor, 25).unwrap();
        if cursor.is_done() {
            break;
        }
        let f = 40 + u8::try_from(turn % 7).unwrap();
        match turn % 3 {
            0 => add(&mut tables, f, &[backend(1, turn), backend(1, 5)], now + REST * turn.into()),
            1 => {
                tables.apply(Change::RemoveFrontend(frontend(f)), now + REST * turn.into()).unwrap()
            }
            _ => {
                let gone = Change::RemoveBackend(frontend(f), backend(1, 5));
                tables.apply(gone, now + REST * turn.into()).unwrap();
            }
        }
    }
    let by_hand =
        Repairs { frontends: 3, headers: 1, settings: 1, groups: 1, slots: 2, backends: 2 };
    assert_eq!(found, by_hand);
    assert_eq!(tables.audit().unwrap(), Repairs::default());
    assert_eq!(memory.read(&frontend(39)).unwrap().len(), 39);
}
