//! Requests and their answers, one after the other. All calls block.

use std::{fmt, io, os::fd::AsFd as _};

use netlink_sys::{Socket, SocketAddr};
use nix::sys::{
    socket::{setsockopt, sockopt},
    time::TimeVal,
};

use super::{
    Message, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, Request, attributes,
    text,
};

/// A socket in the network namespace of the thread that opens it.
pub(crate) struct NetlinkSocket {
    socket: Socket,
    port: u32,
    sequence: u32,
}

/// The kernel refused a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// `errno`.
    pub(crate) errno: i32,
    /// The kernel's message with it.
    pub(crate) message: Option<String>,
}

/// Seconds after which the kernel is taken to have nothing more to send. It answers immediately, if it answers.
const PATIENCE: i64 = 5;
/// How often a list that changed while it was read is requested again.
const ATTEMPTS: usize = 4;

/// Flags and attribute of an error message.
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
/// Bytes of `nlmsgerr` with the header of the message that it is about.
const ERROR: usize = 20;

// === impl NetlinkSocket ===

impl NetlinkSocket {
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        let port = socket.bind_auto()?.port_number();
        socket.connect(&SocketAddr::new(0, 0))?;
        setsockopt(&socket.as_fd(), sockopt::ReceiveTimeout, &TimeVal::new(PATIENCE, 0))?;
        // Reasons as text, and without the request's own bytes; lists of what was requested and no more.
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        socket.set_netlink_get_strict_chk(true)?;
        Ok(Self { socket, port, sequence: 0 })
    }

    /// Its port, which identifies its own changes in the kernel's reports.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Sets the room for requests to this many bytes, where this process may: without it large ones are refused.
    pub(crate) fn make_room(&self, bytes: usize) {
        let _ = setsockopt(&self.socket.as_fd(), sockopt::SndBufForce, &bytes);
    }

    /// Has something done, and waits until it is.
    pub(crate) fn request(&mut self, request: Request) -> io::Result<Result<(), Refused>> {
        let sequence = self.send([request.with(NLM_F_ACK)])?;
        let mut result = None;
        while result.is_none() {
            let (received, _) = self.socket.recv_from_full()?;
            let answers = Message::all(&received).filter(|message| message.sequence == sequence);
            result = answers.filter(|message| message.kind == NLMSG_ERROR).map(error).last();
        }
        Ok(result.unwrap_or(Ok(())))
    }

    /// Has several things done in one transaction, whose last message is to be acknowledged. What is refused comes with the
    /// index of its message.
    pub(crate) fn transaction(
        &mut self,
        requests: Vec<Request>,
    ) -> io::Result<Result<(), (usize, Refused)>> {
        let count = u32::try_from(requests.len()).unwrap_or(u32::MAX);
        let last = self.send(requests)?;
        let first = last.wrapping_sub(count.saturating_sub(1));
        let mut refused = None;
        loop {
            let (received, _) = self.socket.recv_from_full()?;
            for message in Message::all(&received).filter(|m| m.kind == NLMSG_ERROR) {
                let index = message.sequence.wrapping_sub(first);
                match error(message) {
                    _ if index >= count => {}
                    Ok(()) => return Ok(refused.map_or(Ok(()), Err)),
                    // The kernel goes on to name what else it refuses; the first names the cause.
                    Err(reason) if refused.is_none() => {
                        let index = usize::try_from(index).unwrap_or(usize::MAX);
                        refused = Some((index, reason));
                    }
                    Err(_) => {}
                }
            }
        }
    }

    /// One answer to a question that has one.
    pub(crate) fn ask<T>(
        &mut self,
        request: Request,
        read: impl FnOnce(Message<'_>) -> T,
    ) -> io::Result<Result<T, Refused>> {
        let sequence = self.send([request])?;
        loop {
            let (received, _) = self.socket.recv_from_full()?;
            let Some(answer) = Message::all(&received).find(|m| m.sequence == sequence) else {
                continue;
            };
            return Ok(match answer.kind {
                NLMSG_ERROR => error(answer).map(|()| read(answer)),
                _ => Ok(read(answer)),
            });
        }
    }

    /// All that a list has. One that changed while it was read is read again.
    pub(crate) fn list<T>(
        &mut self,
        request: &Request,
        mut read: impl FnMut(Message<'_>) -> Option<T>,
    ) -> io::Result<Result<Vec<T>, Refused>> {
        for _ in 0..ATTEMPTS {
            let sequence = self.send([request.clone().with(NLM_F_DUMP)])?;
            let (mut found, mut whole) = (Vec::new(), true);
            'list: loop {
                let (received, _) = self.socket.recv_from_full()?;
                for message in Message::all(&received).filter(|m| m.sequence == sequence) {
                    whole &= message.flags & NLM_F_DUMP_INTR == 0;
                    match message.kind {
                        NLMSG_DONE => break 'list,
                        NLMSG_ERROR => match error(message) {
                            Err(refused) => return Ok(Err(refused)),
                            Ok(()) => break 'list,
                        },
                        _ => found.extend(read(message)),
                    }
                }
            }
            if whole {
                return Ok(Ok(found));
            }
        }
        Err(io::Error::new(io::ErrorKind::Interrupted, "it changes faster than it can be read"))
    }

    /// Sends requests with sequence numbers in a row; returns the last.
    fn send(&mut self, requests: impl IntoIterator<Item = Request>) -> io::Result<u32> {
        let mut bytes = Vec::new();
        for request in requests {
            self.sequence = self.sequence.wrapping_add(1);
            bytes.extend(request.finish(self.sequence));
        }
        let sent = self.socket.send(&bytes, 0)?;
        if sent < bytes.len() {
            return Err(io::Error::new(io::ErrorKind::WriteZero, "a request was cut off"));
        }
        Ok(self.sequence)
    }
}

impl fmt::Debug for NetlinkSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetlinkSocket").field("port", &self.port).finish_non_exhaustive()
    }
}

// === impl Refused ===

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = io::Error::from_raw_os_error(self.errno);
        match &self.message {
            Some(message) => write!(f, "{message}: {error}"),
            None => write!(f, "{error}"),
        }
    }
}

/// The content of an error message: nothing, if it acknowledges.
fn error(message: Message<'_>) -> Result<(), Refused> {
    let code = message.body.get(..4).and_then(|bytes| bytes.try_into().ok());
    let errno = -code.map_or(-nix::libc::EBADMSG, i32::from_ne_bytes);
    if errno == 0 {
        return Ok(());
    }
    let has_words = NLM_F_CAPPED | NLM_F_ACK_TLVS;
    let words = (message.flags & has_words == has_words)
        .then(|| attributes(message.body.get(ERROR..).unwrap_or_default()));
    let reason = words.into_iter().flatten().find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG);
    Err(Refused { errno, message: reason.map(|(_, words)| text(words)) })
}
