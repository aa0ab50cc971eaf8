//! Programs and sockets read every table while it is written, as often as the machine can.
//!
//! `CLUSTERMESH_TEST_RACE_UPDATES` is how many changes are made, a million unless given; `CLUSTERMESH_TEST_RACE_SEED` which.

use std::{
    env,
    net::SocketAddrV4,
    os::fd::AsRawFd as _,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use mesh_dataplane::{Kernel, KernelMaps, Sizes, TablesError};
use mesh_dump::Dump;
use mesh_layout::Header;
use mesh_model::lb::Weights;
use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrIn, connect, getpeername, getsockname,
        socket as new_socket,
    },
};

use crate::*;

/// Large enough for what was used within a second to rest.
const SIZES: Sizes = Sizes { services: 16_384, backends: 1 << 19, slots: 1 << 20, groups: 1 << 16 };
/// Services that are there all the time, each with a backend that is.
const STEADY: u8 = 6;
/// Services that come and go.
const FLICKERING: std::ops::Range<u8> = 20..60;
/// One that never has a backend, and one that never is there.
const EMPTY: u8 = 100;
const ABSENT: u8 = 101;
/// The cluster that is cut now and then; no steady backend is of it.
const CUT: u8 = 2;
const PORT: u16 = 8_080;

/// The same numbers for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }

    fn u8_below(&mut self, limit: u8) -> u8 {
        u8::try_from(self.below(limit.into())).unwrap()
    }
}

fn frontend(service: u8) -> Frontend {
    vip(service, Protocol::Udp)
}

/// A backend's address shows its cluster and service: `10.<cluster>.<service>.<n>`. The 0th of each service stays.
fn of_service(service: u8, n: u8) -> Backend {
    let cluster = if n == 0 { 1 } else { 1 + n % 2 };
    let address = Ipv4Addr::new(10, cluster, service, n);
    backend((address, PORT).into(), Protocol::Udp, cluster.into())
}

/// What a connection found: the backend's cluster, service and number.
type Found = [u8; 3];

/// Connects to a service, and asks the kernel which address it would send from: where all addresses are local, it is the
/// one that it would send to.
fn ask(service: u8) -> Result<Found, Errno> {
    let to = SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, service), 80);
    let socket =
        new_socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).unwrap();
    connect(socket.as_raw_fd(), &SockaddrIn::from(to))?;
    let own: SockaddrIn = getsockname(socket.as_raw_fd()).unwrap();
    let peer: SockaddrIn = getpeername(socket.as_raw_fd()).unwrap();
    assert_eq!(SocketAddrV4::from(peer), to, "the peer that a socket is shown");
    let [ten, found @ ..] = own.ip().octets();
    assert_eq!(ten, 10);
    Ok(found)
}

/// What readers share with the writer.
struct Shared {
    done: AtomicBool,
    /// Goes up before and after the cluster is cut or not: odd in between; the next bit shows which.
    cut: AtomicU64,
}

impl Shared {
    /// Reads as fast as it can. How often.
    fn read(&self, from: u8) -> u64 {
        let mut reads = 0;
        while !self.done.load(Ordering::Relaxed) {
            for service in 1..=STEADY {
                let before = self.cut.load(Ordering::SeqCst);
                let found =
                    ask(service).unwrap_or_else(|errno| panic!("service {service}: {errno}"));
                let after = self.cut.load(Ordering::SeqCst);
                assert_eq!(found[1], service, "a backend of another service: {found:?}");
                if before == after && before % 4 == 2 {
                    assert_ne!(found[0], CUT, "a backend of a cluster that is cut: {found:?}");
                }
            }
            let nth = (u64::from(from) + reads) % FLICKERING.len() as u64;
            let flickering = FLICKERING.start + u8::try_from(nth).unwrap();
            match ask(flickering) {
                Ok(found) => assert_eq!(found[1], flickering, "of another service: {found:?}"),
                Err(Errno::ECONNREFUSED | Errno::ENETUNREACH) => {}
                Err(errno) => panic!("service {flickering}: {errno}"),
            }
            assert_eq!(ask(EMPTY), Err(Errno::ECONNREFUSED));
            assert_eq!(ask(ABSENT), Err(Errno::ENETUNREACH));
            reads += u64::from(STEADY) + 3;
        }
        reads
    }

    /// Follows the tables from headers to backends, as programs do and by their counts. Returns how often.
    fn follow(&self, maps: &KernelMaps) -> u64 {
        let mut followed = 0;
        while !self.done.load(Ordering::Relaxed) {
            for (key, service) in maps.services().unwrap() {
                let [.., last] = key.address();
                // Those that come and go have their index given to another in time.
                if service.tag() == key.tag() && last <= STEADY {
                    followed += follow_one(maps, service.index(), last);
                }
            }
        }
        followed
    }
}

/// Each slot that a header counts names a backend that is there, of that service; unless the header or the slot is another
/// by then.
fn follow_one(maps: &KernelMaps, index: u32, service: u8) -> u64 {
    let mut followed = 0;
    let entry = maps.header(index);
    let headers: Vec<(usize, Header)> = match entry.group_set() {
        None => vec![(0, entry)],
        Some(set) => maps.group_set(set).headers().iter().copied().enumerate().collect(),
    };
    for (group, header) in headers {
        for slot in header.base()..header.base() + header.count() {
            let id = maps.slot(slot);
            let backend = maps.backend(id % SIZES.backends);
            let after = maps.backend(id % SIZES.backends).id();
            followed += 1;
            if backend.id() == id && after == id {
                let [.., of, _] = backend.address();
                assert_eq!(of, service, "slot {slot} names a backend of another service");
                continue;
            }
            // In this order: a writer that fills a slot again does so before it is counted.
            let is_counted = maps.header(index) == entry
                && entry
                    .group_set()
                    .is_none_or(|set| maps.group_set(set).headers()[group] == header);
            let lies = is_counted && maps.slot(slot) == id;
            assert!(!lies, "{header:?} counts slot {slot}, which names {id}: there is {backend:?}");
        }
    }
    followed
}

/// The writer.
struct Writer {
    tables: Tables<KernelMaps>,
    random: Random,
    full: u64,
}

impl Writer {
    fn apply(&mut self, change: Change) {
        match self.tables.apply(change, Instant::now()) {
            Ok(()) => {}
            // What was used within the last second rests. Nothing has changed then.
            Err(TablesError::Full { .. }) => self.full += 1,
            Err(TablesError::NoFrontend(frontend)) => {
                assert!(FLICKERING.contains(&last(frontend)), "{frontend} is gone");
            }
            Err(error) => panic!("{error}"),
        }
        self.tables.commit(Instant::now());
    }

    /// Any change that leaves each steady service its steady backend.
    fn step(&mut self, shared: &Shared) {
        let random = &mut self.random;
        let service = 1 + random.u8_below(STEADY);
        let group = Group::new(random.u8_below(3).into()).unwrap();
        let n = 1 + random.u8_below(24);
        match random.below(1_000) {
            0..400 => {
                self.apply(Change::AddBackend(frontend(service), of_service(service, n), group))
            }
            400..700 => {
                self.apply(Change::RemoveBackend(frontend(service), of_service(service, n)))
            }
            700..760 => {
                self.apply(Change::AddBackend(frontend(service), of_service(service, 0), group))
            }
            760..800 => {
                let mut weights = [0; Group::COUNT];
                weights.iter_mut().for_each(|w| *w = u32::from(random.u8_below(4)));
                self.apply(Change::SetWeights(frontend(service), Weights(weights)));
            }
            800..840 => {
                let session_affinity = u32::from(random.u8_below(2));
                let settings = Settings { session_affinity, plain: n > 12, pass_if_empty: false };
                self.apply(Change::SetFrontend(frontend(service), settings));
            }
            840..999 => {
                let length = u8::try_from(FLICKERING.len()).unwrap();
                let service = FLICKERING.start + random.u8_below(length);
                match random.u8_below(3) {
                    0 => self.apply(Change::RemoveFrontend(frontend(service))),
                    1 => self.apply(Change::SetFrontend(frontend(service), Settings::default())),
                    _ => self.apply(Change::AddBackend(
                        frontend(service),
                        of_service(service, n),
                        Group::FIRST,
                    )),
                }
            }
            _ => {
                let before = shared.cut.fetch_add(1, Ordering::SeqCst);
                let cluster = ClusterId::new(CUT.into(), ClusterLimit::Max255).unwrap();
                self.tables.set_cut(cluster, before.is_multiple_of(4));
                shared.cut.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
}

fn last(frontend: Frontend) -> u8 {
    match frontend.address {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(_) => 0,
    }
}

fn number(variable: &str, default: u64) -> u64 {
    env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// A million changes to the tables under two readers that connect and one that follows the tables: no wrong backend, no
/// miss of an existing one, no wrong count, no client in a cluster that is cut. Then the tables are what they should
/// be.
#[test]
fn every_table_is_read_while_it_is_written() {
    let updates = number("CLUSTERMESH_TEST_RACE_UPDATES", 1_000_000);
    let seed = number("CLUSTERMESH_TEST_RACE_SEED", u64::from(std::process::id()) << 20 | 1);
    println!("CLUSTERMESH_TEST_RACE_SEED={seed} CLUSTERMESH_TEST_RACE_UPDATES={updates}");
    let place = Place::new("hammer");
    run("ip", &["route", "add", "local", "10.1.0.0/16", "dev", "lo"]);
    run("ip", &["route", "add", "local", "10.2.0.0/16", "dev", "lo"]);
    let pins = || PinRoot::open(&place.pins).unwrap();
    let (mut programs, maps) = Programs::load(pins(), SIZES).unwrap();
    let tables = Tables::restore(maps, Instant::now()).unwrap();
    let mut writer = Writer { tables, random: Random(seed), full: 0 };
    for service in (1..=STEADY).chain([EMPTY]) {
        writer.apply(Change::SetFrontend(frontend(service), Settings::default()));
        if service != EMPTY {
            writer.apply(Change::AddBackend(
                frontend(service),
                of_service(service, 0),
                Group::FIRST,
            ));
        }
    }
    programs.attach(&place.cgroup).unwrap();

    let shared = Shared { done: AtomicBool::new(false), cut: AtomicU64::new(0) };
    let namespace = fs::File::open("/proc/thread-self/ns/net").unwrap();
    let (reads, followed) = thread::scope(|scope| {
        let reader = |from| {
            let (shared, namespace) = (&shared, &namespace);
            move || {
                let _done = Done(&shared.done);
                nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                shared.read(from)
            }
        };
        let readers = [scope.spawn(reader(0)), scope.spawn(reader(20))];
        let follower = scope.spawn(|| {
            let _done = Done(&shared.done);
            shared.follow(&KernelMaps::open(&pins(), SIZES).unwrap())
        });
        let done = Done(&shared.done);
        for _ in 0..updates {
            // A reader that found something has ended it.
            if shared.done.load(Ordering::Relaxed) {
                break;
            }
            writer.step(&shared);
        }
        drop(done);
        let reads: u64 = readers.map(|reader| reader.join().unwrap()).iter().sum();
        (reads, follower.join().unwrap())
    });
    let counters = programs.counters().unwrap();
    println!("{reads} reads, {followed} slots followed, {} times full, {counters:?}", writer.full);
    assert!(reads > 10_000 && followed > 10_000, "{reads} reads, {followed} slots followed");
    assert!(writer.full < updates / 10, "{} of {updates} changes found no room", writer.full);
    assert!(counters[Counter::Affine as usize] > 0, "{counters:?}");
    assert_eq!(writer.tables.audit().unwrap().total(), 0);
    let dump = Dump::open(&place.pins).unwrap().services().unwrap();
    for (frontend, _) in dump.keys() {
        let content = writer.tables.frontend(&Frontend {
            address: frontend.ip(),
            port: frontend.port(),
            protocol: Protocol::Udp,
        });
        assert_eq!(dump[&(*frontend, 17)].len(), content.unwrap().content().backends.len());
    }
}

struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
