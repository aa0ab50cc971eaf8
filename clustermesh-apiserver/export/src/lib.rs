//! From a cluster's objects to the keys and values that other clusters read.
//!
//! [`Exporter`] keeps, for each object, the records that follow from it, and says which keys changed. [`plan`] compares
//! what should be in an etcd with what is, and orders the writes so that readers never meet a reference to something that
//! is not there yet: identities before the addresses that have them.
//!
//! Architecture invariant: no IO. Identities are asked of [`Allocate`], wherever they are kept.

mod annotations;
mod claims;
mod exporter;
mod plan;
mod records;

pub use claims::GrantedRanges;
pub use exporter::{Allocate, DrainState, DrainedNode, Exporter, ExporterConfig, Value, announced};
pub use plan::{Actual, Write, fingerprint, plan};
