//! Peers that take all that they get.

use super::*;

/// The entries of each cluster, counted again in the mirror, are those that were charged to it.
pub(super) fn check<K: Kernel>(tables: &Tables<K>) {
    let mut backends = BTreeMap::<ClusterId, u32>::new();
    let mut slots = BTreeMap::<ClusterId, u32>::new();
    for (_, backend) in tables.backends.iter() {
        *backends.entry(backend.cluster).or_default() += 1;
    }
    let mut in_ranges = 0;
    for group in tables.services.values().flat_map(|service| service.groups().map(|(_, g)| g)) {
        for id in &group.ids {
            *slots.entry(tables.backends.get(*id).unwrap().cluster).or_default() += 1;
        }
        let length = group.range.map_or(0, |range| range.len());
        in_ranges += length;
        assert_eq!(group.payer.is_some(), length > 0);
        if let Some(payer) = group.payer.filter(|_| length > group.count()) {
            *slots.entry(payer).or_default() += length - group.count();
        }
    }
    assert_eq!(slots.values().sum::<u32>(), in_ranges);
    for cluster in (0..10).filter_map(ClusterId::from_wire) {
        let expected = [&backends, &slots].map(|of| of.get(&cluster).copied().unwrap_or(0));
        let found = tables.used_by(cluster);
        assert_eq!([found.backends, found.slots], expected, "{cluster}");
    }
}

/// Peers add backends to services in turns until each is refused for its share. How many each has then.
fn fill(tables: &mut Tables<Memory>, peers: u32, services: u16, now: Instant) -> Vec<u32> {
    let mut refused = vec![0; usize::try_from(peers).unwrap()];
    for n in 0..u16::MAX {
        // Another service may have a slot for one that is refused.
        if refused.iter().all(|refused| *refused > services) {
            break;
        }
        for (peer, refused) in (2..).zip(&mut refused) {
            match tables.apply(into(n % services, backend(peer, n)), now) {
                Ok(()) => *refused = 0,
                Err(TablesError::Share { cluster, .. }) => {
                    assert_eq!(u32::from(cluster.get()), peer);
                    *refused += 1;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
    has(tables, peers)
}

fn has(tables: &Tables<Memory>, peers: u32) -> Vec<u32> {
    (2..2 + peers).map(|peer| tables.used_by(backend(peer, 0).cluster).backends).collect()
}

fn into(service: u16, backend: Backend) -> Change {
    Change::AddBackend(frontend(u8::try_from(1 + service).unwrap()), backend, Group::FIRST)
}

/// A table of 32,768 backends and 131,072 slots, of which the local cluster has 2,048. One, three and ten peers take all that
/// they get; then an honest one adds a thousand, and the local cluster grows to a quarter of the table.
#[test]
fn greedy_peers_leave_room_for_an_honest_one_and_for_the_local_cluster() {
    for greedy in [1, 3, 10] {
        let now = Instant::now();
        let memory = Memory::new(64, 32_768, 131_072);
        let mut tables = Tables::restore(memory.clone(), now).unwrap();
        tables.set_local_cluster(backend(1, 0).cluster);
        for f in 1..=32 {
            add(&mut tables, f, &[], now);
        }
        for n in 0..2_048 {
            tables.apply(into(n % 32, backend(1, n)), now).unwrap();
        }
        // 24,576 are for peers, whom as many slots would do.
        let before = fill(&mut tables, greedy, 32, now);
        let part = 24_576 / (greedy + 1);
        assert!(before.iter().all(|has| has.abs_diff(part) <= 1), "{before:?}, {part}");
        check(&tables);

        // What was freed meanwhile has rested.
        let later = now + REST;
        let honest = 2 + greedy;
        for n in 0..1_000 {
            let added = tables.apply(into(n % 32, backend(honest, n)), later);
            added.unwrap_or_else(|error| panic!("{greedy} greedy, {n}: {error}"));
        }
        for n in 2_048..8_192 {
            let added = tables.apply(into(n % 32, backend(1, n)), later);
            added.unwrap_or_else(|error| panic!("{greedy} greedy, local {n}: {error}"));
        }
        assert_eq!(has(&tables, greedy), before, "nothing that was there is gone");
        assert_eq!(
            memory.all().values().map(BTreeSet::len).sum::<usize>(),
            tables.backends.iter().count()
        );
        check(&tables);
    }
}

/// One peer has each of its backends in many services: it is the slots that end it.
#[test]
fn slots_have_their_share_too() {
    let now = Instant::now();
    let memory = Memory::new(64, 32_768, 16_384);
    let mut tables = Tables::restore(memory.clone(), now).unwrap();
    tables.set_local_cluster(backend(1, 0).cluster);
    for f in 1..=33 {
        add(&mut tables, f, &[], now);
    }
    let greedy = backend(2, 0).cluster;
    let error =
        (0..u16::MAX).find_map(|n| tables.apply(into(n % 32, backend(2, n / 32)), now).err());
    let error = error.unwrap();
    assert!(matches!(error, TablesError::Share { map: "cm_slots", .. }), "{error}");
    // 12,288 are for peers, half of it for one: 32 ranges of 128, and every other of these twice as long.
    assert_eq!(tables.used_by(greedy).slots, 6_144);
    // An honest one finds slots for a thousand in a service of its own; and the local cluster what is kept for it.
    for (cluster, count) in [(3, 1_000), (1, 4_096)] {
        for n in 0..count {
            let added = tables.apply(into(32, backend(cluster, n)), now + REST);
            added.unwrap_or_else(|error| panic!("{cluster}, {n}: {error}"));
        }
        tables.apply(Change::RemoveFrontend(frontend(33)), now + REST).unwrap();
        add(&mut tables, 33, &[], now + REST);
    }
    check(&tables);
}

/// A refusal names the cluster, what it has and the table; freed entries are counted, and then there is room.
#[test]
fn a_refused_peer_finds_room_when_entries_are_freed() {
    let now = Instant::now();
    let memory = Memory::new(8, 64, 256);
    let mut tables = Tables::restore(memory.clone(), now).unwrap();
    add(&mut tables, 1, &[], now);
    let add_to = |f, n| Change::AddBackend(frontend(f), backend(2, n), Group::FIRST);
    // Without knowing whose node it is there is no share.
    for n in 0..40 {
        tables.apply(add_to(1, n), now).unwrap();
    }
    tables.set_local_cluster(backend(1, 0).cluster);
    // 48 of 64 are for peers, half of it for one.
    let error = tables.apply(add_to(1, 40), now).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cm_backends: cluster 2 has 40 of 64 entries, and may have no more: as much must be free for others"
    );
    // What it has may move, and be in other services, as far as slots go.
    let second = Group::new(1).unwrap();
    tables.apply(Change::AddBackend(frontend(1), backend(2, 0), second), now).unwrap();
    add(&mut tables, 2, &[], now);
    tables.apply(add_to(2, 0), now).unwrap();
    assert_eq!(memory.read(&frontend(1)).unwrap().len(), 40);
    assert_eq!(tables.take_freed(), 1, "the slot that was moved from");
    for n in 0..17 {
        tables.apply(Change::RemoveBackend(frontend(1), backend(2, n)), now).unwrap();
    }
    // One of them is the other service's still.
    assert_eq!((tables.take_freed(), tables.take_freed()), (17 + 16, 0));
    assert_eq!(tables.used_by(backend(2, 0).cluster).backends, 24);
    assert!(tables.apply(add_to(1, 40), now).is_err());
    tables.apply(Change::RemoveBackend(frontend(1), backend(2, 17)), now).unwrap();
    tables.apply(add_to(1, 40), now).unwrap();
    check(&tables);
    // A restart knows as much.
    let mut tables = Tables::restore(memory.clone(), now).unwrap();
    check(&tables);
    tables.set_local_cluster(backend(1, 0).cluster);
    assert!(matches!(
        tables.apply(add_to(1, 41), now),
        Err(TablesError::Share { map: "cm_backends", size: 64, has: 24, .. })
    ));
    let larger = Memory::new(8, 128, 512);
    let mut tables = Tables::adopt(tables, larger, now).unwrap();
    check(&tables);
    tables.apply(add_to(1, 41), now).unwrap();
}

/// Slots are charged to their backends' clusters, and those in reserve to whose backend made the range longer.
#[test]
fn whose_backend_needs_a_longer_range_pays_for_it() {
    let now = Instant::now();
    let memory = Memory::new(8, 1_024, 256);
    let mut tables = Tables::restore(memory.clone(), now).unwrap();
    tables.set_local_cluster(backend(1, 0).cluster);
    add(&mut tables, 1, &(0..4).map(|n| backend(1, n)).collect::<Vec<_>>(), now);
    let used =
        |tables: &Tables<Memory>| [1, 2, 3].map(|c| tables.used_by(backend(c, 0).cluster).slots);
    assert_eq!(used(&tables), [4, 0, 0]);
    // Eight slots: one is in use, three are in reserve.
    let add_to = |c, n| Change::AddBackend(frontend(1), backend(c, n), Group::FIRST);
    tables.apply(add_to(2, 0), now).unwrap();
    assert_eq!(used(&tables), [4, 4, 0]);
    tables.apply(add_to(3, 0), now).unwrap();
    tables.apply(add_to(1, 4), now).unwrap();
    assert_eq!(used(&tables), [5, 2, 1]);
    tables.apply(add_to(2, 1), now).unwrap();
    assert_eq!(used(&tables), [5, 2, 1]);
    // 16 slots; then the others' share of them, which is in reserve for the third.
    tables.apply(add_to(3, 1), now).unwrap();
    assert_eq!(used(&tables), [5, 2, 9]);
    tables.apply(Change::RemoveBackend(frontend(1), backend(2, 0)), now).unwrap();
    assert_eq!(used(&tables), [5, 1, 10]);
    check(&tables);
    tables.apply(Change::RemoveFrontend(frontend(1)), now).unwrap();
    assert_eq!(used(&tables), [0, 0, 0]);
    check(&tables);
}
