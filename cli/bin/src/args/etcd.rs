//! Flags about what an etcd holds.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};
use mesh_model::ClusterName;

use super::offline::SetupArgs;

#[derive(Debug, Subcommand)]
pub(crate) enum EtcdCommand {
    /// Print what an etcd holds of the mesh, decoded, and the entries that violate the wire format
    #[command(
        after_help = "Exit codes: 0 no entry violates the wire format, 1 failed, 2 usage, 3 some do"
    )]
    Dump {
        #[command(flatten)]
        source: SourceArgs,
        /// Only what is not as the contract says
        #[arg(long)]
        deviations: bool,
    },
    /// Compare two etcds, or an etcd with manifests
    #[command(after_help = "Exit codes: 0 they are the same, 1 failed, 2 usage, 3 they are not")]
    Diff(Box<DiffArgs>),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DiffArgs {
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    #[command(flatten)]
    pub(crate) with: WithArgs,
    #[command(flatten)]
    pub(crate) options: SetupArgs,
}

/// One etcd.
#[derive(Debug, ClapArgs)]
#[group(id = "source", required = true, multiple = true)]
pub(crate) struct SourceArgs {
    /// The etcd of a cluster, read as its agents do
    #[arg(long, conflicts_with_all = ["keys", "endpoints"])]
    pub(crate) context: Option<String>,
    /// A keys file
    #[arg(long, conflicts_with = "endpoints")]
    pub(crate) keys: Option<PathBuf>,
    /// Where an etcd is: https://host:port; may be repeated or separated by commas, and one is read
    #[arg(long, value_delimiter = ',', requires_all = ["cacert", "cert", "key"])]
    pub(crate) endpoints: Vec<String>,
    /// The CA that its certificate is from
    #[arg(long, requires = "endpoints")]
    pub(crate) cacert: Option<PathBuf>,
    /// The client's certificate
    #[arg(long, requires = "endpoints")]
    pub(crate) cert: Option<PathBuf>,
    /// Its key
    #[arg(long, requires = "endpoints")]
    pub(crate) key: Option<PathBuf>,
}

/// What it is compared with.
#[derive(Debug, ClapArgs)]
pub(crate) struct WithArgs {
    /// Another cluster's etcd, or a copy of it
    #[arg(long, group = "with", conflicts_with_all = ["with_keys", "with_endpoints", "objects"])]
    pub(crate) with_context: Option<String>,
    /// A keys file
    #[arg(long, group = "with", conflicts_with_all = ["with_endpoints", "objects"])]
    pub(crate) with_keys: Option<PathBuf>,
    /// Another etcd
    #[arg(long, group = "with", value_delimiter = ',', requires_all = ["with_cacert", "with_cert", "with_key"], conflicts_with = "objects")]
    pub(crate) with_endpoints: Vec<String>,
    /// Its CA
    #[arg(long, requires = "with_endpoints")]
    pub(crate) with_cacert: Option<PathBuf>,
    /// The client's certificate for it
    #[arg(long, requires = "with_endpoints")]
    pub(crate) with_cert: Option<PathBuf>,
    /// Its key
    #[arg(long, requires = "with_endpoints")]
    pub(crate) with_key: Option<PathBuf>,
    /// What objects become: a manifest or a folder of them, as `export` reads it
    #[arg(long, group = "with", required_unless_present_any = ["with_context", "with_keys", "with_endpoints"])]
    pub(crate) objects: Option<PathBuf>,
    /// The objects' cluster; the one whose etcd it is, unless given
    #[arg(long, requires = "objects")]
    pub(crate) cluster: Option<ClusterName>,
    /// Its ID; that of the one whose etcd it is, unless given
    #[arg(long, requires = "objects")]
    pub(crate) id: Option<u32>,
}
