//! Why an object is refused.

use std::fmt;

/// One field of an object that is refused, and why. The object is refused as a whole.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    /// Where, from the object's root: `spec.egress[0].toFQDNs`.
    pub field: String,
    /// Why, and what to write in its place.
    pub reason: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.reason)
    }
}
