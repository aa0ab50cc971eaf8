//! The wire format between clusters: etcd keys and values, and the files that describe peers and users (`docs/wire.md`).
//!
//! [`decode`] handles everything that a peer wrote. It returns a record that agrees with its key, its cluster's name and its
//! cluster's ID, or [`Rejected`] with the reason. No input makes this crate panic: the fuzz bodies in `fuzz/` test that.
//!
//! Architecture invariant: it converts bytes to `mesh-model` types and back, without IO.

pub mod canary;
mod check;
pub mod cluster_config;
pub mod cluster_ranges;
pub mod drained_peers;
mod endpoint_slice;
mod error;
mod excerpt;
mod go_json;
mod identity;
mod ip;
pub mod key;
mod limits;
mod local;
pub mod local_drain;
mod local_policy;
mod local_service;
mod local_slice;
mod node;
mod peer;
pub mod peer_file;
pub mod peer_folder;
pub mod peering;
mod position;
mod record;
pub mod rotation;
mod service;
pub mod users_file;
mod zstd_frame;

pub use canary::{timestamp, timestamp_value};
pub use endpoint_slice::read as read_endpoint_slice;
pub use error::{DecodeError, Mismatch, Rejected};
pub use key::{InvalidKey, Key, Layout, Prefix};
pub use local_policy::decode_policy;
pub use peer::{Peer, Role};
pub use position::{Position, PositionError};
pub use record::{Decoded, decode, decode_counting, decode_removal, encode};
