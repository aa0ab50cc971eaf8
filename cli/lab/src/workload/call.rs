//! One request to an echo server, over a connection of its own.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use crate::workload::Answer;

/// How to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Transport {
    /// HTTP over TCP.
    Tcp,
    /// A datagram from a connected socket.
    Udp,
}

/// An answer, and the address that the client sees it from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Called {
    /// What the server answered.
    pub answer: Answer,
    /// What `getpeername` returned.
    pub peer: SocketAddr,
}

/// A connection over which a request follows another.
pub struct Flow {
    stream: BufReader<TcpStream>,
    peer: SocketAddr,
}

/// A connected UDP socket over which a request follows another.
pub struct DatagramFlow {
    socket: UdpSocket,
    peer: SocketAddr,
}

/// Whether a connection goes on after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It does.
    Open,
    /// The server announced that it was the last.
    Closed,
}

/// Asks once.
///
/// # Errors
/// When there is no connection, no answer within the deadline, or one that is none.
pub async fn call(transport: Transport, to: SocketAddr, deadline: Duration) -> io::Result<Called> {
    let asked = timeout(deadline, async {
        match transport {
            Transport::Tcp => Ok(Flow::open(to).await?.ask().await?.0),
            Transport::Udp => DatagramFlow::open(to).await?.ask().await,
        }
    });
    asked.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

impl Flow {
    /// Connects.
    ///
    /// # Errors
    /// When no server is there.
    pub async fn open(to: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let peer = stream.peer_addr()?;
        Ok(Self { stream: BufReader::new(stream), peer })
    }

    /// Waits for more, which was not asked for.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn wait(&mut self) -> io::Result<()> {
        while self.stream.read(&mut [0; 64]).await? > 0 {}
        Ok(())
    }

    /// Asks, and says whether it may ask again.
    ///
    /// # Errors
    /// When the connection broke, or the answer is none.
    pub async fn ask(&mut self) -> io::Result<(Called, Next)> {
        self.stream.get_mut().write_all(b"GET / HTTP/1.1\r\nHost: echo\r\n\r\n").await?;
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        let mut length = None;
        let mut next = Next::Open;
        let mut line = String::new();
        loop {
            line.clear();
            if self.stream.read_line(&mut line).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if line.trim().is_empty() {
                break;
            }
            let lower = line.to_ascii_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse::<usize>().ok();
            }
            if lower.trim() == "connection: close" {
                next = Next::Closed;
            }
        }
        let length = length.filter(|length| *length < 64 * 1024).ok_or_else(invalid)?;
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await?;
        let answer = serde_json::from_slice(&body)?;
        Ok((Called { answer, peer: self.peer }, next))
    }
}

impl DatagramFlow {
    /// Connects.
    ///
    /// # Errors
    /// When there is no way to that address.
    pub async fn open(to: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind((any(to), 0)).await?;
        socket.connect(to).await?;
        let peer = socket.peer_addr()?;
        Ok(Self { socket, peer })
    }

    /// Asks.
    ///
    /// # Errors
    /// When the socket was ended, or the answer is none.
    pub async fn ask(&self) -> io::Result<Called> {
        Ok(Called { answer: ask_datagram(&self.socket).await?, peer: self.peer })
    }
}

/// Where a socket is bound that goes there.
pub(crate) fn any(to: SocketAddr) -> IpAddr {
    if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

/// Asks over a connected socket.
pub(crate) async fn ask_datagram(socket: &UdpSocket) -> io::Result<Answer> {
    socket.send(b"?").await?;
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer).await?;
    Ok(serde_json::from_slice(buffer.get(..length).unwrap_or_default())?)
}
