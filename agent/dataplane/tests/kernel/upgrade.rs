//! Agents that want tables of other sizes, or know another layout, take over while clients connect.

use std::{
    env,
    os::unix::process::ExitStatusExt as _,
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use mesh_dataplane::{
    Former, KernelMaps, PinError, Sizes, TakeOverError, TakenOver, take_over, take_over_and_tell,
};
use mesh_dump::{Dump, Entries};
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

    /// Clients connect until they are told to stop, and are answered by a server of the service that they asked for. How
    /// many were.
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

/// Agents with larger and smaller tables take turns: no connection fails, what there is stays, whoever connected before is
/// answered and sees the service, a socket that is not connected and a client that comes back keep their backends, and nothing of the
/// former tables is left.
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
            format!("{why}cm_slots would have room for 32, and what is in use needs 64")
        );
        assert_eq!(
            refused(Sizes { services: 5, backends: 16, ..SIZES }),
            format!(
                "{why}cm_services would have room for 5, and what is in use needs 6; \
                 cm_backends would have room for 16, and what is in use needs 32"
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
                let other = || pins.clone().of_layout(OTHER).of_socket_layout(OTHER);
                if round.is_multiple_of(2) { other() } else { pins }
            };
            let begin = || take_over(pins(), SIZES, Instant::now()).unwrap();
            let TakenOver { mut tables, former, .. } = begin();
            assert_eq!((former, tables.inherited()), (Former::OtherLayout, Inherited::default()));
            apply(&mut tables, &world.changes()[..4]);
            // It died. The next one begins anew.
            drop(tables);
            let TakenOver { mut programs, mut tables, former } = begin();
            assert_eq!((former, tables.inherited()), (Former::OtherLayout, Inherited::default()));
            assert_eq!((dump(&place), folders(&place)), (whole.clone(), 2));
            apply(&mut tables, &world.changes());
            programs.attach(&place.cgroup).unwrap();
            assert_eq!((dump(&place), folders(&place)), (whole.clone(), 1));
            // What another release told sockets, its own programs show.
            assert_eq!(opened.peer_addr().unwrap(), socket(world.services[0].0));
            assert_eq!(connected.peer_addr().unwrap(), socket(world.services[1].0));
            let (_, from) = unconnected.recv_from(&mut [0; 2]).unwrap();
            assert_eq!(from, socket(world.services[3].0));
            // Of two changes of layout before, nobody knows.
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

/// An agent that exchanges tables is killed after any write and any exchange of a hook: clients notice nothing, and whoever
/// comes next, with these sizes or those, has everything.
#[test]
fn an_exchange_of_tables_may_end_anywhere() {
    if let Ok(order) = env::var(DIE) {
        let [pins, cgroup, left]: [&str; 3] =
            order.split(' ').collect::<Vec<_>>().try_into().unwrap();
        LEFT.store(left.parse().unwrap(), Ordering::SeqCst);
        let pins = PinRoot::open(Path::new(pins)).unwrap();
        let mut taken =
            take_over_and_tell(pins, LARGE, Instant::now(), die_after_the_last).unwrap();
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
    let mut taken = take_over_and_tell(pins, LARGE, Instant::now(), count).unwrap();
    let fills = MADE.load(Ordering::SeqCst);
    taken.programs.attach(&place.cgroup).unwrap();
    let all = MADE.load(Ordering::SeqCst);
    println!("{fills} writes, {} exchanges", all - fills);
    assert!(fills > 100 && all - fills >= 4);
    drop(taken);
    drop(start(&place, SIZES));
    world.under_load(|| {
        // While nobody reads, one write is like another.
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

/// Of two agents on one node the second says who the first is.
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
    drop(start(&place, SIZES));
    let tables = fs::read_dir(&place.pins).unwrap().flatten().map(|entry| entry.path());
    let tables = tables.into_iter().find(|path| path.join("cm_services").exists()).unwrap();
    let pin = tables.join("cm_slots");
    fs::remove_file(&pin).unwrap();
    aya::maps::MapData::from_pin(tables.join("cm_backends")).unwrap().pin(&pin).unwrap();
    let error = take_over(PinRoot::open(&place.pins).unwrap(), SIZES, Instant::now()).unwrap_err();
    let text = format!(
        "{}: pinned there is a map of key 4 and value 32 bytes and 256 entries, expected is one of key 4 and value 8 \
         bytes and 512 entries; remove the pin",
        pin.display()
    );
    assert_eq!(error.to_string(), text);
}
