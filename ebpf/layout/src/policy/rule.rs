//! Sets of rules.

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
