//! Nodes and identities, as the clusters report them.

use std::net::IpAddr;

use mesh_admin::v1;
use mesh_core::AddressState;
use mesh_model::{ClusterId, ClusterName, Identity};

use mesh_node::Node;

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

/// The identities of a cluster, or of all; or one of them.
pub fn listed(state: &Node, wanted: &str, number: u32) -> v1::ListIdentitiesResponse {
    let identities = identities(state, wanted, number);
    v1::ListIdentitiesResponse { identities, ..v1::ListIdentitiesResponse::default() }
}

fn identities(state: &Node, wanted: &str, number: u32) -> Vec<v1::Identity> {
    let of = |(name, _): (&ClusterName, ClusterId)| -> Vec<v1::Identity> {
        let uses = state.core.merge().identity_uses(name);
        let identities = state.core.merge().identities(name);
        let identities = identities.filter(|(i, _)| number == 0 || i.get() == number);
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
    clusters(state, wanted).into_iter().flat_map(of).collect()
}

/// Who reports an address: the one that has it first.
pub fn claims(state: &Node, address: IpAddr) -> v1::ListIdentitiesResponse {
    let (found, claims) = state.core.address(address);
    let holder = match &found {
        AddressState::Known { cluster, .. } => Some(cluster),
        AddressState::UnknownOf(_) | AddressState::Outside => None,
    };
    let claim = |(name, identity): (&ClusterName, Identity)| v1::AddressClaim {
        cluster: name.to_string(),
        number: identity.get(),
        labels: state.core.merge().labels_of(name, identity).unwrap_or_default().into(),
        has_it: holder == Some(name),
    };
    v1::ListIdentitiesResponse {
        identities: Vec::new(),
        claims: claims.into_iter().map(claim).collect(),
        unknown_of: match found {
            AddressState::UnknownOf(cluster) => cluster.to_string(),
            AddressState::Known { .. } | AddressState::Outside => String::new(),
        },
    }
}

/// The local cluster first.
fn clusters<'a>(state: &'a Node, wanted: &str) -> Vec<(&'a ClusterName, ClusterId)> {
    let all = state.core.merge().clusters();
    let mut all: Vec<_> =
        all.filter(|(name, _)| wanted.is_empty() || name.as_str() == wanted).collect();
    all.sort_by_key(|(name, _)| (*name != state.core.local(), (*name).clone()));
    all
}
