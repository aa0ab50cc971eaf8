//! The relay in front of an etcd that some nodes reach with a delay. It forwards bytes in both directions when they are due.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::mpsc,
    time::{Instant, sleep_until},
};

/// The address from which it connects to the etcd: connections from there are not redirected to the relay.
pub(crate) const SOURCE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// The longest time for a relay to listen, and the interval of checks.
pub(crate) const READY: Duration = Duration::from_secs(5);
pub(crate) const LOOK: Duration = Duration::from_millis(2);

/// Bytes that are read at once, and the most of such pieces in flight.
const PIECE: usize = 16 * 1024;
const PIECES: usize = 256;

/// Relays from a port to another port of this host, until the process is killed.
///
/// # Errors
/// The port cannot be listened on.
pub async fn relay(port: u16, to_port: u16, delay: Duration) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await?;
    loop {
        // It is no error if a client closed its connection before it was accepted.
        let Ok((near, _)) = listener.accept().await else { continue };
        tokio::spawn(connection(near, to_port, delay));
    }
}

/// Relays one connection, until either end closes it.
async fn connection(near: TcpStream, to_port: u16, delay: Duration) -> io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((SOURCE, 0).into())?;
    let far = socket.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, to_port))).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let (near_reader, near_writer) = near.into_split();
    let (far_reader, far_writer) = far.into_split();
    tokio::try_join!(late(near_reader, far_writer, delay), late(far_reader, near_writer, delay))
        .map(drop)
}

/// Relays one direction.
async fn late(
    mut reader: impl AsyncRead + Unpin,
    mut writer: impl AsyncWrite + Unpin,
    delay: Duration,
) -> io::Result<()> {
    let (sender, mut pieces) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES);
    let reading = async move {
        loop {
            let mut piece = Vec::with_capacity(PIECE);
            let read = reader.read_buf(&mut piece).await?;
            if read == 0 || sender.send((Instant::now() + delay, piece)).await.is_err() {
                return io::Result::Ok(());
            }
        }
    };
    let writing = async move {
        while let Some((due, piece)) = pieces.recv().await {
            sleep_until(due).await;
            writer.write_all(&piece).await?;
        }
        writer.shutdown().await
    };
    tokio::try_join!(reading, writing).map(drop)
}

#[cfg(test)]
mod tests {
    use tokio::io::{duplex, split};

    use super::*;

    #[tokio::test]
    async fn every_byte_comes_in_its_order_and_not_before_its_time() {
        let delay = Duration::from_millis(10);
        let (mut client, near) = duplex(64);
        let (far, mut server) = duplex(64);
        let ((reader, _near), (_far, writer)) = (split(near), split(far));
        let relayed = tokio::spawn(late(reader, writer, delay));
        let begun = Instant::now();
        client.write_all(b"one").await.unwrap();
        let mut answer = [0; 3];
        server.read_exact(&mut answer).await.unwrap();
        assert_eq!((&answer, begun.elapsed() >= delay), (b"one", true));
        let begun = Instant::now();
        client.write_all(b"two").await.unwrap();
        client.write_all(b"three").await.unwrap();
        drop((client, _near));
        let mut rest = Vec::new();
        server.read_to_end(&mut rest).await.unwrap();
        assert_eq!((rest.as_slice(), begun.elapsed() >= delay), (b"twothree".as_slice(), true));
        relayed.await.unwrap().unwrap();
    }
}
