//! The records of all clusters: indexed tables that emit deltas.
//!
//! Each record is checked against what its cluster may claim ([`Claims`]) before it enters, and each change costs only
//! itself: the tables are mutable, and what follows from a change is emitted as [`Delta`]s, not found by comparing
//! everything again.
//!
//! Architecture invariant: no IO, no time. Which of the backends are used is decided by `mesh-balance`.

mod accounting;
mod address_table;
mod addresses;
mod admission;
mod backend_set;
mod cluster;
mod hosts;
mod interner;
mod merge;
mod nodes;
mod ranges;
mod services;
mod strays;

pub use accounting::Tally;
pub use admission::{Claims, LocalRanges, MissingGrant, Refused, RefusedRecord};
pub use cluster::Counts;
pub use merge::{
    AddressClaim, AddressDelta, AddressHolder, Delta, Expired, IdInUse, Located, Merge, PodName,
};
pub use ranges::RangeDelta;
