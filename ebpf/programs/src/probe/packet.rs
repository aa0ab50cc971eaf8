//! The headers of a question: Ethernet, IP without options or extensions, UDP.

use aya_ebpf::programs::TcContext;
use mesh_layout::mapped;

/// The headers of one family, as they are in a packet from its beginning.
pub trait Headers: Copy {
    /// Their length.
    const HEADERS: usize;

    /// The length of the datagram behind them, if they may be those of a question.
    fn question(&self) -> Option<usize>;
    /// Who asks, v4 as v4-mapped.
    fn source(&self) -> [u8; 16];
    /// The address that is probed.
    fn destination(&self) -> [u8; 16];
    /// The last of them.
    fn udp(&self) -> &Udp;
    /// Makes them those of the answer.
    fn turn(&mut self);
    /// Mends the checksum of the IP header, which is stored already.
    fn mend(&self, ctx: &TcContext) -> Result<(), ()>;
}

/// An Ethernet header.
#[repr(C)]
#[derive(Clone, Copy)]
struct Ethernet {
    to: [u8; 6],
    from: [u8; 6],
    kind: [u8; 2],
}

/// A UDP header.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Udp {
    from: [u8; 2],
    pub to: [u8; 2],
    length: [u8; 2],
    checksum: [u8; 2],
}

/// IPv4 without options.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ipv4 {
    ethernet: Ethernet,
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
    udp: Udp,
}

/// IPv6 without extensions.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ipv6 {
    ethernet: Ethernet,
    version: [u8; 4],
    length: [u8; 2],
    next: u8,
    hops: u8,
    from: [u8; 16],
    to: [u8; 16],
    udp: Udp,
}

const _: () = {
    assert!(core::mem::size_of::<Ipv4>() == 42);
    assert!(core::mem::size_of::<Ipv6>() == 62);
};

const IPPROTO_UDP: u8 = 17;
/// Over how many routers an answer may go: a question has been over some already.
const HOPS: u8 = 64;
/// Where an IPv4 packet has its hops and its header's checksum.
const HOPS_AT: usize = 14 + 8;
const CHECKSUM_AT: usize = 14 + 10;

// === impl Ethernet ===

impl Ethernet {
    /// Whether it is from one, and no group.
    #[inline(always)]
    fn is_from_one(&self) -> bool {
        self.from[0] & 1 == 0
    }

    #[inline(always)]
    fn turn(&mut self) {
        (self.to, self.from) = (self.from, self.to);
    }
}

// === impl Udp ===

impl Udp {
    /// Where its checksum is.
    pub const CHECKSUM_AT: usize = 6;

    /// The length of the datagram; `None` where it has no port to be answered at.
    #[inline(always)]
    fn datagram(&self) -> Option<usize> {
        let length = usize::from(u16::from_be_bytes(self.length));
        (u16::from_ne_bytes(self.from) != 0).then(|| length.wrapping_sub(8))
    }

    #[inline(always)]
    fn turn(&mut self) {
        (self.to, self.from) = (self.from, self.to);
    }
}

// === impl Ipv4 ===

impl Headers for Ipv4 {
    const HEADERS: usize = core::mem::size_of::<Self>();

    #[inline(always)]
    fn question(&self) -> Option<usize> {
        const VERSION_AND_LENGTH: u8 = 0x45;
        // What is a part of a packet has more to follow, or an offset.
        const FRAGMENT: u16 = 0x3fff;
        let datagram = self.udp.datagram()?;
        let total = usize::from(u16::from_be_bytes(self.total));
        // Neither this network, nor itself, nor a group or everyone.
        let is_from_one = !matches!(self.from[0], 0 | 127 | 224..);
        let is_question = self.version_and_length == VERSION_AND_LENGTH
            && self.protocol == IPPROTO_UDP
            && u16::from_be_bytes(self.fragment) & FRAGMENT == 0
            && total == 20 + 8 + datagram
            && is_from_one
            && self.ethernet.is_from_one();
        is_question.then_some(datagram)
    }

    #[inline(always)]
    fn source(&self) -> [u8; 16] {
        mapped(self.from)
    }

    #[inline(always)]
    fn destination(&self) -> [u8; 16] {
        mapped(self.to)
    }

    #[inline(always)]
    fn udp(&self) -> &Udp {
        &self.udp
    }

    #[inline(always)]
    fn turn(&mut self) {
        self.ethernet.turn();
        self.udp.turn();
        (self.to, self.from) = (self.from, self.to);
    }

    /// What is swapped has the same sum: only the hops make a difference.
    #[inline(always)]
    fn mend(&self, ctx: &TcContext) -> Result<(), ()> {
        let from = u16::from_ne_bytes([self.hops, self.protocol]);
        let to = u16::from_ne_bytes([HOPS, self.protocol]);
        ctx.l3_csum_replace(CHECKSUM_AT, from.into(), to.into(), 2).map_err(|_| ())?;
        ctx.store(HOPS_AT, &HOPS, 0).map_err(|_| ())
    }
}

// === impl Ipv6 ===

impl Headers for Ipv6 {
    const HEADERS: usize = core::mem::size_of::<Self>();

    #[inline(always)]
    fn question(&self) -> Option<usize> {
        let datagram = self.udp.datagram()?;
        let length = usize::from(u16::from_be_bytes(self.length));
        let from = u128::from_be_bytes(self.from);
        // Neither unspecified, nor itself, nor a group.
        let is_from_one = from > 1 && self.from[0] != 0xff;
        let is_question = self.version[0] >> 4 == 6
            && self.next == IPPROTO_UDP
            && length == 8 + datagram
            // Which no IPv6 datagram is without.
            && u16::from_ne_bytes(self.udp.checksum) != 0
            && is_from_one
            && self.ethernet.is_from_one();
        is_question.then_some(datagram)
    }

    #[inline(always)]
    fn source(&self) -> [u8; 16] {
        self.from
    }

    #[inline(always)]
    fn destination(&self) -> [u8; 16] {
        self.to
    }

    #[inline(always)]
    fn udp(&self) -> &Udp {
        &self.udp
    }

    #[inline(always)]
    fn turn(&mut self) {
        self.ethernet.turn();
        self.udp.turn();
        (self.to, self.from) = (self.from, self.to);
        self.hops = HOPS;
    }

    /// There is none.
    #[inline(always)]
    fn mend(&self, _: &TcContext) -> Result<(), ()> {
        Ok(())
    }
}
