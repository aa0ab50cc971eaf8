//! Workloads of a lab: pods and services from manifests, and the servers and clients that test the mesh.

mod applied;
mod apply;
pub mod call;
pub mod echo;
pub mod hang;
pub mod load;
mod pods;
pub mod relay;
mod wanted;

pub use applied::Change;
pub use apply::{Applied, ApplyStep, Source};

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// The answer of an echo server: its identity, and the client's address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// The name of the pod.
    pub pod: String,
    /// The name of its node.
    pub node: String,
    /// The name of its cluster.
    pub cluster: String,
    /// The client's address as the server sees it.
    pub client: SocketAddr,
}
