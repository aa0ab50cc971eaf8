//! What a connection needs to know of a cluster, wherever it is, and the peer file that follows from it.

use std::net::SocketAddr;

use mesh_model::ClusterName;
use mesh_source::cluster_directory::ClusterSettings;
use mesh_wire::{
    peer_file::{Grant, HostAlias, PeerFile},
    peering::PeerEntries,
};
use uuid::Uuid;

/// A cluster.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// Its settings; `endpoints` are where other clusters reach its etcds.
    pub(crate) settings: ClusterSettings,
    /// Its UUID, which never changes; `None` if its apiserver never ran.
    pub(crate) uuid: Option<Uuid>,
    /// The peers that it has.
    pub(crate) peers: Vec<(ClusterName, PeerFile)>,
    /// The error if it has no endpoints: it says where to add them.
    pub(crate) no_endpoints: String,
    /// The error if it has no ranges.
    pub(crate) no_ranges: String,
}

// === impl Facts ===

impl Facts {
    pub(crate) fn name(&self) -> &ClusterName {
        &self.settings.name
    }

    pub(crate) fn peer(&self, name: &ClusterName) -> Option<&PeerFile> {
        self.peers.iter().find(|(peer, _)| peer == name).map(|(_, file)| file)
    }
}

/// The peer file for a cluster. What an operator granted in the existing file is kept.
pub(super) fn peer_file(destination: &Facts, known: Option<&PeerFile>) -> PeerFile {
    let known = known.and_then(|file| file.clustermesh.as_ref());
    let settings = &destination.settings;
    let mut endpoints = Vec::new();
    let mut host_aliases = Vec::new();
    for (addresses, number) in settings.endpoints.iter().zip(1..) {
        let hostname = hostname(settings.name.as_str(), number);
        let mut ports: Vec<u16> = addresses.iter().map(|(_, port)| *port).collect();
        ports.dedup();
        endpoints.extend(ports.iter().map(|port| format!("https://{hostname}:{port}")));
        let ips = addresses.iter().map(|(ip, _)| *ip).collect();
        host_aliases.push(HostAlias { hostname, ips });
    }
    // Relative to the file: the directory may be copied, and the path to it may be relative.
    let PeerEntries { ca, certificate, key, .. } = PeerEntries::new(destination.name());
    PeerFile {
        endpoints,
        trusted_ca_file: Some(ca.into()),
        cert_file: Some(certificate.into()),
        key_file: Some(key.into()),
        host_aliases,
        clustermesh: Some(Grant {
            uuid: destination.uuid,
            id: Some(settings.id.get()),
            pod_cidrs: settings.pod_cidrs.clone(),
            node_cidrs: settings.node_cidrs.clone(),
            external_backends: known.is_some_and(|grant| grant.external_backends),
            budget: known.and_then(|grant| grant.budget.clone()),
        }),
    }
}

/// The host name of the etcd of a replica, counted from 1. Each replica has a name of its own, so that a client that
/// cannot use one replica changes to another.
fn hostname(cluster: &str, replica: usize) -> String {
    match replica {
        1 => format!("{cluster}.mesh.cilium.io"),
        _ => format!("{cluster}-replica-{replica}.mesh.cilium.io"),
    }
}

/// Where other clusters reach its etcds, for messages.
pub(super) fn addresses(settings: &ClusterSettings) -> String {
    let endpoints = settings.endpoints.iter().flatten();
    let addresses = endpoints.map(|address| SocketAddr::from(*address).to_string());
    addresses.collect::<Vec<_>>().join(", ")
}
