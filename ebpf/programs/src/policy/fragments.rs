//! Packets in fragments: only the first has ports. The others follow what became of it.

use mesh_layout::policy::{FlowDirection, FragmentHead, FragmentKey};

use crate::{
    maps,
    packet::{Packet, TCP},
};

/// How long a packet's fragments are waited for (as `net.ipv4.ipfrag_time`).
const LIFE: u64 = 30_000_000_000;
/// Where in a packet's data nothing but its first fragment may reach: the header of TCP.
const TCP_HEADER: u16 = 20;

/// Remembers that the first fragment was allowed by a set.
#[inline(always)]
pub fn remember(endpoint: u32, direction: FlowDirection, packet: &Packet, set: u32) {
    let head = FragmentHead { seen: maps::now(), by: by(set) };
    maps::set_fragment(&key(endpoint, direction, packet), &head);
}

/// Whether the first fragment of a packet was allowed, by what is in force still. One that would replace a part of its
/// header is none of it.
#[inline(always)]
pub fn is_allowed(
    endpoint: u32,
    direction: FlowDirection,
    packet: &Packet,
    offset: u16,
    set: u32,
) -> bool {
    if packet.protocol == TCP && offset < TCP_HEADER {
        return false;
    }
    match maps::fragment(&key(endpoint, direction, packet)) {
        Some(head) => head.by == by(set) && maps::now().wrapping_sub(head.seen) < LIFE,
        None => false,
    }
}

#[inline(always)]
fn by(set: u32) -> u64 {
    u64::from(set) << 32 | u64::from(maps::epoch())
}

#[inline(always)]
fn key(endpoint: u32, direction: FlowDirection, packet: &Packet) -> FragmentKey {
    FragmentKey {
        endpoint,
        direction: direction as u8,
        protocol: packet.protocol,
        reserved: [0; 2],
        from: packet.source,
        to: packet.destination,
        id: packet.id,
    }
}
