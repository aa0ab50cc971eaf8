//! What an agent's admin API answers, made of the node's state.

mod absences;
mod claims;
mod explain;
mod known;
mod peers;
mod services;
mod wanted;

use mesh_model::{ClusterId, ClusterName};
use mesh_node::Node;

pub use absences::refused;
pub use explain::explain;
pub use known::{WantedIdentities, identities, nodes};
pub use peers::{all_peers, all_problems, certificates};
pub use services::service;
pub use wanted::Wanted;

/// A cluster's name, or its ID if the name is not known.
fn cluster_name(node: &Node, id: ClusterId) -> String {
    let mut clusters = node.core.merge().clusters();
    let found: Option<(&ClusterName, ClusterId)> = clusters.find(|(_, known)| *known == id);
    found.map_or_else(|| format!("id {id}"), |(name, _)| name.to_string())
}
