//! A client of the echo server.

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

/// The protocol of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Transport {
    /// HTTP over TCP.
    Tcp,
    /// A datagram, from a connected socket.
    Udp,
}

/// An answer, and the server's address as the client sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Called {
    /// The server's answer.
    pub answer: Answer,
    /// The address that `getpeername` returned.
    pub peer: SocketAddr,
}

/// A TCP connection for several requests, one after another.
pub struct Flow {
    stream: BufReader<TcpStream>,
    peer: SocketAddr,
}

/// A connected UDP socket for several requests, one after another.
pub struct DatagramFlow {
    socket: UdpSocket,
    peer: SocketAddr,
}

/// Whether a connection can be used after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The connection stays open.
    Open,
    /// The server announced that it closes the connection.
    Closed,
}

/// Makes one request on a connection of its own.
///
/// # Errors
/// There is no connection, no answer within the deadline, or an invalid one.
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
    /// Connects to a server.
    ///
    /// # Errors
    /// The connection fails.
    pub async fn open(to: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let peer = stream.peer_addr()?;
        Ok(Self { stream: BufReader::new(stream), peer })
    }

    /// Waits until the server closes the connection.
    ///
    /// # Errors
    /// The connection breaks.
    pub async fn wait(&mut self) -> io::Result<()> {
        while self.stream.read(&mut [0; 64]).await? > 0 {}
        Ok(())
    }

    /// Makes a request. Also returns whether another one can follow.
    ///
    /// # Errors
    /// The connection breaks, or the answer is invalid.
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
    /// Connects to a server.
    ///
    /// # Errors
    /// There is no route to the address.
    pub async fn open(to: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind((any(to), 0)).await?;
        socket.connect(to).await?;
        let peer = socket.peer_addr()?;
        Ok(Self { socket, peer })
    }

    /// Makes a request.
    ///
    /// # Errors
    /// The socket was terminated, or the answer is invalid.
    pub async fn ask(&self) -> io::Result<Called> {
        Ok(Called { answer: ask_datagram(&self.socket).await?, peer: self.peer })
    }
}

/// The address to bind a socket to that connects to `to`.
pub(crate) fn any(to: SocketAddr) -> IpAddr {
    if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

/// Makes a request over a connected socket.
pub(crate) async fn ask_datagram(socket: &UdpSocket) -> io::Result<Answer> {
    socket.send(b"?").await?;
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer).await?;
    Ok(serde_json::from_slice(buffer.get(..length).unwrap_or_default())?)
}
