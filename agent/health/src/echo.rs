//! The probe echo: answers other agents' probes of this node.
//!
//! Where this node's kernel answers (`docs/adr/0035`) no question arrives here. On older kernels and on interfaces that
//! are not Ethernet, all do.

use std::{
    io,
    time::{Duration, Instant},
};

use mesh_layout::probe::{BY_AGENT, answer};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::UdpSocket;

use crate::{
    datagram::{ROOM, Received, Version, parse, previous_answer},
    socket::bind,
};

/// Answers questions.
#[derive(Debug)]
pub(crate) struct EchoSocket {
    socket: UdpSocket,
    rate: AnswerRate,
}

/// How many answers were given in the last full second.
#[derive(Debug)]
struct AnswerRate {
    second: Instant,
    given: u32,
    last: u32,
}

/// Questions that wait while the thread is busy: 10,000 a second for more than a second.
const RECEIVE_BUFFER: usize = 16 << 20;

// === impl EchoSocket ===

impl EchoSocket {
    /// Listens at a port in both families, or in IPv4 where there is no other. Needs a runtime.
    pub(crate) fn bind(port: u16) -> io::Result<Self> {
        let (socket, _) = bind(port)?;
        // Beyond the system's limit it needs a capability that the agent has, and tests may not have.
        if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER)?;
        }
        Ok(Self { socket, rate: AnswerRate::new(Instant::now()) })
    }

    /// Answers all questions until the socket fails.
    pub(crate) async fn serve(&mut self) -> io::Error {
        loop {
            let mut buffer = [0; ROOM];
            let (length, from) = match self.socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => return error,
            };
            let question = parse(buffer.get(..length).unwrap_or_default());
            let Some(Received::Question { nonce, version }) = question else { continue };
            let rate = self.rate.give(Instant::now());
            // As long as the question: no sender can use us to send more than it sent.
            let _ = match version {
                Version::Present => self.socket.send_to(&answer(nonce, BY_AGENT, rate), from).await,
                Version::Previous => self.socket.send_to(&previous_answer(nonce), from).await,
            };
        }
    }

    /// The port at which it listens.
    #[cfg(test)]
    pub(crate) fn port(&self) -> u16 {
        self.socket.local_addr().unwrap().port()
    }
}

// === impl AnswerRate ===

impl AnswerRate {
    fn new(now: Instant) -> Self {
        Self { second: now, given: 0, last: 0 }
    }

    /// One more answer is given. Returns how many were in the last full second.
    fn give(&mut self, now: Instant) -> u32 {
        let seconds = now.saturating_duration_since(self.second).as_secs();
        if seconds > 0 {
            self.last = if seconds == 1 { self.given } else { 0 };
            self.given = 0;
            self.second += Duration::from_secs(seconds);
        }
        self.given = self.given.saturating_add(1);
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_of_the_last_full_second() {
        let began = Instant::now();
        let at = |millis: u64| began + Duration::from_millis(millis);
        let mut rate = AnswerRate::new(began);
        for n in 0..300 {
            assert_eq!(rate.give(at(n * 3)), 0, "no second is full yet");
        }
        assert_eq!(rate.give(at(1_000)), 300);
        assert_eq!(rate.give(at(1_999)), 300);
        assert_eq!(rate.give(at(2_000)), 2);
        assert_eq!(rate.give(at(4_500)), 0, "nothing was answered in the second before");
        assert_eq!(rate.give(at(5_000)), 1);
    }
}
