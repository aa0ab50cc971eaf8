//! Clients that come back to the backend they had. A client is a network namespace.

use std::collections::BTreeSet;

use mesh_dataplane::KernelMaps;

use crate::{
    clients::{Bound, Client, Family, Way},
    place::Raw as _,
    *,
};

/// A service of UDP servers, of clusters 1, 2 …, whose clients come back for so many seconds.
struct Sticky {
    frontend: Frontend,
    servers: Vec<SocketAddr>,
}

impl Sticky {
    fn new(place: &Place, tables: &mut Tables<KernelMaps>, n: u8, seconds: u32) -> Self {
        let frontend = vip(n, Protocol::Udp);
        let sticky = Self { frontend, servers: (0..8).map(|_| udp_server("127.0.0.1")).collect() };
        let settings = Settings { session_affinity: seconds, ..Settings::default() };
        apply(tables, &[Change::SetFrontend(frontend, settings)]);
        for n in 0..sticky.servers.len() {
            apply(tables, &[Change::AddBackend(frontend, sticky.backend(n), Group::FIRST)]);
        }
        let mut raw = place.raw();
        let index = raw.index_of(frontend);
        raw.set_settings(index, mesh_layout::Settings::new(seconds, false, false));
        sticky
    }

    fn backend(&self, n: usize) -> Backend {
        backend(self.servers[n], Protocol::Udp, u32::try_from(n + 1).unwrap())
    }

    /// Asks by a new socket, connected or not; which server answered.
    fn ask(&self, way: Way) -> usize {
        let client = Client::open(way, Family::V4, Bound::Nothing);
        let (port, peer) = client.ask(socket(self.frontend)).unwrap();
        assert_eq!(peer, socket(self.frontend));
        self.servers.iter().position(|server| server.port() == port).unwrap()
    }

    fn stays(&self, server: usize) {
        for _ in 0..50 {
            for way in [Way::UdpConnected, Way::UdpSendTo] {
                assert_eq!(self.ask(way), server);
            }
        }
    }
}

/// Asks from a network namespace of its own, on whose loopback no server listens: the connect is enough.
fn ask_elsewhere(frontend: Frontend) -> BTreeSet<SocketAddr> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            run("ip", &["link", "set", "lo", "up"]);
            let connect = |_| {
                let client = Client::open(Way::UdpConnected, Family::V4, Bound::Nothing);
                client.socket.connect(&socket(frontend).into()).unwrap();
                destination(&client)
            };
            (0..50).map(connect).collect()
        });
        thread.join().unwrap()
    })
}

/// Where a connected socket's packets really go: `/proc/net/udp` knows no services.
fn destination(client: &Client) -> SocketAddr {
    let local = client.socket.local_addr().unwrap().as_socket().unwrap();
    let table = fs::read_to_string("/proc/thread-self/net/udp").unwrap();
    let local = format!(":{:04X}", local.port());
    let line = table.lines().find(|line| line.split_whitespace().nth(1).unwrap().ends_with(&local));
    let remote = line.unwrap().split_whitespace().nth(2).unwrap();
    let (address, port) = remote.split_once(':').unwrap();
    let address = u32::from_str_radix(address, 16).unwrap().to_ne_bytes();
    (address, u16::from_str_radix(port, 16).unwrap()).into()
}

#[test]
fn a_client_comes_back_to_its_backend() {
    let place = Place::new("affinity");
    let (programs, mut tables) = place.load();
    let sticky = Sticky::new(&place, &mut tables, 1, 3_600);
    let first = sticky.ask(Way::UdpSendTo);
    sticky.stays(first);
    assert!(programs.counters().unwrap()[Counter::Affine as usize] >= 100);

    // Other clients have others, each its own: of 16 not all have the same of eight.
    let elsewhere: Vec<BTreeSet<SocketAddr>> =
        (0..16).map(|_| ask_elsewhere(sticky.frontend)).collect();
    assert!(elsewhere.iter().all(|destinations| destinations.len() == 1));
    assert!(elsewhere.iter().collect::<BTreeSet<_>>().len() > 1);

    // Another service has another affinity.
    let others: BTreeSet<usize> = (2..10)
        .map(|n| {
            let other = Sticky::new(&place, &mut tables, n, 3_600);
            let server = other.ask(Way::UdpConnected);
            other.stays(server);
            server
        })
        .collect();
    assert!(others.len() > 1);

    // A successor's programs know it too.
    drop((programs, tables));
    let (_programs, _tables) = place.load();
    sticky.stays(first);
}

#[test]
fn a_backend_that_is_not_chosen_any_more_is_not_come_back_to() {
    let place = Place::new("affinity-valid");
    let (_programs, mut tables) = place.load();
    let sticky = Sticky::new(&place, &mut tables, 1, 3_600);
    let first = sticky.ask(Way::UdpSendTo);
    // Others go; its slot becomes another.
    let others: Vec<usize> = (0..8).filter(|n| *n != first).collect();
    for n in &others[..2] {
        apply(&mut tables, &[Change::RemoveBackend(sticky.frontend, sticky.backend(*n))]);
        sticky.stays(first);
    }
    // Cut, and back: who went to another stays there.
    let raw = place.raw();
    raw.peer_states().set_cut(sticky.backend(first).cluster, true);
    let second = sticky.ask(Way::UdpConnected);
    assert_ne!(second, first);
    sticky.stays(second);
    raw.peer_states().set_cut(sticky.backend(first).cluster, false);
    sticky.stays(second);
    // Removed.
    apply(&mut tables, &[Change::RemoveBackend(sticky.frontend, sticky.backend(second))]);
    let third = sticky.ask(Way::UdpSendTo);
    assert_ne!(third, second);
    sticky.stays(third);
}

/// The timeout is real and short, and nothing asserts how long anything takes: it is waited for longer than the timeout,
/// until another of eight backends turns up.
#[test]
fn after_its_timeout_a_client_gets_any_backend() {
    let place = Place::new("affinity-timeout");
    let (_programs, mut tables) = place.load();
    let sticky = Sticky::new(&place, &mut tables, 1, 1);
    let first = sticky.ask(Way::UdpConnected);
    // A timeout that does not work keeps it forever; one that does misses 20 times by chance once in 8^20.
    for _ in 0..20 {
        thread::sleep(Duration::from_millis(2_100));
        if sticky.ask(Way::UdpConnected) != first {
            return;
        }
    }
    panic!("the client came back {first} after every timeout");
}
