//! Requests to the kernel about sockets, and its answers: `sock_diag(7)`, without IO.
//!
//! Every message is a netlink header and a fixed struct; attributes may follow. Integers are in the machine's byte
//! order, addresses and ports in network order.

use mesh_layout::mapped;
use mesh_model::Protocol;

/// A connected socket as the kernel listed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Connection {
    family: u8,
    protocol: u8,
    /// By which the kernel finds it again, and no other: addresses, ports, interface and cookie.
    id: [u8; ID],
    /// The address that it is connected to, v4 as v4-mapped.
    pub(crate) address: [u8; 16],
    /// The port there, in network order.
    pub(crate) port: [u8; 2],
}

/// One of the messages that the kernel answers with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// A socket.
    Connection(Box<Connection>),
    /// The list is complete.
    Done,
    /// The request was executed (0), or why not (`errno`).
    Result(i32),
}

/// The families that are listed, one after the other: the kernel takes no question about both.
pub(crate) const FAMILIES: [u8; 2] = [AF_INET, AF_INET6];

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;

/// States of a socket that is connected, or is about to be. A connected UDP socket is ESTABLISHED. Those that no
/// process has open any more, and listeners, are left out.
const CONNECTED: u32 = 1 << 1 /* ESTABLISHED */ | 1 << 2 /* SYN_SENT */ | 1 << 4 /* FIN_WAIT1 */
    | 1 << 5 /* FIN_WAIT2 */ | 1 << 8 /* CLOSE_WAIT */;

/// Bytes of `nlmsghdr`.
const HEADER: usize = 16;
/// Bytes of `inet_diag_sockid`.
const ID: usize = 48;
/// Where `inet_diag_msg` has it.
const ID_AT: usize = 4;
/// Where `inet_diag_sockid` has the peer's port and address.
const PEER_PORT_AT: usize = 2;
const PEER_AT: usize = 20;
const COOKIE_AT: usize = 40;

/// Asks for all connected sockets of a family and a protocol.
pub(crate) fn list(sequence: u32, family: u8, protocol: Protocol) -> Vec<u8> {
    let mut body = vec![family, number(protocol), 0, 0];
    body.extend(CONNECTED.to_ne_bytes());
    body.extend([0; ID]);
    message(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, sequence, &body)
}

/// Has a socket ended: exactly that one, or none.
pub(crate) fn destroy(sequence: u32, connection: &Connection) -> Vec<u8> {
    let mut body = vec![connection.family, connection.protocol, 0, 0];
    body.extend(u32::MAX.to_ne_bytes());
    body.extend(connection.id);
    message(SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK, sequence, &body)
}

/// The kernel's answers to the request of a sequence number. Truncated ones, or those of another request, are left out.
pub(crate) fn answers(
    sequence: u32,
    protocol: Protocol,
    mut received: &[u8],
) -> impl Iterator<Item = Answer> {
    std::iter::from_fn(move || {
        loop {
            let (kind, of, body, rest) = split_message(received)?;
            received = rest;
            if of == sequence
                && let Some(answer) = answer(kind, protocol, body)
            {
                return Some(answer);
            }
        }
    })
}

fn answer(kind: u16, protocol: Protocol, body: &[u8]) -> Option<Answer> {
    match kind {
        NLMSG_DONE => Some(Answer::Done),
        NLMSG_ERROR => Some(Answer::Result(i32::from_ne_bytes(*body.first_chunk()?).abs())),
        SOCK_DIAG_BY_FAMILY => {
            Some(Answer::Connection(Box::new(Connection::read(protocol, body)?)))
        }
        _ => None,
    }
}

/// The first message: its type, its sequence number, its body, and what comes after it.
fn split_message(bytes: &[u8]) -> Option<(u16, u32, &[u8], &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let sequence = u32::from_ne_bytes(*bytes.get(8..)?.first_chunk()?);
    let body = bytes.get(HEADER..length)?;
    let rest = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, sequence, body, rest))
}

fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(body);
    bytes
}

/// The number of a protocol in IP headers.
fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

// === impl Connection ===

impl Connection {
    fn read(protocol: Protocol, body: &[u8]) -> Option<Self> {
        let family = *body.first()?;
        let id: [u8; ID] = *body.get(ID_AT..)?.first_chunk()?;
        let peer = id.get(PEER_AT..)?;
        let address = match family {
            AF_INET => mapped(*peer.first_chunk()?),
            AF_INET6 => *peer.first_chunk()?,
            _ => return None,
        };
        let port = *id.get(PEER_PORT_AT..)?.first_chunk()?;
        Some(Self { family, protocol: number(protocol), id, address, port })
    }

    /// The number by which the kernel knows it, which no other socket will have before the next boot.
    pub(crate) fn cookie(&self) -> u64 {
        let bytes = self.id.get(COOKIE_AT..).and_then(|rest| rest.first_chunk());
        let [low, high] = bytes.map_or([0; 2], |bytes: &[u8; 8]| {
            let [a, b, c, d, e, f, g, h] = *bytes;
            [[a, b, c, d], [e, f, g, h]].map(u32::from_ne_bytes)
        });
        u64::from(high) << 32 | u64::from(low)
    }
}

#[cfg(test)]
mod tests;
