//! The flags of `clustermesh etcd`.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};
use mesh_model::ClusterName;

use super::offline::SetupArgs;

#[derive(Debug, Subcommand)]
pub(crate) enum EtcdCommand {
    /// Print the keys of the mesh in an etcd, decoded, and the entries that violate the wire format
    #[command(
        override_usage = "clustermesh etcd dump [OPTIONS] <--context CONTEXT | --keys FILE | --endpoints URL --cacert FILE --cert FILE --key FILE>",
        after_help = "Exit codes: 0 no entry violates the wire format, 1 failed, 2 usage, 3 some do"
    )]
    Dump {
        #[command(flatten)]
        source: SourceArgs,
        /// Print only entries that violate the wire format
        #[arg(long)]
        deviations: bool,
    },
    /// Compare two etcds, or an etcd with manifests
    #[command(
        override_usage = "clustermesh etcd diff [OPTIONS] <SOURCE> <OTHER>\n\n  SOURCE: --context CONTEXT, --keys FILE, or --endpoints URL --cacert FILE --cert FILE --key FILE\n  OTHER:  --with-context CONTEXT, --with-keys FILE, --objects PATH, or --with-endpoints URL with --with-cacert, --with-cert and --with-key",
        after_help = "Exit codes: 0 they are the same, 1 failed, 2 usage, 3 they differ"
    )]
    Diff(Box<DiffArgs>),
    /// Print the keys as they are, for another process of this program
    #[command(hide = true)]
    Keys(SourceArgs),
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

/// The keys to read: an etcd's, or a file's.
#[derive(Debug, ClapArgs)]
#[group(id = "source", required = true, multiple = true)]
pub(crate) struct SourceArgs {
    /// The etcd of a cluster, read as its agents do; of a cluster of a kubeconfig, as its apiserver does
    #[arg(long, value_name = "CONTEXT", conflicts_with_all = ["keys", "endpoints"])]
    pub(crate) context: Option<String>,
    /// A keys file, as `export` writes it
    #[arg(long, value_name = "FILE", conflicts_with = "endpoints")]
    pub(crate) keys: Option<PathBuf>,
    /// An etcd, https://HOST:PORT; may be repeated or separated by commas: the first that answers is read
    #[arg(long, value_name = "URL", value_delimiter = ',', requires_all = ["cacert", "cert", "key"])]
    pub(crate) endpoints: Vec<String>,
    /// The CA of its certificate
    #[arg(long, value_name = "FILE", requires = "endpoints")]
    pub(crate) cacert: Option<PathBuf>,
    /// The client's certificate
    #[arg(long, value_name = "FILE", requires = "endpoints")]
    pub(crate) cert: Option<PathBuf>,
    /// The client's private key
    #[arg(long, value_name = "FILE", requires = "endpoints")]
    pub(crate) key: Option<PathBuf>,
}

/// What they are compared with.
#[derive(Debug, ClapArgs)]
pub(crate) struct WithArgs {
    /// The etcd of another cluster, or another replica's
    #[arg(long, value_name = "CONTEXT", group = "with", conflicts_with_all = ["with_keys", "with_endpoints", "objects"])]
    pub(crate) with_context: Option<String>,
    /// A keys file, as `export` writes it
    #[arg(long, value_name = "FILE", group = "with", conflicts_with_all = ["with_endpoints", "objects"])]
    pub(crate) with_keys: Option<PathBuf>,
    /// Another etcd, https://HOST:PORT; may be repeated or separated by commas
    #[arg(long, value_name = "URL", group = "with", value_delimiter = ',', requires_all = ["with_cacert", "with_cert", "with_key"], conflicts_with = "objects")]
    pub(crate) with_endpoints: Vec<String>,
    /// The CA of its certificate
    #[arg(long, value_name = "FILE", requires = "with_endpoints")]
    pub(crate) with_cacert: Option<PathBuf>,
    /// The client's certificate for it
    #[arg(long, value_name = "FILE", requires = "with_endpoints")]
    pub(crate) with_cert: Option<PathBuf>,
    /// The client's private key for it
    #[arg(long, value_name = "FILE", requires = "with_endpoints")]
    pub(crate) with_key: Option<PathBuf>,
    /// A manifest, or a folder of them: the keys that `export` computes of it
    #[arg(long, value_name = "PATH", group = "with", required_unless_present_any = ["with_context", "with_keys", "with_endpoints"])]
    pub(crate) objects: Option<PathBuf>,
    /// The cluster of the manifests; by default the cluster of the etcd
    #[arg(long, value_name = "CLUSTER", requires = "objects")]
    pub(crate) cluster: Option<ClusterName>,
    /// The ID of that cluster; by default the ID of the etcd's cluster
    #[arg(long, value_name = "ID", requires = "objects")]
    pub(crate) id: Option<u32>,
}
