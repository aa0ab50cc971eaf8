//! Which maps there are, how large, and the names of their layouts.

use crate::{
    Affinity, AffinityKey, Backend, DatagramState, FrontendKey, GroupSet, Header, OverflowKey,
    OverflowPair, ServiceEntry, ServiceRef, Settings, SlotPair, SocketState, fnv,
    probe::ANSWER_WORDS,
};

/// Sizes unless configured otherwise, in entries.
pub mod default_sizes {
    /// `cm_services` and `cm_headers`.
    pub const SERVICES: usize = 131_072;
    /// `cm_backends`; a power of two.
    pub const BACKENDS: usize = 524_288;
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
    /// `cm_counters`: room for more counters than there are, so that one more is no other layout.
    pub const COUNTERS: usize = 64;
    /// `cm_probe_addresses`: addresses of one node.
    pub const PROBE_ADDRESSES: usize = 256;
    /// `cm_bypass`: one agent has one cgroup; the rest is room for whatever may join it.
    pub const BYPASSED: usize = 16;
}

/// A map: for its group's hash, and for the check before one that is pinned is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapLayout {
    /// Its name, which is also its pin.
    pub name: &'static str,
    /// The maps that it belongs to.
    pub group: MapGroup,
    /// What the kernel makes of it.
    pub kind: MapKind,
    /// Bytes of a key.
    pub key: usize,
    /// Bytes of a value.
    pub value: usize,
    /// How many entries it has.
    pub size: MapSize,
}

/// What a map is to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKind {
    /// A hash, whose memory is allocated from the beginning.
    Hash,
    /// A hash that forgets what was used least.
    LruHash,
    /// An array that user space may map as memory.
    MmapArray,
    /// An array with a value for each processor.
    PerCpuArray,
    /// What a socket keeps, as long as it lives.
    SocketStorage,
}

/// How many entries a map has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapSize {
    /// Always as many; 0 where the kernel has it so.
    Fixed(usize),
    /// As many as are configured. For another size the map is made again, and filled.
    Configured,
}

/// Maps that belong together: they are pinned in a folder of their own, which is named by a hash of their layout. A
/// change in one group makes that group's maps again, and costs the others nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MapGroup {
    /// Services and their backends. For other sizes they are filled from the tables that there are, for another layout by
    /// the agent, before programs read them.
    LoadBalancer,
    /// The states of clusters and of the node. Another layout begins with all clusters in use and none of the node's bits.
    State,
    /// Which backends clients had. Another layout begins empty, and clients may get others.
    Affinity,
    /// What programs count. Another layout begins at zero.
    Counters,
    /// The records of sockets. As long as the layout is the same, a socket's state is valid with any tables.
    Sockets,
    /// The kernel's answers to probes. Another layout begins without addresses, and answers nothing until the agent has
    /// set them.
    Health,
}

/// All maps that outlive the agent. `cm_bypass` does not: each agent's programs have their own, so that nothing of a former
/// agent is left in it once its programs are exchanged.
pub const MAPS: [MapLayout; 14] = {
    use MapGroup::{Affinity as Clients, Counters, Health, LoadBalancer, Sockets, State};
    use MapKind::{Hash, LruHash, MmapArray, PerCpuArray, SocketStorage};
    use MapSize::{Configured, Fixed};
    use default_sizes::{AFFINITIES, COUNTERS, PEERS, PROBE_ADDRESSES, UDP_OVERFLOW, UNBALANCED};
    [
        map::<FrontendKey, ServiceRef>("cm_services", LoadBalancer, Hash, Configured),
        map::<u32, ServiceEntry>("cm_headers", LoadBalancer, MmapArray, Configured),
        map::<u32, GroupSet>("cm_groups", LoadBalancer, MmapArray, Configured),
        map::<u32, SlotPair>("cm_slots", LoadBalancer, MmapArray, Configured),
        map::<u32, Backend>("cm_backends", LoadBalancer, MmapArray, Configured),
        map::<u32, u32>("cm_peer_state", State, MmapArray, Fixed(PEERS)),
        map::<u64, u32>("cm_unbalanced", State, Hash, Fixed(UNBALANCED)),
        map::<AffinityKey, Affinity>("cm_affinity", Clients, LruHash, Fixed(AFFINITIES)),
        map::<u32, u64>("cm_counters", Counters, PerCpuArray, Fixed(COUNTERS)),
        map::<u32, SocketState>("cm_sockets", Sockets, SocketStorage, Fixed(0)),
        map::<u32, DatagramState>("cm_datagrams", Sockets, SocketStorage, Fixed(0)),
        map::<OverflowKey, OverflowPair>("cm_udp_overflow", Sockets, LruHash, Fixed(UDP_OVERFLOW)),
        map::<[u8; 16], u32>("cm_probe_addresses", Health, Hash, Fixed(PROBE_ADDRESSES)),
        map::<u32, u64>("cm_probe_answers", Health, MmapArray, Fixed(ANSWER_WORDS)),
    ]
};

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

/// Names the layouts of all groups together.
pub const fn layout_hash() -> u32 {
    let mut hash = 0x811c_9dc5;
    let mut i = 0;
    while i < MapGroup::ALL.len() {
        hash = fnv(hash, MapGroup::ALL[i].layout_hash());
        i += 1;
    }
    hash
}

const fn map<K, V>(name: &'static str, group: MapGroup, kind: MapKind, size: MapSize) -> MapLayout {
    MapLayout { name, group, kind, key: size_of::<K>(), value: size_of::<V>(), size }
}

// === impl MapGroup ===

impl MapGroup {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::LoadBalancer,
        Self::State,
        Self::Affinity,
        Self::Counters,
        Self::Sockets,
        Self::Health,
    ];

    /// The beginning of its folder's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LoadBalancer => "lb",
            Self::State => "state",
            Self::Affinity => "affinity",
            Self::Counters => "counters",
            Self::Sockets => "sockets",
            Self::Health => "health",
        }
    }

    /// Goes up when the meaning of a field changes, or a map's kind or size, and no key's or value's length does.
    const fn revision(self) -> u32 {
        match self {
            Self::LoadBalancer => 2,
            Self::State | Self::Affinity | Self::Counters | Self::Sockets | Self::Health => 1,
        }
    }

    /// Names this layout of its maps: those of another are never used as if they were of this one.
    pub const fn layout_hash(self) -> u32 {
        let mut hash = fnv(0x811c_9dc5, self.revision());
        let mut i = 0;
        while i < MAPS.len() {
            if MAPS[i].group as u32 == self as u32 {
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
}

// === impl MapKind ===

impl MapKind {
    /// The kernel's `bpf_map_type`.
    pub const fn number(self) -> u32 {
        match self {
            Self::Hash => 1,
            Self::MmapArray => 2,
            Self::PerCpuArray => 6,
            Self::LruHash => 9,
            Self::SocketStorage => 24,
        }
    }

    /// The flags that it is made with.
    pub const fn flags(self) -> u32 {
        /// `BPF_F_NO_PREALLOC`, which the kernel demands of a socket's storage.
        const NO_PREALLOC: u32 = 1;
        /// `BPF_F_MMAPABLE`.
        const MMAPABLE: u32 = 1 << 10;
        match self {
            Self::MmapArray => MMAPABLE,
            Self::SocketStorage => NO_PREALLOC,
            Self::Hash | Self::PerCpuArray | Self::LruHash => 0,
        }
    }
}

#[cfg(all(test, feature = "user"))]
mod tests {
    use super::*;

    /// What is not in a hash: another kind or size of a map is another layout too.
    fn kinds_and_sizes(group: MapGroup) -> u32 {
        let maps = MAPS.iter().filter(|map| map.group == group);
        maps.fold(0x811c_9dc5, |hash, map| {
            let size = match map.size {
                MapSize::Fixed(size) => u32::try_from(size).unwrap(),
                MapSize::Configured => u32::MAX,
            };
            [map.kind.number(), map.kind.flags(), size].into_iter().fold(hash, fnv)
        })
    }

    /// A change of a layout must be intended: the next agent makes that group's maps again, with the loss that the
    /// group names. Where only the second number changes, the group's revision has to go up.
    #[test]
    fn hashes_are_known() {
        use MapGroup::*;
        for (group, hash, kinds) in [
            (LoadBalancer, 0xe110_1932, 0xd3b5_165d),
            (State, 0x6cab_5be7, 0x2ec0_c244),
            (Affinity, 0xab7a_1039, 0xffd9_dec4),
            (Counters, 0xe59f_db64, 0x8ce3_2c61),
            (Sockets, 0x43f2_e491, 0xa82f_a8ae),
            (Health, 0xe47c_cc47, 0xdb99_8481),
        ] {
            let found = (group.layout_hash(), kinds_and_sizes(group));
            assert_eq!(found, (hash, kinds), "{group:?}: {:#x}, {:#x}", found.0, found.1);
        }
    }

    #[test]
    fn every_map_has_a_place() {
        for map in MAPS {
            assert!(MapGroup::ALL.contains(&map.group), "{map:?}");
            assert_eq!(MAPS.iter().filter(|other| other.name == map.name).count(), 1);
        }
        let names = MapGroup::ALL.map(MapGroup::name);
        assert_eq!(std::collections::BTreeSet::from(names).len(), names.len());
    }
}
