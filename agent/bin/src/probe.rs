//! The probe echo: a datagram with a number that another agent sends back.
//!
//! Questions come to a port that everybody knows. Ours leave from another socket, so that whoever floods the one keeps no
//! answer from the other. Who does not know the number cannot answer in another's place.
//!
//! Where no agent is, the node's kernel sends the question back as "port unreachable", which the asking socket hears from
//! its error queue: the question with its number, and whom it was for.

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd as _,
};

use mesh_balance::Probe;
use nix::{
    errno::Errno,
    libc,
    sys::socket::{
        ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendto, setsockopt, sockopt,
    },
};
use tokio::{io::Interest, net::UdpSocket};

/// Answers questions.
pub(crate) struct EchoSocket(UdpSocket);

/// Asks questions, and hears what is answered.
pub(crate) struct ProbeSocket {
    socket: UdpSocket,
    /// The others' port.
    port: u16,
    v6: bool,
}

/// A sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// An agent's answer.
    Answer(Probe),
    /// The node says that no agent is there.
    Refusal(Probe),
}

/// What a probe looks like: four bytes that name it, one that says whether it is the question or the answer, the number.
const MAGIC: [u8; 4] = *b"CMp1";
const QUESTION: u8 = b'?';
const ANSWER: u8 = b'!';
const LENGTH: usize = 13;
/// Datagrams that are read in one go.
const AT_ONCE: usize = 1_024;
/// Origin, type and code of the message that nobody listens at a port (RFC 792, RFC 4443).
const PORT_UNREACHABLE: (u8, u8, u8) = (libc::SO_EE_ORIGIN_ICMP, 3, 3);
const PORT_UNREACHABLE_V6: (u8, u8, u8) = (libc::SO_EE_ORIGIN_ICMP6, 1, 4);
/// What waits for neighbours that do not answer must leave room for questions to others.
const SEND_BUFFER: usize = 4 << 20;
/// An error of a former question is told to whoever sends next, whose question is not sent then.
const TRIES: usize = 4;

// === impl EchoSocket ===

impl EchoSocket {
    /// Listens in both families, or in IPv4 where there is no other.
    pub(crate) async fn bind(port: u16) -> io::Result<Self> {
        bind(port).await.map(|(socket, _)| Self(socket))
    }

    /// Answers whoever asks, for ever.
    pub(crate) async fn serve(&self) -> io::Error {
        loop {
            let mut buffer = [0; LENGTH + 1];
            let (length, from) = match self.0.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => return error,
            };
            // As long as the question: nobody can use us to send more than they sent.
            if let Some((QUESTION, nonce)) = parse(buffer.get(..length).unwrap_or_default()) {
                let _ = self.0.send_to(&datagram(ANSWER, nonce), from).await;
            }
        }
    }
}

// === impl ProbeSocket ===

impl ProbeSocket {
    /// Asks at a port, from any of ours.
    pub(crate) async fn bind(port: u16) -> io::Result<Self> {
        let (socket, v6) = bind(0).await?;
        setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
        if v6 {
            setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
        }
        // Needs a capability that the agent has, and tests may not have.
        let _ = setsockopt(&socket, sockopt::SndBufForce, &SEND_BUFFER);
        Ok(Self { socket, port, v6 })
    }

    /// Asks a node. What cannot be sent is as good as not answered.
    pub(crate) fn ask(&self, probe: Probe) {
        let address = match (probe.address, self.v6) {
            (IpAddr::V4(v4), true) => v4.to_ipv6_mapped().into(),
            (address, _) => address,
        };
        let to = SockaddrStorage::from(SocketAddr::from((address, self.port)));
        let question = datagram(QUESTION, probe.nonce);
        for _ in 0..TRIES {
            let sent = sendto(self.socket.as_raw_fd(), &question, &to, MsgFlags::MSG_DONTWAIT);
            if sent.is_ok() || sent == Err(Errno::EAGAIN) {
                break;
            }
        }
    }

    /// The next signs of life. Cancel-safe.
    pub(crate) async fn hear(&self) -> io::Result<Vec<Heard>> {
        loop {
            self.socket.ready(Interest::READABLE | Interest::ERROR).await?;
            let heard = self.heard();
            if !heard.is_empty() {
                return Ok(heard);
            }
        }
    }

    /// The signs of life that are there by now.
    pub(crate) fn heard(&self) -> Vec<Heard> {
        let mut heard = Vec::new();
        // Not for ever, if strangers send faster than we read.
        for _ in 0..AT_ONCE {
            match self.socket.try_io(Interest::ERROR, || self.read_error()) {
                Ok(refusal) => heard.extend(refusal.map(Heard::Refusal)),
                Err(_) => break,
            }
        }
        let mut buffer = [0; LENGTH + 1];
        for _ in 0..AT_ONCE {
            match self.socket.try_recv_from(&mut buffer) {
                Ok((length, from)) => {
                    let answer = self.accept(buffer.get(..length).unwrap_or_default(), from);
                    heard.extend(answer.map(Heard::Answer));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // Of a question, and gone with having been told: answers may be behind it.
                Err(_) => {}
            }
        }
        heard
    }

    /// What the error queue says next; nothing, if that is no refusal of a question of ours.
    fn read_error(&self) -> io::Result<Option<Probe>> {
        let mut buffer = [0; LENGTH + 1];
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let mut control = nix::cmsg_space!([u8; 512]);
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let fd = self.socket.as_raw_fd();
        let message = recvmsg::<SockaddrStorage>(fd, &mut slices, Some(&mut control), flags)?;
        let offender = message.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::Ipv4RecvErr(error, from) => {
                offender(&error, IpAddr::V4(u32::from_be(from?.sin_addr.s_addr).into()))
            }
            ControlMessageOwned::Ipv6RecvErr(error, from) => {
                offender(&error, Ipv6Addr::from(from?.sin6_addr.s6_addr).into())
            }
            _ => None,
        });
        let asked = message.address.as_ref().and_then(address);
        let length = message.bytes;
        Ok(self.accept_refusal(buffer.get(..length).unwrap_or_default(), asked, offender))
    }

    /// A question of ours that the node itself, whom it was for, sent back.
    fn accept_refusal(
        &self,
        datagram: &[u8],
        asked: Option<SocketAddr>,
        offender: Option<IpAddr>,
    ) -> Option<Probe> {
        let address = asked.filter(|asked| asked.port() == self.port)?.ip().to_canonical();
        match parse(datagram) {
            Some((QUESTION, nonce)) if offender == Some(address) => Some(Probe { address, nonce }),
            _ => None,
        }
    }

    fn accept(&self, datagram: &[u8], from: SocketAddr) -> Option<Probe> {
        match parse(datagram) {
            Some((ANSWER, nonce)) if from.port() == self.port => {
                Some(Probe { address: from.ip().to_canonical(), nonce })
            }
            _ => None,
        }
    }
}

async fn bind(port: u16) -> io::Result<(UdpSocket, bool)> {
    if let Ok(socket) = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        return Ok((socket, true));
    }
    Ok((UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).await?, false))
}

/// Who says that a port is unreachable, if that is what is said.
fn offender(error: &libc::sock_extended_err, from: IpAddr) -> Option<IpAddr> {
    let is = (error.ee_origin, error.ee_type, error.ee_code);
    [PORT_UNREACHABLE, PORT_UNREACHABLE_V6].contains(&is).then(|| from.to_canonical())
}

fn address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::from((v4.ip(), v4.port())));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::from((v6.ip(), v6.port()))))
}

fn datagram(kind: u8, nonce: u64) -> [u8; LENGTH] {
    let [a, b, c, d] = MAGIC;
    let [e, f, g, h, i, j, k, l] = nonce.to_be_bytes();
    [a, b, c, d, kind, e, f, g, h, i, j, k, l]
}

fn parse(datagram: &[u8]) -> Option<(u8, u64)> {
    let [a, b, c, d, kind, nonce @ ..] = datagram else { return None };
    let nonce = u64::from_be_bytes(nonce.try_into().ok()?);
    ([*a, *b, *c, *d] == MAGIC).then_some((*kind, nonce))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams() {
        assert_eq!(parse(&datagram(QUESTION, 7)), Some((QUESTION, 7)));
        for bad in [&b""[..], b"CMp1", b"CMp1?1234567", b"CMp1?123456789", b"xxxx?12345678"] {
            assert_eq!(parse(bad), None);
        }
    }

    /// In both families, and however many questions of others come meanwhile.
    #[tokio::test]
    async fn an_agent_answers_another() {
        let echo = EchoSocket::bind(0).await.unwrap();
        let port = echo.0.local_addr().unwrap().port();
        let socket = ProbeSocket::bind(port).await.unwrap();
        let stranger = ProbeSocket::bind(port).await.unwrap();
        let asked = async {
            for address in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
                for nonce in 0..50 {
                    stranger.ask(Probe { address, nonce });
                }
                let probe = Probe { address, nonce: 4_711 };
                socket.ask(probe);
                if address.is_ipv4() || socket.v6 {
                    assert_eq!(socket.hear().await.unwrap(), [Heard::Answer(probe)]);
                }
            }
        };
        tokio::select! {
            () = asked => {}
            error = echo.serve() => panic!("{error}"),
        }
    }

    /// What comes from elsewhere than the echo's port is no answer.
    #[tokio::test]
    async fn an_answer_comes_from_the_echo() {
        let socket = ProbeSocket::bind(9).await.unwrap();
        let to =
            SocketAddr::from((Ipv4Addr::LOCALHOST, socket.socket.local_addr().unwrap().port()));
        let stranger = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        stranger.send_to(&datagram(ANSWER, 1), to).await.unwrap();
        socket.socket.readable().await.unwrap();
        assert_eq!(socket.heard(), []);
    }

    /// A port of loopback at which nobody listens.
    fn closed_port() -> u16 {
        let socket = std::net::UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
        socket.local_addr().unwrap().port()
    }

    /// In both families; it is the question that comes back, with its number and to whom it went.
    #[tokio::test]
    async fn a_node_whose_agent_is_away_is_there() {
        let socket = ProbeSocket::bind(closed_port()).await.unwrap();
        for address in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            let probes = [1, 2, 4_711].map(|nonce| Probe { address, nonce });
            let mut heard = Vec::new();
            // Each error is told to whoever sends next, too.
            probes.iter().for_each(|probe| socket.ask(*probe));
            while heard.len() < probes.len() {
                heard.extend(socket.hear().await.unwrap());
            }
            assert_eq!(heard, probes.map(Heard::Refusal));
        }
        assert_eq!(socket.heard(), []);
    }

    #[tokio::test]
    async fn a_socket_without_ipv6_hears_refusals_too() {
        let mut socket = ProbeSocket::bind(closed_port()).await.unwrap();
        socket.socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
        socket.v6 = false;
        setsockopt(&socket.socket, sockopt::Ipv4RecvErr, &true).unwrap();
        let probe = Probe { address: Ipv4Addr::LOCALHOST.into(), nonce: 7 };
        socket.ask(probe);
        assert_eq!(socket.hear().await.unwrap(), [Heard::Refusal(probe)]);
    }

    /// Whatever was refused before: the question leaves, and the answer is heard.
    #[tokio::test]
    async fn errors_that_are_pending_lose_no_answer() {
        let echo = EchoSocket::bind(0).await.unwrap();
        let mut socket = ProbeSocket::bind(closed_port()).await.unwrap();
        let closed = socket.port;
        let open = echo.0.local_addr().unwrap().port();
        let address = IpAddr::from(Ipv4Addr::LOCALHOST);
        let asked = async {
            for nonce in 0..100 {
                socket.port = closed;
                socket.ask(Probe { address, nonce });
                socket.port = open;
                let probe = Probe { address, nonce: 1_000 + nonce };
                socket.ask(probe);
                assert_eq!(socket.hear().await.unwrap(), [Heard::Answer(probe)]);
            }
        };
        tokio::select! {
            () = asked => {}
            error = echo.serve() => panic!("{error}"),
        }
    }

    /// Only the node itself says that its agent is away, of a question that was for it.
    #[tokio::test]
    async fn a_refusal_comes_from_who_was_asked() {
        let socket = ProbeSocket::bind(9).await.unwrap();
        let node = IpAddr::from([10, 0, 0, 1]);
        let other = IpAddr::from([10, 0, 0, 2]);
        let accept = |datagram: &[u8], asked: IpAddr, port, offender| {
            socket.accept_refusal(datagram, Some((asked, port).into()), offender)
        };
        let question = datagram(QUESTION, 7);
        let mapped = IpAddr::V6(Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped());
        let refused = Some(Probe { address: node, nonce: 7 });
        assert_eq!(accept(&question, node, 9, Some(node)), refused);
        assert_eq!(accept(&question, mapped, 9, Some(node)), refused);
        assert_eq!(accept(&question, node, 9, Some(other)), None, "a router");
        assert_eq!(accept(&question, node, 9, None), None, "another message");
        assert_eq!(accept(&question, node, 10, Some(node)), None, "another port");
        assert_eq!(accept(&datagram(ANSWER, 7), node, 9, Some(node)), None, "no question");
        assert_eq!(accept(&question[..12], node, 9, Some(node)), None, "cut short");
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
}
