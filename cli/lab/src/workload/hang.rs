//! A client that makes one request and then waits for data that never comes, until its connection is ended.

use std::{io, net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{net::UdpSocket, time::timeout};

use crate::workload::{
    Answer,
    call::{Flow, Transport, any, ask_datagram},
};

/// An event of the client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Event {
    /// The server answered; the client now waits.
    Answered(Answer),
    /// The connection ended with this error number; 0 if the server closed it.
    Ended(i32),
}

/// The longest wait for the end of the connection.
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes a request, waits until the connection ends, connects again and makes another request. With UDP it uses the same
/// socket.
///
/// # Errors
/// No server answers, or the connection does not end.
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
