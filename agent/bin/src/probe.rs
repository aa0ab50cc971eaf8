//! The probe echo: a datagram with a number that another agent sends back.
//!
//! Questions come to a port that everybody knows. Ours leave from another socket, so that whoever floods the one keeps no
//! answer from the other. Who does not know the number cannot answer in another's place.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use mesh_decide::Probe;
use tokio::net::UdpSocket;

/// Answers questions.
pub(crate) struct EchoSocket(UdpSocket);

/// Asks questions, and hears what is answered.
pub(crate) struct ProbeSocket {
    socket: UdpSocket,
    /// The others' port.
    port: u16,
    v6: bool,
}

/// What a probe looks like: four bytes that name it, one that says whether it is the question or the answer, the number.
const MAGIC: [u8; 4] = *b"CMp1";
const QUESTION: u8 = b'?';
const ANSWER: u8 = b'!';
const LENGTH: usize = 13;

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
        Ok(Self { socket, port, v6 })
    }

    /// Asks a node. What cannot be sent is as good as not answered.
    pub(crate) async fn ask(&self, probe: Probe) {
        let address = match (probe.address, self.v6) {
            (IpAddr::V4(v4), true) => v4.to_ipv6_mapped().into(),
            (address, _) => address,
        };
        let to = SocketAddr::from((address, self.port));
        let _ = self.socket.send_to(&datagram(QUESTION, probe.nonce), to).await;
    }

    /// The next answer. Cancel-safe.
    pub(crate) async fn answer(&self) -> io::Result<Probe> {
        loop {
            let mut buffer = [0; LENGTH + 1];
            let (length, from) = self.socket.recv_from(&mut buffer).await?;
            if let Some(probe) = self.accept(buffer.get(..length).unwrap_or_default(), from) {
                return Ok(probe);
            }
        }
    }

    /// The answers that are there by now.
    pub(crate) fn answers(&self) -> Vec<Probe> {
        let mut answers = Vec::new();
        let mut buffer = [0; LENGTH + 1];
        while let Ok((length, from)) = self.socket.try_recv_from(&mut buffer) {
            answers.extend(self.accept(buffer.get(..length).unwrap_or_default(), from));
        }
        answers
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
                    stranger.ask(Probe { address, nonce }).await;
                }
                let probe = Probe { address, nonce: 4_711 };
                socket.ask(probe).await;
                if address.is_ipv4() || socket.v6 {
                    assert_eq!(socket.answer().await.unwrap(), probe);
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
        assert_eq!(socket.answers(), []);
    }
}
