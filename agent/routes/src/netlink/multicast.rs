//! What the kernel reports unasked.

use std::{
    fmt, io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    time::Duration,
};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv, setsockopt, sockopt},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Instant, sleep_until},
};

use super::Message;

/// Reports of some groups, of the network namespace of the thread that opened it.
pub(crate) struct Multicast {
    /// The socket as registered with the runtime, only while the task waits for it: each report would wake the task up.
    /// Declared before the socket, so that it is dropped first.
    armed: Option<AsyncFd<OwnedFd>>,
    socket: Socket,
    buffer: Vec<u8>,
    not_before: Instant,
}

/// A report.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Received<'a> {
    /// This.
    Message(Message<'a>),
    /// More than there was room for: anything may have changed.
    Overrun,
}

/// Groups of `rtnetlink(7)`.
pub(crate) const LINK: u32 = 1;
pub(crate) const IPV4_ADDRESS: u32 = 5;
pub(crate) const IPV4_ROUTE: u32 = 7;
pub(crate) const IPV6_ADDRESS: u32 = 9;
pub(crate) const IPV6_ROUTE: u32 = 11;

/// Between two times that reports are read: a node that starts 50 pods a second has hundreds of them, and each wake-up
/// costs more than the reading.
const PAUSE: Duration = Duration::from_millis(200);
/// Room for the reports of such a pause, also while a network plugin restarts. Bytes.
const ROOM: usize = 4 * 1024 * 1024;
/// More than the longest report.
const LONGEST: usize = 64 * 1024;

// === impl Multicast ===

impl Multicast {
    pub(crate) fn open(groups: &[u32]) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.set_non_blocking(true)?;
        // Beyond the limit for all, where this process may.
        if setsockopt(&socket.as_fd(), sockopt::RcvBufForce, &ROOM).is_err() {
            setsockopt(&socket.as_fd(), sockopt::RcvBuf, &ROOM)?;
        }
        socket.bind(&SocketAddr::new(0, 0))?;
        groups.iter().try_for_each(|group| socket.add_membership(*group))?;
        let buffer = vec![0; LONGEST];
        Ok(Self { socket, armed: None, buffer, not_before: Instant::now() })
    }

    /// Waits for reports and hands each over; not before a pause is over since the last time.
    ///
    /// Cancel safety: reports are read and handed over without a break; dropped while it waits, it leaves them.
    pub(crate) async fn read(&mut self, mut take: impl FnMut(Received<'_>)) -> io::Result<()> {
        sleep_until(self.not_before).await;
        self.not_before = Instant::now() + PAUSE;
        let armed = match &mut self.armed {
            Some(armed) => armed,
            disarmed => disarmed.insert(arm(self.socket.as_fd().try_clone_to_owned()?)?),
        };
        drop(armed.readable().await?);
        self.armed = None;
        self.not_before = Instant::now() + PAUSE;
        loop {
            match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Ok(length) => {
                    let received = self.buffer.get(..length).unwrap_or_default();
                    Message::all(received).for_each(|message| take(Received::Message(message)));
                }
                Err(Errno::ENOBUFS) => take(Received::Overrun),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// Has the runtime wait for a descriptor.
#[allow(unsafe_code, reason = "the runtime takes no descriptor without a promise")]
fn arm(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open and the same until it is dropped, which the `AsyncFd` that owns it does last.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

impl fmt::Debug for Multicast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Multicast")
    }
}
