use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr},
    rc::Rc,
    time::Duration,
};

use super::*;
use crate::slots::REST;
use mesh_layout::{FrontendKey, GroupSet};
use mesh_model::{
    ClusterLimit, Protocol,
    lb::{Content as Whole, Group, Settings},
};

/// The tables as plain memory, shared with the test that reads them; counts writes, and forgets them after a while.
#[derive(Clone, Debug)]
struct Memory {
    content: Rc<std::cell::RefCell<Content>>,
    sizes: Sizes,
    writes: Rc<Cell<usize>>,
    /// After so many writes the writer is dead: nothing it writes arrives any more.
    dies_after: Rc<Cell<usize>>,
}

#[derive(Debug)]
struct Content {
    services: BTreeMap<FrontendKey, ServiceRef>,
    headers: Vec<Header>,
    settings: Vec<mesh_layout::Settings>,
    groups: Vec<[(u32, Header); Group::COUNT]>,
    slots: Vec<u32>,
    backends: Vec<mesh_layout::Backend>,
}

/// What programs make of a frontend: its settings, and of each backend the share of connections that it gets.
type Seen = (Settings, BTreeMap<Backend, Share>);

/// A fraction in its lowest terms.
type Share = (u64, u64);

impl Memory {
    fn new(services: u32, backends: u32, slots: u32) -> Self {
        let len = |n: u32| usize::try_from(n).unwrap();
        Self {
            content: Rc::new(std::cell::RefCell::new(Content {
                services: BTreeMap::new(),
                headers: vec![Header::default(); len(services)],
                settings: vec![mesh_layout::Settings::default(); len(services)],
                groups: vec![Default::default(); len(services)],
                slots: vec![0; len(slots)],
                backends: vec![mesh_layout::Backend::default(); len(backends)],
            })),
            sizes: Sizes { services, backends, slots, groups: services },
            writes: Rc::default(),
            dies_after: Rc::new(Cell::new(usize::MAX)),
        }
    }

    fn write(&self, write: impl FnOnce(&mut Content)) {
        if self.writes.get() < self.dies_after.get() {
            write(&mut self.content.borrow_mut());
        }
        self.writes.set(self.writes.get() + 1);
    }

    /// What a program finds for a frontend: `None` is no service, and no stale or free backend is ever met.
    fn read(&self, frontend: &Frontend) -> Option<BTreeSet<Backend>> {
        Some(self.see(frontend)?.1.into_keys().collect())
    }

    fn see(&self, frontend: &Frontend) -> Option<Seen> {
        let key = convert::frontend_key(frontend);
        let content = self.content.borrow();
        let service = content.services.get(&key)?;
        assert_eq!(service.tag(), key.tag());
        let index = service.index() as usize;
        let (header, settings) = (content.headers[index], content.settings[index]);
        let groups: Vec<(u64, Vec<Backend>)> = match header.group_set() {
            None => vec![(1, content.backends_of(header))],
            Some(set) => {
                let mut before = 0;
                let of_group = |(sum, header): &(u32, Header)| {
                    let weight = u64::from(sum.saturating_sub(before));
                    before = *sum;
                    (weight, content.backends_of(*header))
                };
                content.groups[set as usize].iter().map(of_group).collect()
            }
        };
        let mut shares = BTreeMap::new();
        let total: u64 = groups.iter().map(|(weight, _)| weight).sum();
        for (weight, backends) in groups {
            let count = backends.len() as u64;
            for backend in backends {
                shares.insert(backend, share(weight, total * count));
            }
        }
        let settings = Settings {
            session_affinity: settings.session_affinity_seconds(),
            plain: settings.is_plain(),
            pass_if_empty: settings.passes_if_empty(),
        };
        Some((settings, shares))
    }

    /// All there is, for "equal".
    fn all(&self) -> BTreeMap<Frontend, BTreeSet<Backend>> {
        let all = self.see_all().into_iter();
        all.map(|(frontend, (_, shares))| (frontend, shares.into_keys().collect())).collect()
    }

    fn see_all(&self) -> BTreeMap<Frontend, Seen> {
        let keys: Vec<_> = self.content.borrow().services.keys().copied().collect();
        let frontends = keys.iter().map(|key| convert::frontend(key).unwrap());
        frontends.map(|frontend| (frontend, self.see(&frontend).unwrap())).collect()
    }

    fn backends_in_use(&self) -> usize {
        self.content.borrow().backends.iter().filter(|b| b.id() != 0).count()
    }
}

fn share(part: u64, of: u64) -> Share {
    let (mut a, mut b) = (part, of);
    while b > 0 {
        (a, b) = (b, a % b);
    }
    (part.checked_div(a).unwrap_or(0), of.checked_div(a).unwrap_or(0))
}

impl Content {
    fn backends_of(&self, header: Header) -> Vec<Backend> {
        let slots = &self.slots[header.base() as usize..][..header.count() as usize];
        slots.iter().filter_map(|id| self.backend(*id)).collect()
    }

    fn backend(&self, id: u32) -> Option<Backend> {
        let entry = self.backends[id as usize % self.backends.len()];
        (id != 0 && entry.id() == id).then(|| convert::backend(&entry).unwrap())
    }
}

impl Kernel for Memory {
    fn sizes(&self) -> Sizes {
        self.sizes
    }

    fn services(&self) -> io::Result<Vec<(FrontendKey, ServiceRef)>> {
        Ok(self.content.borrow().services.iter().map(|(k, v)| (*k, *v)).collect())
    }

    fn services_from(&self, position: Option<u32>, about: usize) -> io::Result<crate::Listed> {
        let content = self.content.borrow();
        let from = usize::try_from(position.unwrap_or(0)).unwrap();
        let some: Vec<_> = content.services.iter().skip(from).take(about.max(1)).collect();
        let end = from + some.len();
        let next = (end < content.services.len()).then(|| u32::try_from(end).unwrap());
        Ok((some.into_iter().map(|(key, value)| (*key, *value)).collect(), next))
    }

    fn service(&self, key: &FrontendKey) -> io::Result<Option<ServiceRef>> {
        Ok(self.content.borrow().services.get(key).copied())
    }

    fn header(&self, index: u32) -> Header {
        self.content.borrow().headers[index as usize]
    }

    fn settings(&self, index: u32) -> mesh_layout::Settings {
        self.content.borrow().settings[index as usize]
    }

    fn group_set(&self, set: u32) -> GroupSet {
        let groups = self.content.borrow().groups[set as usize];
        GroupSet::new(groups.map(|(cumulative, _)| cumulative), groups.map(|(_, header)| header))
    }

    fn slot(&self, slot: u32) -> u32 {
        self.content.borrow().slots[slot as usize]
    }

    fn backend(&self, index: u32) -> mesh_layout::Backend {
        self.content.borrow().backends[index as usize]
    }

    fn put_service(&mut self, key: &FrontendKey, service: ServiceRef) -> io::Result<()> {
        self.write(|content| {
            content.services.insert(*key, service);
        });
        Ok(())
    }

    fn delete_service(&mut self, key: &FrontendKey) -> io::Result<()> {
        self.write(|content| {
            content.services.remove(key);
        });
        Ok(())
    }

    fn set_header(&mut self, index: u32, header: Header) {
        self.write(|content| content.headers[index as usize] = header);
    }

    fn set_settings(&mut self, index: u32, settings: mesh_layout::Settings) {
        self.write(|content| content.settings[index as usize] = settings);
    }

    fn set_group_header(&mut self, set: u32, group: usize, header: Header) {
        self.write(|content| content.groups[set as usize][group].1 = header);
    }

    fn set_group_cumulative(&mut self, set: u32, group: usize, cumulative: u32) {
        self.write(|content| content.groups[set as usize][group].0 = cumulative);
    }

    fn set_slot(&mut self, slot: u32, id: u32) {
        self.write(|content| content.slots[slot as usize] = id);
    }

    fn set_backend(&mut self, backend: mesh_layout::Backend) {
        let place = backend.id() as usize % self.sizes.backends as usize;
        // As in the kernel, the content is there before the id is.
        self.write(|content| content.backends[place] = backend.with_id(0));
        self.write(|content| content.backends[place] = backend);
    }

    fn clear_backend(&mut self, id: u32) {
        let place = id as usize % self.sizes.backends as usize;
        self.write(|content| content.backends[place] = content.backends[place].with_id(0));
    }
}

fn frontend(n: u8) -> Frontend {
    Frontend { address: IpAddr::V4(Ipv4Addr::new(10, 96, 0, n)), port: 80, protocol: Protocol::Tcp }
}

fn backend(cluster: u32, n: u16) -> Backend {
    let [high, low] = n.to_be_bytes();
    Backend {
        address: IpAddr::V4(Ipv4Addr::new(10, u8::try_from(cluster).unwrap(), high, low)),
        port: 8080,
        protocol: Protocol::Tcp,
        cluster: ClusterId::new(cluster, ClusterLimit::Max255).unwrap(),
    }
}

fn add(tables: &mut Tables<Memory>, f: u8, backends: &[Backend], now: Instant) {
    tables.apply(Change::SetFrontend(frontend(f), Settings::default()), now).unwrap();
    for backend in backends {
        tables.apply(Change::AddBackend(frontend(f), *backend, Group::FIRST), now).unwrap();
    }
    tables.commit(now);
}

/// Sockets know a backend by its ID. It is released with its last frontend, and has another ID when it comes back.
#[test]
fn what_no_frontend_leads_to_any_more_is_released_by_its_id() {
    let mut tables = Tables::restore(Memory::new(8, 8, 64), Instant::now()).unwrap();
    let (one, other) = (frontend(1), frontend(2));
    let (here, there) = (backend(1, 1), backend(2, 2));
    let mut apply = |changes: &[Change]| {
        changes.iter().for_each(|change| tables.apply(*change, Instant::now()).unwrap());
        let mut ids: Vec<_> = tables.backends_in(there.cluster).map(|found| found.id).collect();
        ids.sort_unstable();
        (tables.take_released(), ids)
    };
    let add = |to, backend| Change::AddBackend(to, backend, Group::FIRST);
    let set = |frontend| Change::SetFrontend(frontend, Settings::default());
    let (released, ids) =
        apply(&[set(one), set(other), add(one, here), add(one, there), add(other, there)]);
    assert_eq!((released, ids.len()), (vec![], 1));
    let id = ids[0];
    assert_eq!(apply(&[Change::RemoveBackend(one, there)]), (vec![], vec![id]));
    let gone = BackendWithId { id, backend: there };
    assert_eq!(apply(&[Change::RemoveFrontend(other)]), (vec![gone], vec![]));
    let (released, ids) = apply(&[add(one, there)]);
    assert_eq!(released, []);
    assert_ne!(ids, [id]);
}

#[test]
fn a_restart_writes_only_what_differs() {
    let memory = Memory::new(16, 64, 64);
    let now = Instant::now();
    let mut tables = Tables::restore(memory.clone(), now).unwrap();
    add(&mut tables, 1, &[backend(1, 1), backend(1, 2), backend(2, 1)], now);
    add(&mut tables, 2, &[backend(2, 1)], now);
    add(&mut tables, 3, &[], now);
    let before = memory.all();
    drop(tables);

    memory.writes.set(0);
    let mut tables = Tables::restore(memory.clone(), now).unwrap();
    assert_eq!(tables.inherited(), Inherited { frontends: 3, backends: 4 });
    add(&mut tables, 1, &[backend(1, 1), backend(1, 2), backend(2, 1)], now);
    add(&mut tables, 2, &[backend(2, 1)], now);
    add(&mut tables, 3, &[], now);
    tables.prune_frontends(now).unwrap();
    tables.prune_backends(|_| true, now);
    assert_eq!(tables.inherited(), Inherited::default());
    assert_eq!((memory.writes.get(), memory.all()), (0, before));
}

/// A backend that was removed and came back has two places until the first one has rested. The writer ends, and the next
/// one knows which of them is used.
#[test]
fn a_restart_knows_what_rests_from_what_is_used() {
    let memory = Memory::new(16, 64, 64);
    let now = Instant::now();
    let mut tables = Tables::restore(memory.clone(), now).unwrap();
    add(&mut tables, 1, &[backend(1, 1), backend(1, 2)], now);
    tables.apply(Change::RemoveBackend(frontend(1), backend(1, 1)), now).unwrap();
    add(&mut tables, 1, &[backend(1, 1)], now);
    let before = memory.see_all();
    assert_eq!(memory.backends_in_use(), 3);
    let mut tables = Tables::restore(memory.clone(), now).unwrap();
    assert_eq!((memory.see_all(), memory.backends_in_use()), (before.clone(), 2));
    assert_eq!(tables.audit().unwrap(), Repairs::default());
    add(&mut tables, 1, &[backend(1, 1), backend(1, 2)], now);
    assert_eq!((memory.see_all(), tables.backends.len()), (before, 2));
}

#[test]
fn nothing_is_pruned_before_its_cluster_was_listed() {
    let memory = Memory::new(16, 64, 64);
    let now = Instant::now();
    let mut tables = Tables::restore(memory.clone(), now).unwrap();
    add(&mut tables, 1, &[backend(1, 1), backend(2, 1), backend(3, 1)], now);
    add(&mut tables, 2, &[backend(2, 1)], now);
    drop(tables);

    let mut tables = Tables::restore(memory.clone(), now).unwrap();
    add(&mut tables, 1, &[backend(1, 2)], now);
    assert_eq!(memory.read(&frontend(1)).unwrap().len(), 4);
    tables.prune_backends(|cluster| cluster.get() == 2, now);
    assert_eq!(
        memory.read(&frontend(1)).unwrap(),
        BTreeSet::from([backend(1, 1), backend(1, 2), backend(3, 1)])
    );
    assert_eq!(memory.read(&frontend(2)), Some(BTreeSet::new()));
    tables.prune_frontends(now).unwrap();
    assert_eq!(memory.read(&frontend(2)), None);
}

#[test]
fn a_change_in_ten_thousand_is_four_writes_at_most() {
    let memory = Memory::new(16, 16_384, 32_768);
    let now = Instant::now();
    let mut tables = Tables::restore(memory.clone(), now).unwrap();
    let all: Vec<Backend> = (0..10_000).map(|n| backend(1, n)).collect();
    add(&mut tables, 1, &all, now);

    memory.writes.set(0);
    tables.apply(Change::RemoveBackend(frontend(1), backend(1, 17)), now).unwrap();
    assert!(memory.writes.get() <= 4, "{}", memory.writes.get());
    memory.writes.set(0);
    tables.apply(Change::AddBackend(frontend(1), backend(1, 10_001), Group::FIRST), now).unwrap();
    assert!(memory.writes.get() <= 4, "{}", memory.writes.get());
    assert_eq!(memory.read(&frontend(1)).unwrap().len(), 10_000);
}

/// The same in groups: adding or removing a backend costs four writes, a move between groups six, and each of these as
/// much again if its group has no other backend at that moment. A weight is a sum for each group from its own on.
#[test]
fn groups_cost_what_changes() {
    let memory = Memory::new(16, 16_384, 65_536);
    let now = Instant::now();
    let mut tables = Tables::restore(memory.clone(), now).unwrap();
    let groups: Vec<Group> = (0..Group::COUNT).map(|n| Group::new(n).unwrap()).collect();
    add(&mut tables, 1, &[], now);
    let into = |n: u16, group: usize| Change::AddBackend(frontend(1), backend(1, n), groups[group]);
    for n in 0..10_000 {
        tables.apply(into(n, usize::from(n % 2)), now).unwrap();
    }
    tables.apply(Change::SetWeights(frontend(1), Weights([3, 1, 0, 0, 0, 0, 0, 0])), now).unwrap();
    let cost = |tables: &mut Tables<Memory>, change| {
        memory.writes.set(0);
        tables.apply(change, now).unwrap();
        memory.writes.get()
    };
    // The place of one that goes is cleared when it has rested: the third write.
    assert_eq!(cost(&mut tables, Change::RemoveBackend(frontend(1), backend(1, 17))), 2);
    assert_eq!(cost(&mut tables, into(17, 1)), 4);
    assert_eq!(cost(&mut tables, into(18, 1)), 4, "a slot and a header in each group");
    assert_eq!(cost(&mut tables, into(18, 1)), 0);
    assert_eq!(cost(&mut tables, into(18, 0)), 3, "the last one leaves no hole");
    let weights = |w| Change::SetWeights(frontend(1), Weights(w));
    assert_eq!(cost(&mut tables, weights([3, 1, 0, 0, 0, 0, 0, 0])), 0);
    assert_eq!(cost(&mut tables, weights([3, 2, 0, 0, 0, 0, 0, 0])), 7);
    assert_eq!(
        cost(&mut tables, weights([3, 2, 9, 0, 0, 0, 0, 0])),
        0,
        "no backend is in that group"
    );
    memory.writes.set(0);
    tables.commit(now + REST);
    assert_eq!(memory.writes.get(), 1);
    let sticky = Settings { session_affinity: 10_800, plain: true, ..Settings::default() };
    assert_eq!(cost(&mut tables, Change::SetFrontend(frontend(1), sticky)), 1);
    assert_eq!(cost(&mut tables, Change::SetFrontend(frontend(1), sticky)), 0);
    let (settings, shares) = memory.see(&frontend(1)).unwrap();
    assert_eq!((settings, shares.len()), (sticky, 10_000));
    assert_eq!(shares[&backend(1, 0)], share(3, 5 * 5_000));
    assert_eq!(shares[&backend(1, 1)], share(2, 5 * 5_000));
}

/// Weights of groups whose sum is more than a word holds keep their proportion; where no group that has a backend has a
/// weight, the first of these has all.
#[test]
fn weights_are_sums_of_what_is_there() {
    let memory = Memory::new(16, 64, 64);
    let now = Instant::now();
    let mut tables = Tables::restore(memory.clone(), now).unwrap();
    let groups: Vec<Group> = (0..Group::COUNT).map(|n| Group::new(n).unwrap()).collect();
    add(&mut tables, 1, &[], now);
    for (n, group) in (0..).zip(&groups).skip(2) {
        tables.apply(Change::AddBackend(frontend(1), backend(1, n), *group), now).unwrap();
    }
    let shares = |tables: &mut Tables<Memory>, weights| {
        tables.apply(Change::SetWeights(frontend(1), Weights(weights)), now).unwrap();
        let (_, shares) = memory.see(&frontend(1)).unwrap();
        (2..8).map(|n| shares[&backend(1, n)]).collect::<Vec<Share>>()
    };
    let (none, all) = ((0, 1), (1, 1));
    assert_eq!(shares(&mut tables, [5, 5, 0, 0, 0, 0, 0, 0]), [all, none, none, none, none, none]);
    assert_eq!(shares(&mut tables, [9, 0, 0, 0, 0, 0, 0, 4]), [none, none, none, none, none, all]);
    let half = share(1, 2);
    assert_eq!(
        shares(&mut tables, [u32::MAX, 0, u32::MAX, 0, 0, 0, 0, u32::MAX]),
        [half, none, none, none, none, half]
    );
}

#[test]
fn a_range_that_is_hardly_used_is_given_back() {
    let memory = Memory::new(4, 2_048, 2_048);
    let now = Instant::now();
    let mut tables = Tables::restore(memory.clone(), now).unwrap();
    let all: Vec<Backend> = (0..512).map(|n| backend(1, n)).collect();
    add(&mut tables, 1, &all, now);
    for gone in &all[3..] {
        tables.apply(Change::RemoveBackend(frontend(1), *gone), now).unwrap();
    }
    assert_eq!(memory.read(&frontend(1)).unwrap(), BTreeSet::from_iter(all[..3].iter().copied()));
    add(&mut tables, 2, &[], now + REST);
    tables.apply(Change::AddBackend(frontend(2), all[9], Group::FIRST), now + REST).unwrap();
    assert_eq!(tables.occupancy().slots, 8 + 1);
}

#[test]
fn full_tables_say_so_and_keep_what_they_have() {
    let now = Instant::now();
    let four = [backend(1, 1), backend(1, 2), backend(1, 3), backend(1, 4)];
    let fifth = Change::AddBackend(frontend(1), backend(1, 5), Group::FIRST);

    let mut tables = Tables::restore(Memory::new(2, 8, 8), now).unwrap();
    add(&mut tables, 1, &four, now);
    let error = tables.apply(fifth, now).unwrap_err();
    assert_eq!(error.to_string(), "cm_slots is full: all of 8 entries are in use");

    let memory = Memory::new(2, 4, 16);
    let mut tables = Tables::restore(memory.clone(), now).unwrap();
    add(&mut tables, 1, &four, now);
    let error = tables.apply(fifth, now).unwrap_err();
    assert_eq!(error.to_string(), "cm_backends is full: all of 4 entries are in use");
    add(&mut tables, 2, &[], now + REST);
    let error = tables
        .apply(Change::SetFrontend(frontend(3), Settings::default()), now + REST)
        .unwrap_err();
    assert_eq!(error.to_string(), "cm_services is full: all of 2 entries are in use");
    assert!(matches!(
        tables.apply(Change::AddBackend(frontend(3), backend(1, 1), Group::FIRST), now),
        Err(TablesError::NoFrontend(_))
    ));
    assert_eq!(memory.read(&frontend(1)).unwrap().len(), 4);
    assert_eq!(memory.read(&frontend(2)), Some(BTreeSet::new()));
}

/// What needs a table that is full is not begun: nothing that was taken for it stays taken.
#[test]
fn a_full_table_of_groups_says_so() {
    let now = Instant::now();
    let mut memory = Memory::new(4, 8, 16);
    memory.sizes.groups = 1;
    let mut tables = Tables::restore(memory.clone(), now).unwrap();
    let two = [backend(1, 1), backend(1, 2)];
    add(&mut tables, 1, &two, now);
    add(&mut tables, 2, &two, now);
    let second = Group::new(1).unwrap();
    let moved = |f| Change::AddBackend(frontend(f), backend(1, 1), second);
    tables.apply(moved(1), now).unwrap();
    let before = (tables.occupancy(), memory.all());
    for change in [moved(2), Change::AddBackend(frontend(2), backend(1, 3), second)] {
        let error = tables.apply(change, now).unwrap_err();
        assert_eq!(error.to_string(), "cm_groups is full: all of 1 entries are in use");
        assert_eq!((tables.occupancy(), memory.all()), before);
    }
    // There is room again when the other is in one group once more, and has rested.
    add(&mut tables, 1, &two, now);
    assert_eq!(tables.occupancy().groups, 0);
    tables.apply(moved(2), now + REST).unwrap();
    assert_eq!(memory.read(&frontend(2)).unwrap(), BTreeSet::from(two));
}

/// What sockets and affinities know, ids and indices, stays in tables that have the places; and what does not fit is named
/// with what it needs.
#[test]
fn larger_tables_keep_ids_and_smaller_ones_must_hold_what_there_is() {
    let now = Instant::now();
    let memory = Memory::new(8, 16, 64);
    let mut tables = Tables::restore(memory.clone(), now).unwrap();
    let five: Vec<Backend> = (1..6).map(|n| backend(1, n)).collect();
    for round in 0..3 {
        // Ids of later rounds.
        add(&mut tables, 1, &five, now + REST * round);
        tables.apply(Change::RemoveFrontend(frontend(1)), now + REST * round).unwrap();
    }
    let now = now + REST * 4;
    add(&mut tables, 2, &five, now);
    add(&mut tables, 3, &five[..3], now);
    let moved = Change::AddBackend(frontend(3), five[0], Group::new(4).unwrap());
    tables.apply(moved, now).unwrap();
    let whole = memory.see_all();
    let ids = |memory: &Memory| -> BTreeMap<Backend, u32> {
        let entries = memory.content.borrow().backends.clone().into_iter();
        let used = entries.filter(|entry| entry.id() != 0);
        used.map(|entry| (convert::backend(&entry).unwrap(), entry.id())).collect()
    };
    let services = |memory: &Memory| memory.content.borrow().services.clone();

    let sizes = |services, backends, slots, groups| Sizes { services, backends, slots, groups };
    let short = |map, size, needed| Shortage { map, size, needed };
    assert_eq!(tables.shortages(sizes(2, 8, 16, 1)), []);
    assert_eq!(
        tables.shortages(sizes(1, 4, 8, 0)),
        [
            short("cm_services", 1, 2),
            short("cm_backends", 4, 8),
            // Ranges of 8, 2 and 1.
            short("cm_slots", 8, 16),
            short("cm_groups", 0, 1)
        ]
    );
    let (large, small) = (Memory::new(32, 64, 512), Memory::new(2, 8, 16));
    let tables = Tables::adopt(tables, large.clone(), now).unwrap();
    assert_eq!((large.see_all(), ids(&large)), (whole.clone(), ids(&memory)));
    assert_eq!(services(&large), services(&memory));
    let tables = Tables::adopt(tables, small.clone(), now).unwrap();
    assert_eq!((small.see_all(), ids(&small).len()), (whole, 5));
    assert_eq!(tables.shortages(small.sizes), []);
}

#[test]
fn a_freed_place_rests_and_comes_back_under_another_id() {
    let memory = Memory::new(2, 1, 2);
    let now = Instant::now();
    let mut tables = Tables::restore(memory.clone(), now).unwrap();
    add(&mut tables, 1, &[backend(1, 1)], now);
    let before = memory.backend(0).id();
    tables.apply(Change::RemoveBackend(frontend(1), backend(1, 1)), now).unwrap();
    let again = Change::AddBackend(frontend(1), backend(1, 1), Group::FIRST);
    assert!(tables.apply(again, now + Duration::from_millis(999)).is_err());
    tables.apply(again, now + REST).unwrap();
    assert_ne!(memory.backend(0).id(), before);
}

#[test]
fn what_contradicts_itself_is_repaired() {
    let memory = Memory::new(4, 8, 16);
    let now = Instant::now();
    let mut tables = Tables::restore(memory.clone(), now).unwrap();
    add(&mut tables, 1, &[backend(1, 1), backend(1, 2)], now);
    add(&mut tables, 2, &[backend(1, 1)], now);
    drop(tables);
    {
        let mut content = memory.content.borrow_mut();
        // A slot that names no backend, two services on one range, a frontend with another's tag, a backend for no
        // service.
        let one = content.services[&convert::frontend_key(&frontend(1))];
        let two = content.services[&convert::frontend_key(&frontend(2))];
        let base = content.headers[one.index() as usize].base();
        content.slots[base as usize] = 4_242;
        content.headers[two.index() as usize] = Header::new(base + 1, 1);
        content.services.insert(convert::frontend_key(&frontend(3)), ServiceRef::new(3, 1));
        content.services.insert(convert::frontend_key(&frontend(4)), ServiceRef::new(900, 1));
        content.backends[7] = convert::backend_entry(15, &backend(2, 9));
    }
    let mut tables = Tables::restore(memory.clone(), now).unwrap();
    assert_eq!(memory.read(&frontend(3)), None);
    assert_eq!(memory.read(&frontend(4)), None);
    add(&mut tables, 1, &[backend(1, 1), backend(1, 2)], now);
    add(&mut tables, 2, &[backend(1, 1)], now);
    tables.prune_backends(|_| true, now);
    assert_eq!(memory.read(&frontend(1)).unwrap().len(), 2);
    assert_eq!(memory.read(&frontend(2)).unwrap(), BTreeSet::from([backend(1, 1)]));
    assert_eq!(memory.backends_in_use(), 2);
}

/// Two services that lead to one set of groups, one that leads beyond the table, ranges that overlap: each loses what
/// is not its own, and has it again when it is reported.
#[test]
fn groups_that_contradict_themselves_are_repaired() {
    let memory = Memory::new(8, 16, 64);
    let now = Instant::now();
    let mut tables = Tables::restore(memory.clone(), now).unwrap();
    let second = Group::new(1).unwrap();
    let report = |tables: &mut Tables<Memory>| {
        for f in 1..4 {
            add(tables, f, &[backend(1, u16::from(f))], now);
            let moved = Change::AddBackend(frontend(f), backend(2, u16::from(f)), second);
            tables.apply(moved, now).unwrap();
        }
        tables.prune_frontends(now).unwrap();
        tables.prune_backends(|_| true, now);
    };
    report(&mut tables);
    let whole = memory.all();
    {
        let mut content = memory.content.borrow_mut();
        let index = [1, 2, 3]
            .map(|f| content.services[&convert::frontend_key(&frontend(f))].index() as usize);
        content.headers[index[0]] = content.headers[index[1]];
        let third = content.headers[index[2]].group_set().unwrap() as usize;
        content.groups[third][1].1 = content.groups[third][0].1;
        content.groups[third][0].0 = 9;
    }
    let mut tables = Tables::restore(memory.clone(), now).unwrap();
    assert_eq!(tables.audit().unwrap(), Repairs::default());
    report(&mut tables);
    assert_eq!(memory.all(), whole);
    memory.content.borrow_mut().headers[0] = Header::grouped(99);
    let mut tables = Tables::restore(memory.clone(), now).unwrap();
    report(&mut tables);
    assert_eq!(memory.all(), whole);
}

/// A writer that died while a backend moved into a hole leaves that backend in two slots. To mend one service costs no other
/// anything, in whatever order they are found.
#[test]
fn mending_one_service_leaves_the_others_alone() {
    let memory = Memory::new(16, 64, 64);
    let now = Instant::now();
    let mut tables = Tables::restore(memory.clone(), now).unwrap();
    let of = |f: u8| [backend(1, u16::from(f)), backend(2, u16::from(f))];
    (0..8).for_each(|f| add(&mut tables, f, &of(f), now));
    drop(tables);
    for f in 0..4 {
        let mut content = memory.content.borrow_mut();
        let service = content.services[&convert::frontend_key(&frontend(f))];
        let base = content.headers[service.index() as usize].base() as usize;
        content.slots[base] = content.slots[base + 1];
    }
    Tables::restore(memory.clone(), now).unwrap();
    for f in 0..4 {
        assert_eq!(memory.read(&frontend(f)), Some(BTreeSet::from([of(f)[1]])), "{f}");
    }
    for f in 4..8 {
        assert_eq!(memory.read(&frontend(f)), Some(BTreeSet::from(of(f))), "{f}");
    }
}

#[test]
fn an_audit_finds_what_the_agent_did_not_write() {
    let memory = Memory::new(16, 64, 64);
    let now = Instant::now();
    let mut tables = Tables::restore(memory.clone(), now).unwrap();
    add(&mut tables, 1, &[backend(1, 1), backend(1, 2), backend(2, 1)], now);
    add(&mut tables, 2, &[backend(2, 1)], now);
    tables.apply(Change::RemoveBackend(frontend(1), backend(1, 2)), now).unwrap();
    let second = Group::new(1).unwrap();
    for f in [3, 4] {
        add(&mut tables, f, &[backend(2, 1)], now);
        let other = Change::AddBackend(frontend(f), backend(1, 1), second);
        tables.apply(other, now).unwrap();
    }
    let whole = memory.see_all();
    memory.writes.set(0);
    assert_eq!((tables.audit().unwrap().total(), memory.writes.get()), (0, 0));

    {
        let mut content = memory.content.borrow_mut();
        let one = content.services.remove(&convert::frontend_key(&frontend(1))).unwrap();
        content.services.insert(convert::frontend_key(&frontend(9)), one);
        let two = content.services[&convert::frontend_key(&frontend(2))];
        let header = content.headers[one.index() as usize];
        content.slots[header.base() as usize] = 4_242;
        content.headers[two.index() as usize] = Header::new(40, 7);
        content.backends[0] = content.backends[0].with_id(0);
        content.backends[60] = convert::backend_entry(64 + 60, &backend(2, 9));
        // Another header and a weight in one set, a service that leads to another's, and settings that were not given.
        let [three, four] = [3, 4].map(|f| content.services[&convert::frontend_key(&frontend(f))]);
        let four_at = content.headers[four.index() as usize];
        content.headers[three.index() as usize] = four_at;
        let set = &mut content.groups[four_at.group_set().unwrap() as usize];
        (set[1].1, set[5].0) = (Header::new(3, 9), 77);
        content.settings[four.index() as usize] = mesh_layout::Settings::new(9, true, true);
    }
    let repairs = tables.audit().unwrap();
    let words = "2 frontends, 2 headers, 1 settings, 1 groups, 1 slots, 2 backends";
    assert_eq!(repairs.to_string(), words);
    let expected = Repairs { frontends: 2, headers: 2, settings: 1, groups: 1, ..repairs };
    assert_eq!(repairs, Repairs { slots: 1, backends: 2, ..expected });
    assert_eq!(memory.see_all(), whole);
    tables.commit(now + REST);
    assert_eq!(memory.backends_in_use(), 2);
    assert_eq!(tables.audit().unwrap(), Repairs::default());
}

#[test]
fn deviations_from_what_is_wanted() {
    let now = Instant::now();
    let memory = Memory::new(16, 64, 64);
    let mut before = Tables::restore(memory.clone(), now).unwrap();
    add(&mut before, 1, &[backend(1, 1)], now);
    add(&mut before, 2, &[backend(1, 1)], now);
    let mut tables = Tables::restore(memory, now).unwrap();
    add(&mut tables, 1, &[backend(1, 2), backend(1, 3)], now);
    add(&mut tables, 3, &[backend(1, 3)], now);
    let one = |backends: &[(Backend, usize)]| Whole {
        backends: backends.iter().map(|(b, group)| (*b, Group::new(*group).unwrap())).collect(),
        ..Whole::default()
    };
    let all = |all: Vec<(u8, Whole)>| all.into_iter().map(|(f, w)| (frontend(f), w)).collect();
    let exactly = all(vec![
        (1, one(&[(backend(1, 2), 0), (backend(1, 3), 0)])),
        (3, one(&[(backend(1, 3), 0)])),
    ]);
    assert_eq!(tables.deviations(&exactly), [], "what is held is no deviation");

    let sticky = Settings { session_affinity: 60, ..Settings::default() };
    let weights = Weights([1, 2, 0, 0, 0, 0, 0, 0]);
    tables.apply(Change::SetWeights(frontend(1), Weights::ONE), now).unwrap();
    let first = one(&[(backend(1, 2), 1), (backend(1, 4), 0)]);
    let first = Whole { settings: sticky, weights, ..first };
    let other = all(vec![(1, first), (4, Whole { weights, ..one(&[(backend(1, 5), 0)]) })]);
    let mut found = tables.deviations(&other);
    found.sort();
    let [g0, g1] = [0, 1].map(|n| Group::new(n).unwrap());
    let mut expected = [
        Change::SetFrontend(frontend(1), sticky),
        Change::SetFrontend(frontend(4), Settings::default()),
        Change::RemoveFrontend(frontend(3)),
        Change::AddBackend(frontend(1), backend(1, 2), g1),
        Change::AddBackend(frontend(1), backend(1, 4), g0),
        Change::AddBackend(frontend(4), backend(1, 5), g0),
        Change::RemoveBackend(frontend(1), backend(1, 3)),
        Change::SetWeights(frontend(1), weights),
        Change::SetWeights(frontend(4), weights),
    ];
    expected.sort();
    assert_eq!(found, expected);
}

mod model;

mod lb_writer;
mod shares;
mod slices;
mod strict;
