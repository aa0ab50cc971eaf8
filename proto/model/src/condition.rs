//! Whether a backend accepts connections.

use std::fmt;

/// Whether a backend accepts connections, as its cluster reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Condition {
    /// It accepts connections.
    #[default]
    Ready,
    /// It is shutting down, but still serves.
    Terminating,
    /// It does not accept connections.
    NotReady,
}

// === impl Condition ===

impl Condition {
    /// The stable word in output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Terminating => "terminating",
            Self::NotReady => "not-ready",
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
