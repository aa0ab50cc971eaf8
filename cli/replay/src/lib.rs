//! Serves the recorded contents of an etcd as the etcds of many clusters, for benchmarks and tests of agents.
//!
//! Two CPU cores can run ten etcds, but not 250. One process of this crate serves as many clusters as a mesh has. Each has
//! a listener, certificates, revisions and an etcd cluster ID of its own, and uses mutual TLS. Its contents are a recording
//! of one cluster's etcd, converted to another cluster's name, ID and addresses ([`Recording::of_cluster`]).
//! `e2e/tests/replay.rs` checks that its responses equal those of an etcd, byte for byte.
//!
//! It keeps all keys in memory, has no leases, and accepts writes from the cluster's administrator only.

mod error;
mod file;
mod listener;
mod recording;
mod requests;
mod served;
mod server;
pub mod store;
mod watching;

pub use error::{RecordingError, ReplayError};
pub use file::{ClusterFile, ReplayFile};
pub use recording::{Become, Recording};
pub use server::serve;

/// Generated from `proto/etcd.proto`.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::restriction,
    reason = "generated; the documentation is etcd's"
)]
mod proto {
    tonic::include_proto!("etcdserverpb");
}
