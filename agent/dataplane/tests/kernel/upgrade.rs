//! Agents that want tables of other sizes, or know another layout, take over while clients connect.

use std::{
    env,
    os::unix::process::ExitStatusExt as _,
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use mesh_dataplane::{
    Former, KernelMaps, PinError, Sizes, TakeOverError, TakenOver, take_over,
    take_over_step_by_step,
};
use mesh_dump::{Dump, Entries};
use mesh_layout::{LOCAL_UNSYNCED, MapGroup};
use mesh_model::lb::Weights;
use nix::sys::signal::{Signal, raise};

use crate::*;

/// Set for a process that is to die: its place, and after how many writes.
const DIE: &str = "CLUSTERMESH_TEST_DIE";
const LARGE: Sizes = Sizes { services: 512, backends: 1_024, slots: 8_192, groups: 64 };
const SMALL: Sizes = Sizes { services: 16, backends: 64, slots: 128, groups: 8 };
/// A layout that no release has.
const OTHER: u32 = 0xdead_beef;

/// Services with some backends each, all of whose servers answer with their port.
struct World {
    services: Vec<(Frontend, Vec<Backend>)>,
    /// How often each client has asked all services.
    rounds: [AtomicU64; 2],
}

impl World {
    fn new() -> Self {
        let service = |n: u8| {
            let protocol = if n.is_multiple_of(2) { Protocol::Udp } else { Protocol::Tcp };
            let server = || match protocol {
                Protocol::Udp => udp_server("127.0.0.1"),
                _ => tcp_server("127.0.0.1"),
            };
            let servers = (0..=n).map(|i| backend(server(), protocol, 1 + u32::from(i % 2)));
            (vip(n, protocol), servers.collect())
        };
        Self { services: (1..7).map(service).collect(), rounds: Default::default() }
    }

    /// The last service has its backends in groups.
    fn changes(&self) -> Vec<Change> {
        let mut changes = Vec::new();
        for (frontend, servers) in &self.services {
            // The fifth's clients come back.
            let session_affinity = if servers.len() == 6 { 3_600 } else { 0 };
            let settings =
                Settings { session_affinity, plain: servers.len() > 3, pass_if_empty: false };
            changes.push(Change::SetFrontend(*frontend, settings));
            for (n, server) in servers.iter().enumerate() {
                let group = if servers.len() > 6 { n % 3 } else { 0 };
                let group = Group::new(group).unwrap();
                changes.push(Change::AddBackend(*frontend, *server, group));
            }
        }
        if let Some((frontend, _)) = self.services.last() {
            let weights = Weights([3, 2, 1, 0, 0, 0, 0, 0]);
            changes.push(Change::SetWeights(*frontend, weights));
        }
        changes
    }

    /// Clients connect until they are asked to stop, and are answered by a server of the service that they asked for.
    /// How many were.
    fn ask(&self, client: usize, namespace: &fs::File, done: &AtomicBool) -> u64 {
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let mut asked = 0;
        while !done.load(Ordering::Relaxed) {
            for (frontend, servers) in &self.services {
                let ask = if frontend.protocol == Protocol::Udp { ask_udp } else { ask_tcp };
                let (port, peer) = ask(socket(*frontend)).unwrap();
                assert!(servers.iter().any(|s| s.port == port), "{frontend}: of another service");
                assert_eq!(peer, socket(*frontend));
                asked += 1;
            }
            self.rounds[client].fetch_add(1, Ordering::SeqCst);
        }
        asked
    }

    /// Waits until no client has a connection that it has now.
    fn wait_for_new_connections(&self) {
        let rounds = || self.rounds.each_ref().map(|n| n.load(Ordering::SeqCst));
        let (before, deadline) = (rounds(), Instant::now() + Duration::from_secs(60));
        while rounds().iter().zip(before).any(|(now, before)| *now < before + 2) {
            assert!(Instant::now() < deadline, "a client does not go on");
            thread::yield_now();
        }
    }

    /// Does something while clients connect.
    fn under_load(&self, work: impl FnOnce()) {
        let done = AtomicBool::new(false);
        let namespace = fs::File::open("/proc/thread-self/ns/net").unwrap();
        let asked = thread::scope(|scope| {
            let client = |n| {
                let (namespace, done) = (&namespace, &done);
                scope.spawn(move || self.ask(n, namespace, done))
            };
            let clients = [client(0), client(1)];
            let stop = Done(&done);
            work();
            drop(stop);
            clients.map(|client| client.join().unwrap()).iter().sum::<u64>()
        });
        assert!(asked > 500, "{asked}");
    }
}

struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn begin(place: &Place, sizes: Sizes) -> TakenOver {
    take_over(PinRoot::open(&place.pins).unwrap(), sizes, Instant::now()).unwrap()
}

/// A node with services, a cluster that is cut, and a bit for its programs.
fn filled(place: &Place) -> (World, ClusterId, Programs, Tables<KernelMaps>) {
    let world = World::new();
    let (programs, mut tables, _) = start(place, SIZES);
    apply(&mut tables, &world.changes());
    let cut = ClusterId::new(200, ClusterLimit::Max255).unwrap();
    tables.set_cut(cut, true);
    tables.set_local_state(LOCAL_UNSYNCED);
    (world, cut, programs, tables)
}

/// An agent starts, and attaches at once, as it may where nothing of another layout is there.
fn start(place: &Place, sizes: Sizes) -> (Programs, Tables<KernelMaps>, Former) {
    let TakenOver { mut programs, tables, former } = begin(place, sizes);
    programs.attach(&place.cgroup).unwrap();
    (programs, tables, former)
}

fn dump(place: &Place) -> Entries {
    Dump::open(&place.pins).unwrap().entries().unwrap()
}

/// The folders with tables.
fn folders(place: &Place) -> usize {
    let folders = fs::read_dir(&place.pins).unwrap().flatten().map(|entry| entry.path());
    folders.filter(|folder| folder.join("cm_services").exists()).count()
}

/// Agents with larger and smaller tables take turns: no connection fails, entries stay, a client that connected before
/// is answered and sees the service, a socket that is not connected and a returning client keep their backends, and
/// nothing of the former tables is left.
#[test]
fn tables_change_their_sizes_under_load() {
    let place = Place::new("sizes");
    let world = World::new();
    let (programs, mut tables, former) = start(&place, SIZES);
    assert_eq!(former, Former::Nothing);
    apply(&mut tables, &world.changes());
    let cut = ClusterId::new(2, ClusterLimit::Max255).unwrap();
    tables.set_cut(cut, true);
    let whole = dump(&place);
    assert_eq!(whole.len(), world.services.len());
    let (tcp, udp) = (socket(world.services[0].0), socket(world.services[1].0));
    let open_tcp = TcpStream::connect(tcp).unwrap();
    let open_udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    open_udp.connect(udp).unwrap();
    open_udp.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    datagrams.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let ask_unconnected = || {
        let to = socket(world.services[3].0);
        datagrams.send_to(b"?", to).unwrap();
        let mut answer = [0; 2];
        let (_, from) = datagrams.recv_from(&mut answer).unwrap();
        assert_eq!(from, to, "a datagram comes from the service");
        u16::from_be_bytes(answer)
    };
    let ask_again = || ask_tcp(socket(world.services[4].0)).unwrap().0;
    let stays = (ask_unconnected(), ask_again());
    drop((programs, tables));

    world.under_load(|| {
        let mut before = SIZES;
        for sizes in [LARGE, SMALL, SIZES, LARGE] {
            let (programs, mut tables, former) = start(&place, sizes);
            assert_eq!(former, Former::Resized(before));
            assert_eq!((dump(&place), folders(&place)), (whole.clone(), 1));
            assert_eq!(tables.occupancy().sizes, sizes);
            assert_eq!(tables.cut().collect::<Vec<_>>(), [cut]);
            // It knows what it has, and goes on from there.
            assert_eq!(tables.inherited().frontends, world.services.len());
            apply(&mut tables, &world.changes());
            tables.prune_frontends(Instant::now()).unwrap();
            tables.prune_backends(|_| true, Instant::now());
            assert_eq!(dump(&place), whole);
            let (frontend, servers) = &world.services[5];
            apply(&mut tables, &[Change::RemoveBackend(*frontend, servers[0])]);
            apply(&mut tables, &[Change::AddBackend(*frontend, servers[0], Group::FIRST)]);
            assert_eq!(dump(&place), whole);
            assert_eq!(open_tcp.peer_addr().unwrap(), tcp);
            assert_eq!(open_udp.peer_addr().unwrap(), udp);
            open_udp.send(b"?").unwrap();
            open_udp.recv(&mut [0; 2]).unwrap();
            assert_eq!((ask_unconnected(), ask_again()), stays, "the backends that they had");
            before = sizes;
            drop(programs);
        }
        let (_, tables, former) = start(&place, LARGE);
        assert_eq!(former, Former::Same);
        assert_eq!(tables.inherited().frontends, world.services.len());
    });
}

/// Tables that would not hold what is in use: refused, with their names and what they need at least, and everything goes on
/// as it was.
#[test]
fn tables_do_not_become_smaller_than_what_is_in_use() {
    let place = Place::new("shrink");
    let world = World::new();
    let (programs, mut tables, _) = start(&place, SIZES);
    apply(&mut tables, &world.changes());
    let whole = dump(&place);
    drop((programs, tables));
    world.under_load(|| {
        let refused = |sizes| {
            let error = take_over(PinRoot::open(&place.pins).unwrap(), sizes, Instant::now());
            let error = error.unwrap_err();
            assert!(matches!(error, TakeOverError::TooSmall(_)), "{error}");
            assert_eq!((dump(&place), folders(&place)), (whole.clone(), 1));
            error.to_string()
        };
        // 2 + 3 + 4 + 5 + 6 + 7 backends; ranges of 2, 4, 4, 8, 8, and 4, 2 and 2 for the groups of the last.
        let why = "the tables cannot become smaller than what is in use: ";
        assert_eq!(
            refused(Sizes { slots: 32, ..SIZES }),
            format!(
                "{why}cm_slots would have room for 32, and what is in use needs 64: set --max-slots to at least 64"
            )
        );
        assert_eq!(
            refused(Sizes { services: 5, backends: 16, ..SIZES }),
            format!(
                "{why}cm_services would have room for 5, and what is in use needs 6: set --max-services to at \
                 least 6; cm_backends would have room for 16, and what is in use needs 32: set --max-backends to at \
                 least 32"
            )
        );
        let (_programs, tables, _) = start(&place, Sizes { services: 6, slots: 64, ..SIZES });
        assert_eq!((dump(&place), folders(&place)), (whole.clone(), 1));
        assert_eq!(tables.occupancy().services, 6);
    });
}

/// A release with another layout, and the one before again: its tables are filled before any program reads them, and the
/// former programs go on with the former tables until then.
#[test]
fn another_layout_is_filled_before_it_is_read() {
    let place = Place::new("layout");
    let world = World::new();
    let (programs, mut tables, _) = start(&place, SIZES);
    apply(&mut tables, &world.changes());
    let whole = dump(&place);
    drop((programs, tables));
    world.under_load(|| {
        for round in 0..2u32 {
            let opened = TcpStream::connect(socket(world.services[0].0)).unwrap();
            let udp = || {
                let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
                udp.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
                udp
            };
            let (connected, unconnected) = (udp(), udp());
            connected.connect(socket(world.services[1].0)).unwrap();
            unconnected.send_to(b"?", socket(world.services[3].0)).unwrap();
            let pins = || {
                let pins = PinRoot::open(&place.pins).unwrap();
                let other = || {
                    let pins = pins.clone().of_layout(MapGroup::LoadBalancer, OTHER);
                    pins.of_layout(MapGroup::Sockets, OTHER)
                };
                if round.is_multiple_of(2) { other() } else { pins }
            };
            let begin = || take_over(pins(), SIZES, Instant::now()).unwrap();
            let TakenOver { mut tables, former, .. } = begin();
            assert_eq!((former, tables.inherited()), (Former::OtherLayout, Inherited::default()));
            apply(&mut tables, &world.changes()[..4]);
            // It died. The next one begins again.
            drop(tables);
            let TakenOver { mut programs, mut tables, former } = begin();
            assert_eq!((former, tables.inherited()), (Former::OtherLayout, Inherited::default()));
            assert_eq!((dump(&place), folders(&place)), (whole.clone(), 2));
            apply(&mut tables, &world.changes());
            programs.attach(&place.cgroup).unwrap();
            assert_eq!((dump(&place), folders(&place)), (whole.clone(), 1));
            // What another release gave to sockets, its own programs show.
            assert_eq!(opened.peer_addr().unwrap(), socket(world.services[0].0));
            assert_eq!(connected.peer_addr().unwrap(), socket(world.services[1].0));
            let (_, from) = unconnected.recv_from(&mut [0; 2]).unwrap();
            assert_eq!(from, socket(world.services[3].0));
            // Of two changes of layout before, nothing is known.
            world.wait_for_new_connections();
        }
    });
}

/// How many writes the process has left, or has made.
static LEFT: AtomicU64 = AtomicU64::new(0);
static MADE: AtomicU64 = AtomicU64::new(0);

fn die_after_the_last() {
    if LEFT.fetch_sub(1, Ordering::SeqCst) == 1 {
        let _ = raise(Signal::SIGKILL);
    }
}

fn count() {
    MADE.fetch_add(1, Ordering::SeqCst);
}

/// An agent that exchanges tables is killed after any write and any exchange of a hook: clients notice nothing, and the
/// agent that comes next, with these sizes or those, has everything.
#[test]
fn an_exchange_of_tables_may_end_anywhere() {
    if let Ok(order) = env::var(DIE) {
        let [pins, cgroup, left]: [&str; 3] =
            order.split(' ').collect::<Vec<_>>().try_into().unwrap();
        LEFT.store(left.parse().unwrap(), Ordering::SeqCst);
        let pins = PinRoot::open(Path::new(pins)).unwrap();
        let mut taken =
            take_over_step_by_step(pins, LARGE, Instant::now(), die_after_the_last).unwrap();
        taken.programs.attach(Path::new(cgroup)).unwrap();
        return;
    }
    let place = Place::new("exchange");
    let world = World::new();
    let (programs, mut tables, _) = start(&place, SIZES);
    apply(&mut tables, &world.changes());
    let whole = dump(&place);
    drop((programs, tables));
    let pins = PinRoot::open(&place.pins).unwrap();
    let mut taken = take_over_step_by_step(pins, LARGE, Instant::now(), count).unwrap();
    let fills = MADE.load(Ordering::SeqCst);
    taken.programs.attach(&place.cgroup).unwrap();
    let all = MADE.load(Ordering::SeqCst);
    println!("{fills} writes, {} exchanges", all - fills);
    assert!(fills > 100 && all - fills >= 4);
    drop(taken);
    drop(start(&place, SIZES));
    world.under_load(|| {
        // While no program reads, one write is like another.
        let step = usize::try_from(fills / 3).unwrap();
        for left in (1..fills).step_by(step).chain(fills..=all) {
            let order = format!("{} {} {left}", place.pins.display(), place.cgroup.display());
            let dead = Command::new(env::current_exe().unwrap())
                .args(["--exact", "upgrade::an_exchange_of_tables_may_end_anywhere", "--nocapture"])
                .env(DIE, order)
                .output()
                .unwrap();
            assert_eq!(dead.status.signal(), Some(9), "after write {left}: {dead:?}");
            assert_eq!(dump(&place), whole, "after write {left}");
            if left.is_multiple_of(2) {
                let (_, tables, _) = start(&place, LARGE);
                assert_eq!(tables.inherited().frontends, world.services.len());
                assert_eq!((dump(&place), folders(&place)), (whole.clone(), 1));
            }
            let (_, tables, _) = start(&place, SIZES);
            assert_eq!(tables.inherited().frontends, world.services.len());
            assert_eq!((dump(&place), folders(&place)), (whole.clone(), 1));
        }
    });
}

/// Of two agents on one node the second names the first.
#[test]
fn two_agents_cannot_have_the_same_tables() {
    let place = Place::new("lock");
    let pins = || PinRoot::open(&place.pins).unwrap();
    let lock = pins().lock(Duration::ZERO).unwrap();
    let error = pins().lock(Duration::ZERO).unwrap_err();
    let pid = std::process::id();
    assert!(matches!(&error, PinError::InUse { pid: Some(found), .. } if *found == pid), "{error}");
    let text = format!(
        "{} is in use by process {pid}: two agents cannot have the same tables",
        place.pins.display()
    );
    assert_eq!(error.to_string(), text);
    let waits = thread::spawn({
        let pins = pins();
        move || pins.lock(Duration::from_secs(60))
    });
    drop(lock);
    drop(waits.join().unwrap().unwrap());
}

/// A map of another shape under a name of ours: refused, with what it is and what it should be.
#[test]
fn a_strangers_map_is_not_taken_for_ours() {
    let place = Place::new("stranger");
    let (programs, mut tables, _) = start(&place, SIZES);
    let world = World::new();
    apply(&mut tables, &world.changes());
    let cm_slots = pinned(&place, "cm_slots");
    let refused = |map: &str| {
        let ours = place.pins.join("ours");
        fs::rename(&cm_slots, &ours).unwrap();
        let stranger = place.pins.join(map);
        fs::rename(&stranger, &cm_slots).unwrap();
        let error = take_over(PinRoot::open(&place.pins).unwrap(), SIZES, Instant::now());
        let raw = KernelMaps::open(&PinRoot::open(&place.pins).unwrap(), SIZES).unwrap_err();
        fs::remove_file(&cm_slots).unwrap();
        fs::rename(&ours, &cm_slots).unwrap();
        let error = error.unwrap_err().to_string();
        assert_eq!(raw.to_string(), error);
        let begin = format!("{}: pinned there is ", cm_slots.display());
        error.strip_prefix(&begin).unwrap_or_else(|| panic!("{error}")).to_owned()
    };
    let expected = "; expected is an array with flags 0x400, 512 entries, key 4 and value 8 bytes; remove the pin";
    // Its entries are others, or it is no array, or no memory of user space's, all else being equal.
    for (what, is) in [
        (
            "array entries 512 value 32 flags 1024",
            "an array with flags 0x400, 512 entries, key 4 and value 32 bytes",
        ),
        (
            "array entries 256 value 8 flags 1024",
            "an array with flags 0x400, 256 entries, key 4 and value 8 bytes",
        ),
        (
            "hash entries 512 value 8 flags 0",
            "a hash with flags 0x0, 512 entries, key 4 and value 8 bytes",
        ),
        (
            "array entries 512 value 8 flags 0",
            "an array with flags 0x0, 512 entries, key 4 and value 8 bytes",
        ),
    ] {
        let path = place.pins.join("stranger");
        let mut words = vec!["map", "create", path.to_str().unwrap(), "type"];
        words.extend(what.split(' '));
        words.extend(["key", "4", "name", "cm_slots"]);
        run("bpftool", &words);
        assert_eq!(refused("stranger"), format!("{is}{expected}"));
    }
    drop((programs, tables));
    let (_, tables, former) = start(&place, SIZES);
    assert_eq!((former, tables.inherited().frontends), (Former::Same, world.services.len()));
}

/// Another layout of one group: its maps are made again, and everything else is as before.
#[test]
fn a_new_table_in_one_group_costs_the_others_nothing() {
    let place = Place::new("group");
    let (world, cut, programs, tables) = filled(&place);
    let whole = dump(&place);
    let opened = TcpStream::connect(socket(world.services[0].0)).unwrap();
    let (mut again, _) = ask_tcp(socket(world.services[4].0)).unwrap();
    let count = |programs: &Programs| programs.counters().unwrap()[Counter::Translated as usize];
    let mut before = count(&programs);
    drop((programs, tables));
    world.under_load(|| {
        for group in
            [MapGroup::State, MapGroup::Affinity, MapGroup::Counters, MapGroup::LoadBalancer]
        {
            let ids = |group: MapGroup| {
                let maps = mesh_layout::MAPS.into_iter().filter(|map| map.group == group);
                let id = |map: mesh_layout::MapLayout| {
                    mesh_sys::MapInfo::of_pin(&pinned(&place, map.name)).unwrap().id
                };
                maps.map(id).collect::<Vec<u32>>()
            };
            // What answers probes is loaded by itself.
            let groups = || MapGroup::ALL.into_iter().filter(|group| *group != MapGroup::Health);
            let all = || groups().map(ids).collect::<Vec<_>>();
            let former_ids = all();
            let pins = PinRoot::open(&place.pins).unwrap().of_layout(group, OTHER);
            let TakenOver { mut programs, mut tables, former } =
                take_over(pins, SIZES, Instant::now()).unwrap();
            let is_lb = group == MapGroup::LoadBalancer;
            assert_eq!(former, if is_lb { Former::OtherLayout } else { Former::Same });
            if is_lb {
                apply(&mut tables, &world.changes());
            }
            // Here the next release comes without having known the last one's layouts.
            let is_new = group == MapGroup::State;
            assert_eq!(tables.cut().collect::<Vec<_>>(), if is_new { vec![] } else { vec![cut] });
            assert_eq!(tables.local_state(), if is_new { 0 } else { LOCAL_UNSYNCED });
            programs.attach(&place.cgroup).unwrap();
            assert_eq!((dump(&place), folders(&place)), (whole.clone(), 1));
            let others: Vec<MapGroup> = groups()
                .zip(former_ids)
                .zip(all())
                .filter(|((_, was), is)| was != is)
                .map(|((group, _), _)| group)
                .collect();
            assert_eq!(others, [group]);
            assert_eq!(opened.peer_addr().unwrap(), socket(world.services[0].0));
            if !matches!(group, MapGroup::Affinity | MapGroup::LoadBalancer) {
                assert_eq!(ask_tcp(socket(world.services[4].0)).unwrap().0, again);
            }
            let now = count(&programs);
            assert_eq!(now < before, group == MapGroup::Counters, "{now} after {before}");
            before = now;
            drop((programs, tables));
            // And the release before comes back.
            let TakenOver { mut programs, mut tables, .. } = begin(&place, SIZES);
            if is_lb {
                apply(&mut tables, &world.changes());
            }
            if matches!(group, MapGroup::State) {
                tables.set_cut(cut, true);
                tables.set_local_state(LOCAL_UNSYNCED);
            }
            programs.attach(&place.cgroup).unwrap();
            before = if group == MapGroup::Counters { 0 } else { before };
            again = ask_tcp(socket(world.services[4].0)).unwrap().0;
        }
    });
}

/// What the release before groups pinned, in one folder, is taken as it is: no table is filled, and clients, cuts and bits
/// are as before. Whatever is there of a half-made adoption is no hindrance.
#[test]
fn pins_of_the_release_before_groups_are_adopted() {
    let place = Place::new("ungrouped");
    let (world, cut, programs, tables) = filled(&place);
    let whole = dump(&place);
    let (again, _) = ask_tcp(socket(world.services[4].0)).unwrap();
    drop((programs, tables));
    let adopted = ["cm_services", "cm_headers", "cm_groups", "cm_slots", "cm_backends"];
    let adopted = adopted.into_iter().chain(["cm_peer_state", "cm_unbalanced", "cm_affinity"]);
    let ids = || -> Vec<u32> {
        let id = |map| mesh_sys::MapInfo::of_pin(&pinned(&place, map)).unwrap().id;
        adopted.clone().map(id).collect()
    };
    let before = ids();
    world.under_load(|| {
        for half_made in [false, true] {
            let former = place.pins.join("691c730a-64-256-1024-16");
            fs::create_dir(&former).unwrap();
            for map in adopted.clone() {
                let pin = pinned(&place, map);
                fs::rename(&pin, former.join(map)).unwrap();
            }
            for folder in own_folders(&place, &former) {
                fs::remove_dir_all(folder).unwrap();
            }
            if half_made {
                // Everything but the last; one of them is not ours.
                drop(
                    take_over(PinRoot::open(&place.pins).unwrap(), SIZES, Instant::now()).unwrap(),
                );
                let lb = own_folders(&place, &former);
                let lb = lb.iter().find(|folder| folder.join("cm_services").exists()).unwrap();
                fs::remove_file(lb.join("cm_services")).unwrap();
                fs::remove_file(lb.join("cm_headers")).unwrap();
                let other = mesh_sys::open(&former.join("cm_backends")).unwrap();
                mesh_sys::pin(&other, &lb.join("cm_headers")).unwrap();
            }
            let (_, tables, found) = start(&place, SIZES);
            assert_eq!((found, ids()), (Former::Same, before.clone()));
            assert_eq!((dump(&place), folders(&place)), (whole.clone(), 1));
            assert_eq!(tables.cut().collect::<Vec<_>>(), [cut]);
            assert_eq!(tables.local_state(), LOCAL_UNSYNCED);
            assert_eq!(ask_tcp(socket(world.services[4].0)).unwrap().0, again);
            assert!(!former.exists());
        }
        // Other sizes at once.
        let (_, tables, former) = start(&place, LARGE);
        assert_eq!(
            (former, tables.inherited().frontends),
            (Former::Resized(SIZES), world.services.len())
        );
        assert_eq!(dump(&place), whole);
    });
}

/// The folders that only this release makes.
fn own_folders(place: &Place, former: &Path) -> Vec<PathBuf> {
    let folders = fs::read_dir(&place.pins).unwrap().flatten().map(|entry| entry.path());
    let stays = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        path == former || name == "links" || name.starts_with("sockets-")
    };
    folders.filter(|path| !stays(path)).collect()
}

/// Another user made the folder, or may change it: refused, with what to do. Ours is for root alone.
#[test]
fn a_folder_of_another_user_is_not_used() {
    use std::os::unix::fs::PermissionsExt as _;

    let place = Place::new("owner");
    let open = || PinRoot::open(&place.pins.join("in"));
    open().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&place.pins.join("in")), 0o700);
    let refused = |path: &Path, mode: u32, owner: u32| {
        nix::unistd::chown(path, Some(owner.into()), None).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let error = open().unwrap_err();
        assert!(
            matches!(&error, PinError::NotRoots { path: found, .. } if found == path),
            "{error}"
        );
        let error = error.to_string();
        assert!(error.contains(&format!("user {owner} with mode {mode:04o}")), "{error}");
        assert!(error.contains(&format!("rm -r {}", path.display())), "{error}");
        nix::unistd::chown(path, Some(0.into()), None).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    for (mode, owner) in [(0o700, 65_534), (0o777, 0), (0o770, 0), (0o1777, 0)] {
        refused(&place.pins.join("in"), mode, owner);
    }
    // Above it a folder in which each may remove only its own does no harm.
    for (mode, owner) in [(0o755, 65_534), (0o777, 0)] {
        refused(&place.pins, mode, owner);
    }
    fs::set_permissions(&place.pins, fs::Permissions::from_mode(0o1777)).unwrap();
    open().unwrap();
    fs::remove_dir_all(place.pins.join("in")).unwrap();
    fs::create_dir(place.pins.join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(place.pins.join("elsewhere"), place.pins.join("in")).unwrap();
    assert!(matches!(open().unwrap_err(), PinError::NotRoots { .. }));
}
