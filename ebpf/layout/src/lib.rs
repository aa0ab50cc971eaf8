//! The tables in the kernel, as both sides see them.
//!
//! Architecture invariant: everything here is plain memory. Addresses and ports are bytes in network order, there is no
//! padding, no `bool`, no enum and no `Option`; every size is asserted. Any bytes that the kernel returns are a valid
//! value.
//!
//! How a connection finds its backend: [`FrontendKey`] → [`ServiceRef`] → [`Header`] → a slot → [`Backend`], with a
//! [`GroupSet`] of headers in between where backends have different weights. Readers race with the writer, so each step
//! is either one store of at most eight bytes, or carries the key it was looked up by: a [`ServiceRef`] its frontend's
//! tag, a [`Backend`] its ID. A reader that finds another key than expected looks again.
#![cfg_attr(not(feature = "user"), no_std)]

mod backend;
mod maps;
pub mod policy;
pub mod probe;
mod service;
mod socket;

use core::net::IpAddr;

pub use backend::{Backend, SlotPair};
pub use maps::{MAPS, MapGroup, MapKind, MapLayout, MapSize, default_sizes, layout_hash};
pub use service::{
    FrontendKey, GROUPS_OF_A_SERVICE, GroupSet, Header, ServiceEntry, ServiceRef, Settings,
};
pub use socket::{
    Affinity, AffinityKey, DatagramState, Endpoint, ListedSocket, OverflowKey, OverflowPair,
    PAIRS_OF_A_SOCKET, Pair, SocketState,
};

/// The entries of `cm_counters`, one `u64` a processor each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Counter {
    /// A connection got a backend.
    Translated = 0,
    /// A slot, backend or service was not the expected one, and was looked up again.
    Retried = 1,
    /// All attempts met cut clusters or changing slots; the search continued slot by slot.
    Scanned = 2,
    /// Nothing but backends of cut clusters was left, and one was taken.
    TookCut = 3,
    /// The service has no backend: the connection was refused.
    NoBackend = 4,
    /// A connection, or a datagram, for a service passed untouched: its pod is not balanced, its service is left to
    /// another proxy, or it has no backend and may not be refused.
    Passed = 5,
    /// A client came back to the backend it had.
    Affine = 6,
    /// A datagram of an unconnected socket was sent to a backend.
    Datagram = 7,
    /// A socket asked for more services than its storage has room for.
    Overflowed = 8,
    /// A process outside of the agent's cgroup called `connect`, whatever for: the programs run for others than the agent.
    Called = 9,
}

/// The number of counters that there are; the map has room for [`default_sizes::COUNTERS`].
pub const COUNTERS: usize = 10;
const _: () = assert!(COUNTERS <= default_sizes::COUNTERS);

/// The state of a cluster in `cm_peer_state`, by cluster id: 0 is in use, 1 is unreachable.
pub const PEER_CUT: u32 = 1;
/// The entry of `cm_peer_state` that has the state of the node itself, in bits: no cluster has this id.
pub const LOCAL_STATE: u32 = 0;
/// A bit of the local state: the local cluster's services are not synced. One without backends passes and is not refused.
pub const LOCAL_UNSYNCED: u32 = 1;
/// A bit of the local state: plain services pass untouched, because another proxy on the node knows better.
pub const LOCAL_PLAIN_PASSES: u32 = 2;
/// A bit of the local state: `cm_unbalanced` has entries.
pub const LOCAL_HAS_UNBALANCED: u32 = 4;

/// How often a reader picks another slot before it searches.
pub const TRIES: u32 = 4;
/// How many slots of a group a reader searches for one that is usable.
pub const SCANNED_SLOTS: u32 = 256;
/// How many slots of a group a reader searches for a backend that moved. A client of more, or a socket, gets another.
pub const SEARCHED_SLOTS: u32 = 16_384;

/// What every object of programs has beside them: once, in its root.
#[macro_export]
macro_rules! object {
    () => {
        #[cfg(not(test))]
        #[panic_handler]
        fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
            // The verifier refuses programs in which this could be reached.
            loop {}
        }

        /// The kernel offers some helpers only to programs under a licence it knows.
        #[unsafe(link_section = "license")]
        #[unsafe(no_mangle)]
        static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
    };
}

/// One step of the 32-bit FNV-1a hash, over a word instead of a byte.
#[inline(always)]
const fn fnv(hash: u32, word: u32) -> u32 {
    (hash ^ word).wrapping_mul(0x0100_0193)
}

/// An address in the tables' form.
pub const fn address_bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// An IPv4 address in the tables' form.
#[inline(always)]
pub const fn mapped(v4: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3]]
}

/// What lets user space hand these types to the kernel and take them back.
#[cfg(feature = "user")]
mod user {
    use super::*;

    macro_rules! pod {
        ($($name:ty),*) => {$(
            // SAFETY: it is `repr(C)` without padding (`maps.rs` asserts the sizes) and made of integers, so any bytes
            // are a value.
            #[expect(unsafe_code, reason = "this is what the trait is for")]
            unsafe impl aya::Pod for $name {}
        )*};
    }

    pod!(FrontendKey, ServiceRef, Header, Settings, ServiceEntry, GroupSet, Backend);
    pod!(Pair, DatagramState, OverflowKey, OverflowPair, AffinityKey, Affinity);
    pod!(policy::Place, policy::Range, policy::RangeKey, policy::RowBits, policy::PortName);
    pod!(policy::FlowKey, policy::FlowEntry, policy::FragmentKey, policy::FragmentHead);
}
