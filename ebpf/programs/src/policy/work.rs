//! What a run works on, and how it decides.

use mesh_layout::policy::{FlowDirection, FlowKey, PacketVerdict, PolicyEndpoint};

use crate::packet::Packet;

/// What a run works on. It is in a map, because it is larger than a program's stack.
pub struct Work {
    pub hook: Hook,
    pub packet: Packet,
    /// The one that an ICMP error is about.
    pub inner: Packet,
    pub key: FlowKey,
    pub peer: Peer,
    pub traffic: Traffic,
    pub decision: Decision,
}

/// A decision, and what it was made of.
#[derive(Clone, Copy)]
pub struct Decision {
    pub verdict: PacketVerdict,
    /// The rule's position in the set, plus one.
    pub rule: u32,
    pub place: u32,
    pub identity: u32,
}

/// A direction of a pod, with what decides in it.
#[derive(Clone, Copy)]
pub struct Hook {
    pub endpoint: u32,
    /// Whose flows they are: as in a flow's key.
    pub flows_of: u32,
    pub sets: PolicyEndpoint,
    pub flags: u32,
    /// In which the flow began that is judged.
    pub direction: FlowDirection,
    /// The packet is from the pod: where the flow began in the other direction it is an answer.
    pub sent_by_pod: bool,
    /// The flow is from the node itself, or goes to it.
    pub from_host: bool,
}

/// The other end, as rules look at it.
#[derive(Clone, Copy, Default)]
pub struct Peer {
    /// The row of what it is.
    pub row: u32,
    /// The row of the selectors that name its address.
    pub cidrs: u32,
    /// Of those only selectors count whose ranges are meant for the mesh too.
    pub in_mesh: bool,
    /// Its cluster is known, and nothing more.
    pub unknown: bool,
    /// It is the pod's own node.
    pub host: bool,
    /// Its place; 0: it has none.
    pub place: u32,
    pub identity: u32,
    /// Its class of named ports.
    pub ports: u32,
    /// The node's pod that it is, plus one.
    pub owner: u32,
}

/// What a packet carries to the receiving end.
#[derive(Clone, Copy, Default)]
pub struct Traffic {
    pub protocol: u8,
    /// The type of ICMP.
    pub icmp: u8,
    /// The receiving end's port.
    pub port: u16,
}

// === impl Decision ===

impl Decision {
    #[inline(always)]
    pub fn of(verdict: PacketVerdict) -> Self {
        Self { verdict, rule: 0, place: 0, identity: 0 }
    }

    #[inline(always)]
    pub fn is_drop(&self) -> bool {
        use PacketVerdict::{DefaultDeny, DenyRule, FragmentWithoutHead, Malformed, RouterOnly};
        matches!(
            self.verdict,
            DenyRule | DefaultDeny | Malformed | FragmentWithoutHead | RouterOnly
        )
    }
}

// === impl Hook ===

impl Hook {
    #[inline(always)]
    pub fn set(&self) -> u32 {
        match self.direction {
            FlowDirection::Egress => self.sets.egress,
            FlowDirection::Ingress => self.sets.ingress,
        }
    }

    /// The same packet as an answer to a flow that began in the other direction.
    #[inline(always)]
    pub fn turn(&mut self) {
        self.direction = match self.direction {
            FlowDirection::Egress => FlowDirection::Ingress,
            FlowDirection::Ingress => FlowDirection::Egress,
        };
    }
}
