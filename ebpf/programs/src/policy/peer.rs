//! What is at the other end of a packet.

use mesh_layout::policy::{Base, ROW_NONE, ROW_WORLD_V4, ROW_WORLD_V6};

use crate::{maps, work::Peer};

/// What is at an address. `from_host`: the packet was made on the node, or goes to it; what comes from elsewhere with an
/// address of the node was masqueraded by it, for somebody outside.
#[inline(always)]
pub fn at(address: &[u8; 16], v6: bool, from_host: bool, cidrs_in_mesh: bool) -> Peer {
    let mut peer = Peer { in_mesh: true, ..Peer::default() };
    if let Some(row) = maps::host_row(address) {
        if from_host {
            (peer.row, peer.host) = (row, true);
        } else {
            (peer.row, peer.in_mesh) = (world(v6), false);
        }
        if cidrs_in_mesh || !peer.in_mesh {
            peer.cidrs = maps::range(address, v6).map_or(ROW_NONE, |range| range.cidrs);
        }
        return peer;
    }
    if let Some((index, place)) = maps::place(address) {
        peer.row = place.row;
        peer.place = index;
        peer.identity = place.identity;
        peer.ports = place.ports;
        peer.owner = place.owner;
        if cidrs_in_mesh {
            peer.cidrs = maps::range(address, v6).map_or(ROW_NONE, |range| range.cidrs);
        }
        return peer;
    }
    match maps::range(address, v6) {
        Some(range) => {
            peer.row = range.row;
            peer.cidrs = range.cidrs;
            peer.in_mesh = range.base != Base::World as u32;
            peer.unknown = range.base == Base::Unknown as u32;
        }
        None => (peer.row, peer.in_mesh) = (world(v6), false),
    }
    peer
}

#[inline(always)]
fn world(v6: bool) -> u32 {
    if v6 { ROW_WORLD_V6 } else { ROW_WORLD_V4 }
}
