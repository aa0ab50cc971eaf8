//! Every way in which a socket can ask for a service, from every place, and what it gets (`docs/sockets.md`).

use std::collections::BTreeSet;

use crate::{
    clients::{
        Bound, Client, Family, Way, further_subflows, is_mptcp, netns_cookie, sent_with_syn,
        tcp_server, within,
    },
    *,
};

/// Who answers, and which peer address the client sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Got {
    /// A backend, which the client sees as the service.
    Backend,
    /// The server that has the service's address itself.
    Itself,
}
use Got::{Backend as B, Itself as I};

/// What a client gets in each place: in a pod, in a pod that is not balanced, in the node's own network namespace, and in a
/// pod by a socket that was opened before the programs were there. A line for each way, and all families and bindings get
/// the same.
const TABLE: [(Way, Got, Got, Got, Got); 11] = [
    // way                      pod off host before
    (Way::Tcp, B, I, B, B),
    (Way::TcpNonBlocking, B, I, B, B),
    (Way::FastOpenSendTo, B, I, B, B),
    (Way::FastOpenConnect, B, I, B, B),
    (Way::Mptcp, B, I, B, B),
    (Way::TcpByRing, B, I, B, B),
    (Way::UdpConnected, B, I, B, B),
    (Way::UdpSendTo, B, I, B, B),
    (Way::UdpSendMsg, B, I, B, B),
    (Way::UdpConnectedSendTo, B, I, B, B),
    (Way::UdpByRing, B, I, B, B),
];

/// The servers of one network namespace: one at the service's address, and a backend, for each protocol and family.
struct Servers(Vec<(Protocol, IpAddr, SocketAddr, SocketAddr)>);

impl Servers {
    /// Starts them in this thread's namespace.
    fn start() -> Self {
        let mut servers = Vec::new();
        for ip in [Family::V4.loopback(), Family::V6.loopback()] {
            servers.push((Protocol::Tcp, ip, tcp_server(ip), tcp_server(ip)));
            let udp = || udp_server(&ip.to_string());
            servers.push((Protocol::Udp, ip, udp(), udp()));
        }
        Self(servers)
    }

    fn of(&self, way: Way, family: Family) -> (SocketAddr, SocketAddr) {
        let found = self
            .0
            .iter()
            .find(|(protocol, ip, ..)| *protocol == way.protocol() && *ip == family.loopback());
        found.map(|(_, _, itself, backend)| (*itself, *backend)).unwrap()
    }

    fn changes(&self) -> Vec<Change> {
        let of = |(protocol, _, itself, server): &(Protocol, IpAddr, SocketAddr, SocketAddr)| {
            let frontend =
                Frontend { address: itself.ip(), port: itself.port(), protocol: *protocol };
            [
                Change::SetFrontend(frontend, Settings::default()),
                Change::AddBackend(frontend, backend(*server, *protocol, 2), Group::FIRST),
            ]
        };
        self.0.iter().flat_map(of).collect()
    }

    /// Asks over an open socket, and returns the result.
    fn ask(&self, client: &Client, way: Way, family: Family) -> Got {
        let (itself, backend) = self.of(way, family);
        let service = family.named(itself);
        let (port, peer) = client.ask(service).unwrap();
        assert_eq!(peer, service, "{way:?} {family:?}: who it talks to, as the client sees it");
        match port {
            port if port == backend.port() => B,
            port if port == itself.port() => I,
            other => panic!("{way:?} {family:?}: {other} answered"),
        }
    }

    /// The results of each way, family and binding that differ from the table.
    fn differing(&self, expected: impl Fn(&(Way, Got, Got, Got, Got)) -> Got) -> Vec<String> {
        let mut differing = Vec::new();
        for line in &TABLE {
            for family in Family::ALL {
                for bound in [Bound::Nothing, Bound::Address, Bound::Device] {
                    let client = Client::open(line.0, family, bound);
                    let got = self.ask(&client, line.0, family);
                    if got != expected(line) {
                        differing.push(format!("{:?} {family:?} {bound:?}: {got:?}", line.0));
                    }
                }
            }
        }
        differing
    }
}

fn allow_fast_open() {
    // For clients and servers, and without a cookie of a former connection.
    fs::write("/proc/sys/net/ipv4/tcp_fastopen", "519").unwrap();
}

#[test]
fn every_way_to_a_service_from_every_place() {
    assert_eq!(TABLE.map(|(way, ..)| way), Way::ALL);
    let place = Place::new("sockets");
    allow_fast_open();
    let pod = Servers::start();
    let opened_before: Vec<(Way, Family, Client)> = Way::ALL
        .into_iter()
        .flat_map(|way| Family::ALL.map(|family| (way, family)))
        .map(|(way, family)| (way, family, Client::open(way, family, Bound::Nothing)))
        .collect();

    // The node's own namespace: that of the process, which its main thread never leaves.
    let node_namespace = fs::File::open("/proc/self/ns/net").unwrap();
    let node = within(&node_namespace, Servers::start);

    let (programs, mut tables) = place.load();
    apply(&mut tables, &pod.changes());
    apply(&mut tables, &node.changes());

    for (way, family, client) in &opened_before {
        let expected = TABLE.iter().find(|line| line.0 == *way).unwrap().4;
        assert_eq!(pod.ask(client, *way, *family), expected, "{way:?} {family:?}, opened before");
    }
    assert_eq!(pod.differing(|line| line.1), Vec::<String>::new(), "in a pod");
    let differing = within(&node_namespace, || node.differing(|line| line.3));
    assert_eq!(differing, Vec::<String>::new(), "in the node's namespace");

    let mut raw = place.raw();
    raw.set_unbalanced(&BTreeSet::from([netns_cookie()])).unwrap();
    let before = programs.counters().unwrap();
    assert_eq!(pod.differing(|line| line.2), Vec::<String>::new(), "in a pod that is not balanced");
    let after = programs.counters().unwrap();
    let more = |counter: Counter| after[counter as usize] - before[counter as usize];
    assert_eq!((more(Counter::Translated), more(Counter::Datagram)), (0, 0));
    assert!(more(Counter::Passed) >= 99, "{after:?}");
    let differing = within(&node_namespace, || node.differing(|line| line.3));
    assert_eq!(differing, Vec::<String>::new(), "the node, while a pod is not balanced");
    raw.set_unbalanced(&BTreeSet::new()).unwrap();
    assert_eq!(
        pod.differing(|line| line.1),
        Vec::<String>::new(),
        "in a pod that is balanced again"
    );
}

/// Data that goes along with the connect reaches the backend, and MPTCP stays MPTCP.
#[test]
fn fast_open_and_mptcp_keep_what_they_are_for() {
    let place = Place::new("fastopen");
    allow_fast_open();
    let servers = Servers::start();
    let (_programs, mut tables) = place.load();
    apply(&mut tables, &servers.changes());
    for family in Family::ALL {
        for way in [Way::FastOpenSendTo, Way::FastOpenConnect] {
            let client = Client::open(way, family, Bound::Nothing);
            assert_eq!(servers.ask(&client, way, family), B);
            assert!(sent_with_syn(&client.socket), "{way:?} {family:?}");
        }
        let client = Client::open(Way::Mptcp, family, Bound::Nothing);
        assert_eq!(servers.ask(&client, Way::Mptcp, family), B);
        assert!(is_mptcp(&client.socket), "{family:?}");
    }
}

/// A further subflow of MPTCP connects to the backend itself; the socket above it is connected to the service still.
#[test]
fn a_further_subflow_changes_nothing() {
    let place = Place::new("subflow");
    for address in ["10.66.9.1/32", "10.66.9.2/32"] {
        run("ip", &["address", "add", address, "dev", "lo"]);
    }
    run("ip", &["mptcp", "limits", "set", "subflow", "2", "add_addr_accepted", "2"]);
    run("ip", &["mptcp", "endpoint", "add", "10.66.9.2", "dev", "lo", "subflow"]);
    let (_programs, mut tables) = place.load();
    let server = tcp_server("10.66.9.1".parse().unwrap());
    let frontend = vip(1, Protocol::Tcp);
    let changes = [
        Change::SetFrontend(frontend, Settings::default()),
        Change::AddBackend(frontend, backend(server, Protocol::Tcp, 1), Group::FIRST),
    ];
    apply(&mut tables, &changes);
    let client = Client::open(Way::Mptcp, Family::V4, Bound::Nothing);
    let service = socket(frontend);
    assert_eq!(client.ask(service).unwrap(), (server.port(), service));
    let deadline = Instant::now() + Duration::from_secs(20);
    while further_subflows(&client.socket).unwrap() == 0 {
        // Which it makes once it has exchanged something.
        client.socket.send(b"?").unwrap();
        assert!(Instant::now() < deadline, "there is no further subflow");
    }
    assert_eq!(client.socket.peer_addr().unwrap().as_socket().unwrap(), service);
}

/// A socket that is connected when the programs come stays where it is, and so does one whose programs are exchanged.
#[test]
fn what_was_connected_before_stays_where_it_is() {
    let place = Place::new("before");
    allow_fast_open();
    let servers = Servers::start();
    let connect = |way: Way, family| {
        let client = Client::open(way, family, Bound::Nothing);
        let got = servers.ask(&client, way, family);
        (way, family, client, got)
    };
    let connected = |(_, _, client, _): &(Way, Family, Client, Got)| {
        let seen = client.socket.peer_addr().unwrap().as_socket().unwrap();
        client.socket.send(b"?").unwrap();
        seen
    };
    let ways: Vec<(Way, Family)> = [Way::Tcp, Way::Mptcp, Way::UdpConnected]
        .into_iter()
        .flat_map(|way| Family::ALL.map(|family| (way, family)))
        .collect();
    let before: Vec<_> = ways.iter().map(|(way, family)| connect(*way, *family)).collect();
    assert!(before.iter().all(|(.., got)| *got == I), "no program balances yet");
    let sending: Vec<_> = Family::ALL.map(|family| connect(Way::UdpSendTo, family)).into();
    assert!(sending.iter().all(|(.., got)| *got == I));

    let (programs, mut tables) = place.load();
    apply(&mut tables, &servers.changes());
    let after: Vec<_> = ways.iter().map(|(way, family)| connect(*way, *family)).collect();
    assert!(after.iter().all(|(.., got)| *got == B));
    for (way, family, client, _) in &sending {
        assert_eq!(servers.ask(client, *way, *family), B, "{family:?}: from its next datagram on");
    }
    drop((programs, tables));
    let (_programs, _tables) = place.load();
    for client in before.iter().chain(&after) {
        let (way, family, ..) = client;
        let service = family.named(servers.of(*way, *family).0);
        assert_eq!(connected(client), service, "{way:?} {family:?}");
    }
    for (way, family, client, got) in before.iter().chain(&after) {
        if way.protocol() == Protocol::Udp {
            let (itself, backend) = servers.of(*way, *family);
            let port = if *got == B { backend.port() } else { itself.port() };
            let answer =
                client.answer().map_err(|error| format!("{way:?} {family:?} {got:?}: {error}"));
            assert_eq!(answer, Ok((port, family.named(itself))));
        }
    }
}
