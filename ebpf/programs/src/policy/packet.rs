//! The headers of a packet, as far as policies look at them.

use aya_ebpf::programs::TcContext;
use mesh_layout::mapped;

use crate::context;

/// What is judged of a packet.
#[derive(Clone, Copy)]
pub struct Packet {
    /// Who sends it, v4 as v4-mapped.
    pub source: [u8; 16],
    /// To whom.
    pub destination: [u8; 16],
    pub v6: bool,
    /// Of the header behind those of IP.
    pub protocol: u8,
    /// IPv6's hop limit, IPv4's time to live.
    pub hops: u8,
    pub fragment: Fragment,
    /// The identification of a fragment.
    pub id: u32,
    /// Where the header behind those of IP begins.
    pub at: u32,
    pub transport: Transport,
}

/// What the header behind those of IP says.
#[derive(Clone, Copy, Default)]
pub struct Transport {
    /// The ports; both the identifier of an echo.
    pub source_port: u16,
    pub destination_port: u16,
    /// `TCP_` bits.
    pub tcp: u8,
    /// The type of ICMP.
    pub icmp: u8,
}

/// What part of a packet it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fragment {
    Whole,
    First,
    /// It has no header but IP's. At an offset in bytes.
    Later(u16),
}

/// Why a packet cannot be judged.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// It is no IP.
    Other,
    /// A header is cut short.
    Malformed,
}

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const SCTP: u8 = 132;
pub const ICMP: u8 = 1;
pub const ICMP_V6: u8 = 58;

pub const TCP_FIN: u8 = 1;
pub const TCP_SYN: u8 = 2;
pub const TCP_RST: u8 = 4;
pub const TCP_ACK: u8 = 16;

/// `ETH_P_IP` and `ETH_P_IPV6`, as a packet has them.
const ETH_P_IP: u32 = 0x0800u16.to_be() as u32;
const ETH_P_IPV6: u32 = 0x86ddu16.to_be() as u32;
/// The length of an Ethernet header.
const ETHERNET: u32 = 14;
/// Headers of extension that are followed; Linux sends none with more.
const EXTENSIONS: usize = 6;

/// IPv4 (RFC 791 §3.1).
#[repr(C)]
#[derive(Clone, Copy)]
struct Ipv4 {
    version_and_length: u8,
    service: u8,
    total: [u8; 2],
    id: [u8; 2],
    fragment: [u8; 2],
    hops: u8,
    protocol: u8,
    checksum: [u8; 2],
    from: [u8; 4],
    to: [u8; 4],
}

/// IPv6 (RFC 8200 §3).
#[repr(C)]
#[derive(Clone, Copy)]
struct Ipv6 {
    version: [u8; 4],
    length: [u8; 2],
    next: u8,
    hops: u8,
    from: [u8; 16],
    to: [u8; 16],
}

/// A fragment header (RFC 8200 §4.5); other extensions begin alike.
#[repr(C)]
#[derive(Clone, Copy)]
struct Extension {
    next: u8,
    length: u8,
    offset: [u8; 2],
    id: [u8; 4],
}

/// The first bytes of TCP, UDP, SCTP and ICMP.
#[repr(C)]
#[derive(Clone, Copy)]
struct Beginning {
    first: [u8; 2],
    second: [u8; 2],
    third: [u8; 4],
}

// === impl Packet ===

impl Packet {
    /// Reads a packet from its Ethernet header on.
    #[inline(always)]
    pub fn read(ctx: &TcContext, into: &mut Self) -> Result<(), Unread> {
        match context::protocol(ctx) {
            ETH_P_IP => ipv4(ctx, ETHERNET, into)?,
            ETH_P_IPV6 => ipv6(ctx, ETHERNET, into)?,
            _ => return Err(Unread::Other),
        }
        if !matches!(into.fragment, Fragment::Later(_)) {
            into.transport = transport(ctx, into.at, into.protocol, true)?;
        }
        Ok(())
    }

    /// Reads the packet that an ICMP error is about, of which eight bytes behind the headers of IP are there.
    #[inline(always)]
    pub fn read_inner(&self, ctx: &TcContext, into: &mut Self) -> Result<(), Unread> {
        const ICMP_HEADER: u32 = 8;
        let at = self.at + ICMP_HEADER;
        if self.v6 {
            ipv6(ctx, at, into)?
        } else {
            ipv4(ctx, at, into)?
        }
        if !matches!(into.fragment, Fragment::Later(_)) {
            into.transport = transport(ctx, into.at, into.protocol, false)?;
        }
        Ok(())
    }

    /// Whether it is an ICMP error (RFC 792; RFC 4443 §2.1), which is about another packet.
    #[inline(always)]
    pub fn is_error(&self) -> bool {
        match self.protocol {
            ICMP => matches!(self.transport.icmp, 3 | 11 | 12),
            ICMP_V6 => matches!(self.transport.icmp, 1..=4),
            _ => false,
        }
    }

    /// Whether it asks for an echo.
    #[inline(always)]
    pub fn is_echo(&self) -> bool {
        matches!((self.protocol, self.transport.icmp), (ICMP, 8) | (ICMP_V6, 128))
    }

    /// Whether it answers one.
    #[inline(always)]
    pub fn is_echo_reply(&self) -> bool {
        matches!((self.protocol, self.transport.icmp), (ICMP, 0) | (ICMP_V6, 129))
    }

    /// Whether it is of ICMP or ICMPv6.
    #[inline(always)]
    pub fn is_icmp(&self) -> bool {
        matches!(self.protocol, ICMP | ICMP_V6)
    }

    /// Whether it begins a TCP connection.
    #[inline(always)]
    pub fn begins(&self) -> bool {
        self.protocol == TCP && self.transport.tcp & (TCP_SYN | TCP_ACK) == TCP_SYN
    }
}

#[inline(never)]
fn ipv4(ctx: &TcContext, at: u32, packet: &mut Packet) -> Result<(), Unread> {
    const MORE: u16 = 0x2000;
    const OFFSET: u16 = 0x1fff;
    let header: Ipv4 = ctx.load(at as usize).map_err(|_| Unread::Malformed)?;
    let length = u32::from(header.version_and_length & 15) * 4;
    if header.version_and_length >> 4 != 4 || length < 20 {
        return Err(Unread::Malformed);
    }
    let part = u16::from_be_bytes(header.fragment);
    let fragment = match (part & OFFSET, part & MORE != 0) {
        (0, false) => Fragment::Whole,
        (0, true) => Fragment::First,
        (offset, _) => Fragment::Later(offset * 8),
    };
    *packet = Packet {
        source: mapped(header.from),
        destination: mapped(header.to),
        v6: false,
        protocol: header.protocol,
        hops: header.hops,
        fragment,
        id: u16::from_be_bytes(header.id).into(),
        at: at + length,
        transport: Transport::default(),
    };
    Ok(())
}

#[inline(never)]
fn ipv6(ctx: &TcContext, at: u32, packet: &mut Packet) -> Result<(), Unread> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION: u8 = 60;
    let header: Ipv6 = ctx.load(at as usize).map_err(|_| Unread::Malformed)?;
    if header.version[0] >> 4 != 6 {
        return Err(Unread::Malformed);
    }
    *packet = Packet {
        source: header.from,
        destination: header.to,
        v6: true,
        protocol: header.next,
        hops: header.hops,
        fragment: Fragment::Whole,
        id: 0,
        at: at + 40,
        transport: Transport::default(),
    };
    for _ in 0..EXTENSIONS {
        let is_extension = matches!(
            packet.protocol,
            HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION
        );
        if !is_extension {
            return Ok(());
        }
        let next: Extension = ctx.load(packet.at as usize).map_err(|_| Unread::Malformed)?;
        let length = match packet.protocol {
            FRAGMENT => {
                let part = u16::from_be_bytes(next.offset);
                packet.id = u32::from_be_bytes(next.id);
                packet.fragment = match (part & 0xfff8, part & 1 != 0) {
                    // A whole packet with the header (RFC 6946).
                    (0, false) => Fragment::Whole,
                    (0, true) => Fragment::First,
                    (offset, _) => Fragment::Later(offset),
                };
                8
            }
            AUTHENTICATION => (u32::from(next.length) + 2) * 4,
            _ => (u32::from(next.length) + 1) * 8,
        };
        packet.protocol = next.next;
        packet.at += length;
        if matches!(packet.fragment, Fragment::Later(_)) {
            return Ok(());
        }
    }
    // More than anybody sends: whatever hides behind them.
    Err(Unread::Malformed)
}

/// What the header behind those of IP says. Of a packet itself it must be there as a whole: what comes in a later fragment
/// is seen by nobody. Of one that an error is about the first eight bytes are.
#[inline(always)]
fn transport(ctx: &TcContext, at: u32, protocol: u8, whole: bool) -> Result<Transport, Unread> {
    let least = match protocol {
        TCP => 20,
        SCTP => 12,
        UDP | ICMP | ICMP_V6 => 8,
        _ => return Ok(Transport::default()),
    };
    if whole && ctx.len() < at + least {
        return Err(Unread::Malformed);
    }
    let beginning: Beginning = ctx.load(at as usize).map_err(|_| Unread::Malformed)?;
    if matches!(protocol, ICMP | ICMP_V6) {
        // The identifier of an echo; of other types something else, which nothing looks at.
        let id = u16::from_be_bytes([beginning.third[0], beginning.third[1]]);
        let [kind, _] = beginning.first;
        return Ok(Transport { source_port: id, destination_port: id, tcp: 0, icmp: kind });
    }
    let tcp = match protocol == TCP && whole {
        true => ctx.load::<u8>(at as usize + 13).map_err(|_| Unread::Malformed)?,
        false => 0,
    };
    Ok(Transport {
        source_port: u16::from_be_bytes(beginning.first),
        destination_port: u16::from_be_bytes(beginning.second),
        tcp,
        icmp: 0,
    })
}
