//! Allocation of identities: which ID a label set gets, and a record of it that outlives every etcd.
//!
//! Kubernetes keeps that record in a custom resource; a cluster without Kubernetes in the [`Journal`]. Either way the
//! first ID that is tried follows from the labels alone ([`candidates`]), so a lost record is mostly rebuilt as it was,
//! and replicas that race for a label set agree on the same ID.

mod candidates;
mod journal;

pub use candidates::candidates;
pub use journal::{
    AllocationError, Collected, Found, Journal, JournalError, Lost, Recorded, read_uuid,
};
