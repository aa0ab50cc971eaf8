//! The flows that were allowed.
//!
//! An entry is valid as long as what allowed it is: the pod's set, the epoch, and the peer's place. One that is not is
//! judged anew, in the direction in which its flow began, whoever sent the packet: a rule that now denies it closes both
//! ways.

use mesh_layout::policy::{
    FLOW_ANSWERED, FLOW_FIN, FLOW_FIN_ANSWERED, FLOW_FROM_HOST, FLOW_RESET, FlowDirection,
    FlowEntry, FlowKey,
};

use crate::{
    maps,
    packet::{Packet, TCP, TCP_FIN, TCP_RST},
};

const SECOND: u64 = 1_000_000_000;
/// TCP that both ends spoke on.
const ESTABLISHED: u64 = 6 * 3_600 * SECOND;
/// TCP that was not answered yet.
const HALF_OPEN: u64 = 60 * SECOND;
/// TCP that was reset, or that both ends closed.
const CLOSING: u64 = 10 * SECOND;
/// Anything else that was answered.
const ANSWERED: u64 = 180 * SECOND;
/// Anything else that was not.
const UNANSWERED: u64 = 60 * SECOND;

/// What is known of a flow.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// Nothing, or not any more.
    No,
    /// It was allowed, by what is not in force any more.
    Stale {
        /// It was from the node itself.
        from_host: bool,
    },
    /// It is allowed.
    Yes,
}

/// Makes the key of a packet's flow, if the flow began in a direction.
#[inline(always)]
pub fn key(
    key: &mut FlowKey,
    endpoint: u32,
    began: FlowDirection,
    packet: &Packet,
    sent_by_pod: bool,
) {
    let ports = &packet.transport;
    (key.endpoint, key.direction, key.protocol) = (endpoint, began as u8, packet.protocol);
    key.reserved = [0; 2];
    if sent_by_pod {
        (key.local, key.peer) = (packet.source, packet.destination);
        (key.local_port, key.peer_port) = (ports.source_port, ports.destination_port);
    } else {
        (key.local, key.peer) = (packet.destination, packet.source);
        (key.local_port, key.peer_port) = (ports.destination_port, ports.source_port);
    }
}

/// Looks a flow up, and notes that a packet of it was seen. `set`: the pod's present one in the direction in which it
/// began. `answers`: the packet is from the end that did not begin.
#[inline(always)]
pub fn find(key: &FlowKey, set: u32, answers: bool, tcp: u8) -> Known {
    let Some(entry) = maps::flow(key) else { return Known::No };
    let check = key.check(&maps::secret());
    // SAFETY: the entry's memory stays mapped for the program's run, and any bytes are an entry. It may be recycled while
    // it is read: the check is read before and after.
    let (copy, after) = unsafe {
        let copy = core::ptr::read_volatile(entry);
        (copy, core::ptr::read_volatile(&raw const (*entry).check))
    };
    if copy.check != check || after != check {
        return Known::No;
    }
    let now = maps::now();
    if now.wrapping_sub(copy.seen) > life(key.protocol, copy.state) {
        return Known::No;
    }
    let is_same_peer = match copy.place {
        0 => maps::place(&key.peer).is_none(),
        place => maps::place_at(place, &key.peer).is_some(),
    };
    if copy.set != set || copy.epoch != maps::epoch() || !is_same_peer {
        return Known::Stale { from_host: copy.state & FLOW_FROM_HOST != 0 };
    }
    let state = copy.state | seen(key.protocol, answers, tcp);
    // A packet a second is enough to know that it lives.
    if state != copy.state || now.wrapping_sub(copy.seen) > SECOND {
        // SAFETY: as above; aligned stores. In an entry that was recycled meanwhile they make another flow live longer, or
        // close earlier, and allow nothing.
        unsafe {
            core::ptr::write_volatile(&raw mut (*entry).seen, now);
            core::ptr::write_volatile(&raw mut (*entry).state, state);
        }
    }
    Known::Yes
}

/// Whether a flow is known that an error is about, one way or the other. Nothing is noted: errors keep no flow alive.
#[inline(always)]
pub fn is_known(key: &FlowKey, set: u32) -> bool {
    let Some(entry) = maps::flow(key) else { return false };
    // SAFETY: as in `find`.
    let copy = unsafe { core::ptr::read_volatile(entry) };
    copy.check == key.check(&maps::secret())
        && copy.set == set
        && copy.epoch == maps::epoch()
        && maps::now().wrapping_sub(copy.seen) <= life(key.protocol, copy.state)
}

/// Remembers a flow that was just allowed.
#[inline(always)]
pub fn remember(key: &FlowKey, mut entry: FlowEntry, answers: bool, tcp: u8) {
    entry.check = key.check(&maps::secret());
    entry.state |= seen(key.protocol, answers, tcp);
    maps::set_flow(key, &entry);
}

#[inline(always)]
fn seen(protocol: u8, answers: bool, tcp: u8) -> u32 {
    let mut state = 0;
    if answers {
        state |= FLOW_ANSWERED;
    }
    if protocol == TCP {
        if tcp & TCP_RST != 0 {
            state |= FLOW_RESET;
        }
        if tcp & TCP_FIN != 0 {
            state |= if answers { FLOW_FIN_ANSWERED } else { FLOW_FIN };
        }
    }
    state
}

/// How long an entry is valid after the last packet, in nanoseconds.
#[inline(always)]
fn life(protocol: u8, state: u32) -> u64 {
    const BOTH: u32 = FLOW_FIN | FLOW_FIN_ANSWERED;
    let is_answered = state & FLOW_ANSWERED != 0;
    match (protocol == TCP, is_answered) {
        (true, _) if state & FLOW_RESET != 0 || state & BOTH == BOTH => CLOSING,
        (true, true) => ESTABLISHED,
        (true, false) => HALF_OPEN,
        (false, true) => ANSWERED,
        (false, false) => UNANSWERED,
    }
}
