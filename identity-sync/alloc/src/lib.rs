//! Allocation of identities: which ID a label set gets, and a memory of it that outlives every etcd.
//!
//! Kubernetes keeps that memory in a custom resource; a cluster without Kubernetes in the [`Journal`]. Either way the
//! first ID that is tried follows from the labels alone ([`candidates`]), so a memory that was lost is mostly made
//! again as it was, and replicas that race for a label set meet at the same ID.

mod candidates;
mod journal;

pub use candidates::candidates;
pub use journal::{
    AllocationError, Collected, Found, Journal, JournalError, Lost, Recorded, read_uuid,
};
