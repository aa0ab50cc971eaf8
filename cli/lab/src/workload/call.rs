//! A client of the echo server.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use nix::errno::Errno;
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

/// What a failed request means, in a sentence without what differs from one request to the next.
pub fn failure(error: &io::Error) -> String {
    let meaning = match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            "connection refused: the service has no backend, or nothing listens at the backend's port"
        }
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof => {
            "the connection was ended before the answer: by the server, or since its backend is gone"
        }
        io::ErrorKind::TimedOut => {
            "no answer in time: the backend is down, or the network to it is"
        }
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            "no route leads to the backend: see `clustermesh status`"
        }
        io::ErrorKind::PermissionDenied => "a firewall of the client's node is in the way",
        io::ErrorKind::InvalidData => "what answered is no echo server: see the service's ports",
        _ => {
            let number = error.raw_os_error();
            return number.map_or_else(
                || error.to_string(),
                |number| Errno::from_raw(number).desc().to_owned(),
            );
        }
    };
    meaning.to_owned()
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
        let answer = serde_json::from_slice(&body).map_err(|_| invalid())?;
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
    let answer = serde_json::from_slice(buffer.get(..length).unwrap_or_default());
    answer.map_err(|_| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_request_says_what_it_means() {
        for (error, says) in [
            (Errno::ECONNREFUSED.into(), "connection refused: the service has no backend"),
            (Errno::ECONNRESET.into(), "the connection was ended before the answer"),
            (io::ErrorKind::UnexpectedEof.into(), "the connection was ended before the answer"),
            (Errno::ETIMEDOUT.into(), "no answer in time"),
            (io::ErrorKind::TimedOut.into(), "no answer in time"),
            (Errno::EHOSTUNREACH.into(), "no route leads to the backend"),
            (Errno::EPERM.into(), "a firewall of the client's node"),
            (io::ErrorKind::InvalidData.into(), "what answered is no echo server"),
            (Errno::EMFILE.into(), "Too many open files"),
        ] {
            let error: io::Error = error;
            let text = failure(&error);
            assert!(text.starts_with(says), "{error:?}: {text}");
            assert!(!text.contains("os error"), "{text}");
        }
    }
}
