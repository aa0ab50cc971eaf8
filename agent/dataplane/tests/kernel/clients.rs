//! Clients that ask in every way there is, and the servers that answer them.

use std::{
    fs::File,
    io::{self, IoSlice, IoSliceMut, Read as _},
    mem::MaybeUninit,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd as _,
    thread,
    time::Duration,
};

use io_uring::{IoUring, opcode, squeue, types::Fd};
use mesh_model::Protocol;
use socket2::{Domain, MaybeUninitSlice, MsgHdr, MsgHdrMut, SockAddr, Socket, Type};

/// How a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// `connect` on a TCP socket.
    Tcp,
    /// The same on one that does not wait.
    TcpNonBlocking,
    /// `sendto` with `MSG_FASTOPEN`: what connects is the first data.
    FastOpenSendTo,
    /// `TCP_FASTOPEN_CONNECT`: `connect` only notes the address, and the first write connects.
    FastOpenConnect,
    /// `connect` on an MPTCP socket.
    Mptcp,
    /// `connect` by io_uring.
    TcpByRing,
    /// `connect` on a UDP socket, then `send` and `recvfrom`.
    UdpConnected,
    /// `sendto` and `recvfrom` on a UDP socket.
    UdpSendTo,
    /// `sendmsg` and `recvmsg`.
    UdpSendMsg,
    /// `connect`, and yet `sendto`.
    UdpConnectedSendTo,
    /// `sendmsg` and `recvmsg` by io_uring.
    UdpByRing,
}

/// Over which family a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
    /// IPv4 through an IPv6 socket.
    Mapped,
}

/// What a client's socket was bound to before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    /// Nothing.
    Nothing,
    /// The loopback address.
    Address,
    /// The loopback device.
    Device,
}

/// A client that has a socket and has not asked yet.
pub(crate) struct Client {
    pub(crate) way: Way,
    pub(crate) socket: Socket,
}

impl Way {
    pub(crate) const ALL: [Self; 11] = [
        Self::Tcp,
        Self::TcpNonBlocking,
        Self::FastOpenSendTo,
        Self::FastOpenConnect,
        Self::Mptcp,
        Self::TcpByRing,
        Self::UdpConnected,
        Self::UdpSendTo,
        Self::UdpSendMsg,
        Self::UdpConnectedSendTo,
        Self::UdpByRing,
    ];

    pub(crate) fn protocol(self) -> Protocol {
        match self {
            Self::Tcp
            | Self::TcpNonBlocking
            | Self::FastOpenSendTo
            | Self::FastOpenConnect
            | Self::Mptcp
            | Self::TcpByRing => Protocol::Tcp,
            _ => Protocol::Udp,
        }
    }
}

impl Family {
    pub(crate) const ALL: [Self; 3] = [Self::V4, Self::V6, Self::Mapped];

    pub(crate) fn loopback(self) -> IpAddr {
        match self {
            Self::V4 | Self::Mapped => Ipv4Addr::LOCALHOST.into(),
            Self::V6 => Ipv6Addr::LOCALHOST.into(),
        }
    }

    fn domain(self) -> Domain {
        if self == Self::V4 { Domain::IPV4 } else { Domain::IPV6 }
    }

    /// An address as sockets of this family name it.
    pub(crate) fn named(self, address: SocketAddr) -> SocketAddr {
        match (self, address) {
            (Self::Mapped, SocketAddr::V4(v4)) => (v4.ip().to_ipv6_mapped(), address.port()).into(),
            _ => address,
        }
    }
}

impl Client {
    /// Opens a socket.
    pub(crate) fn open(way: Way, family: Family, bound: Bound) -> Self {
        let (kind, protocol) = match (way, way.protocol()) {
            (Way::Mptcp, _) => (Type::STREAM, Some(socket2::Protocol::MPTCP)),
            (_, Protocol::Tcp) => (Type::STREAM, None),
            _ => (Type::DGRAM, None),
        };
        let socket = Socket::new(family.domain(), kind, protocol).unwrap();
        match bound {
            Bound::Nothing => {}
            Bound::Address => {
                let address = family.named((family.loopback(), 0).into());
                socket.bind(&address.into()).unwrap();
            }
            Bound::Device => socket.bind_device(Some(b"lo")).unwrap(),
        }
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        if way == Way::FastOpenConnect {
            nix::sys::socket::setsockopt(
                &socket,
                nix::sys::socket::sockopt::TcpFastOpenConnect,
                &true,
            )
            .unwrap();
        }
        Self { way, socket }
    }

    /// Asks, and returns which server answered and which peer address the client sees.
    pub(crate) fn ask(&self, to: SocketAddr) -> io::Result<(u16, SocketAddr)> {
        let socket = &self.socket;
        let address = SockAddr::from(to);
        match self.way {
            Way::Tcp | Way::Mptcp => socket.connect(&address)?,
            Way::TcpNonBlocking => {
                socket.connect_timeout(&address, Duration::from_secs(5))?;
                assert!(socket.take_error()?.is_none());
            }
            Way::TcpByRing => ring_connect(socket, &address)?,
            Way::FastOpenSendTo => {
                assert_eq!(socket.send_to_with_flags(b"?", &address, libc::MSG_FASTOPEN)?, 1);
            }
            Way::FastOpenConnect => {
                socket.connect(&address)?;
                socket.send(b"?")?;
            }
            Way::UdpConnected => {
                socket.connect(&address)?;
                socket.send(b"?")?;
            }
            Way::UdpSendTo => {
                socket.send_to(b"?", &address)?;
            }
            Way::UdpConnectedSendTo => {
                socket.connect(&address)?;
                socket.send_to(b"?", &address)?;
            }
            Way::UdpSendMsg => {
                socket.sendmsg(
                    &MsgHdr::new().with_addr(&address).with_buffers(&[IoSlice::new(b"?")]),
                    0,
                )?;
            }
            Way::UdpByRing => return ring_ask(socket, &address),
        }
        self.answer()
    }

    /// Reads an answer.
    pub(crate) fn answer(&self) -> io::Result<(u16, SocketAddr)> {
        let socket = &self.socket;
        let mut port = [0; 2];
        let peer = match self.way {
            Way::UdpSendMsg => {
                let mut buffer = [MaybeUninit::uninit(); 2];
                let mut buffers = [MaybeUninitSlice::new(&mut buffer)];
                let mut from = SockAddr::from(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)));
                let mut message = MsgHdrMut::new().with_addr(&mut from).with_buffers(&mut buffers);
                assert_eq!(uninterrupted(|| socket.recvmsg(&mut message, 0))?, 2);
                // SAFETY: two bytes were received.
                #[expect(unsafe_code, reason = "what the kernel filled is initialised")]
                let received = buffer.map(|byte| unsafe { byte.assume_init() });
                port = received;
                from
            }
            _ if self.way.protocol() == Protocol::Udp => {
                let mut buffer = [MaybeUninit::uninit(); 2];
                let (length, from) = uninterrupted(|| socket.recv_from(&mut buffer))?;
                assert_eq!(length, 2);
                // SAFETY: two bytes were received.
                #[expect(unsafe_code, reason = "what the kernel filled is initialised")]
                let received = buffer.map(|byte| unsafe { byte.assume_init() });
                port = received;
                if matches!(self.way, Way::UdpConnected | Way::UdpConnectedSendTo) {
                    assert_eq!(socket.peer_addr()?.as_socket(), from.as_socket());
                }
                from
            }
            _ => {
                let mut stream = socket;
                stream.read_exact(&mut port)?;
                socket.peer_addr()?
            }
        };
        Ok((u16::from_be_bytes(port), peer.as_socket().unwrap()))
    }
}

/// A TCP server that greets each client with its own port; it takes what clients send along with their connect, and MPTCP.
pub(crate) fn tcp_server(ip: IpAddr) -> SocketAddr {
    let domain = if ip.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let listener = Socket::new(domain, Type::STREAM, Some(socket2::Protocol::MPTCP)).unwrap();
    listener.bind(&SocketAddr::from((ip, 0)).into()).unwrap();
    set_option(&listener, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, 16);
    listener.listen(64).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    thread::spawn(move || {
        while let Ok((client, _)) = listener.accept() {
            let _ = client.send(&address.port().to_be_bytes());
            // Inherited until the client has gone, so that nothing is reset under it.
            thread::spawn(
                move || while client.recv(&mut [MaybeUninit::uninit()]).is_ok_and(|n| n > 0) {},
            );
        }
    });
    address
}

/// The cookie of the network namespace that this thread is in.
pub(crate) fn netns_cookie() -> u64 {
    mesh_files::netns_cookie().unwrap()
}

/// Takes a socket's peer away from it.
pub(crate) fn disconnect(socket: &Socket) {
    // SAFETY: an address of no family, of its right length.
    #[expect(unsafe_code, reason = "no safe function disconnects")]
    let result = unsafe {
        let nobody: libc::sockaddr = std::mem::zeroed();
        let length = libc::socklen_t::try_from(size_of_val(&nobody)).unwrap();
        libc::connect(socket.as_raw_fd(), &raw const nobody, length)
    };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

/// Whether what a TCP client sent along with its connect was taken.
pub(crate) fn sent_with_syn(socket: &Socket) -> bool {
    const TCPI_OPT_SYN_DATA: u8 = 32;
    let info = tcp_info(socket);
    info.tcpi_options & TCPI_OPT_SYN_DATA != 0
}

fn tcp_info(socket: &Socket) -> libc::tcp_info {
    // SAFETY: integers, for which zeros are values; the kernel writes no more than the length.
    #[expect(unsafe_code, reason = "the option has no safe name")]
    unsafe {
        let mut info: libc::tcp_info = std::mem::zeroed();
        let mut length = libc::socklen_t::try_from(size_of_val(&info)).unwrap();
        let result = libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        );
        assert_eq!(result, 0);
        info
    }
}

/// Whether an MPTCP socket uses MPTCP with its peer, and did not fall back to TCP.
pub(crate) fn is_mptcp(socket: &Socket) -> bool {
    further_subflows(socket).is_some()
}

/// How many further subflows an MPTCP socket has; `None` where it fell back to TCP.
pub(crate) fn further_subflows(socket: &Socket) -> Option<u8> {
    const SOL_MPTCP: libc::c_int = 284;
    const MPTCP_INFO: libc::c_int = 1;
    let mut info = [0u8; 256];
    let mut length = libc::socklen_t::try_from(info.len()).unwrap();
    // SAFETY: the kernel writes no more than the length.
    #[expect(unsafe_code, reason = "the option has no safe name")]
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            SOL_MPTCP,
            MPTCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    // `mptcpi_subflows` is the first field.
    (result == 0).then_some(info[0])
}

pub(crate) fn set_option(
    socket: &Socket,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) {
    let length = libc::socklen_t::try_from(size_of_val(&value)).unwrap();
    // SAFETY: the value outlives the call, and the length is its own.
    #[expect(unsafe_code, reason = "the option has no safe name")]
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length)
    };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

/// Runs `work` on a thread in another network namespace.
pub(crate) fn within<T: Send>(namespace: &File, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            work()
        });
        thread.join().unwrap()
    })
}

fn ring_connect(socket: &Socket, address: &SockAddr) -> io::Result<()> {
    let entry =
        opcode::Connect::new(Fd(socket.as_raw_fd()), address.as_ptr().cast(), address.len());
    submit(&entry.build()).map(|_| ())
}

fn ring_ask(socket: &Socket, address: &SockAddr) -> io::Result<(u16, SocketAddr)> {
    let fd = Fd(socket.as_raw_fd());
    let mut question = *b"?";
    let mut slice = IoSliceMut::new(&mut question);
    let mut message = header(&mut slice);
    message.msg_name = address.as_ptr().cast_mut().cast();
    message.msg_namelen = address.len();
    submit(&opcode::SendMsg::new(fd, &raw const message).build())?;
    let mut port = [0; 2];
    let mut slice = IoSliceMut::new(&mut port);
    let mut message = header(&mut slice);
    // SAFETY: the kernel writes an address of at most the given length, and then its length.
    #[expect(unsafe_code, reason = "io_uring takes pointers")]
    let ((), from) = unsafe {
        SockAddr::try_init(|storage, length| {
            message.msg_name = storage.cast();
            message.msg_namelen = *length;
            submit(&opcode::RecvMsg::new(fd, &raw mut message).build())?;
            *length = message.msg_namelen;
            Ok(())
        })
    }?;
    Ok((u16::from_be_bytes(port), from.as_socket().unwrap()))
}

fn header(slice: &mut IoSliceMut<'_>) -> libc::msghdr {
    // SAFETY: integers and null pointers. `IoSliceMut` is an `iovec`, by its documentation.
    #[expect(unsafe_code, reason = "io_uring takes pointers")]
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = std::ptr::from_mut(slice).cast();
    message.msg_iovlen = 1;
    message
}

/// Calls again what was interrupted: the kernel takes a ring away some time after it was closed, and interrupts for that
/// whatever its thread waits for with a timeout.
fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// Has one entry done by a ring of its own; what it points to outlives the call.
fn submit(entry: &squeue::Entry) -> io::Result<i32> {
    let mut ring = IoUring::new(2)?;
    // SAFETY: the call waits until the kernel is done with the entry.
    #[expect(unsafe_code, reason = "io_uring takes pointers")]
    unsafe { ring.submission().push(entry) }.map_err(io::Error::other)?;
    uninterrupted(|| ring.submit_and_wait(1))?;
    let result = ring.completion().next().unwrap().result();
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result) }
}
