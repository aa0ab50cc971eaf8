//! Messages to and from the kernel by netlink: a header, a fixed struct, and attributes, which may be nested.
//!
//! Integers are in the machine's byte order; nftables has its own in network order. A truncated message or attribute
//! ends a list.

use std::net::IpAddr;

pub(crate) mod link;
mod multicast;
pub(crate) mod route;
mod socket;

pub(crate) use multicast::{
    IPV4_ADDRESS, IPV4_ROUTE, IPV6_ADDRESS, IPV6_ROUTE, LINK, Multicast, Received,
};
pub(crate) use socket::{NetlinkSocket, Refused};

/// A message to the kernel, while it is written.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    bytes: Vec<u8>,
}

/// A message of the kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    /// The socket whose request it is about.
    pub(crate) port: u32,
    pub(crate) body: &'a [u8],
}

pub(crate) const NLM_F_REQUEST: u16 = 0x1;
pub(crate) const NLM_F_ACK: u16 = 0x4;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
/// Of a request that makes something.
pub(crate) const NLM_F_REPLACE: u16 = 0x100;
pub(crate) const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_CREATE: u16 = 0x400;
pub(crate) const NLM_F_APPEND: u16 = 0x800;
/// Of an answer: what is listed changed meanwhile.
pub(crate) const NLM_F_DUMP_INTR: u16 = 0x10;

pub(crate) const NLMSG_ERROR: u16 = 2;
pub(crate) const NLMSG_DONE: u16 = 3;

pub(crate) const AF_UNSPEC: u8 = 0;
pub(crate) const AF_INET: u8 = 2;
pub(crate) const AF_INET6: u8 = 10;

/// Of an attribute that holds attributes.
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;
/// Bytes of `nlmsghdr` and `nlattr`.
const HEADER: usize = 16;
const ATTRIBUTE: usize = 4;

// === impl Request ===

impl Request {
    /// A message with its fixed struct. The sequence number is written by the socket.
    pub(crate) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(fixed);
        let mut request = Self { bytes };
        request.pad();
        request
    }

    /// The same with more flags.
    pub(crate) fn with(mut self, flags: u16) -> Self {
        let before = self.bytes.get(6..8).map_or(0, short);
        self.overwrite(6, &(before | flags).to_ne_bytes());
        self
    }

    pub(crate) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        self.put(kind, value);
        self
    }

    /// An attribute that holds what `write` writes.
    pub(crate) fn nested(self, kind: u16, write: impl FnOnce(Self) -> Self) -> Self {
        let at = self.bytes.len();
        let mut request = write(self.attribute(kind | NLA_F_NESTED, &[]));
        let length = u16::try_from(request.bytes.len() - at).unwrap_or(u16::MAX);
        request.overwrite(at, &length.to_ne_bytes());
        request
    }

    /// The bytes, with a sequence number.
    pub(crate) fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.overwrite(0, &length.to_ne_bytes());
        self.overwrite(8, &sequence.to_ne_bytes());
        self.bytes
    }

    fn put(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(ATTRIBUTE + value.len()).unwrap_or(u16::MAX);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(align(self.bytes.len()), 0);
    }

    fn overwrite(&mut self, at: usize, value: &[u8]) {
        if let Some(bytes) = self.bytes.get_mut(at..at + value.len()) {
            bytes.copy_from_slice(value);
        }
    }
}

// === impl Message ===

impl<'a> Message<'a> {
    /// The messages that were received together.
    pub(crate) fn all(mut bytes: &'a [u8]) -> impl Iterator<Item = Self> {
        std::iter::from_fn(move || {
            let length = usize::try_from(number(bytes.get(..4)?)).ok()?;
            let whole = bytes.get(..length).filter(|whole| whole.len() >= HEADER)?;
            bytes = bytes.get(align(length)..).unwrap_or_default();
            Some(Self {
                kind: short(whole.get(4..6)?),
                flags: short(whole.get(6..8)?),
                sequence: number(whole.get(8..12)?),
                port: number(whole.get(12..16)?),
                body: whole.get(HEADER..)?,
            })
        })
    }

    /// The attributes behind a fixed struct of this many bytes.
    pub(crate) fn attributes(&self, fixed: usize) -> impl Iterator<Item = (u16, &'a [u8])> {
        attributes(self.body.get(align(fixed)..).unwrap_or_default())
    }
}

/// The attributes in a row, by kind.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(short(bytes.get(..2)?));
        let kind = short(bytes.get(2..4)?) & NLA_TYPE_MASK;
        let value = bytes.get(ATTRIBUTE..length)?;
        bytes = bytes.get(align(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// A 32-bit number of the machine; 0 where there is none.
pub(crate) fn number(bytes: &[u8]) -> u32 {
    bytes.try_into().map_or(0, u32::from_ne_bytes)
}

/// A 16-bit number of the machine; 0 where there is none.
pub(crate) fn short(bytes: &[u8]) -> u16 {
    bytes.try_into().map_or(0, u16::from_ne_bytes)
}

/// A text that may end with a zero.
pub(crate) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

/// An address of either family.
pub(crate) fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
    }
}

/// The bytes of an address.
pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The family of an address.
pub(crate) fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

fn align(length: usize) -> usize {
    length.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_what_is_cut_off_is_left_out() {
        let request = Request::new(24, NLM_F_ACK, &[2, 24, 0])
            .attribute(1, &[10, 2, 1, 0])
            .nested(2, |inner| inner.attribute(3, b"name\0").attribute(4, &[]))
            .finish(7);
        let mut bytes = request.clone();
        bytes.extend(&request);
        let messages: Vec<Message<'_>> = Message::all(&bytes).collect();
        assert_eq!(messages.len(), 2);
        for message in messages {
            assert_eq!((message.kind, message.flags, message.sequence), (24, 5, 7));
            let outer: Vec<(u16, &[u8])> = message.attributes(3).collect();
            assert_eq!(outer[0], (1, &[10, 2, 1, 0][..]));
            assert_eq!(outer[1].0, 2);
            let inner: Vec<(u16, &[u8])> = attributes(outer[1].1).collect();
            assert_eq!(text(inner[0].1), "name");
            assert_eq!(inner[1], (4, &[][..]));
        }
        for end in 0..request.len() {
            assert_eq!(Message::all(&request[..end]).count(), 0, "{end} bytes are no message");
        }
        // A length that is none ends the list.
        assert_eq!(Message::all(&[0; 64]).count(), 0);
        assert_eq!(attributes(&[0; 8]).count(), 0);
    }
}
