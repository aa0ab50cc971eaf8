//! A probe of a node, and its reply.

use std::net::IpAddr;

/// A question to a node, with the values that identify its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Probe {
    /// The node's address.
    pub address: IpAddr,
    /// A number that cannot be guessed; the reply has it too.
    pub nonce: u64,
}

/// A question to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// It identifies the reply.
    pub probe: Probe,
    /// How it is written.
    pub versions: Versions,
}

/// In which versions a question is sent: one reply to either is enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versions {
    /// `CMp2`.
    Present,
    /// `CMp1`.
    Previous,
    /// Both: whether the node knows `CMp2` is not known.
    Both,
}

/// A sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The question was answered.
    Answered(Answerer),
    /// The node's kernel refuses: no agent listens there.
    Refused,
}

/// What answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answerer {
    /// The node's kernel, whatever its agent does.
    Kernel {
        /// Answers that the node gave in the last full second.
        rate: u32,
    },
    /// The node's agent.
    Agent {
        /// Answers that the node gave in the last full second.
        rate: u32,
    },
    /// An agent of the previous minor release, which does not report its rate.
    PreviousAgent,
}

// === impl Versions ===

impl Versions {
    /// Whether `CMp2` is sent.
    pub fn has_present(self) -> bool {
        self != Self::Previous
    }

    /// Whether `CMp1` is sent.
    pub fn has_previous(self) -> bool {
        self != Self::Present
    }

    /// How many datagrams that is.
    pub fn datagrams(self) -> u32 {
        if self == Self::Both { 2 } else { 1 }
    }
}

// === impl Answerer ===

impl Answerer {
    /// Answers that the node gave in the last full second, where it reports that.
    pub fn rate(self) -> Option<u32> {
        match self {
            Self::Kernel { rate } | Self::Agent { rate } => Some(rate),
            Self::PreviousAgent => None,
        }
    }
}
