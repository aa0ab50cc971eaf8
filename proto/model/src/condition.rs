//! Whether a backend takes connections.

use std::fmt;

/// Whether a backend takes connections, by its cluster's word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Condition {
    /// It does.
    #[default]
    Ready,
    /// It is shutting down, and still serves.
    Terminating,
    /// It does not.
    NotReady,
}

// === impl Condition ===

impl Condition {
    /// The word for it.
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
