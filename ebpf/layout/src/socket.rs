//! The state of sockets and of clients.

mod list_entry;

pub use list_entry::ListedSocket;

use crate::{Backend, FrontendKey};

/// A service's address that a socket asked for, and the backend it got.
#[repr(C, align(8))]
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

/// An address and a port, in network order.
pub type Endpoint<'a> = (&'a [u8; 16], &'a [u8; 2]);

/// What a connected socket's storage (`cm_sockets`) keeps: what it connected to.
pub type SocketState = Pair;

/// The storage of a UDP socket that sends unconnected (`cm_datagrams`): the last services that it asked for.
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

/// The value of `cm_affinity`: the backend that the client had last, when, and which slot named it. It has no key of its
/// own, and a reader may find it torn: whatever backend it names is used only if the service has it now.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Affinity {
    backend: u32,
    seconds: u32,
    slot: u32,
    zero: u32,
}

/// Whether two are the same: one branch and not one for each byte, all of which the kernel's verifier would follow.
#[inline(always)]
fn same(one: Endpoint<'_>, other: Endpoint<'_>) -> bool {
    let address = u128::from_ne_bytes(*one.0) ^ u128::from_ne_bytes(*other.0);
    let port = u16::from_ne_bytes(*one.1) ^ u16::from_ne_bytes(*other.1);
    address | u128::from(port) == 0
}

// === impl Pair ===

impl Pair {
    /// The record of a socket that asked for `service` and got `backend`, which a slot named.
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

    /// The service's address and port, if this is its backend.
    #[inline(always)]
    pub fn service_of(&self, address: &[u8; 16], port: &[u8; 2]) -> Option<Endpoint<'_>> {
        (self.hidden == 0 && self.is_backend(address, port)).then_some(self.service())
    }

    /// Whether this is the backend's address.
    #[inline(always)]
    pub fn is_backend(&self, address: &[u8; 16], port: &[u8; 2]) -> bool {
        same(self.backend_address(), (address, port))
    }

    /// Whether this is the service's address.
    #[inline(always)]
    pub fn is_service(&self, address: &[u8; 16], port: &[u8; 2]) -> bool {
        same(self.service(), (address, port))
    }

    /// The backend's id; 0 where nothing is sent there any more.
    #[inline(always)]
    pub const fn backend(&self) -> u32 {
        self.backend
    }

    /// The slot that named the backend at the last check.
    #[inline(always)]
    pub const fn slot(&self) -> u32 {
        self.slot
    }

    /// The backend's address and port.
    #[inline(always)]
    pub const fn backend_address(&self) -> Endpoint<'_> {
        (&self.backend_address, &self.backend_port)
    }

    /// The service's address and port.
    #[inline(always)]
    pub const fn service(&self) -> Endpoint<'_> {
        (&self.service_address, &self.service_port)
    }

    /// Whether datagrams of the backend are not shown as coming from the service.
    #[inline(always)]
    pub const fn is_hidden(&self) -> bool {
        self.hidden != 0
    }

    /// Whether this is a service's address.
    #[inline(always)]
    pub fn is_of_service(&self, (address, port): Endpoint<'_>) -> bool {
        self.is_service(address, port)
    }

    /// Whether there is one.
    #[inline(always)]
    pub const fn is_some(&self) -> bool {
        // No service has port 0.
        u16::from_ne_bytes(self.service_port) != 0
    }

    /// Remembers in which slot the backend is now.
    #[inline(always)]
    pub const fn set_slot(&mut self, slot: u32) {
        self.slot = slot;
    }
}

// === impl DatagramState ===

impl DatagramState {
    /// The pair whose backend gets what is sent to a service.
    #[inline(always)]
    pub fn to_service(&mut self, address: &[u8; 16], port: &[u8; 2]) -> Option<&mut Pair> {
        self.pairs.iter_mut().find(|pair| pair.backend != 0 && pair.is_service(address, port))
    }

    /// The service of a backend, for a datagram that is received from the backend.
    #[inline(always)]
    pub fn service_of(&self, address: &[u8; 16], port: &[u8; 2]) -> Option<Endpoint<'_>> {
        self.pairs.iter().find_map(|pair| pair.service_of(address, port))
    }

    /// Shows datagrams of a backend with its own address: the socket asked for it directly, or by way of another
    /// service.
    #[inline(always)]
    pub fn hide(&mut self, address: &[u8; 16], port: &[u8; 2]) {
        for pair in &mut self.pairs {
            if pair.is_backend(address, port) {
                pair.hidden = 1;
            }
        }
    }

    /// Shows datagrams of a pair's backend as coming from its service, and from no other service with that backend.
    #[inline(always)]
    pub fn show(&mut self, shown: &Pair) {
        for pair in &mut self.pairs {
            if pair.is_backend(&shown.backend_address, &shown.backend_port) {
                let is_it = pair.is_service(&shown.service_address, &shown.service_port);
                pair.hidden = u32::from(!is_it);
            }
        }
    }

    /// Adds a pair, and returns the one that is displaced. Late answers of a former backend of the same service are
    /// shown as before, and nothing is sent to it any more.
    #[inline(always)]
    pub fn push(&mut self, pair: &Pair) -> Pair {
        for former in &mut self.pairs {
            if former.is_service(&pair.service_address, &pair.service_port) {
                former.backend = 0;
            }
            if former.is_backend(&pair.backend_address, &pair.backend_port) {
                former.hidden = 1;
            }
        }
        let cursor = self.cursor;
        self.cursor = (cursor + 1) % 4;
        let [first, second, third, fourth] = &mut self.pairs;
        let place = match cursor {
            0 => first,
            1 => second,
            2 => third,
            _ => fourth,
        };
        let left = *place;
        *place = *pair;
        left
    }

    /// Remembers that there is more in `cm_udp_overflow`.
    #[inline(always)]
    pub const fn set_overflowed(&mut self) {
        self.overflowed = 1;
    }

    /// Whether there may be more in `cm_udp_overflow`.
    #[inline(always)]
    pub const fn has_overflowed(&self) -> bool {
        self.overflowed != 0
    }
}

// === impl OverflowPair ===

impl OverflowPair {
    /// A pair of a socket.
    #[inline(always)]
    pub const fn new(socket_cookie: u64, pair: Pair) -> Self {
        Self { socket_cookie, pair }
    }

    /// The pair, if it is the one for a key of this socket.
    #[inline(always)]
    pub fn of(&self, key: &OverflowKey) -> Option<Pair> {
        let matches = match key.direction {
            0 => self.pair.is_service(&key.address, &key.port),
            _ => self.pair.is_backend(&key.address, &key.port),
        };
        (self.socket_cookie == key.socket_cookie && matches).then_some(self.pair)
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
    /// A backend's id, the second of the kernel's clock in which it was used, and the slot that named it.
    #[inline(always)]
    pub const fn new(backend: u32, seconds: u32, slot: u32) -> Self {
        Self { backend, seconds, slot, zero: 0 }
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

    /// The slot that named the backend when it was used last.
    #[inline(always)]
    pub const fn slot(self) -> u32 {
        self.slot
    }
}

#[cfg(all(test, feature = "user"))]
mod tests {
    use super::*;
    use crate::mapped;

    fn service(n: u8) -> FrontendKey {
        FrontendKey::new(mapped([10, 96, 0, n]), [0, 53], 17)
    }

    fn backend(n: u8) -> Backend {
        Backend::new(n.into(), 1, mapped([10, 1, 0, n]), [0, 153], 17)
    }

    fn state(pairs: &[(u8, u8)]) -> DatagramState {
        let mut state = DatagramState::default();
        for (s, b) in pairs {
            state.push(&Pair::new(&service(*s), &backend(*b), 0));
        }
        state
    }

    fn sent_to(state: &mut DatagramState, s: u8) -> Option<u32> {
        let key = service(s);
        state.to_service(&key.address(), &key.port()).map(|pair| pair.backend())
    }

    fn shown(state: &DatagramState, b: u8) -> Option<u8> {
        let backend = backend(b);
        state.service_of(&backend.address(), &backend.port()).map(|(address, _)| address[15])
    }

    #[test]
    fn four_are_kept_and_the_oldest_leaves() {
        let mut state = state(&[(1, 11), (2, 12), (3, 13), (4, 14)]);
        assert_eq!([1, 2, 3, 4].map(|s| sent_to(&mut state, s)), [11, 12, 13, 14].map(Some));
        let left = state.push(&Pair::new(&service(5), &backend(15), 0));
        assert_eq!((left.backend(), sent_to(&mut state, 1)), (11, None));
        assert_eq!([12, 13, 14, 15].map(|b| shown(&state, b)), [2, 3, 4, 5].map(Some));
        assert!(!DatagramState::default().push(&left).is_some());
    }

    #[test]
    fn a_former_backend_still_answers_and_is_sent_nothing() {
        let mut state = state(&[(1, 11), (1, 12)]);
        assert_eq!(sent_to(&mut state, 1), Some(12));
        assert_eq!((shown(&state, 11), shown(&state, 12)), (Some(1), Some(1)));
    }

    #[test]
    fn a_backend_stands_for_whom_it_was_asked_for_last() {
        let mut state = state(&[(1, 11), (2, 11)]);
        assert_eq!(shown(&state, 11), Some(2));
        state.show(&Pair::new(&service(1), &backend(11), 0));
        assert_eq!(shown(&state, 11), Some(1));
        state.hide(&backend(11).address(), &backend(11).port());
        assert_eq!(shown(&state, 11), None, "asked for by its own address");
        assert_eq!(sent_to(&mut state, 1), Some(11), "and still the service's");
    }

    #[test]
    fn what_overflowed_is_its_keys() {
        let pair = Pair::new(&service(1), &backend(11), 3);
        let entry = OverflowPair::new(7, pair);
        let (s, b) = (service(1), backend(11));
        assert_eq!(entry.of(&OverflowKey::to_service(7, s.address(), s.port())), Some(pair));
        assert_eq!(entry.of(&OverflowKey::from_backend(7, b.address(), b.port())), Some(pair));
        assert_eq!(entry.of(&OverflowKey::to_service(8, s.address(), s.port())), None);
        assert_eq!(entry.of(&OverflowKey::from_backend(7, s.address(), s.port())), None);
    }
}
