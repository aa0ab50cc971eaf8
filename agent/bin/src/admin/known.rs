//! Nodes and identities, as what the clusters say makes them known.

use mesh_admin::v1;
use mesh_model::{ClusterId, ClusterName};

use crate::mesh::Mesh;

/// The nodes of a cluster, or of all.
pub(super) fn nodes(mesh: &Mesh, wanted: &str) -> Vec<v1::Node> {
    let of = |(name, id): (&ClusterName, ClusterId)| -> Vec<v1::Node> {
        let node = |(node, ips): (&str, &[std::net::IpAddr])| v1::Node {
            cluster: name.to_string(),
            cluster_id: id.get().into(),
            own: *name == mesh.own,
            name: node.into(),
            internal_addresses: ips.iter().map(ToString::to_string).collect(),
            pod_cidrs: mesh.merge.pod_ranges(name, node).iter().map(ToString::to_string).collect(),
        };
        mesh.merge.nodes(name).map(node).collect()
    };
    clusters(mesh, wanted).into_iter().flat_map(of).collect()
}

/// The identities of a cluster, or of all; or one of them.
pub(super) fn identities(mesh: &Mesh, wanted: &str, number: u32) -> Vec<v1::Identity> {
    let of = |(name, _): (&ClusterName, ClusterId)| -> Vec<v1::Identity> {
        let uses = mesh.merge.identity_uses(name);
        let identities = mesh.merge.identities(name);
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
    clusters(mesh, wanted).into_iter().flat_map(of).collect()
}

/// The own cluster first.
fn clusters<'a>(mesh: &'a Mesh, wanted: &str) -> Vec<(&'a ClusterName, ClusterId)> {
    let all = mesh.merge.clusters();
    let mut all: Vec<_> =
        all.filter(|(name, _)| wanted.is_empty() || name.as_str() == wanted).collect();
    all.sort_by_key(|(name, _)| (**name != mesh.own, (*name).clone()));
    all
}
