//! A client that asked once and waits for more that never comes: what ends its wait is not the network.

use std::{io, net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{net::UdpSocket, time::timeout};

use crate::workload::{
    Answer,
    call::{Flow, Transport, any, ask_datagram},
};

/// What happened to it, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Event {
    /// It was answered, and waits.
    Answered(Answer),
    /// Its connection ended by an error of this number, or in good order (0).
    Ended(i32),
}

/// Longer than a client should have to wait.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks, waits until the connection ends, connects again and asks again; by UDP with the same socket.
///
/// # Errors
/// When no server answers, or the connection does not end.
pub async fn hang(
    transport: Transport,
    to: SocketAddr,
    deadline: Duration,
    mut report: impl FnMut(Event) -> io::Result<()>,
) -> io::Result<()> {
    let late = || io::Error::from(io::ErrorKind::TimedOut);
    let errno = |error: io::Error| error.raw_os_error().unwrap_or_default();
    match transport {
        Transport::Udp => {
            let socket = UdpSocket::bind((any(to), 0)).await?;
            let ask = async || {
                socket.connect(to).await?;
                timeout(deadline, ask_datagram(&socket)).await.unwrap_or_else(|_| Err(late()))
            };
            report(Event::Answered(ask().await?))?;
            let ended = timeout(PATIENCE, socket.recv(&mut [0; 1])).await.map_err(|_| late())?;
            report(Event::Ended(ended.err().map(errno).unwrap_or_default()))?;
            report(Event::Answered(ask().await?))
        }
        Transport::Tcp => {
            let ask = async || {
                let asked = timeout(deadline, async {
                    let mut flow = Flow::open(to).await?;
                    let answer = flow.ask().await?.0.answer;
                    Ok((flow, answer))
                });
                asked.await.unwrap_or_else(|_| Err(late()))
            };
            let (mut flow, answer) = ask().await?;
            report(Event::Answered(answer))?;
            let ended = timeout(PATIENCE, flow.wait()).await.map_err(|_| late())?;
            report(Event::Ended(ended.err().map(errno).unwrap_or_default()))?;
            report(Event::Answered(ask().await?.1))
        }
    }
}
