//! Nodes and identities, as the clusters report them.

use std::net::IpAddr;

use mesh_admin::v1;
use mesh_model::{ClusterId, ClusterName, Identity};

use mesh_node::Node;

use crate::claims;

/// The nodes of a cluster, or of all.
pub fn nodes(state: &Node, wanted: &str) -> Vec<v1::Node> {
    let of = |(name, id): (&ClusterName, ClusterId)| -> Vec<v1::Node> {
        let node = |(node, ips): (&str, &[IpAddr])| v1::Node {
            cluster: name.to_string(),
            cluster_id: id.get().into(),
            own: name == state.core.local(),
            name: node.into(),
            internal_addresses: ips.iter().map(ToString::to_string).collect(),
            pod_cidrs: state
                .core
                .merge()
                .pod_ranges(name, node)
                .iter()
                .map(ToString::to_string)
                .collect(),
            status: state.node_status(name, node).into(),
        };
        state.core.merge().nodes(name).map(node).collect()
    };
    clusters(state, wanted).into_iter().flat_map(of).collect()
}

/// Which identities are asked for.
#[derive(Clone, Debug, Default)]
pub struct WantedIdentities {
    /// Those of this cluster, or of all if it is empty.
    pub cluster: String,
    /// One of them, if it is not 0.
    pub number: u32,
    /// That of an address.
    pub address: Option<IpAddr>,
}

/// The identities of a cluster, or of all; or one of them. Then the address that is asked for, or those of the identity
/// that more than one cluster claims.
pub fn identities(
    state: &Node,
    wanted: &WantedIdentities,
) -> (Vec<v1::Identity>, Vec<v1::ClaimedAddress>) {
    let WantedIdentities { cluster, number, address } = wanted;
    let addresses = match address {
        Some(address) => vec![claims::of_address(state, *address)],
        None if *number != 0 => claims::contested_of(state, Identity::new(*number)),
        None => Vec::new(),
    };
    let number = match (address, addresses.first()) {
        // 0 is no identity's: an address that has none has no labels.
        (Some(_), Some(address)) => Some(address.identity),
        _ => Some(*number).filter(|number| *number != 0),
    };
    let of = |(name, _): (&ClusterName, ClusterId)| -> Vec<v1::Identity> {
        let uses = state.core.merge().identity_uses(name);
        let identities = state.core.merge().identities(name);
        let identities = identities.filter(|(i, _)| number.is_none_or(|number| i.get() == number));
        let mut identities: Vec<v1::Identity> = identities
            .map(|(identity, labels)| v1::Identity {
                cluster: name.to_string(),
                number: identity.get(),
                labels: labels.into(),
                addresses: uses.get(&identity).copied().unwrap_or_default(),
            })
            .collect();
        identities.sort_by_key(|identity| identity.number);
        identities
    };
    (clusters(state, cluster).into_iter().flat_map(of).collect(), addresses)
}

/// The local cluster first.
fn clusters<'a>(state: &'a Node, wanted: &str) -> Vec<(&'a ClusterName, ClusterId)> {
    let all = state.core.merge().clusters();
    let mut all: Vec<_> =
        all.filter(|(name, _)| wanted.is_empty() || name.as_str() == wanted).collect();
    all.sort_by_key(|(name, _)| (*name != state.core.local(), (*name).clone()));
    all
}
