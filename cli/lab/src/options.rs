//! How large a lab is.

use std::path::PathBuf;

/// What to make.
#[derive(Clone, Debug)]
pub struct LabOptions {
    /// Its name; several labs may be up at once.
    pub name: String,
    /// How many clusters.
    pub clusters: usize,
    /// How many nodes each.
    pub nodes: usize,
    /// How many replicas of each cluster's control plane, on a node of their own.
    pub replicas: u8,
    /// Where the mesh's binaries are.
    pub bin_dir: PathBuf,
    /// The etcd that each cluster runs: a path, or a name in `PATH`.
    pub etcd: PathBuf,
    /// How many bytes an etcd may hold; its own limit, unless given.
    pub etcd_quota: Option<u64>,
}
