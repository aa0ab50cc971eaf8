//! The memory that a cluster's records take here.
//!
//! Each record is counted with its entries in tables, with its texts and with the allocator's overhead.
//! `tests/memory.rs` compares that with what is really allocated. Records of a list that was not confirmed count with
//! those of the one before it: a peer whose lists are never confirmed must not have room for each of them.

use std::collections::BTreeMap;

use mesh_model::RecordKind;

/// How much a cluster has here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Records.
    pub keys: u64,
    /// Bytes that they take here, about.
    pub bytes: u64,
}

/// The account of one cluster.
#[derive(Debug, Default)]
pub(crate) struct Account {
    kept: Tally,
    /// The part of it that is from rounds up to those in `spared`: its owner has asked for all of it again.
    before: Tally,
    spared: BTreeMap<RecordKind, u32>,
}

/// A record as it is accounted for: its bytes, and the round in which it was reported.
pub(crate) type Entry = (u64, u32);

/// The overhead of an allocation.
const ALLOCATION: usize = 16;
/// The factor by which a table is larger than its keys and values: a table that has just grown is half empty.
const SLACK: usize = 2;

/// A slot of a hash table.
pub(crate) const fn slot<K, V>() -> u64 {
    bytes(SLACK * (size_of::<K>() + size_of::<V>() + 1))
}

/// An element of a B-tree, whose nodes are half empty at worst.
pub(crate) const fn leaf<T>() -> u64 {
    bytes(SLACK * size_of::<T>() + ALLOCATION)
}

/// The one node of a B-tree with few elements: there is room for eleven in it.
pub(crate) const fn small_tree<T>() -> u64 {
    bytes(11 * size_of::<T>() + 2 * ALLOCATION)
}

/// Elements in an allocation of their own.
pub(crate) const fn list<T>(count: usize) -> u64 {
    bytes(count * size_of::<T>() + ALLOCATION)
}

/// A text in an allocation of its own, shared or not.
pub(crate) const fn text(text: &str) -> u64 {
    bytes(text.len() + 2 * ALLOCATION)
}

const fn bytes(size: usize) -> u64 {
    size as u64
}

// === impl Account ===

impl Account {
    /// Records a change of a record: its former size, and its present one with the current round.
    pub(crate) fn change(&mut self, kind: RecordKind, was: Option<Entry>, now: Option<u64>) {
        if let Some((bytes, round)) = was {
            let spared = self.spared.get(&kind).is_some_and(|spared| round <= *spared);
            let tally = if spared { &mut self.before } else { &mut self.kept };
            tally.keys = tally.keys.saturating_sub(1);
            tally.bytes = tally.bytes.saturating_sub(bytes);
        }
        if let Some(bytes) = now {
            self.kept.keys += 1;
            self.kept.bytes += bytes;
        }
    }

    /// All records of these rounds are asked for again: they no longer count.
    pub(crate) fn spare(&mut self, rounds: BTreeMap<RecordKind, u32>) {
        let Tally { keys, bytes } = std::mem::take(&mut self.kept);
        self.before.keys += keys;
        self.before.bytes += bytes;
        self.spared = rounds;
    }

    /// The records that count.
    pub(crate) fn kept(&self) -> Tally {
        self.kept
    }
}
