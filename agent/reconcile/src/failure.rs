//! Why a key could not be written.

use std::{fmt, sync::Arc};

/// Why an attempt at a key was in vain. Failures that are equal are counted together, so the reason names no key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Failure {
    class: Class,
    reason: Arc<str>,
}

/// The outlook of the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// It may succeed at any time, or never.
    Failed,
    /// It succeeds when an entry of this pool (a table's name) is free: [`crate::Reconciler::freed`].
    NoRoom(&'static str),
    /// Nothing is wrong: it is not possible as things are, and may be later. Tried again as any failure is, and counted
    /// apart.
    Deferred,
}

// === impl Failure ===

impl Failure {
    /// An ordinary failure.
    pub fn failed(reason: impl fmt::Display) -> Self {
        Self::new(Class::Failed, reason)
    }

    /// The pool is full.
    pub fn no_room(pool: &'static str, reason: impl fmt::Display) -> Self {
        Self::new(Class::NoRoom(pool), reason)
    }

    /// Not possible at present, which is no failure.
    pub fn deferred(reason: impl fmt::Display) -> Self {
        Self::new(Class::Deferred, reason)
    }

    /// The outlook of the next attempt.
    pub fn class(&self) -> Class {
        self.class
    }

    /// The reason in words.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    fn new(class: Class, reason: impl fmt::Display) -> Self {
        Self { class, reason: reason.to_string().into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}
