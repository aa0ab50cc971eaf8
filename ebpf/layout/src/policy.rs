//! What judges packets: whose an address is, what rules a pod has, and which flows were allowed (`docs/adr/0043`).
//!
//! ```text
//! address ─ cm_ipcache ─▶ index ─ cm_places ─▶ Place ─▶ row ┐
//!         └ cm_cidr (longest prefix) ─▶ Range ─▶ row, CIDRs ┴─ cm_rows: bits of selectors
//! pod ─ cm_endpoints ─▶ set ─ cm_sets ─▶ SetHeader ─ cm_rules ─▶ Rule: {selector, port, action}
//! ```
//!
//! A set, a row's number and a class of ports are written before anything names them, and are not used for anything else
//! until a second after nothing names them any more. An element of `cm_places` carries the address that it was looked up
//! by, as the value of a hash may be recycled under a reader.

mod flow;
mod rule;

pub use flow::{
    FLOW_ANSWERED, FLOW_FIN, FLOW_FIN_ANSWERED, FLOW_FROM_HOST, FLOW_RESET, FLOWS_LAYOUT,
    FlowDirection, FlowEntry, FlowKey, FragmentHead, FragmentKey, SECRET_WORDS,
};
pub use rule::{Rule, RulePorts, RuleWords, SetHeader};

/// Sizes unless configured otherwise, in entries.
pub mod sizes {
    /// `cm_ipcache` and `cm_places`: addresses of the mesh.
    pub const PLACES: usize = 1_048_576;
    /// `cm_rows`: what policies tell apart.
    pub const ROWS: usize = 32_768;
    /// `cm_cidr`: ranges.
    pub const RANGES: usize = 65_536;
    /// `cm_sets`: different sets of the node's pods.
    pub const SETS: usize = 4_096;
    /// `cm_rules`: the rules of all sets.
    pub const RULES: usize = 131_072;
    /// `cm_port_names`: named ports of all classes of ports.
    pub const PORT_NAMES: usize = 65_536;
    /// `cm_endpoints` and `cm_interfaces`: pods of the node.
    pub const ENDPOINTS: usize = 4_096;
    /// `cm_host`: addresses of the node.
    pub const HOST: usize = 1_024;
    /// `cm_flows`: flows that were allowed.
    pub const FLOWS: usize = 262_144;
    /// `cm_fragments`: packets in fragments of which the first was allowed.
    pub const FRAGMENTS: usize = 8_192;
}

/// Selectors of a node: the bits of a row.
pub const SELECTORS: usize = 2_048;
/// Rules of a set, at most.
pub const RULES_OF_A_SET: u32 = 512;

/// What is at an address of the mesh: an element of `cm_places`. It is written address last and freed address first, a
/// word at a time; a reader compares the address before and after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Place {
    /// The address; zeros where the element is free.
    pub address: [u8; 16],
    /// Its identity.
    pub identity: u32,
    /// Its row.
    pub row: u32,
    /// Its class of named ports; 0: it has none.
    pub ports: u32,
    /// The node's pod that has it, plus one; 0: none of them.
    pub owner: u32,
}

/// What a range is: a value of `cm_cidr`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Range {
    /// What an address of it is that has no place: a [`Base`].
    pub base: u32,
    /// The row of that.
    pub row: u32,
    /// The row of selectors that name the range.
    pub cidrs: u32,
    /// Zero.
    pub reserved: u32,
}

/// What an address without a place is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Base {
    /// Outside the mesh.
    World = 0,
    /// Of a cluster's pods, and nothing more is known.
    Unknown = 1,
    /// Of the own cluster's services.
    Service = 2,
}

/// What `cm_cidr` is asked by: a family, then the address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RangeKey {
    /// 4 or 6, four times.
    pub family: [u8; 4],
    /// The address, v4 as v4-mapped.
    pub address: [u8; 16],
}

/// The bits of a prefix of [`RangeKey`] before those of the address.
pub const RANGE_KEY_BITS: u32 = 32;

/// Bits of the selectors that match something: bit n of word n / 64 is selector n.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct RowBits(pub [u64; SELECTORS / 64]);

/// The row of nothing.
pub const ROW_NONE: u32 = 0;
/// The row of selectors whose CIDRs count for addresses of the mesh.
pub const ROW_IN_MESH: u32 = 1;
/// The row of IPv4 addresses outside the mesh.
pub const ROW_WORLD_V4: u32 = 2;
/// The row of IPv6 addresses outside the mesh.
pub const ROW_WORLD_V6: u32 = 3;
/// The first row that is no fixed one.
pub const ROW_FIRST: u32 = 4;

/// A named port of a class of ports: a key of `cm_port_names`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PortName {
    /// The class of ports.
    pub class: u32,
    /// The name's number.
    pub name: u32,
    /// The port.
    pub port: u16,
    /// The protocol.
    pub protocol: u8,
    /// Zero.
    pub reserved: u8,
}

/// A pod of the node: an element of `cm_endpoints`. Each set is one store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PolicyEndpoint {
    /// The set of what it sends.
    pub egress: u32,
    /// The set of what it receives.
    pub ingress: u32,
}

/// The word of `cm_policy_state` with the epoch: flows that were allowed in another are judged anew.
pub const STATE_EPOCH: u32 = 0;
/// The word with bits.
pub const STATE_FLAGS: u32 = 1;
/// The number of words.
pub const STATE_WORDS: usize = 2;
/// A bit of the flags: the node may reach its pods whatever they allow, unless a rule denies it.
pub const FLAG_LOCALHOST: u64 = 1;
/// A bit of the flags: nothing is enforced.
pub const FLAG_OFF: u64 = 2;
/// A bit of the flags: [`ROW_IN_MESH`] has bits.
pub const FLAG_CIDRS_IN_MESH: u64 = 4;

/// What becomes of a packet, and why. It passes unless it says that it is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum PacketVerdict {
    /// Nothing was decided yet.
    Undecided = 0,
    /// No policy has default deny for the pod in this direction, and no rule matches.
    DefaultAllow = 1,
    /// A rule allows it.
    AllowRule = 2,
    /// A rule denies it: dropped.
    DenyRule = 3,
    /// No rule allows it: dropped.
    DefaultDeny = 4,
    /// The pod's own node may reach it.
    AllowLocalhost = 5,
    /// Nothing is enforced.
    EnforcementOff = 6,
    /// From a pod to itself.
    SamePod = 7,
    /// It belongs to a flow that was allowed.
    Flow = 8,
    /// An ICMP error about such a flow.
    FlowError = 9,
    /// A fragment of a packet whose first one was allowed.
    Fragment = 10,
    /// It is not judged: no IP, or a neighbour's discovery.
    NotJudged = 11,
    /// Its headers are not whole: dropped.
    Malformed = 12,
    /// A fragment whose first one was not allowed, or not seen: dropped.
    FragmentWithoutHead = 13,
    /// What a router alone may send, from a pod: dropped.
    RouterOnly = 14,
    /// The interface is of no pod that is known.
    UnknownEndpoint = 15,
}

/// The words of `__sk_buff.cb` in which a program that was loaded for it is told of the pod, and says what it decided.
pub mod report {
    /// The endpoint's number, which stays.
    pub const ENDPOINT: usize = 0;
    /// A [`PacketVerdict`](super::PacketVerdict).
    pub const VERDICT: usize = 1;
    /// The rule's position in the set, plus one.
    pub const RULE: usize = 2;
    /// The peer's place.
    pub const PLACE: usize = 3;
    /// The peer's identity.
    pub const IDENTITY: usize = 4;
}

/// What the test of places and its program agree on.
pub mod hammer {
    /// How many addresses there are.
    pub const ADDRESSES: u32 = 4_096;
    /// How many a run looks up.
    pub const LOOK_UPS_A_RUN: u32 = 64;
    /// The word that counts them.
    pub const LOOKED_UP: u32 = 0;
    /// The word that counts those that were found.
    pub const FOUND: u32 = 1;
    /// The word that counts those that were another address's.
    pub const WRONG: u32 = 2;
    /// The number of words.
    pub const WORDS: usize = 3;
}

const _: () = {
    assert!(size_of::<Place>() == 32);
    assert!(size_of::<Range>() == 16);
    assert!(size_of::<RangeKey>() == 20);
    assert!(size_of::<RowBits>() == 256);
    assert!(size_of::<PortName>() == 12);
    assert!(size_of::<PolicyEndpoint>() == 8);
    assert!(size_of::<FlowKey>() == 44);
    assert!(size_of::<FlowEntry>() == 32);
    assert!(size_of::<FragmentKey>() == 44);
    assert!(size_of::<FragmentHead>() == 16);
};
