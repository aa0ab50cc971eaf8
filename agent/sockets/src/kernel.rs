//! The kernel's list of sockets, in the network namespace of the thread that opened it.

use std::{io, os::fd::AsFd as _};

use mesh_model::Protocol;
use netlink_sys::{Socket, protocols::NETLINK_SOCK_DIAG};
use nix::{
    errno::Errno,
    sys::{
        socket::{setsockopt, sockopt},
        time::TimeVal,
    },
};

use crate::diag::{self, Answer, Connection};

/// A connection to it.
pub(crate) struct Diag {
    socket: Socket,
    sequence: u32,
}

/// The outcome for a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It was ended.
    Ended,
    /// It was closed, or connected elsewhere, before.
    Gone,
}

/// Seconds after which the kernel is taken to have nothing more to send. It answers immediately.
const PATIENCE: i64 = 5;

impl Diag {
    pub(crate) fn open() -> io::Result<Self> {
        let socket = Socket::new(NETLINK_SOCK_DIAG)?;
        setsockopt(&socket.as_fd(), sockopt::ReceiveTimeout, &TimeVal::new(PATIENCE, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// All connected sockets of a protocol.
    pub(crate) fn connections(&mut self, protocol: Protocol) -> io::Result<Vec<Connection>> {
        let mut connections = Vec::new();
        for family in diag::FAMILIES {
            self.sequence += 1;
            self.ask(&diag::list(self.sequence, family, protocol))?;
            'list: loop {
                let (received, _) = self.socket.recv_from_full()?;
                for answer in diag::answers(self.sequence, protocol, &received) {
                    match answer {
                        Answer::Connection(connection) => connections.push(*connection),
                        Answer::Done => break 'list,
                        // A kernel without IPv6 knows none of its sockets.
                        Answer::Result(errno) if errno == Errno::ENOENT as i32 => break 'list,
                        Answer::Result(errno) => return Err(io::Error::from_raw_os_error(errno)),
                    }
                }
            }
        }
        Ok(connections)
    }

    /// Ends a socket.
    pub(crate) fn destroy(
        &mut self,
        protocol: Protocol,
        connection: &Connection,
    ) -> io::Result<Fate> {
        self.sequence += 1;
        self.ask(&diag::destroy(self.sequence, connection))?;
        loop {
            let (received, _) = self.socket.recv_from_full()?;
            for answer in diag::answers(self.sequence, protocol, &received) {
                match answer {
                    Answer::Result(0) => return Ok(Fate::Ended),
                    Answer::Result(errno) if errno == Errno::ENOENT as i32 => {
                        return Ok(Fate::Gone);
                    }
                    Answer::Result(errno) => return Err(io::Error::from_raw_os_error(errno)),
                    Answer::Connection(_) | Answer::Done => {}
                }
            }
        }
    }

    fn ask(&self, question: &[u8]) -> io::Result<()> {
        self.socket.send(question, 0).map(drop)
    }
}
