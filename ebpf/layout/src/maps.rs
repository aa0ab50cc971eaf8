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
}

/// All maps that outlive the agent. `cm_counters` and `cm_bypass` do not: each agent's programs have their own, so that
/// nothing of a former agent is left in them once its programs are exchanged.
pub const MAPS: [MapLayout; 11] = [
    map::<FrontendKey, ServiceRef>("cm_services"),
    map::<u32, ServiceEntry>("cm_headers"),
    map::<u32, GroupSet>("cm_groups"),
    map::<u32, SlotPair>("cm_slots"),
    map::<u32, Backend>("cm_backends"),
    map::<u32, u32>("cm_peer_state"),
    map::<u64, u32>("cm_unbalanced"),
    map::<AffinityKey, Affinity>("cm_affinity"),
    map::<u32, SocketState>("cm_sockets"),
    map::<u32, DatagramState>("cm_datagrams"),
    map::<OverflowKey, OverflowPair>("cm_udp_overflow"),
];

/// Goes up when the meaning of a field changes and no size does.
const REVISION: u32 = 2;

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

/// Names this layout: maps of another are never used as if they were of this one.
pub const fn layout_hash() -> u32 {
    let mut hash = fnv(0x811c_9dc5, REVISION);
    let mut i = 0;
    while i < MAPS.len() {
        let name = MAPS[i].name.as_bytes();
        let mut j = 0;
        while j < name.len() {
            hash = fnv(hash, name[j] as u32);
            j += 1;
        }
        hash = fnv(fnv(hash, MAPS[i].key as u32), MAPS[i].value as u32);
        i += 1;
    }
    hash
}

const fn map<K, V>(name: &'static str) -> MapLayout {
    MapLayout { name, key: size_of::<K>(), value: size_of::<V>() }
}

#[cfg(all(test, feature = "user"))]
mod tests {
    use super::*;

    /// A change of the layout must be meant: maps of the old one are left behind at the next start.
    #[test]
    fn hash_is_known() {
        assert_eq!(layout_hash(), 0x5506_f36f, "{:#x}", layout_hash());
    }
}
