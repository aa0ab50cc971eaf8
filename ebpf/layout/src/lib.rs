//! The tables in the kernel, as both sides see them.
//!
//! Architecture invariant: what is here is plain memory. Addresses and ports are bytes in network order, there is no
//! padding, no `bool`, no enum and no `Option`; every size is asserted. Whatever bytes the kernel hands back are a value.
//!
//! How a connection finds its backend: [`FrontendKey`] → [`ServiceRef`] → [`Header`] → a slot → [`Backend`]. Readers race
//! with the writer, so each step is either one store of at most eight bytes, or carries the key it was looked up by:
//! a [`ServiceRef`] its frontend's tag, a [`Backend`] its id. Who reads something else than expected looks again.
#![cfg_attr(not(feature = "user"), no_std)]

mod maps;

pub use maps::{MAPS, MapLayout, default_sizes, layout_hash};

/// The key of `cm_services`: what a client connects to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendKey {
    address: [u8; 16],
    port: [u8; 2],
    protocol: u8,
    zero: u8,
}

/// The value of `cm_services`: which service it is, and whose value this is. Read and written as one `u64`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceRef {
    index: u32,
    tag: u32,
}

/// An entry of `cm_headers`, by service index: where its slots are. Read and written as one `u64`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    base: u32,
    count: u32,
}

/// An entry of `cm_slots`: two slots, because the kernel rounds an array's elements up to eight bytes.
pub type SlotPair = [u32; 2];

/// An entry of `cm_backends`, by the low bits of its id. All but `id` is written while `id` is 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backend {
    id: u32,
    cluster: u16,
    port: [u8; 2],
    address: [u8; 16],
    protocol: u8,
    zero: [u8; 7],
}

/// What a socket's storage (`cm_sockets`) keeps: the service it asked for and the backend it got.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketState {
    service_address: [u8; 16],
    backend_address: [u8; 16],
    service_port: [u8; 2],
    backend_port: [u8; 2],
    backend: u32,
}

/// The entries of `cm_counters`, one `u64` a processor each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Counter {
    /// A connection got a backend.
    Translated = 0,
    /// A slot, backend or service was not what was looked for, and was looked up again.
    Retried = 1,
    /// All tries met cut clusters or changing slots; the search went on slot by slot.
    Scanned = 2,
    /// Nothing but backends of cut clusters was left, and one was taken.
    TookCut = 3,
    /// The service has no backend: the connection was refused.
    NoBackend = 4,
}

/// The number of counters.
pub const COUNTERS: usize = 5;

/// The state of a cluster in `cm_peer_state`, by cluster id: 0 is in use, 1 is cut.
pub const PEER_CUT: u32 = 1;

/// How often a reader picks another slot before it searches.
pub const TRIES: u32 = 4;
/// How many slots a reader searches.
pub const SCANNED_SLOTS: u32 = 256;

/// One step of the 32-bit FNV-1a hash, over a word instead of a byte.
#[inline(always)]
const fn fnv(hash: u32, word: u32) -> u32 {
    (hash ^ word).wrapping_mul(0x0100_0193)
}

/// An IPv4 address in the tables' form.
#[inline(always)]
pub const fn mapped(v4: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3]]
}

// === impl FrontendKey ===

impl FrontendKey {
    /// A key. The port is in network order; the protocol is the IP protocol number.
    #[inline(always)]
    pub const fn new(address: [u8; 16], port: [u8; 2], protocol: u8) -> Self {
        Self { address, port, protocol, zero: 0 }
    }

    /// The address, v4 as v4-mapped.
    #[inline(always)]
    pub const fn address(&self) -> [u8; 16] {
        self.address
    }

    /// The port, in network order.
    #[inline(always)]
    pub const fn port(&self) -> [u8; 2] {
        self.port
    }

    /// The IP protocol number.
    #[inline(always)]
    pub const fn protocol(&self) -> u8 {
        self.protocol
    }

    /// The short form that a [`ServiceRef`] carries.
    #[inline(always)]
    pub const fn tag(&self) -> u32 {
        let a = &self.address;
        let mut hash = fnv(0x811c_9dc5, u32::from_ne_bytes([a[0], a[1], a[2], a[3]]));
        hash = fnv(hash, u32::from_ne_bytes([a[4], a[5], a[6], a[7]]));
        hash = fnv(hash, u32::from_ne_bytes([a[8], a[9], a[10], a[11]]));
        hash = fnv(hash, u32::from_ne_bytes([a[12], a[13], a[14], a[15]]));
        fnv(hash, u32::from_ne_bytes([self.port[0], self.port[1], self.protocol, 0]))
    }
}

// === impl ServiceRef ===

impl ServiceRef {
    /// The reference to a service from the frontend of `tag`.
    #[inline(always)]
    pub const fn new(index: u32, tag: u32) -> Self {
        Self { index, tag }
    }

    /// The service's index in `cm_headers`.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self.index
    }

    /// The tag of the frontend it belongs to.
    #[inline(always)]
    pub const fn tag(self) -> u32 {
        self.tag
    }
}

// === impl Header ===

impl Header {
    /// The header of a service whose `count` slots begin at `base`.
    #[inline(always)]
    pub const fn new(base: u32, count: u32) -> Self {
        Self { base, count }
    }

    /// The first slot.
    #[inline(always)]
    pub const fn base(self) -> u32 {
        self.base
    }

    /// The number of slots in use.
    #[inline(always)]
    pub const fn count(self) -> u32 {
        self.count
    }
}

// === impl Backend ===

impl Backend {
    /// A backend. Port in network order; the protocol is the IP protocol number.
    #[inline(always)]
    pub const fn new(
        id: u32,
        cluster: u16,
        address: [u8; 16],
        port: [u8; 2],
        protocol: u8,
    ) -> Self {
        Self { id, cluster, port, address, protocol, zero: [0; 7] }
    }

    /// Its id, 0 where the entry is free. Never the same for two backends that are near in time.
    #[inline(always)]
    pub const fn id(&self) -> u32 {
        self.id
    }

    /// The entry as the four words that it is written and read by. The first has the id.
    pub fn to_words(&self) -> [u64; 4] {
        let Self { id, cluster, port, address, protocol, zero } = *self;
        let mut bytes = [0; 32];
        let (words, _) = bytes.as_chunks_mut::<8>();
        let [a, b] = cluster.to_ne_bytes();
        let [c, d, e, f] = id.to_ne_bytes();
        words[0] = [c, d, e, f, a, b, port[0], port[1]];
        let (halves, _) = address.as_chunks::<8>();
        words[1] = halves[0];
        words[2] = halves[1];
        let [g, h, i, j, k, l, m] = zero;
        words[3] = [protocol, g, h, i, j, k, l, m];
        [words[0], words[1], words[2], words[3]].map(u64::from_ne_bytes)
    }

    /// The entry that those words are.
    pub fn from_words(words: [u64; 4]) -> Self {
        let [first, second, third, fourth] = words.map(u64::to_ne_bytes);
        let mut address = [0; 16];
        let (halves, _) = address.as_chunks_mut::<8>();
        halves[0] = second;
        halves[1] = third;
        let [a, b, c, d, e, f, g, h] = first;
        let [protocol, zero @ ..] = fourth;
        Self {
            id: u32::from_ne_bytes([a, b, c, d]),
            cluster: u16::from_ne_bytes([e, f]),
            port: [g, h],
            address,
            protocol,
            zero,
        }
    }

    /// The same backend under another id; 0 while it is being written.
    #[inline(always)]
    pub const fn with_id(self, id: u32) -> Self {
        Self { id, ..self }
    }

    /// The cluster it is in.
    #[inline(always)]
    pub const fn cluster(&self) -> u16 {
        self.cluster
    }

    /// Its address, v4 as v4-mapped.
    #[inline(always)]
    pub const fn address(&self) -> [u8; 16] {
        self.address
    }

    /// Its port, in network order.
    #[inline(always)]
    pub const fn port(&self) -> [u8; 2] {
        self.port
    }

    /// Its IP protocol number.
    #[inline(always)]
    pub const fn protocol(&self) -> u8 {
        self.protocol
    }
}

// === impl SocketState ===

impl SocketState {
    /// What to remember of a socket that asked for `service` and got `backend`.
    #[inline(always)]
    pub const fn new(service: &FrontendKey, backend: &Backend) -> Self {
        Self {
            service_address: service.address,
            backend_address: backend.address,
            service_port: service.port,
            backend_port: backend.port,
            backend: backend.id,
        }
    }

    /// The service's address and port, if the socket's peer is the backend it got.
    #[inline(always)]
    pub fn service_of(&self, address: [u8; 16], port: [u8; 2]) -> Option<([u8; 16], [u8; 2])> {
        (self.backend_address == address && self.backend_port == port)
            .then_some((self.service_address, self.service_port))
    }
}

/// What lets user space hand these types to the kernel and take them back.
#[cfg(feature = "user")]
mod user {
    use super::{Backend, FrontendKey, Header, ServiceRef, SocketState};

    // SAFETY: each is `repr(C)` without padding (asserted above) and made of integers, so any bytes are a value.
    #[expect(unsafe_code, reason = "this is what the trait is for")]
    unsafe impl aya::Pod for FrontendKey {}
    // SAFETY: as above.
    #[expect(unsafe_code, reason = "this is what the trait is for")]
    unsafe impl aya::Pod for ServiceRef {}
    // SAFETY: as above.
    #[expect(unsafe_code, reason = "this is what the trait is for")]
    unsafe impl aya::Pod for Header {}
    // SAFETY: as above.
    #[expect(unsafe_code, reason = "this is what the trait is for")]
    unsafe impl aya::Pod for Backend {}
    // SAFETY: as above.
    #[expect(unsafe_code, reason = "this is what the trait is for")]
    unsafe impl aya::Pod for SocketState {}
}

#[cfg(all(test, feature = "user"))]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_memory() {
        let backend = Backend::new(7, 2, mapped([10, 2, 0, 9]), 8080u16.to_be_bytes(), 6);
        let words = backend.to_words();
        assert_eq!(Backend::from_words(words), backend);
        assert_eq!(words[0].to_ne_bytes()[..4], 7u32.to_ne_bytes());
        assert_eq!(words[0].to_ne_bytes()[6..], 8080u16.to_be_bytes());
        assert_eq!(words[2].to_ne_bytes()[4..], [10, 2, 0, 9]);
    }

    #[test]
    fn tags_differ() {
        let key = |last, port| FrontendKey::new(mapped([10, 0, 0, last]), [0, port], 6).tag();
        assert_ne!(key(1, 80), key(2, 80));
        assert_ne!(key(1, 80), key(1, 81));
        assert_ne!(
            FrontendKey::new([0; 16], [0, 53], 6).tag(),
            FrontendKey::new([0; 16], [0, 53], 17).tag()
        );
    }
}
