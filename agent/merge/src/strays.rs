//! Pods' addresses that are in no range that their cluster announces: before their record is known, they seem to be
//! outside the mesh.

use std::{collections::BTreeSet, net::IpAddr};

/// Those of a cluster.
#[derive(Debug, Default)]
pub(crate) struct Strays {
    count: usize,
    /// Some of them.
    named: BTreeSet<IpAddr>,
}

/// As many as are named.
pub(crate) const NAMED: usize = 4;

// === impl Strays ===

impl Strays {
    /// One more.
    pub(crate) fn add(&mut self, address: IpAddr) {
        self.count += 1;
        if self.named.len() < NAMED {
            self.named.insert(address);
        }
    }

    /// One less.
    pub(crate) fn remove(&mut self, address: IpAddr) {
        self.count = self.count.saturating_sub(1);
        self.named.remove(&address);
    }

    /// None is left.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Whether there are more than are named, although there is room for names.
    pub(crate) fn lacks_names(&self) -> bool {
        self.named.len() < NAMED.min(self.count)
    }

    /// Names one of them, where there is room for its name.
    pub(crate) fn name(&mut self, address: IpAddr) {
        if self.named.len() < NAMED {
            self.named.insert(address);
        }
    }

    /// Some of them.
    pub(crate) fn named(&self) -> impl Iterator<Item = IpAddr> {
        self.named.iter().copied()
    }
}
