//! Allocation of identities: which ID a label set gets, and a record of it that outlives every etcd.
//!
//! A Kubernetes cluster has that record in its API server ([`MeshIdentities`]), any other in the [`Journal`]. Either way the
//! first ID that is tried follows from the labels alone ([`candidates`]), so a lost record is mostly rebuilt as it was,
//! and replicas that race for a label set agree on the same ID.

mod candidates;
mod journal;
mod mesh_identities;
mod table;

pub use candidates::candidates;
pub use journal::{
    AllocationError, Collected, Found, Journal, JournalError, Lost, Recorded, read_uuid,
};
pub use mesh_identities::{IdentityAnswer, IdentityRequest, MeshIdentities, MeshIdentity};
pub use table::State;
