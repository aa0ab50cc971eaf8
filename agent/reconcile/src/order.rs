//! Which of several pending keys is written first.

use std::fmt::Debug;

/// The order of keys that belong together. Groups are written in the order in which their first change arrived; within a
/// group the lower rank comes first, then the earlier change. A group that never rests keeps no other waiting: what is
/// wanted after the first of its keys was taken comes after all other groups.
pub trait Order<K> {
    /// The value that keys have in common which belong together.
    type Group: Ord + Clone + Debug;
    /// `false` if each key is a group of its own, for which nothing is kept.
    const GROUPED: bool = true;

    /// The group of a key.
    fn group(key: &K) -> Self::Group;

    /// The place of a write within its group; lower comes first.
    fn rank(key: &K, verb: Verb) -> u8 {
        let _ = (key, verb);
        0
    }

    /// Whether the other keys of the group need this one: they wait while it cannot be set, and go where it is removed
    /// ([`crate::Reconciler::remove_group`]). At most one key of a group is its head.
    fn is_head(key: &K) -> bool {
        let _ = key;
        false
    }
}

/// The operation on a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// It gets a value.
    Set,
    /// It goes.
    Remove,
}

/// Each key by itself, first come, first served.
#[derive(Clone, Copy, Debug, Default)]
pub struct Arrival;

// === impl Arrival ===

impl<K: Ord + Clone + Debug> Order<K> for Arrival {
    type Group = K;
    const GROUPED: bool = false;

    fn group(key: &K) -> K {
        key.clone()
    }
}
