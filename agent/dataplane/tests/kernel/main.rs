//! The programs in the running kernel: real sockets in a network namespace and a cgroup of their own.
//!
//! Needs root, and a kernel with BPF, cgroup v2 and BTF. Where those are missing the tests fail and say so.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use mesh_dataplane::{Inherited, Kernel as _, PinRoot, Programs, Tables};
use mesh_layout::Counter;
use mesh_model::{
    ClusterId, ClusterLimit, Protocol,
    lb::{Backend, Change, Frontend, Group, Settings},
};

mod affinity;
mod audit;
mod clients;
mod death;
mod empty;
mod groups;
mod place;
mod probe;
mod race;
mod sockets;
mod trial;
mod unconnected;
mod upgrade;

use place::*;

#[test]
fn connections_reach_backends_and_see_the_service() {
    let place = Place::new("reach");
    let (programs, mut tables) = place.load();
    for (ask, protocol, server, server6) in [
        (ask_tcp as fn(SocketAddr) -> _, Protocol::Tcp, tcp_server("127.0.0.1"), tcp_server("::1")),
        (ask_udp, Protocol::Udp, udp_server("127.0.0.1"), udp_server("::1")),
    ] {
        let (v4, v6) = (vip(1, protocol), vip6(protocol));
        apply(
            &mut tables,
            &[
                Change::SetFrontend(v4, Settings::default()),
                Change::AddBackend(v4, backend(server, protocol, 2), Group::FIRST),
                Change::SetFrontend(v6, Settings::default()),
                Change::AddBackend(v6, backend(server6, protocol, 2), Group::FIRST),
            ],
        );
        assert_eq!(ask(socket(v4)).unwrap(), (server.port(), socket(v4)));
        assert_eq!(ask(socket(v6)).unwrap(), (server6.port(), socket(v6)));
        // A v4 address on a v6 socket runs the v6 hooks.
        let mapped = SocketAddr::from((Ipv4Addr::new(10, 96, 0, 1).to_ipv6_mapped(), 80));
        assert_eq!(ask(mapped).unwrap(), (server.port(), mapped));
        // What is no service is none of ours: neither another port, nor the backend itself.
        assert!(ask((v4.address, 81).into()).is_err());
        assert_eq!(ask(server).unwrap(), (server.port(), server));
    }
    assert_eq!(programs.counters().unwrap()[Counter::Translated as usize], 6);
}

/// What proves that the programs have an effect: where they run for processes, and that others than the agent have called.
#[test]
fn calls_of_others_are_counted_and_cgroups_beside_are_not_reached() {
    let place = Place::new("effect");
    let (mut programs, _tables) = place.load();
    let below = place.cgroup.join("below");
    fs::create_dir(&below).unwrap();
    let id = fs::metadata(&place.cgroup).unwrap().ino();
    let server = tcp_server("127.0.0.1");
    let calls = |programs: &Programs| programs.counters().unwrap()[Counter::Called as usize];

    assert_eq!(programs.missing_at(&below).unwrap(), Vec::<&str>::new());
    let beside = place.cgroup.parent().unwrap();
    assert_eq!(programs.missing_at(beside).unwrap().len(), 8);
    assert!(programs.missing_at(&below.join("gone")).is_err());
    assert_eq!(calls(&programs), 0);
    ask_tcp(server).unwrap();
    assert_eq!(calls(&programs), 1, "an address that is no service's counts too");
    programs.set_bypass(&[id]).unwrap();
    ask_tcp(server).unwrap();
    assert_eq!(calls(&programs), 1, "the agent's own");
    enter(&below);
    ask_tcp(server).unwrap();
    enter(&place.cgroup);
    assert_eq!(calls(&programs), 2);
    fs::remove_dir(below).unwrap();
}

/// The agent's own sockets reach the address that they ask for, and all others a backend; nothing is left of a previous
/// agent's cgroup.
#[test]
fn bypassed_cgroups_are_left_alone() {
    let place = Place::new("bypass");
    let (mut programs, mut tables) = place.load();
    run("ip", &["address", "add", "10.96.0.1/32", "dev", "lo"]);
    let agents: Vec<(PathBuf, u64)> = ["one", "two"]
        .map(|name| {
            let cgroup = place.cgroup.join(name);
            fs::create_dir(&cgroup).unwrap();
            let id = fs::metadata(&cgroup).unwrap().ino();
            (cgroup, id)
        })
        .into();
    for (ask, protocol, itself, server) in [
        (
            ask_tcp as fn(SocketAddr) -> _,
            Protocol::Tcp,
            tcp_server("10.96.0.1"),
            tcp_server("127.0.0.1"),
        ),
        (ask_udp, Protocol::Udp, udp_server("10.96.0.1"), udp_server("127.0.0.1")),
    ] {
        let frontend = Frontend { address: itself.ip(), port: itself.port(), protocol };
        apply(
            &mut tables,
            &[
                Change::SetFrontend(frontend, Settings::default()),
                Change::AddBackend(frontend, backend(server, protocol, 2), Group::FIRST),
            ],
        );
        let answers = |cgroup: &Path| {
            enter(cgroup);
            let (port, peer) = ask(itself).unwrap();
            enter(&place.cgroup);
            assert_eq!(peer, itself);
            port
        };
        let all = |programs: &mut Programs, bypassed: &[u64]| {
            programs.set_bypass(bypassed).unwrap();
            [&place.cgroup, &agents[0].0, &agents[1].0]
                .map(|cgroup| answers(cgroup) == itself.port())
        };
        assert_eq!(all(&mut programs, &[agents[0].1]), [false, true, false]);
        assert_eq!(all(&mut programs, &[agents[1].1]), [false, false, true]);
        assert_eq!(all(&mut programs, &[]), [false, false, false]);
        programs.set_bypass(&[agents[0].1]).unwrap();
        let (mut successor, _) = place.load();
        assert_eq!(answers(&agents[0].0), server.port(), "a previous agent's cgroup");
        assert_eq!(all(&mut successor, &[agents[1].1]), [false, false, true]);
        programs = successor;
    }
    for (cgroup, _) in agents {
        fs::remove_dir(cgroup).unwrap();
    }
}

#[test]
fn no_backend_is_refused_and_no_service_is_passed_on() {
    let place = Place::new("none");
    let (programs, mut tables) = place.load();
    let frontend = vip(1, Protocol::Tcp);
    let server = backend(tcp_server("127.0.0.1"), Protocol::Tcp, 1);
    apply(
        &mut tables,
        &[
            Change::SetFrontend(frontend, Settings::default()),
            Change::AddBackend(frontend, server, Group::FIRST),
        ],
    );
    assert!(ask_tcp(socket(frontend)).is_ok());

    apply(&mut tables, &[Change::RemoveBackend(frontend, server)]);
    let refused = ask_tcp(socket(frontend)).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    assert_eq!(programs.counters().unwrap()[Counter::NoBackend as usize], 1);

    apply(&mut tables, &[Change::RemoveFrontend(frontend)]);
    let unreachable = ask_tcp(socket(frontend)).unwrap_err();
    assert_eq!(unreachable.kind(), io::ErrorKind::NetworkUnreachable);
}

#[test]
fn all_backends_are_used_alike() {
    let place = Place::new("spread");
    let (_programs, mut tables) = place.load();
    let frontend = vip(1, Protocol::Udp);
    apply(&mut tables, &[Change::SetFrontend(frontend, Settings::default())]);
    let servers: Vec<_> = (0..5).map(|_| udp_server("127.0.0.1")).collect();
    for server in &servers {
        apply(
            &mut tables,
            &[Change::AddBackend(frontend, backend(*server, Protocol::Udp, 1), Group::FIRST)],
        );
    }
    let mut answers = BTreeMap::<u16, u32>::new();
    for _ in 0..5_000 {
        *answers.entry(ask_udp(socket(frontend)).unwrap().0).or_default() += 1;
    }
    assert_eq!(answers.len(), 5);
    // Within five standard errors of a fifth: sqrt(5000 · 0.2 · 0.8) = 28.3.
    assert!(answers.values().all(|n| n.abs_diff(1_000) <= 141), "{answers:?}");
}

#[test]
fn stale_slots_and_cut_clusters_are_passed_over() {
    let place = Place::new("stale");
    let (programs, mut tables) = place.load();
    let frontend = vip(1, Protocol::Udp);
    let (one, two) = (udp_server("127.0.0.1"), udp_server("127.0.0.1"));
    apply(
        &mut tables,
        &[
            Change::SetFrontend(frontend, Settings::default()),
            Change::AddBackend(frontend, backend(one, Protocol::Udp, 1), Group::FIRST),
            Change::AddBackend(frontend, backend(two, Protocol::Udp, 2), Group::FIRST),
        ],
    );
    // The same tables once more, to write into them what no writer of ours would.
    let (_, mut raw) = Programs::load(PinRoot::open(&place.pins).unwrap(), SIZES).unwrap();
    let asked = |n: u32| -> BTreeMap<u16, u32> {
        (0..n).fold(BTreeMap::new(), |mut answers, _| {
            *answers.entry(ask_udp(socket(frontend)).unwrap().0).or_default() += 1;
            answers
        })
    };
    assert_eq!(asked(100).len(), 2);

    raw.peer_states().set_cut(ClusterId::new(2, ClusterLimit::Max255).unwrap(), true);
    assert_eq!(asked(200).keys().collect::<Vec<_>>(), [&one.port()]);
    raw.peer_states().set_cut(ClusterId::new(1, ClusterLimit::Max255).unwrap(), true);
    // All are cut: any is taken.
    asked(100);
    assert!(programs.counters().unwrap()[Counter::TookCut as usize] >= 100);
    for cluster in [1, 2] {
        raw.peer_states().set_cut(ClusterId::new(cluster, ClusterLimit::Max255).unwrap(), false);
    }

    let services = raw.services().unwrap();
    let header = raw.header(services[0].1.index());
    raw.set_slot(header.base() + 1, 4_242);
    assert_eq!(asked(200).keys().collect::<Vec<_>>(), [&one.port()]);
    let counters = programs.counters().unwrap();
    assert!(counters[Counter::Retried as usize] > 0, "{counters:?}");
}

#[test]
fn tables_and_programs_outlive_the_agent() {
    let place = Place::new("outlive");
    let (programs, mut tables) = place.load();
    let frontend = vip(1, Protocol::Tcp);
    let server = tcp_server("127.0.0.1");
    let here = backend(server, Protocol::Tcp, 3);
    apply(
        &mut tables,
        &[
            Change::SetFrontend(frontend, Settings::default()),
            Change::AddBackend(frontend, here, Group::FIRST),
        ],
    );
    let mut open = TcpStream::connect(socket(frontend)).unwrap();
    drop((programs, tables));
    assert_eq!(ask_tcp(socket(frontend)).unwrap(), (server.port(), socket(frontend)));

    let (programs, mut tables) = place.load();
    assert_eq!(tables.inherited(), Inherited { frontends: 1, backends: 1 });
    assert_eq!(ask_tcp(socket(frontend)).unwrap(), (server.port(), socket(frontend)));
    // The exchanged program goes on counting, and knows a socket that its predecessor translated.
    assert_eq!(programs.counters().unwrap()[Counter::Translated as usize], 3);
    assert_eq!(open.peer_addr().unwrap(), socket(frontend));
    open.read_exact(&mut [0; 2]).unwrap();

    apply(&mut tables, &[Change::SetFrontend(frontend, Settings::default())]);
    tables.prune_backends(|cluster| cluster.get() == 3, Instant::now());
    assert_eq!(ask_tcp(socket(frontend)).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);

    drop((programs, tables));
    PinRoot::open(&place.pins).unwrap().uninstall().unwrap();
    // The kernel lets go of a link after its last pin, in its own time.
    let deadline = Instant::now() + Duration::from_secs(20);
    while ask_tcp(socket(frontend)).unwrap_err().kind() != io::ErrorKind::NetworkUnreachable {
        assert!(Instant::now() < deadline, "the programs are still there");
    }
}

/// Clients connect while backends come and go: each is answered by a server of the service it asked for.
#[test]
fn readers_race_with_the_writer() {
    let place = Place::new("race");
    let (_programs, mut tables) = place.load();
    let services: Vec<(Frontend, Vec<Backend>)> = (1..=2)
        .map(|n| {
            let servers =
                (0..4).map(|_| backend(udp_server("127.0.0.1"), Protocol::Udp, u32::from(n)));
            (vip(n, Protocol::Udp), servers.collect())
        })
        .collect();
    for (frontend, servers) in &services {
        // The first server of each stays.
        apply(
            &mut tables,
            &[
                Change::SetFrontend(*frontend, Settings::default()),
                Change::AddBackend(*frontend, servers[0], Group::FIRST),
            ],
        );
    }
    let done = AtomicBool::new(false);
    let namespace = fs::File::open("/proc/thread-self/ns/net").unwrap();
    let asked = thread::scope(|scope| {
        let reader = |index: usize| {
            let (namespace, done, services) = (&namespace, &done, &services);
            move || {
                nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                let (frontend, servers) = &services[index];
                let mut asked = 0;
                while !done.load(Ordering::Relaxed) {
                    let (port, peer) = ask_udp(socket(*frontend)).unwrap();
                    assert!(servers.iter().any(|s| s.port == port), "a server of another service");
                    assert_eq!(peer, socket(*frontend));
                    asked += 1;
                }
                asked
            }
        };
        let readers = [scope.spawn(reader(0)), scope.spawn(reader(1))];
        for round in 0..20_000usize {
            let (frontend, servers) = &services[round % 2];
            let server = servers[1 + round / 2 % 3];
            let now = Instant::now();
            let change = match round / 6 % 2 {
                0 => Change::AddBackend(*frontend, server, Group::FIRST),
                _ => Change::RemoveBackend(*frontend, server),
            };
            // A table of 256 may find all free places resting; what is not added is not removed either.
            let _ = tables.apply(change, now);
        }
        done.store(true, Ordering::Relaxed);
        readers.map(|reader| reader.join().unwrap()).iter().sum::<u32>()
    });
    assert!(asked > 100, "{asked}");
}
