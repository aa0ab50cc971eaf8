//! What runs in a lab: pods and services from manifests, and the small servers and clients that judge the mesh.

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

/// What an echo server says of itself and of whom it sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// The pod that answers.
    pub pod: String,
    /// Its node.
    pub node: String,
    /// Its cluster.
    pub cluster: String,
    /// The client as the server sees it.
    pub client: SocketAddr,
}
