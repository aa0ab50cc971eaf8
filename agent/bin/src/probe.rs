//! The probe echo: a datagram with a nonce that another agent sends back.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use mesh_decide::Probe;
use tokio::net::UdpSocket;

/// What a probe looks like: four bytes that name it, one that says whether it is the question or the answer, the nonce.
const MAGIC: [u8; 4] = *b"CMp1";
const QUESTION: u8 = b'?';
const ANSWER: u8 = b'!';
const LENGTH: usize = 13;

/// The socket that asks and answers.
pub(crate) struct ProbeSocket {
    socket: UdpSocket,
    port: u16,
    v6: bool,
}

impl ProbeSocket {
    /// Listens in both families, or in IPv4 where there is no other.
    pub(crate) async fn bind(port: u16) -> io::Result<Self> {
        if let Ok(socket) = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).await {
            return Ok(Self { socket, port, v6: true });
        }
        Ok(Self { socket: UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).await?, port, v6: false })
    }

    /// Asks a node. What cannot be sent is as good as not answered.
    pub(crate) async fn ask(&self, probe: Probe) {
        let address = match (probe.address, self.v6) {
            (IpAddr::V4(v4), true) => v4.to_ipv6_mapped().into(),
            (address, _) => address,
        };
        let _ = self.socket.send_to(&datagram(QUESTION, probe.nonce), (address, self.port)).await;
    }

    /// Answers questions until an answer to one of ours comes. Cancel-safe.
    pub(crate) async fn answer(&self) -> io::Result<Probe> {
        loop {
            let mut buffer = [0; LENGTH + 1];
            let (length, from) = self.socket.recv_from(&mut buffer).await?;
            let Some((kind, nonce)) = parse(buffer.get(..length).unwrap_or_default()) else {
                continue;
            };
            match kind {
                ANSWER => return Ok(Probe { address: canonical(from), nonce }),
                // As long as the question: nobody can use us to send more than they sent.
                QUESTION => {
                    let _ = self.socket.send_to(&datagram(ANSWER, nonce), from).await;
                }
                _ => {}
            }
        }
    }
}

fn canonical(address: SocketAddr) -> IpAddr {
    address.ip().to_canonical()
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

    #[tokio::test]
    async fn an_agent_answers_itself() {
        let socket = ProbeSocket::bind(0).await.unwrap();
        let port = socket.socket.local_addr().unwrap().port();
        let socket = ProbeSocket { port, ..socket };
        let probe = Probe { address: Ipv4Addr::LOCALHOST.into(), nonce: 42 };
        socket.ask(probe).await;
        assert_eq!(socket.answer().await.unwrap(), probe);
    }
}
