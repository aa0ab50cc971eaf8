//! What is remembered of sockets and of clients.

mod listed;

pub use listed::ListedSocket;

use crate::{Backend, FrontendKey};

/// A service's address that a socket asked for, and the backend it got.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pair {
    service_address: [u8; 16],
    backend_address: [u8; 16],
    service_port: [u8; 2],
    backend_port: [u8; 2],
    backend: u32,
    slot: u32,
    hidden: u32,
}

/// What a connected socket's storage (`cm_sockets`) keeps: what it connected to.
pub type SocketState = Pair;

/// What the storage of a UDP socket that sends unconnected (`cm_datagrams`) keeps: the last services that it asked for.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DatagramState {
    pairs: [Pair; PAIRS_OF_A_SOCKET],
    cursor: u32,
    overflowed: u32,
}

/// How many services a socket's storage remembers.
pub const PAIRS_OF_A_SOCKET: usize = 4;

/// The key of `cm_udp_overflow`, for sockets that ask for more services than their storage has room for.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OverflowKey {
    socket_cookie: u64,
    address: [u8; 16],
    port: [u8; 2],
    direction: u8,
    zero: [u8; 5],
}

/// The value of `cm_udp_overflow`. It has all of its key, which is checked after copying.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OverflowPair {
    socket_cookie: u64,
    pair: Pair,
}

/// The key of `cm_affinity`: which client of which service.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AffinityKey {
    netns_cookie: u64,
    index: u32,
    zero: u32,
}

/// The value of `cm_affinity`: the backend that the client had last, and when. Read and written as one `u64`. It has no
/// key of its own: whatever backend it names is used only if it is one of the service's.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Affinity {
    backend: u32,
    seconds: u32,
}

// === impl Pair ===

impl Pair {
    /// What to remember of a socket that asked for `service` and got `backend`, which a slot named.
    #[inline(always)]
    pub const fn new(service: &FrontendKey, backend: &Backend, slot: u32) -> Self {
        Self {
            service_address: service.address(),
            backend_address: backend.address(),
            service_port: service.port(),
            backend_port: backend.port(),
            backend: backend.id(),
            slot,
            hidden: 0,
        }
    }

    /// The service's address and port, if this is the backend that stands for it.
    #[inline(always)]
    pub fn service_of(&self, address: [u8; 16], port: [u8; 2]) -> Option<([u8; 16], [u8; 2])> {
        (self.hidden == 0 && self.is_backend(address, port))
            .then_some((self.service_address, self.service_port))
    }

    /// Whether this is the backend's address.
    #[inline(always)]
    pub fn is_backend(&self, address: [u8; 16], port: [u8; 2]) -> bool {
        self.backend_address == address && self.backend_port == port
    }

    /// Whether this is the service's address.
    #[inline(always)]
    pub fn is_service(&self, address: [u8; 16], port: [u8; 2]) -> bool {
        self.service_address == address && self.service_port == port
    }

    /// The backend's id; 0 where nothing is sent there any more.
    #[inline(always)]
    pub const fn backend(&self) -> u32 {
        self.backend
    }

    /// The slot that named the backend when it was looked at last.
    #[inline(always)]
    pub const fn slot(&self) -> u32 {
        self.slot
    }
}

// === impl OverflowKey ===

impl OverflowKey {
    /// The key for what a socket sends to a service.
    #[inline(always)]
    pub const fn to_service(socket_cookie: u64, address: [u8; 16], port: [u8; 2]) -> Self {
        Self { socket_cookie, address, port, direction: 0, zero: [0; 5] }
    }

    /// The key for what a socket receives from a backend.
    #[inline(always)]
    pub const fn from_backend(socket_cookie: u64, address: [u8; 16], port: [u8; 2]) -> Self {
        Self { socket_cookie, address, port, direction: 1, zero: [0; 5] }
    }
}

// === impl AffinityKey ===

impl AffinityKey {
    /// The key of a client, known by its network namespace, and a service, known by its index in `cm_headers`.
    #[inline(always)]
    pub const fn new(netns_cookie: u64, index: u32) -> Self {
        Self { netns_cookie, index, zero: 0 }
    }
}

// === impl Affinity ===

impl Affinity {
    /// A backend's id, and the second of the kernel's boot clock in which it was used.
    #[inline(always)]
    pub const fn new(backend: u32, seconds: u32) -> Self {
        Self { backend, seconds }
    }

    /// The backend's id.
    #[inline(always)]
    pub const fn backend(self) -> u32 {
        self.backend
    }

    /// When it was used last.
    #[inline(always)]
    pub const fn seconds(self) -> u32 {
        self.seconds
    }
}
