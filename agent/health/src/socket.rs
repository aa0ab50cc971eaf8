//! The socket from which this agent probes other nodes.
//!
//! Questions go to a port that every node knows. They leave from another port than the echo's, so that a flood of
//! others' questions delays no answer to us. A sender that does not know a question's nonce cannot forge an answer.
//!
//! Where neither the kernel's program nor an agent answers, the node's kernel returns the question as "port
//! unreachable". The probing socket finds that in its error queue: the question with its nonce, and the address that it
//! was for.

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd as _,
};

use mesh_layout::probe;
use nix::{
    errno::Errno,
    libc,
    sys::socket::{
        ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendto, setsockopt, sockopt,
    },
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{io::Interest, net::UdpSocket};

use crate::{
    datagram::{ROOM, Received, parse, previous_question},
    question::{Answerer, Probe, Question, Reply},
};

/// Sends questions, and receives the replies.
#[derive(Debug)]
pub(crate) struct ProbeSocket {
    socket: UdpSocket,
    /// The others' port.
    port: u16,
    v6: bool,
}

/// Datagrams that are read in one go.
const AT_ONCE: usize = 1_024;
/// Origin, type and code of the message that no process listens at a port (RFC 792, RFC 4443).
const PORT_UNREACHABLE: (u8, u8, u8) = (libc::SO_EE_ORIGIN_ICMP, 3, 3);
const PORT_UNREACHABLE_V6: (u8, u8, u8) = (libc::SO_EE_ORIGIN_ICMP6, 1, 4);
/// Datagrams that wait for neighbours that do not answer must leave room for questions to others.
const SEND_BUFFER: usize = 4 << 20;
/// An error of an earlier question is returned for the next one that is sent, which is not sent then.
const TRIES: usize = 4;

// === impl ProbeSocket ===

impl ProbeSocket {
    /// Asks at a port, from any of ours. Needs a runtime.
    pub(crate) fn bind(port: u16) -> io::Result<Self> {
        let (socket, v6) = bind(0)?;
        setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
        if v6 {
            setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
        }
        // Needs a capability that the agent has, and tests may not have.
        let _ = setsockopt(&socket, sockopt::SndBufForce, &SEND_BUFFER);
        Ok(Self { socket, port, v6 })
    }

    /// Probes a node. A datagram that cannot be sent counts as not answered.
    pub(crate) fn ask(&self, question: Question) {
        let Probe { address, nonce } = question.probe;
        if question.versions.has_present() {
            self.send(address, &probe::question(nonce));
        }
        if question.versions.has_previous() {
            self.send(address, &previous_question(nonce));
        }
    }

    fn send(&self, address: IpAddr, datagram: &[u8]) {
        let address = match (address, self.v6) {
            (IpAddr::V4(v4), true) => v4.to_ipv6_mapped().into(),
            (address, _) => address,
        };
        let to = SockaddrStorage::from(SocketAddr::from((address, self.port)));
        for _ in 0..TRIES {
            let sent = sendto(self.socket.as_raw_fd(), datagram, &to, MsgFlags::MSG_DONTWAIT);
            if sent.is_ok() || sent == Err(Errno::EAGAIN) {
                break;
            }
        }
    }

    /// The next replies. Cancel-safe.
    pub(crate) async fn receive(&self) -> io::Result<Vec<(Probe, Reply)>> {
        loop {
            self.socket.ready(Interest::READABLE | Interest::ERROR).await?;
            let received = self.received();
            if !received.is_empty() {
                return Ok(received);
            }
        }
    }

    /// The replies that have arrived.
    pub(crate) fn received(&self) -> Vec<(Probe, Reply)> {
        let mut replies = Vec::new();
        // Bounded, in case others send faster than we read.
        for _ in 0..AT_ONCE {
            match self.socket.try_io(Interest::ERROR, || self.read_error()) {
                Ok(refused) => replies.extend(refused.map(|probe| (probe, Reply::Refused))),
                Err(_) => break,
            }
        }
        let mut buffer = [0; ROOM];
        for _ in 0..AT_ONCE {
            match self.socket.try_recv_from(&mut buffer) {
                Ok((length, from)) => {
                    replies.extend(self.accept(buffer.get(..length).unwrap_or_default(), from));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // It belongs to an earlier question, and reading it removes it: answers may be behind it.
                Err(_) => {}
            }
        }
        replies
    }

    /// The next entry of the error queue; nothing, if it is no refusal of a question of ours.
    fn read_error(&self) -> io::Result<Option<Probe>> {
        let mut buffer = [0; ROOM];
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let mut control = nix::cmsg_space!([u8; 512]);
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let fd = self.socket.as_raw_fd();
        let message = recvmsg::<SockaddrStorage>(fd, &mut slices, Some(&mut control), flags)?;
        let offender = message.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::Ipv4RecvErr(error, from) => {
                offender(&error, IpAddr::V4(u32::from_be(from?.sin_addr.s_addr).into()))
            }
            ControlMessageOwned::Ipv6RecvErr(error, from) => {
                offender(&error, Ipv6Addr::from(from?.sin6_addr.s6_addr).into())
            }
            _ => None,
        });
        let asked = message.address.as_ref().and_then(address);
        let length = message.bytes;
        Ok(self.accept_refusal(buffer.get(..length).unwrap_or_default(), asked, offender))
    }

    /// A question of ours that came back from the very node that it was for.
    fn accept_refusal(
        &self,
        datagram: &[u8],
        asked: Option<SocketAddr>,
        offender: Option<IpAddr>,
    ) -> Option<Probe> {
        let address = asked.filter(|asked| asked.port() == self.port)?.ip().to_canonical();
        match parse(datagram) {
            Some(Received::Question { nonce, .. }) if offender == Some(address) => {
                Some(Probe { address, nonce })
            }
            _ => None,
        }
    }

    fn accept(&self, datagram: &[u8], from: SocketAddr) -> Option<(Probe, Reply)> {
        match parse(datagram) {
            Some(Received::Answer { nonce, by_kernel, rate }) if from.port() == self.port => {
                let by = match (by_kernel, rate) {
                    (_, None) => Answerer::PreviousAgent,
                    (true, Some(rate)) => Answerer::Kernel { rate },
                    (false, Some(rate)) => Answerer::Agent { rate },
                };
                let probe = Probe { address: from.ip().to_canonical(), nonce };
                Some((probe, Reply::Answered(by)))
            }
            _ => None,
        }
    }
}

/// A socket for both families, and whether it is one: without IPv6 it is for IPv4. Needs a runtime.
pub(crate) fn bind(port: u16) -> io::Result<(UdpSocket, bool)> {
    match bind_to((Ipv6Addr::UNSPECIFIED, port).into()) {
        Ok(socket) => Ok((socket, true)),
        Err(_) => Ok((bind_to((Ipv4Addr::UNSPECIFIED, port).into())?, false)),
    }
}

fn bind_to(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        // Whatever net.ipv6.bindv6only is: nodes have IPv4 addresses too.
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

/// The address that reports a port to be unreachable, if that is what the message is.
fn offender(error: &libc::sock_extended_err, from: IpAddr) -> Option<IpAddr> {
    let is = (error.ee_origin, error.ee_type, error.ee_code);
    [PORT_UNREACHABLE, PORT_UNREACHABLE_V6].contains(&is).then(|| from.to_canonical())
}

fn address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::from((v4.ip(), v4.port())));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::from((v6.ip(), v6.port()))))
}

#[cfg(test)]
mod tests;
