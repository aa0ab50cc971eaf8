//! An etcd of many clusters for measuring and testing readers: content that a real one held, served over the same wire.
//!
//! Two cores carry ten real etcds and not 250. One process of this serves as many clusters as a mesh has: each with a
//! listener, certificates, revisions and an etcd cluster id of its own, over mutual TLS. What it holds is a recording of one
//! cluster's etcd, made another's by name, ID and address ([`Recording::of_cluster`]). `e2e/tests/replay.rs` holds its
//! answers equal to a real etcd's, byte for byte.
//!
//! It keeps everything in memory, has no leases, and takes writes from the cluster's administrator only.

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

/// What is made of `proto/etcd.proto`.
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
