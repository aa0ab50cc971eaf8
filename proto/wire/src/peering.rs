//! What `clustermesh connect` and `clustermesh-apiserver peer` tell each other: JSON on standard input and output.
//!
//! Fields are only ever added, and those that are missing have defaults, so that a CLI and an apiserver of different releases
//! understand each other. Private keys are in none of these, but for [`Description`] where they are asked for.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use mesh_model::ClusterName;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::users_file::UsersFile;

/// A cluster, as `peer describe` prints it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Description {
    /// The version of the apiserver.
    pub version: String,
    /// The namespace with the objects below.
    pub namespace: String,
    /// The cluster's name.
    pub name: String,
    /// Its ID.
    pub id: u32,
    /// The maximum number of clusters in the mesh.
    pub max_connected_clusters: u32,
    /// The ranges of its pods.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<IpNet>,
    /// The ranges of its nodes.
    #[serde(rename = "nodeCIDRs")]
    pub node_cidrs: Vec<IpNet>,
    /// The ranges of its cluster IPs.
    #[serde(rename = "serviceCIDRs")]
    pub service_cidrs: Vec<IpNet>,
    /// The UID of its namespace kube-system.
    pub uuid: Option<Uuid>,
    /// The certificates of its CA, PEM; several while the CA is rotated.
    pub ca: String,
    /// The certificate of the CA that signs, PEM.
    pub signer: String,
    /// The etcd users of peers.
    pub users: UsersFile,
    /// The names of the clusters that its agents do not use (`drained-peers.yaml`).
    pub drained_peers: Vec<String>,
    /// The Secret with its peers.
    pub secret: PeersSecret,
    /// Where its etcd is reached.
    pub etcd: EtcdAddresses,
}

/// The Secret with a cluster's peers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PeersSecret {
    /// The size of its entries, in bytes.
    pub bytes: usize,
    /// Its entries: peer files and certificates. Private keys are left out unless they are asked for.
    pub entries: BTreeMap<String, String>,
    /// The names of the peers whose private key fits their certificate.
    pub keys: Vec<String>,
    /// The names of the peers whose certificate was requested and has not come.
    pub pending: Vec<String>,
}

/// Where a cluster's etcd may be reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EtcdAddresses {
    /// `endpoints` of cluster.yaml: a list for each replica.
    pub configured: Vec<Vec<SocketAddr>>,
    /// The Service in front of all replicas.
    pub service: Option<EtcdService>,
    /// The nodes of the replicas.
    pub replicas: Vec<NodeAddresses>,
    /// The port at which a replica is reached at its node's address.
    pub port: u16,
    /// Nodes that are ready, [`MAX_NODES`] at most.
    pub nodes: Vec<NodeAddresses>,
}

/// A Service in front of etcds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EtcdService {
    /// `ClusterIP`, `NodePort` or `LoadBalancer`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its port.
    pub port: u16,
    /// Its port at the addresses of nodes.
    pub node_port: Option<u16>,
    /// Its cluster IPs.
    pub cluster_ips: Vec<IpAddr>,
    /// The addresses and host names of its load balancer.
    pub load_balancer: Vec<String>,
    /// Only nodes with a replica answer at the node port.
    pub local: bool,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeAddresses {
    /// Its name.
    pub node: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// What `peer request` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Requested {
    /// The certificate request, PEM.
    pub request: String,
}

/// What `peer sign` reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SignRequest {
    /// The cluster that asks.
    pub peer: String,
    /// Its certificate request, PEM; `None`: it has a certificate, only its user is added.
    #[serde(default)]
    pub request: Option<String>,
}

/// What `peer sign` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Signed {
    /// The certificate, PEM.
    #[serde(default)]
    pub certificate: Option<String>,
    /// The certificates of the CA, PEM.
    pub ca: String,
}

/// What `peer accept` reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Acceptance {
    /// The cluster to follow.
    pub peer: String,
    /// The peer file.
    pub file: String,
    /// The certificate and CA that the peer's cluster sent; `None`: those that are there stay.
    #[serde(default)]
    pub signed: Option<Signed>,
}

/// What `peer remove` prints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Removed {
    /// The entries of the Secret that were removed.
    pub entries: Vec<String>,
    /// Entries of the peer that stay, each with the field managers that have it.
    pub kept: BTreeMap<String, Vec<String>>,
    /// Whether the etcd user of the peer was removed.
    pub user: bool,
    /// Whether the peer was drained, and is no longer.
    pub drained: bool,
}

/// The names of a peer's entries in the Secret, which are those of its files in the folder of peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerEntries {
    /// The peer file.
    pub file: String,
    /// The certificates of the peer's CA.
    pub ca: String,
    /// The local cluster's client certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
    /// The private key of a certificate that was requested.
    pub next_key: String,
}

/// The name of the Secret.
pub const SECRET: &str = "clustermesh-peers";
/// The largest size of a Secret's entries, in bytes: Kubernetes' limit.
pub const SECRET_LIMIT: usize = 1024 * 1024;
/// What a peer takes at most in usual cases, in bytes.
pub const PEER_SIZE: usize = 4 * 1024;
/// So many nodes at most are addresses of one etcd.
pub const MAX_NODES: usize = 16;

// === impl PeerEntries ===

impl PeerEntries {
    /// Those of a peer.
    pub fn new(peer: &ClusterName) -> Self {
        Self {
            file: peer.to_string(),
            ca: format!("{peer}.etcd-client-ca.crt"),
            certificate: format!("{peer}.etcd-client.crt"),
            key: format!("{peer}.etcd-client.key"),
            next_key: format!("{peer}.etcd-client.key.next"),
        }
    }

    /// All of them.
    pub fn all(&self) -> [&str; 5] {
        [&self.file, &self.ca, &self.certificate, &self.key, &self.next_key]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_later_releases_are_passed_over_and_missing_ones_have_defaults() {
        let text = r#"{"name":"a","id":1,"later":{},"secret":{"entries":{"b":"x"},"later":1}}"#;
        let found: Description = serde_json::from_str(text).unwrap();
        assert_eq!((found.name.as_str(), found.id, found.secret.entries.len()), ("a", 1, 1));
        let text = serde_json::to_string(&found).unwrap();
        assert!(text.contains("podCIDRs") && text.contains("maxConnectedClusters"), "{text}");
        assert_eq!(serde_json::from_str::<Description>(&text).unwrap(), found);
    }
}
