//! Converts a cluster's objects to the keys and values that other clusters read.
//!
//! [`Exporter`] keeps the records of each object, and reports which keys have changed. [`plan()`] compares what an etcd
//! should have with what it has, and orders the writes so that readers never see a reference to a missing record:
//! identities come before the addresses that have them.
//!
//! Architecture invariant: no IO. [`Allocate`] provides the identity IDs.

mod annotations;
mod claims;
mod exporter;
mod plan;
mod records;

pub use claims::GrantedRanges;
pub use exporter::{
    Allocate, DrainState, DrainedNode, EtcdKey, Exporter, ExporterConfig, RefusedPolicy, Value,
    announced, fingerprint,
};
pub use plan::{Actual, Plan, Write, plan};
