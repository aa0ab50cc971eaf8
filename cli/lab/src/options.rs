//! The options of a new lab.

use std::path::PathBuf;

/// The options of a new lab.
#[derive(Clone, Debug)]
pub struct LabOptions {
    /// Its name. Several labs may be up at once.
    pub name: String,
    /// The number of clusters.
    pub clusters: usize,
    /// The number of nodes in each cluster.
    pub nodes: usize,
    /// The number of replicas of each cluster's control plane. Each is on a node of its own.
    pub replicas: u8,
    /// The folder with the mesh's binaries.
    pub bin_dir: PathBuf,
    /// The etcd that each cluster runs: a path, or a name in `PATH`.
    pub etcd: PathBuf,
    /// The quota of each etcd's database, in bytes; `None` for etcd's default.
    pub etcd_quota: Option<u64>,
}
