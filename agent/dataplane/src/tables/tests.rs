use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    rc::Rc,
    time::Duration,
};

use mesh_layout::{FrontendKey, GroupSet};
use mesh_model::{
    ClusterLimit, Protocol,
    lb::{Group, Settings},
};
use proptest::prelude::*;

use super::*;
use crate::slots::REST;

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
        let key = convert::frontend_key(frontend);
        let content = self.content.borrow();
        let service = content.services.get(&key)?;
        assert_eq!(service.tag(), key.tag());
        let header = content.headers[service.index() as usize];
        let slots = &content.slots[header.base() as usize..][..header.count() as usize];
        Some(slots.iter().filter_map(|id| content.backend(*id)).collect())
    }

    /// All there is, for "equal".
    fn all(&self) -> BTreeMap<Frontend, BTreeSet<Backend>> {
        let keys: Vec<_> = self.content.borrow().services.keys().copied().collect();
        let frontends = keys.iter().map(|key| convert::frontend(key).unwrap());
        frontends.map(|frontend| (frontend, self.read(&frontend).unwrap())).collect()
    }

    fn backends_in_use(&self) -> usize {
        self.content.borrow().backends.iter().filter(|b| b.id() != 0).count()
    }
}

impl Content {
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
}

/// Sockets hang on a backend by its id. It is released with its last frontend, and by another id when it comes back.
#[test]
fn what_no_frontend_leads_to_any_more_is_told_by_its_id() {
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
    let gone = Numbered { id, backend: there };
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
    assert_eq!(tables.held(), Held { frontends: 3, backends: 4 });
    add(&mut tables, 1, &[backend(1, 1), backend(1, 2), backend(2, 1)], now);
    add(&mut tables, 2, &[backend(2, 1)], now);
    add(&mut tables, 3, &[], now);
    tables.prune_frontends(now).unwrap();
    tables.prune_backends(|_| true, now);
    assert_eq!(tables.held(), Held::default());
    assert_eq!((memory.writes.get(), memory.all()), (0, before));
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
        // A slot that names nobody, two services on one range, a frontend with another's tag, a backend for nobody.
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
fn an_audit_finds_what_nobody_wrote() {
    let memory = Memory::new(16, 64, 64);
    let now = Instant::now();
    let mut tables = Tables::restore(memory.clone(), now).unwrap();
    add(&mut tables, 1, &[backend(1, 1), backend(1, 2), backend(2, 1)], now);
    add(&mut tables, 2, &[backend(2, 1)], now);
    tables.apply(Change::RemoveBackend(frontend(1), backend(1, 2)), now).unwrap();
    let whole = memory.all();
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
    }
    let repairs = tables.audit().unwrap();
    assert_eq!(repairs, Repairs { frontends: 2, headers: 1, slots: 1, backends: 2 });
    assert_eq!(memory.all(), whole);
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
    let wanted = |all: &[(u8, &[Backend])]| {
        all.iter().map(|(f, b)| (frontend(*f), b.iter().copied().collect())).collect()
    };
    let exactly = wanted(&[(1, &[backend(1, 2), backend(1, 3)]), (3, &[backend(1, 3)])]);
    assert_eq!(tables.deviations(&exactly), [], "what is held is no deviation");
    let other = wanted(&[(1, &[backend(1, 2), backend(1, 4)]), (4, &[backend(1, 5)])]);
    let mut found = tables.deviations(&other);
    found.sort();
    let mut expected = [
        Change::SetFrontend(frontend(4), Settings::default()),
        Change::RemoveFrontend(frontend(3)),
        Change::AddBackend(frontend(1), backend(1, 4), Group::FIRST),
        Change::AddBackend(frontend(4), backend(1, 5), Group::FIRST),
        Change::RemoveBackend(frontend(1), backend(1, 3)),
    ];
    expected.sort();
    assert_eq!(found, expected);
}

/// A change to the tables, or the death of their writer.
#[derive(Clone, Debug)]
enum Step {
    AddFrontend(u8),
    RemoveFrontend(u8),
    Add(u8, u32, u16),
    Remove(u8, u32, u16),
    /// The writer dies after so many more writes; a new one takes over and is told everything again.
    Die(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let f = 0u8..4;
    let step = prop_oneof![
        2 => f.clone().prop_map(Step::AddFrontend),
        1 => f.clone().prop_map(Step::RemoveFrontend),
        8 => (f.clone(), 1u32..3, 0u16..6).prop_map(|(f, c, b)| Step::Add(f, c, b)),
        5 => (f, 1u32..3, 0u16..6).prop_map(|(f, c, b)| Step::Remove(f, c, b)),
        1 => (0usize..12).prop_map(Step::Die),
    ];
    prop::collection::vec(step, 0..60)
}

proptest! {
    /// Whatever happens, programs find exactly the backends of the model; and a writer may die between any two writes.
    #[test]
    fn tables_equal_the_model(steps in steps()) {
        let memory = Memory::new(8, 32, 128);
        let mut now = Instant::now();
        let mut tables = Tables::restore(memory.clone(), now).unwrap();
        let mut model = BTreeMap::<u8, BTreeSet<Backend>>::new();
        for step in steps {
            now += REST;
            let change = match step {
                Step::AddFrontend(f) => {
                    model.entry(f).or_default();
                    Change::SetFrontend(frontend(f), Settings::default())
                }
                Step::RemoveFrontend(f) => {
                    model.remove(&f);
                    Change::RemoveFrontend(frontend(f))
                }
                Step::Add(f, c, b) => match model.get_mut(&f) {
                    Some(backends) => {
                        backends.insert(backend(c, b));
                        Change::AddBackend(frontend(f), backend(c, b), Group::FIRST)
                    }
                    None => continue,
                },
                Step::Remove(f, c, b) => {
                    if let Some(backends) = model.get_mut(&f) {
                        backends.remove(&backend(c, b));
                    }
                    Change::RemoveBackend(frontend(f), backend(c, b))
                }
                Step::Die(writes) => {
                    memory.dies_after.set(memory.writes.get() + writes);
                    continue;
                }
            };
            tables.apply(change, now).unwrap();
            if memory.writes.get() > memory.dies_after.get() {
                // Between its death and the next life programs read on; `read` asserts that they meet nothing false.
                memory.all();
                memory.dies_after.set(usize::MAX);
                tables = Tables::restore(memory.clone(), now).unwrap();
                for (f, backends) in &model {
                    add(&mut tables, *f, &backends.iter().copied().collect::<Vec<_>>(), now);
                }
                tables.prune_frontends(now).unwrap();
                tables.prune_backends(|_| true, now);
            }
            let expected: BTreeMap<_, _> = model.iter().map(|(f, b)| (frontend(*f), b.clone())).collect();
            prop_assert_eq!(memory.all(), expected);
            prop_assert_eq!(tables.audit().unwrap(), Repairs::default());
        }
        let distinct: BTreeSet<_> = model.values().flatten().collect();
        prop_assert_eq!(memory.backends_in_use(), distinct.len());
    }
}
