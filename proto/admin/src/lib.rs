//! What a daemon shows its operator: the admin API over a Unix socket, health and metrics over HTTP, and logs.

mod bridge;
pub mod duration;
pub mod flags;
pub mod health;
pub mod logs;
pub mod metrics;
pub mod ports;
mod problem;
mod socket;
mod socket_error;
mod stop;
pub mod version;
mod words;

pub use bridge::{GREETING, Opening, ProxyArgs, Stream, bridge};
pub use problem::{ProblemCode, phase_remedy};
pub use socket::{Daemon, answer_within, connect, connect_pods, serve, serve_with_pods};
pub use socket_error::SocketError;
pub use stop::{exit_code, stop_signal};
/// A daemon's error answer.
pub use tonic::{Code, Status};
pub use words::plain;

/// The admin API, generated from `proto/clustermesh/admin/v1/admin.proto`.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::restriction,
    reason = "generated; the documentation is in the proto file"
)]
pub mod v1 {
    tonic::include_proto!("clustermesh.admin.v1");
}
