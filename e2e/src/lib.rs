//! Scenarios for whole meshes, and the interface to a mesh.
//!
//! A [`scenario`] runs on any [`Mesh`]. Scenarios have traffic while they change something, and check every request. A
//! scenario fails by panicking, like a test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "all of this is test code"
)]

pub mod apiserver;
pub mod echo_service;
pub mod etcd;
pub mod etcd_version;
pub mod etcdctl;
pub mod figures;
pub mod json;
pub mod kernel;
pub mod kind;
pub mod kubernetes;
pub mod load;
pub mod mesh;
pub mod netns;
pub mod raw_etcd;
pub mod relay;
pub mod release;
pub mod scenario;
pub mod unavailable;
pub mod watch_recorder;

pub use apiserver::Apiserver;
pub use etcd::Etcd;
pub use etcd_version::EtcdVersion;
pub use kind::Kind;
pub use kubernetes::Kubernetes;
pub use load::Traffic;
pub use mesh::{Daemon, Mesh};
pub use netns::Netns;
pub use relay::Relay;
pub use release::Releases;
pub use unavailable::Unavailable;
