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

/// Where a set's rules are: an element of `cm_sets`, one word. Element 0 is that of pods without policies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetHeader {
    /// The first rule's index.
    pub start: u32,
    /// How many there are, at most [`RULES_OF_A_SET`].
    pub count: u16,
    /// What no rule allows is denied.
    pub default_deny: bool,
}

/// One rule for one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The selector that must match the peer; `None`: all do.
    pub selector: Option<u16>,
    /// A deny, not an allow.
    pub deny: bool,
    /// What ports it means.
    pub ports: RulePorts,
}

/// The ports of a rule. Protocols are numbers of the IP header (IANA).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RulePorts {
    /// Everything.
    All,
    /// Ports of a protocol.
    Range {
        /// The protocol.
        protocol: u8,
        /// The first.
        first: u16,
        /// The last.
        last: u16,
    },
    /// A type of ICMP or ICMPv6.
    Icmp {
        /// 1 or 58.
        protocol: u8,
        /// The type.
        kind: u8,
    },
    /// All of a protocol.
    Protocol(u8),
    /// A port that the receiving end gives this name.
    Named {
        /// The protocol; 0: any.
        protocol: u8,
        /// The name's number.
        name: u32,
    },
}

/// A [`Rule`] as it is in `cm_rules`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleWords(pub [u64; 2]);

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
/// The words of `cm_flow_secret`, with which flows' checks are made.
pub const SECRET_WORDS: u32 = 6;
/// A bit of the flags: the node may reach its pods whatever they allow, unless a rule denies it.
pub const FLAG_LOCALHOST: u64 = 1;
/// A bit of the flags: nothing is enforced.
pub const FLAG_OFF: u64 = 2;
/// A bit of the flags: [`ROW_IN_MESH`] has bits.
pub const FLAG_CIDRS_IN_MESH: u64 = 4;

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

// === impl SetHeader ===

impl SetHeader {
    const DEFAULT_DENY: u64 = 1 << 48;

    /// The header in a word.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        Self {
            start: word as u32,
            count: (word >> 32) as u16,
            default_deny: word & Self::DEFAULT_DENY != 0,
        }
    }

    /// The word of a header.
    pub const fn to_word(self) -> u64 {
        let deny = if self.default_deny { Self::DEFAULT_DENY } else { 0 };
        self.start as u64 | (self.count as u64) << 32 | deny
    }
}

// === impl Rule ===

impl Rule {
    /// The words of a rule.
    pub const fn to_words(self) -> RuleWords {
        use RuleWords as W;
        let (kind, protocol, second) = match self.ports {
            RulePorts::All => (W::ALL, 0, 0),
            RulePorts::Range { protocol, first, last } => {
                (W::RANGE, protocol, first as u64 | (last as u64) << 16)
            }
            RulePorts::Icmp { protocol, kind } => (W::ICMP, protocol, kind as u64),
            RulePorts::Protocol(protocol) => (W::PROTOCOL, protocol, 0),
            RulePorts::Named { protocol, name } => (W::NAMED, protocol, (name as u64) << 32),
        };
        let selector = match self.selector {
            Some(number) => number as u64 + 1,
            None => 0,
        };
        let deny = (self.deny as u64) << 32;
        RuleWords([selector | (kind as u64) << 16 | (protocol as u64) << 24 | deny, second])
    }
}

// === impl RuleWords ===

/// The first word: the selector plus one (bits 0–15), the kind of ports (16–23), the protocol (24–31), deny (32).
/// The second: first and last port (0–15, 16–31) or the ICMP type (0–7), and the name's number (32–63).
impl RuleWords {
    /// Of [`RulePorts::All`].
    pub const ALL: u8 = 0;
    /// Of [`RulePorts::Range`].
    pub const RANGE: u8 = 1;
    /// Of [`RulePorts::Icmp`].
    pub const ICMP: u8 = 2;
    /// Of [`RulePorts::Protocol`].
    pub const PROTOCOL: u8 = 3;
    /// Of [`RulePorts::Named`].
    pub const NAMED: u8 = 4;

    /// The selector plus one; 0: everything.
    #[inline(always)]
    pub const fn selector(&self) -> u16 {
        self.0[0] as u16
    }

    /// The kind of ports.
    #[inline(always)]
    pub const fn kind(&self) -> u8 {
        (self.0[0] >> 16) as u8
    }

    /// The protocol.
    #[inline(always)]
    pub const fn protocol(&self) -> u8 {
        (self.0[0] >> 24) as u8
    }

    /// Whether it is a deny.
    #[inline(always)]
    pub const fn is_deny(&self) -> bool {
        self.0[0] >> 32 & 1 != 0
    }

    /// The first port, or the type of ICMP.
    #[inline(always)]
    pub const fn first(&self) -> u16 {
        self.0[1] as u16
    }

    /// The last port.
    #[inline(always)]
    pub const fn last(&self) -> u16 {
        (self.0[1] >> 16) as u16
    }

    /// The number of a port's name.
    #[inline(always)]
    pub const fn name(&self) -> u32 {
        (self.0[1] >> 32) as u32
    }
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
