//! The writer dies after any of its writes.

use std::{
    env,
    os::unix::process::ExitStatusExt as _,
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use mesh_dataplane::KernelMaps;
use mesh_dump::{Destination, Dump, Entries, Entry};
use mesh_model::lb::Weights;
use nix::sys::signal::{Signal, raise};

use crate::*;

/// Set for a process that is to die: its pins, after how many writes, and its servers' ports.
const DIE: &str = "CLUSTERMESH_TEST_DIE";

const PLAIN: Settings = Settings { session_affinity: 0, plain: true, pass_if_empty: false };

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

/// Three services, and six servers of each. The first server of the first two stays all the time.
struct World {
    ports: [[u16; 6]; 3],
}

impl World {
    fn frontend(n: usize) -> Frontend {
        vip(u8::try_from(n + 1).unwrap(), Protocol::Udp)
    }

    fn server(&self, service: usize, n: usize) -> Backend {
        let cluster = 1 + u32::try_from(n % 2).unwrap();
        backend((Ipv4Addr::LOCALHOST, self.ports[service][n]).into(), Protocol::Udp, cluster)
    }

    /// What is there before and after.
    fn base(&self) -> Vec<Change> {
        let of = |service| {
            let frontend = Self::frontend(service);
            [
                Change::SetFrontend(frontend, Settings::default()),
                Change::AddBackend(frontend, self.server(service, 0), Group::FIRST),
            ]
        };
        [of(0), of(1)].concat()
    }

    /// Ranges grow, holes are filled, a backend is shared, a service comes and goes and comes again; one group becomes several
    /// and one again, backends move between groups that thereby become empty, and weights and settings change.
    fn script(&self) -> Vec<Change> {
        let (add, remove) = (
            |service: usize, n: usize| {
                Change::AddBackend(Self::frontend(service), self.server(service, n), Group::FIRST)
            },
            |service: usize, n: usize| {
                Change::RemoveBackend(Self::frontend(service), self.server(service, n))
            },
        );
        let mut script = self.base();
        for n in 1..6 {
            script.extend([add(0, n), add(1, n)]);
        }
        script.push(Change::SetFrontend(Self::frontend(2), Settings::default()));
        script.extend((0..6).map(|n| add(2, n)));
        script.push(Change::AddBackend(Self::frontend(2), self.server(0, 1), Group::FIRST));
        script.extend([remove(0, 1), remove(0, 5), remove(1, 2), remove(1, 3), remove(2, 0)]);
        script.push(Change::RemoveFrontend(Self::frontend(2)));
        script.extend([add(0, 5), remove(0, 2), add(1, 2), remove(1, 4)]);
        script.push(Change::SetFrontend(Self::frontend(2), Settings::default()));
        script.extend([add(2, 3), add(2, 4), remove(2, 3)]);
        script.extend([remove(0, 3), remove(0, 4), remove(1, 1), add(0, 1)]);
        let into = |service, n, group| {
            let group = Group::new(group).unwrap();
            Change::AddBackend(Self::frontend(service), self.server(service, n), group)
        };
        let weights = |service, [a, b, c, d]: [u32; 4]| {
            Change::SetWeights(Self::frontend(service), Weights([a, b, c, d, 0, 0, 0, 0]))
        };
        script.extend([into(0, 5, 1), weights(0, [1, 2, 0, 0]), into(0, 1, 3), into(0, 0, 3)]);
        script.extend([weights(0, [0, 1, 0, 5]), into(0, 0, 0), into(0, 3, 1), remove(0, 3)]);
        script.extend([into(1, 5, 7), into(1, 2, 7), remove(1, 5), into(1, 2, 0), add(1, 5)]);
        script.push(Change::SetFrontend(Self::frontend(1), PLAIN));
        script.extend([into(2, 4, 2), add(2, 3), remove(2, 3)]);
        script
    }

    /// What the script leaves.
    fn end(&self) -> Entries {
        let destination = |service, n: &usize| {
            let backend = self.server(service, *n);
            let address = (backend.address, backend.port).into();
            Destination { address, cluster: backend.cluster.get() }
        };
        let entry = |service: usize, plain, groups: &[(usize, u32, &[usize])]| {
            let group = |(number, weight, servers): &(usize, u32, &[usize])| {
                let destinations = servers.iter().map(|n| destination(service, n)).collect();
                (*number, mesh_dump::Group { weight: *weight, destinations })
            };
            let groups = groups.iter().map(group).collect();
            let entry = Entry { plain, groups, ..Entry::default() };
            ((socket(Self::frontend(service)), 17), entry)
        };
        Entries::from([
            entry(0, false, &[(0, 0, &[0]), (1, 1, &[5]), (3, 5, &[1])]),
            entry(1, true, &[(0, 1, &[0, 2, 5])]),
            // It alone has any, so it has all.
            entry(2, false, &[(2, 1, &[4])]),
        ])
    }

    /// Takes the script's work back.
    fn back_to_base(&self, tables: &mut Tables<KernelMaps>) {
        let now = Instant::now();
        tables.apply(Change::RemoveFrontend(Self::frontend(2)), now).unwrap();
        for service in 0..2 {
            for n in 1..6 {
                let gone = self.server(service, n);
                tables.apply(Change::RemoveBackend(Self::frontend(service), gone), now).unwrap();
            }
            let frontend = Self::frontend(service);
            tables.apply(Change::SetWeights(frontend, Weights::ONE), now).unwrap();
        }
        apply(tables, &self.base());
    }

    /// Nothing contradicts itself, and no service has another's server.
    fn check(&self, place: &Place) {
        let found = match Dump::open(&place.pins).unwrap().services() {
            Ok(found) => found,
            // One that moves into a hole is in two places until the service is one shorter.
            Err(error) if error.to_string().ends_with("has two slots of one service") => return,
            Err(error) => panic!("{error}"),
        };
        assert!(found.len() >= 2, "{found:?}");
        for ((frontend, _), servers) in found {
            let service = (0..3).find(|n| socket(Self::frontend(*n)) == frontend).unwrap();
            let may_be_there = |destination: &Destination| {
                let own = self.ports[service].contains(&destination.address.port());
                own || (service == 2 && destination.address.port() == self.ports[0][1])
            };
            assert!(servers.iter().all(may_be_there), "{frontend}: {servers:?}");
            assert!(service == 2 || !servers.is_empty(), "{frontend} has no server");
        }
    }

    fn to_text(&self) -> String {
        self.ports.iter().flatten().map(u16::to_string).collect::<Vec<_>>().join(",")
    }

    fn from_text(text: &str) -> Self {
        let mut ports = text.split(',').map(|port| port.parse().unwrap());
        Self { ports: [(); 3].map(|()| [(); 6].map(|()| ports.next().unwrap())) }
    }
}

/// Opens the tables as a new run does.
fn restore(pins: &Path, hook: fn()) -> Tables<KernelMaps> {
    let mut maps = KernelMaps::open(&PinRoot::open(pins).unwrap(), SIZES).unwrap();
    maps.after_each_write(hook);
    Tables::restore(maps, Instant::now()).unwrap()
}

/// The process that dies.
fn die(order: &str) {
    let [pins, writes, ports]: [&str; 3] = order.split(' ').collect::<Vec<_>>().try_into().unwrap();
    LEFT.store(writes.parse().unwrap(), Ordering::SeqCst);
    let mut tables = restore(Path::new(pins), die_after_the_last);
    apply(&mut tables, &World::from_text(ports).script());
    tables.commit(rested());
}

/// For every write of the script: a process is killed right after it; what it leaves is sound; another takes over, finishes
/// the script, and has what the script leaves. Clients ask all the time, and are only answered by servers of the service
/// that they asked for.
#[test]
fn the_writer_may_die_after_any_write() {
    if let Ok(order) = env::var(DIE) {
        return die(&order);
    }
    let place = Place::new("death");
    let servers = || [(); 6].map(|()| udp_server("127.0.0.1").port());
    let world = World { ports: [servers(), servers(), servers()] };
    let (programs, _) = place.load();
    let mut tables = restore(&place.pins, count);
    apply(&mut tables, &world.base());
    MADE.store(0, Ordering::SeqCst);
    apply(&mut tables, &world.script());
    tables.commit(rested());
    let writes = MADE.load(Ordering::SeqCst);
    assert_eq!(Dump::open(&place.pins).unwrap().entries().unwrap(), world.end());
    world.back_to_base(&mut tables);
    drop(tables);
    println!("{writes} writes");
    assert!(writes >= 250, "{writes} writes");

    let done = AtomicBool::new(false);
    let namespace = fs::File::open("/proc/thread-self/ns/net").unwrap();
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let mut asked = 0;
            while !done.load(Ordering::Relaxed) {
                for service in 0..2 {
                    let (port, _) = ask_udp(socket(World::frontend(service))).unwrap();
                    assert!(world.ports[service].contains(&port), "a server of another service");
                    asked += 1;
                }
            }
            asked
        });
        // Whatever panics below, the reader is not waited for in vain.
        let _done = Done(&done);
        for write in 1..=writes {
            let order = format!("{} {write} {}", place.pins.display(), world.to_text());
            let dead = Command::new(env::current_exe().unwrap())
                .args(["--exact", "death::the_writer_may_die_after_any_write", "--nocapture"])
                .env(DIE, order)
                .output()
                .unwrap();
            // A set of groups that is used again has some words already: those are not written, and the end is near.
            let is_over = dead.status.success();
            assert!(is_over || dead.status.signal() == Some(9), "after write {write}: {dead:?}");
            assert!(!is_over || write > 250, "after write {write}");
            world.check(&place);

            let mut tables = restore(&place.pins, count);
            world.check(&place);
            apply(&mut tables, &world.script());
            let now = Instant::now();
            tables.prune_frontends(now).unwrap();
            tables.prune_backends(|_| true, now);
            tables.commit(rested());
            let found = Dump::open(&place.pins).unwrap();
            assert_eq!(found.entries().unwrap(), world.end(), "after write {write}");
            assert_eq!(found.backend_entries(), 7, "after write {write}");
            world.back_to_base(&mut tables);
            if is_over {
                break;
            }
        }
        drop(_done);
        let asked = reader.join().unwrap();
        assert!(programs.counters().unwrap()[Counter::Translated as usize] > 0);
        println!("asked {asked} times");
        assert!(asked > 100, "{asked}");
    });
}

/// When everything that was freed has rested.
fn rested() -> Instant {
    Instant::now() + Duration::from_secs(1)
}

struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
