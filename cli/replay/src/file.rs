//! The file that configures a replaying process.

use std::{net::SocketAddr, path::PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The clusters that a process serves.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplayFile {
    /// The clusters.
    pub clusters: Vec<ClusterFile>,
    /// Whether heartbeats and positions are updated, as an apiserver updates them.
    pub keep_alive: bool,
}

/// A cluster to serve.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterFile {
    /// Its name.
    pub name: String,
    /// Its ID.
    pub id: u32,
    /// Where its etcd listens.
    pub listen: SocketAddr,
    /// The folder of its certificates, as in [`mesh_certs::ClusterPki`]: `ca`, and `server` with its key.
    pub pki: PathBuf,
    /// Pairs of address ranges of equal length: addresses in the first one are replaced by those in the second one.
    pub ranges: Vec<(IpNet, IpNet)>,
}
