//! Packets as they are on a pod's interface.

use std::net::IpAddr;

/// A packet from one address to another of the same family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Who sends it.
    pub source: IpAddr,
    /// To whom.
    pub destination: IpAddr,
    /// Over how many routers it may go.
    pub hops: u8,
    /// What it carries.
    pub carried: Carried,
    /// `(identification, offset in bytes, more follow)` of a fragment.
    pub fragment: Option<(u32, u16, bool)>,
    /// Cut off after as many bytes behind the headers of IP.
    pub cut: Option<usize>,
}

/// What a packet carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Carried {
    /// TCP: the ports and the flags.
    Tcp(u16, u16, u8),
    /// UDP: the ports.
    Udp(u16, u16),
    /// SCTP: the ports.
    Sctp(u16, u16),
    /// ICMP or ICMPv6, as the family has it: the type and an identifier.
    Icmp(u8, u16),
    /// An ICMP error about a packet: the type, and the packet.
    Error(u8, Box<Packet>),
    /// Another protocol without anything in it.
    Other(u8),
}

// === impl Packet ===

impl Packet {
    /// A whole packet.
    pub fn new(source: IpAddr, destination: IpAddr, carried: Carried) -> Self {
        Self { source, destination, hops: 64, carried, fragment: None, cut: None }
    }

    /// The bytes from the Ethernet header on. Checksums are left out: nobody looks at them here.
    pub fn bytes(&self) -> Vec<u8> {
        let kind: u16 = if self.source.is_ipv6() { 0x86dd } else { 0x0800 };
        // Locally administered addresses (IEEE 802), and the family.
        let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        bytes.extend(kind.to_be_bytes());
        bytes.extend(self.ip_packet());
        bytes
    }

    fn ip_packet(&self) -> Vec<u8> {
        let is_later = self.fragment.is_some_and(|(_, offset, _)| offset > 0);
        let mut data = if is_later { vec![0; 32] } else { self.transport() };
        data.truncate(self.cut.unwrap_or(usize::MAX));
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let length = u16::try_from(20 + data.len()).unwrap_or(u16::MAX);
                let (id, part) = match self.fragment {
                    None => (0, 0),
                    Some((id, offset, more)) => (id, (offset / 8) | (u16::from(more) << 13)),
                };
                let [_, _, id @ ..] = id.to_be_bytes();
                let mut bytes = vec![0x45, 0];
                bytes.extend(length.to_be_bytes());
                bytes.extend(id);
                bytes.extend(part.to_be_bytes());
                bytes.extend([self.hops, self.protocol(), 0, 0]);
                bytes.extend(source.octets());
                bytes.extend(destination.octets());
                bytes.extend(data);
                bytes
            }
            (source, destination) => {
                let mut extension = Vec::new();
                let mut next = self.protocol();
                if let Some((id, offset, more)) = self.fragment {
                    extension.extend([next, 0]);
                    extension.extend((offset & 0xfff8 | u16::from(more)).to_be_bytes());
                    extension.extend(id.to_be_bytes());
                    next = 44;
                }
                let length = u16::try_from(extension.len() + data.len()).unwrap_or(u16::MAX);
                let mut bytes = vec![0x60, 0, 0, 0];
                bytes.extend(length.to_be_bytes());
                bytes.extend([next, self.hops]);
                bytes.extend(mesh_layout::address_bytes(source));
                bytes.extend(mesh_layout::address_bytes(destination));
                bytes.extend(extension);
                bytes.extend(data);
                bytes
            }
        }
    }

    fn protocol(&self) -> u8 {
        match &self.carried {
            Carried::Tcp(..) => 6,
            Carried::Udp(..) => 17,
            Carried::Sctp(..) => 132,
            Carried::Icmp(..) | Carried::Error(..) if self.source.is_ipv6() => 58,
            Carried::Icmp(..) | Carried::Error(..) => 1,
            Carried::Other(protocol) => *protocol,
        }
    }

    fn transport(&self) -> Vec<u8> {
        let ports = |source: u16, destination: u16| {
            let mut bytes = source.to_be_bytes().to_vec();
            bytes.extend(destination.to_be_bytes());
            bytes
        };
        match &self.carried {
            Carried::Tcp(source, destination, flags) => {
                let mut bytes = ports(*source, *destination);
                bytes.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, *flags, 0xff, 0xff, 0, 0, 0, 0]);
                bytes
            }
            Carried::Udp(source, destination) => {
                let mut bytes = ports(*source, *destination);
                bytes.extend([0, 8, 0, 0]);
                bytes
            }
            Carried::Sctp(source, destination) => {
                let mut bytes = ports(*source, *destination);
                bytes.extend([0; 8]);
                bytes
            }
            Carried::Icmp(kind, id) => {
                let mut bytes = vec![*kind, 0, 0, 0];
                bytes.extend(id.to_be_bytes());
                bytes.extend([0, 1]);
                bytes
            }
            Carried::Error(kind, packet) => {
                let mut bytes = vec![*kind, 0, 0, 0, 0, 0, 0, 0];
                bytes.extend(packet.ip_packet());
                bytes
            }
            Carried::Other(_) => vec![0; 8],
        }
    }
}
