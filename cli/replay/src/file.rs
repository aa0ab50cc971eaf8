//! What a process is to serve.

use std::{net::SocketAddr, path::PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// What to serve.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplayFile {
    /// The clusters.
    pub clusters: Vec<ClusterFile>,
    /// Whether heartbeats and positions are put, as a living writer puts them.
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
    /// Its certificates, as [`ClusterPki`] has them: `ca`, and `server` with its key.
    pub pki: PathBuf,
    /// Address ranges of the recorded cluster, each with the one that takes its place.
    pub ranges: Vec<(IpNet, IpNet)>,
}
