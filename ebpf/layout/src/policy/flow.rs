//! Flows that were allowed, and packets in fragments.

/// The words of `cm_flow_secret`, with which flows' checks are made.
pub const SECRET_WORDS: u32 = 6;

/// Who sent the first packet of a flow, seen from the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FlowDirection {
    /// The pod.
    Egress = 0,
    /// Its peer.
    Ingress = 1,
}

/// Names the layout of what outlives an agent: `cm_flows`, `cm_fragments` and `cm_flow_secret`. Goes up when one of them
/// changes: another layout begins with no flows, which are then judged anew.
pub const FLOWS_LAYOUT: u32 = 1;

/// A flow of a pod of the node: a key of `cm_flows`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FlowKey {
    /// The interface at which the pod's packets are judged, which it has as long as it lives; for programs that report,
    /// the endpoint.
    pub endpoint: u32,
    /// A [`FlowDirection`].
    pub direction: u8,
    /// The protocol.
    pub protocol: u8,
    /// Zero.
    pub reserved: [u8; 2],
    /// The pod's address.
    pub local: [u8; 16],
    /// The other one.
    pub peer: [u8; 16],
    /// The pod's port, or the identifier of an echo; 0 where there are no ports.
    pub local_port: u16,
    /// The other port.
    pub peer_port: u16,
}

/// A flow that was allowed: a value of `cm_flows`. What it was allowed by must still be so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FlowEntry {
    /// [`FlowKey::check`] of its key: an element may be recycled under a reader.
    pub check: u32,
    /// The set.
    pub set: u32,
    /// The epoch.
    pub epoch: u32,
    /// The peer's place; 0: it had none.
    pub place: u32,
    /// When it was last seen, in nanoseconds of the monotonic clock.
    pub seen: u64,
    /// What was seen of it: `FLOW_` bits.
    pub state: u32,
    /// Zero.
    pub reserved: u32,
}

/// The other end answered.
pub const FLOW_ANSWERED: u32 = 1;
/// The one that began has sent FIN.
pub const FLOW_FIN: u32 = 2;
/// The other end has.
pub const FLOW_FIN_ANSWERED: u32 = 4;
/// One of them reset it.
pub const FLOW_RESET: u32 = 8;
/// It was from the node itself, or went there.
pub const FLOW_FROM_HOST: u32 = 16;

/// A packet in fragments: a key of `cm_fragments`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FragmentKey {
    /// As in [`FlowKey`].
    pub endpoint: u32,
    /// A [`FlowDirection`]: the pod sends or receives it.
    pub direction: u8,
    /// The protocol.
    pub protocol: u8,
    /// Zero.
    pub reserved: [u8; 2],
    /// Who sent it.
    pub from: [u8; 16],
    /// To whom.
    pub to: [u8; 16],
    /// Its identification.
    pub id: u32,
}

/// Its first fragment was allowed: a value of `cm_fragments`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FragmentHead {
    /// When, in nanoseconds of the monotonic clock.
    pub seen: u64,
    /// The epoch, and the set in the high half.
    pub by: u64,
}

// === impl FlowKey ===

impl FlowKey {
    /// A number that only who knows the secret can tell (NH of UMAC, RFC 4418 §5.2.1, and a last multiplication): never 0.
    #[inline(always)]
    pub fn check(&self, secret: &[u64; SECRET_WORDS as usize]) -> u32 {
        let words = self.words();
        let mut sum = 0u64;
        let mut at = 0;
        while at < SECRET_WORDS as usize {
            let (low, high) = (secret[at] as u32, (secret[at] >> 32) as u32);
            let first = words[2 * at].wrapping_add(low);
            let second = words[2 * at + 1].wrapping_add(high);
            sum = sum.wrapping_add((first as u64).wrapping_mul(second as u64));
            at += 1;
        }
        sum ^= sum >> 32;
        let mixed = (sum.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32;
        if mixed == 0 { 1 } else { mixed }
    }

    #[inline(always)]
    fn words(&self) -> [u32; 12] {
        let part = |bytes: &[u8; 16], at: usize| {
            u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        [
            self.endpoint,
            self.direction as u32 | (self.protocol as u32) << 8,
            part(&self.local, 0),
            part(&self.local, 4),
            part(&self.local, 8),
            part(&self.local, 12),
            part(&self.peer, 0),
            part(&self.peer, 4),
            part(&self.peer, 8),
            part(&self.peer, 12),
            self.local_port as u32 | (self.peer_port as u32) << 16,
            0,
        ]
    }
}
