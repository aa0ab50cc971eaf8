//! Which maps there are, how large, and the name of this layout.

use crate::{
    Affinity, AffinityKey, Backend, DatagramState, FrontendKey, GroupSet, Header, OverflowKey,
    OverflowPair, ServiceEntry, ServiceRef, Settings, SlotPair, SocketState, fnv,
};

/// Sizes unless configured otherwise, in entries.
pub mod default_sizes {
    /// `cm_services` and `cm_headers`.
    pub const SERVICES: usize = 131_072;
    /// `cm_backends`; a power of two.
    pub const BACKENDS: usize = 262_144;
    /// `cm_slots`, in slots; a power of two.
    pub const SLOTS: usize = 1_048_576;
    /// `cm_groups`: services whose backends have different chances.
    pub const GROUPS: usize = 16_384;
    /// `cm_affinity`: clients with a backend that they come back to.
    pub const AFFINITIES: usize = 131_072;
    /// `cm_unbalanced`: pods of a node that are not balanced.
    pub const UNBALANCED: usize = 4_096;
    /// `cm_udp_overflow`: two entries for each service that a socket asks for beyond those in its storage.
    pub const UDP_OVERFLOW: usize = 65_536;
    /// `cm_peer_state`: every cluster id there can be.
    pub const PEERS: usize = 512;
    /// `cm_bypass`: one agent has one cgroup; the rest is room for whatever may join it.
    pub const BYPASSED: usize = 16;
}

/// What a map is, for the layout's hash and for the check before one is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapLayout {
    /// Its name, which is also its pin.
    pub name: &'static str,
    /// Bytes of a key.
    pub key: usize,
    /// Bytes of a value.
    pub value: usize,
    /// What becomes of it.
    pub kept: Kept,
}

/// What becomes of a map when the next agent wants tables of other sizes, or knows another layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Its size is configured: for another size it is made anew, and filled.
    Sized,
    /// It goes over to tables of other sizes as it is. For another layout it is made anew.
    Whole,
    /// It has what sockets were told: it has a layout of its own ([`socket_layout_hash`]), and as long as that is the same
    /// it goes over to whatever tables come.
    Sockets,
}

/// All maps that outlive the agent. `cm_counters` and `cm_bypass` do not: each agent's programs have their own, so that
/// nothing of a former agent is left in them once its programs are exchanged.
pub const MAPS: [MapLayout; 11] = [
    map::<FrontendKey, ServiceRef>("cm_services", Kept::Sized),
    map::<u32, ServiceEntry>("cm_headers", Kept::Sized),
    map::<u32, GroupSet>("cm_groups", Kept::Sized),
    map::<u32, SlotPair>("cm_slots", Kept::Sized),
    map::<u32, Backend>("cm_backends", Kept::Sized),
    map::<u32, u32>("cm_peer_state", Kept::Whole),
    map::<u64, u32>("cm_unbalanced", Kept::Whole),
    map::<AffinityKey, Affinity>("cm_affinity", Kept::Whole),
    map::<u32, SocketState>("cm_sockets", Kept::Sockets),
    map::<u32, DatagramState>("cm_datagrams", Kept::Sockets),
    map::<OverflowKey, OverflowPair>("cm_udp_overflow", Kept::Sockets),
];

/// Goes up when the meaning of a field changes and no size does.
const REVISION: u32 = 2;
/// The same of the maps that have what sockets were told.
const SOCKET_REVISION: u32 = 1;

const _: () = {
    assert!(size_of::<FrontendKey>() == 20);
    assert!(size_of::<ServiceRef>() == 8);
    assert!(size_of::<Header>() == 8);
    assert!(size_of::<Backend>() == 32);
    assert!(size_of::<Settings>() == 8);
    assert!(size_of::<ServiceEntry>() == 16);
    assert!(size_of::<GroupSet>() == 96);
    assert!(size_of::<SocketState>() == 48);
    assert!(size_of::<DatagramState>() == 200);
    assert!(size_of::<OverflowKey>() == 32);
    assert!(size_of::<OverflowPair>() == 56);
    assert!(size_of::<AffinityKey>() == 16);
    assert!(size_of::<Affinity>() == 16);
    assert!(default_sizes::BACKENDS.is_power_of_two());
    assert!(default_sizes::SLOTS.is_power_of_two());
};

/// Names this layout of the tables: those of another are never used as if they were of this one.
pub const fn layout_hash() -> u32 {
    hash_of(REVISION, false)
}

/// Names this layout of the maps that have what sockets were told.
pub const fn socket_layout_hash() -> u32 {
    hash_of(SOCKET_REVISION, true)
}

const fn hash_of(revision: u32, sockets: bool) -> u32 {
    let mut hash = fnv(0x811c_9dc5, revision);
    let mut i = 0;
    while i < MAPS.len() {
        if matches!(MAPS[i].kept, Kept::Sockets) == sockets {
            let name = MAPS[i].name.as_bytes();
            let mut j = 0;
            while j < name.len() {
                hash = fnv(hash, name[j] as u32);
                j += 1;
            }
            hash = fnv(fnv(hash, MAPS[i].key as u32), MAPS[i].value as u32);
        }
        i += 1;
    }
    hash
}

const fn map<K, V>(name: &'static str, kept: Kept) -> MapLayout {
    MapLayout { name, key: size_of::<K>(), value: size_of::<V>(), kept }
}

#[cfg(all(test, feature = "user"))]
mod tests {
    use super::*;

    /// A change of the layout must be meant: the next agent fills tables of its own before it leaves those of the old one,
    /// and sockets lose what they were told.
    #[test]
    fn hashes_are_known() {
        assert_eq!(layout_hash(), 0x691c_730a, "{:#x}", layout_hash());
        assert_eq!(socket_layout_hash(), 0x43f2_e491, "{:#x}", socket_layout_hash());
    }
}
