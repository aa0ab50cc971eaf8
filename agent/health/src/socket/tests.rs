use super::*;
use crate::{echo::EchoSocket, question::Versions};

/// A question of the present version.
fn question(probe: Probe) -> Question {
    Question { probe, versions: Versions::Present }
}

/// What the echo of a test answers, as one that has answered none before.
fn by_agent(probe: Probe) -> (Probe, Reply) {
    (probe, Reply::Answered(Answerer::Agent { rate: 0 }))
}

/// In both families, and however many questions of others come meanwhile.
#[tokio::test]
async fn an_agent_answers_another() {
    let mut echo = EchoSocket::bind(0).unwrap();
    let port = echo.port();
    let socket = ProbeSocket::bind(port).unwrap();
    let stranger = ProbeSocket::bind(port).unwrap();
    let asked = async {
        for address in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            for nonce in 0..50 {
                stranger.ask(question(Probe { address, nonce }));
            }
            let probe = Probe { address, nonce: 4_711 };
            socket.ask(question(probe));
            if address.is_ipv4() || socket.v6 {
                assert_eq!(socket.receive().await.unwrap(), [by_agent(probe)]);
            }
        }
    };
    tokio::select! {
        () = asked => {}
        error = echo.serve() => panic!("{error}"),
    }
}

/// A datagram from another port than the echo's is no answer.
#[tokio::test]
async fn an_answer_comes_from_the_echo() {
    let socket = ProbeSocket::bind(9).unwrap();
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, socket.socket.local_addr().unwrap().port()));
    let stranger = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    stranger.send_to(&probe::answer(1, probe::BY_AGENT, 0), to).await.unwrap();
    socket.socket.readable().await.unwrap();
    assert_eq!(socket.received(), []);
}

/// A port of loopback at which no process listens.
fn closed_port() -> u16 {
    let socket = std::net::UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
    socket.local_addr().unwrap().port()
}

/// In both families; it is the question that comes back, with its number and to whom it went.
#[tokio::test]
async fn a_node_whose_agent_is_away_is_there() {
    let socket = ProbeSocket::bind(closed_port()).unwrap();
    for address in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let probes = [1, 2, 4_711].map(|nonce| Probe { address, nonce });
        let mut received = Vec::new();
        // Each error is given to the next one that sends, too.
        probes.iter().for_each(|probe| socket.ask(question(*probe)));
        while received.len() < probes.len() {
            received.extend(socket.receive().await.unwrap());
        }
        assert_eq!(received, probes.map(|probe| (probe, Reply::Refused)));
    }
    assert_eq!(socket.received(), []);
}

#[tokio::test]
async fn a_socket_without_ipv6_receives_refusals_too() {
    let mut socket = ProbeSocket::bind(closed_port()).unwrap();
    socket.socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
    socket.v6 = false;
    setsockopt(&socket.socket, sockopt::Ipv4RecvErr, &true).unwrap();
    let probe = Probe { address: Ipv4Addr::LOCALHOST.into(), nonce: 7 };
    socket.ask(question(probe));
    assert_eq!(socket.receive().await.unwrap(), [(probe, Reply::Refused)]);
}

/// Whatever was refused before: the question leaves, and the answer arrives.
#[tokio::test]
async fn errors_that_are_pending_lose_no_answer() {
    let mut echo = EchoSocket::bind(0).unwrap();
    let mut socket = ProbeSocket::bind(closed_port()).unwrap();
    let closed = socket.port;
    let open = echo.port();
    let address = IpAddr::from(Ipv4Addr::LOCALHOST);
    let asked = async {
        for nonce in 0..100 {
            socket.port = closed;
            socket.ask(question(Probe { address, nonce }));
            socket.port = open;
            let probe = Probe { address, nonce: 1_000 + nonce };
            socket.ask(question(probe));
            assert_eq!(socket.receive().await.unwrap(), [by_agent(probe)]);
        }
    };
    tokio::select! {
        () = asked => {}
        error = echo.serve() => panic!("{error}"),
    }
}

/// Only the node itself can report that its agent is away, for a question that was sent to it.
#[tokio::test]
async fn a_refusal_comes_from_the_address_that_was_asked() {
    let socket = ProbeSocket::bind(9).unwrap();
    let node = IpAddr::from([10, 0, 0, 1]);
    let other = IpAddr::from([10, 0, 0, 2]);
    let accept = |datagram: &[u8], asked: IpAddr, port, offender| {
        socket.accept_refusal(datagram, Some((asked, port).into()), offender)
    };
    let question = probe::question(7);
    let mapped = IpAddr::V6(Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped());
    let refused = Some(Probe { address: node, nonce: 7 });
    assert_eq!(accept(&question, node, 9, Some(node)), refused);
    assert_eq!(accept(&question, mapped, 9, Some(node)), refused);
    assert_eq!(accept(&question, node, 9, Some(other)), None, "a router");
    assert_eq!(accept(&question, node, 9, None), None, "another message");
    assert_eq!(accept(&question, node, 10, Some(node)), None, "another port");
    assert_eq!(
        accept(&probe::answer(7, probe::BY_AGENT, 0), node, 9, Some(node)),
        None,
        "no question"
    );
    assert_eq!(accept(&question[..19], node, 9, Some(node)), None, "cut short");
    assert_eq!(socket.accept_refusal(&question, None, Some(node)), None);
    let error = |ee_origin, ee_type, ee_code| libc::sock_extended_err {
        ee_errno: 0,
        ee_origin,
        ee_type,
        ee_code,
        ee_pad: 0,
        ee_info: 0,
        ee_data: 0,
    };
    assert_eq!(offender(&error(2, 3, 3), mapped), Some(node));
    assert_eq!(offender(&error(3, 1, 4), node), Some(node));
    for (origin, kind, code) in [(2, 3, 1), (2, 11, 0), (2, 1, 4), (3, 1, 3), (1, 3, 3)] {
        assert_eq!(offender(&error(origin, kind, code), node), None);
    }
}

/// An agent of the previous release asks and answers in its version alone.
#[tokio::test]
async fn both_versions_are_asked_and_answered() {
    let mut echo = EchoSocket::bind(0).unwrap();
    let port = echo.port();
    let socket = ProbeSocket::bind(port).unwrap();
    let asked = async {
        let probe = Probe { address: Ipv4Addr::LOCALHOST.into(), nonce: 1 };
        let previous = (probe, Reply::Answered(Answerer::PreviousAgent));
        socket.ask(Question { probe, versions: Versions::Previous });
        assert_eq!(socket.receive().await.unwrap(), [previous]);
        socket.ask(Question { probe, versions: Versions::Both });
        let mut received = Vec::new();
        while received.len() < 2 {
            received.extend(socket.receive().await.unwrap());
        }
        assert_eq!(received, [by_agent(probe), previous], "the present one first");
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        for bad in [&b"CMp1!\0\0\0\0\0\0\0\x07"[..], b"CMp2", &probe::question(7)[..19]] {
            client.send_to(bad, (Ipv4Addr::LOCALHOST, port)).await.unwrap();
        }
        client.send_to(&previous_question(7), (Ipv4Addr::LOCALHOST, port)).await.unwrap();
        let mut answer = [0; ROOM];
        let (length, _) = client.recv_from(&mut answer).await.unwrap();
        assert_eq!(
            answer[..length],
            *b"CMp1!\0\0\0\0\0\0\0\x07",
            "to the question and to nothing else"
        );
    };
    tokio::select! {
        () = asked => {}
        error = echo.serve() => panic!("{error}"),
    }
}
