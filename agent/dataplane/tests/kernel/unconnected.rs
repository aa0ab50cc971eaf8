//! UDP sockets that name the receiver of each datagram: what they keep, and which peer address they see.

use std::{collections::BTreeSet, net::UdpSocket};

use socket2::Socket;

use crate::{
    clients::{Bound, Client, Family, Way, disconnect, set_option},
    *,
};

/// A service of several UDP servers.
fn service(
    tables: &mut Tables<mesh_dataplane::KernelMaps>,
    n: u8,
    servers: &[SocketAddr],
) -> SocketAddr {
    let frontend = vip(n, Protocol::Udp);
    apply(tables, &[Change::SetFrontend(frontend, Settings::default())]);
    for (server, cluster) in servers.iter().zip(1..) {
        let backend = backend(*server, Protocol::Udp, cluster);
        apply(tables, &[Change::AddBackend(frontend, backend, Group::FIRST)]);
    }
    socket(frontend)
}

fn remove(
    tables: &mut Tables<mesh_dataplane::KernelMaps>,
    n: u8,
    server: SocketAddr,
    cluster: u32,
) {
    let backend = backend(server, Protocol::Udp, cluster);
    apply(tables, &[Change::RemoveBackend(vip(n, Protocol::Udp), backend)]);
}

fn unconnected() -> Client {
    Client::open(Way::UdpSendTo, Family::V4, Bound::Nothing)
}

/// Asks a service and returns which server answered; it must look like the service.
fn port(client: &Client, service: SocketAddr) -> u16 {
    let (port, from) = client.ask(service).unwrap();
    assert_eq!(from, service);
    port
}

fn send(socket: &Socket, to: SocketAddr) {
    socket.send_to(b"?", &to.into()).unwrap();
}

/// A server that answers when the test tells it to.
fn slow_server() -> (UdpSocket, SocketAddr) {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let address = server.local_addr().unwrap();
    (server, address)
}

fn receive(server: &UdpSocket) -> SocketAddr {
    server.recv_from(&mut [0; 8]).unwrap().1
}

#[test]
fn a_socket_keeps_its_backend_while_that_is_valid() {
    let place = Place::new("keeps");
    let (programs, mut tables) = place.load();
    let servers: Vec<_> = (0..4).map(|_| udp_server("127.0.0.1")).collect();
    let one = service(&mut tables, 1, &servers[..1]);
    let client = unconnected();
    assert_eq!(port(&client, one), servers[0].port());
    service(&mut tables, 1, &servers);
    for _ in 0..100 {
        assert_eq!(port(&client, one), servers[0].port());
    }
    let others: BTreeSet<u16> = (0..100).map(|_| port(&unconnected(), one)).collect();
    assert_eq!(others.len(), 4, "other sockets have all of them");
    // Its slot becomes another one's when the last one fills a hole.
    remove(&mut tables, 1, servers[1], 2);
    assert_eq!(port(&client, one), servers[0].port());
    // A successor's programs know what their predecessor's remembered.
    drop((programs, tables));
    let (_programs, mut tables) = place.load();
    assert_eq!(port(&client, one), servers[0].port());

    let first = servers[0].port();
    remove(&mut tables, 1, servers[0], 1);
    let second = port(&client, one);
    assert_ne!(second, first);
    for _ in 0..50 {
        assert_eq!(port(&client, one), second);
    }
    let cluster = servers.iter().position(|server| server.port() == second).unwrap() + 1;
    let cluster = ClusterId::new(u32::try_from(cluster).unwrap(), ClusterLimit::Max255).unwrap();
    let raw = place.raw();
    raw.peer_states().set_cut(cluster, true);
    let third = port(&client, one);
    assert_ne!(third, second);
    raw.peer_states().set_cut(cluster, false);
    for _ in 0..50 {
        assert_eq!(port(&client, one), third, "it does not go back");
    }
}

#[test]
fn a_former_backends_late_answer_comes_from_the_service() {
    let place = Place::new("late");
    let (_programs, mut tables) = place.load();
    let (first, at) = slow_server();
    let second = udp_server("127.0.0.1");
    let one = service(&mut tables, 1, &[at]);
    let client = unconnected();
    send(&client.socket, one);
    let asker = receive(&first);
    service(&mut tables, 1, &[at, second]);
    remove(&mut tables, 1, at, 1);
    assert_eq!(port(&client, one), second.port());
    first.send_to(&at.port().to_be_bytes(), asker).unwrap();
    assert_eq!(client.answer().unwrap(), (at.port(), one));
}

#[test]
fn a_socket_talks_to_many_services_and_confuses_none() {
    let place = Place::new("many");
    let (programs, mut tables) = place.load();
    let services: Vec<(SocketAddr, Vec<SocketAddr>)> = (1..=12)
        .map(|n| {
            let servers: Vec<_> = (0..3).map(|_| udp_server("127.0.0.1")).collect();
            (service(&mut tables, n, &servers), servers)
        })
        .collect();
    let client = unconnected();
    let first: Vec<u16> = services.iter().map(|(service, _)| port(&client, *service)).collect();
    for (got, (_, servers)) in first.iter().zip(&services) {
        assert!(servers.iter().any(|server| server.port() == *got));
    }
    for _ in 0..20 {
        for (got, (service, _)) in first.iter().zip(&services) {
            assert_eq!(port(&client, *service), *got);
        }
    }
    assert!(programs.counters().unwrap()[Counter::Overflowed as usize] >= 8);
    // Another socket does not see any of it.
    let other = unconnected();
    let (_, servers) = &services[0];
    assert_eq!(other.ask(servers[0]).unwrap(), (servers[0].port(), servers[0]));
}

/// A backend maps back to the address that the socket asked for last: two services may have the same backend, and a
/// backend may be asked for itself.
#[test]
fn a_backend_answers_for_whom_it_was_asked() {
    let place = Place::new("shared");
    let (_programs, mut tables) = place.load();
    let server = udp_server("127.0.0.1");
    let services: Vec<SocketAddr> = (1..=7).map(|n| service(&mut tables, n, &[server])).collect();
    let client = unconnected();
    for _ in 0..3 {
        for service in &services {
            assert_eq!(client.ask(*service).unwrap(), (server.port(), *service));
            assert_eq!(client.ask(server).unwrap(), (server.port(), server), "asked for itself");
        }
        for service in services.iter().rev() {
            assert_eq!(client.ask(*service).unwrap(), (server.port(), *service));
        }
    }
}

#[test]
fn nothing_stale_is_shown_after_a_socket_connects_elsewhere() {
    let place = Place::new("elsewhere");
    let (_programs, mut tables) = place.load();
    let (one_server, two_server) = (udp_server("127.0.0.1"), udp_server("127.0.0.1"));
    let one = service(&mut tables, 1, &[one_server]);
    let two = service(&mut tables, 2, &[two_server]);
    let connected = || Client::open(Way::UdpConnected, Family::V4, Bound::Nothing);
    let peer = |client: &Client| client.socket.peer_addr().unwrap().as_socket().unwrap();

    // From one service to another, to a backend by its own address, and back.
    let client = connected();
    assert_eq!(client.ask(one).unwrap(), (one_server.port(), one));
    assert_eq!(client.ask(two).unwrap(), (two_server.port(), two));
    assert_eq!(client.ask(one_server).unwrap(), (one_server.port(), one_server));
    assert_eq!(client.ask(two_server).unwrap(), (two_server.port(), two_server));
    assert_eq!(client.ask(one).unwrap(), (one_server.port(), one));

    // Disconnected, it has no peer, and what it asks a former backend is answered by that.
    disconnect(&client.socket);
    assert!(client.socket.peer_addr().is_err());
    let sending = Client { way: Way::UdpSendTo, ..client };
    assert_eq!(sending.ask(one_server).unwrap(), (one_server.port(), one_server));
    assert_eq!(sending.ask(two).unwrap(), (two_server.port(), two));
    assert_eq!(sending.ask(one).unwrap(), (one_server.port(), one));

    // A connect that fails leaves the socket where it was.
    let client = connected();
    assert_eq!(client.ask(one).unwrap(), (one_server.port(), one));
    let unreachable = backend("10.255.0.1:9".parse().unwrap(), Protocol::Udp, 1);
    let three = vip(3, Protocol::Udp);
    apply(
        &mut tables,
        &[
            Change::SetFrontend(three, Settings::default()),
            Change::AddBackend(three, unreachable, Group::FIRST),
        ],
    );
    assert!(client.socket.connect(&socket(three).into()).is_err());
    assert_eq!(peer(&client), one);
    client.socket.send(b"?").unwrap();
    assert_eq!(client.answer().unwrap(), (one_server.port(), one));

    // A connected socket that names its service stays with its peer, although there are others now. So does one whose connect
    // failed; what that one sends without a name afterwards this kernel loses, with or without programs.
    let other = connected();
    assert_eq!(other.ask(one).unwrap(), (one_server.port(), one));
    let more: Vec<SocketAddr> = (0..5).map(|_| udp_server("127.0.0.1")).collect();
    service(&mut tables, 1, &[&[one_server], more.as_slice()].concat());
    for _ in 0..20 {
        send(&client.socket, one);
        assert_eq!(client.answer().unwrap(), (one_server.port(), one));
    }
    // Nor does it matter that its peer is not chosen any more: another's group has all weight, or it is the service's no
    // longer, or all of that service is left to another proxy.
    let frontend = vip(1, Protocol::Udp);
    let moved = backend(more[0], Protocol::Udp, 1);
    let second = Group::new(1).unwrap();
    let by_weight = [
        Change::AddBackend(frontend, moved, second),
        Change::SetWeights(frontend, mesh_model::lb::Weights([0, 1, 0, 0, 0, 0, 0, 0])),
    ];
    let removed = [Change::RemoveBackend(frontend, backend(one_server, Protocol::Udp, 1))];
    let gone = [Change::RemoveFrontend(frontend)];
    for changes in [&by_weight[..], &removed, &gone] {
        apply(&mut tables, changes);
        let answered = (one_server.port(), one);
        for _ in 0..20 {
            for client in [&client, &other] {
                send(&client.socket, one);
                assert_eq!(client.answer().unwrap(), answered, "{changes:?}");
            }
            other.socket.send(b"?").unwrap();
            assert_eq!(other.answer().unwrap(), answered, "{changes:?}");
        }
    }
}

#[test]
fn nothing_stale_is_shown_after_a_tcp_socket_connects_elsewhere() {
    let place = Place::new("elsewhere-tcp");
    let (_programs, mut tables) = place.load();
    let server = clients::tcp_server(Ipv4Addr::LOCALHOST.into());
    let frontend = vip(1, Protocol::Tcp);
    apply(
        &mut tables,
        &[
            Change::SetFrontend(frontend, Settings::default()),
            Change::AddBackend(frontend, backend(server, Protocol::Tcp, 1), Group::FIRST),
        ],
    );
    for way in [Way::Tcp, Way::Mptcp] {
        let client = Client::open(way, Family::V4, Bound::Nothing);
        assert_eq!(client.ask(socket(frontend)).unwrap(), (server.port(), socket(frontend)));
        disconnect(&client.socket);
        assert!(client.socket.peer_addr().is_err());
        assert_eq!(client.ask(server).unwrap(), (server.port(), server), "{way:?}");
    }
}

/// What the programs cost sockets that ask for no service: nothing is seen of them.
#[test]
fn other_datagrams_are_none_of_ours() {
    let place = Place::new("others");
    let (programs, _tables) = place.load();
    let server = udp_server("127.0.0.1");
    let client = unconnected();
    assert_eq!(client.ask(server).unwrap(), (server.port(), server));
    let group = Client::open(Way::UdpSendTo, Family::V4, Bound::Nothing);
    set_option(&group.socket, libc::SOL_SOCKET, libc::SO_BROADCAST, 1);
    // No server listens there: it is enough that it is sent.
    assert!(
        group
            .socket
            .send_to(b"?", &"127.255.255.255:9".parse::<SocketAddr>().unwrap().into())
            .is_ok()
    );
    assert_eq!(programs.counters().unwrap(), [0; mesh_layout::COUNTERS]);
}
