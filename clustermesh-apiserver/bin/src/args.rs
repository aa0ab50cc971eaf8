//! The flags. Each can be given as `CLUSTERMESH_<FLAG>` too.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Parser, Subcommand};
use mesh_admin::logs::LogArgs;

/// Exports a cluster's objects into its etcd, for the clusters that may read it.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "clustermesh-apiserver",
    version = mesh_admin::version::line(),
    args_conflicts_with_subcommands = true
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) serve: Args,
}

/// What else it can do.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// Set up users and roles in an etcd before anything else can reach it
    EtcdInit(EtcdInitArgs),
}

/// The flags of the daemon.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The cluster directory: cluster.yaml, manifests/, pki/, users.yaml, drain.yaml, state/
    #[arg(long, default_value = "/etc/clustermesh", env = "CLUSTERMESH_CONFIG_DIR")]
    pub(crate) config_dir: PathBuf,
    /// The etcd to write to
    #[arg(long, default_value = "https://127.0.0.1:2379", env = "CLUSTERMESH_ETCD_ENDPOINT")]
    pub(crate) etcd_endpoint: String,
    /// An etcd user of yours that is left alone; may be repeated. Other users that have a role are removed
    #[arg(long = "etcd-extra-users", env = "CLUSTERMESH_ETCD_EXTRA_USERS", value_delimiter = ',')]
    pub(crate) etcd_extra_users: Vec<String>,
    /// Bytes that the etcd may hold (its --quota-backend-bytes), where it does not say so itself, as before 3.6
    #[arg(long, default_value_t = 2 << 30, env = "CLUSTERMESH_ETCD_QUOTA_BYTES", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) etcd_quota_bytes: u64,
    /// All peers are trusted: an etcd version that lets a peer do more than its role says is no problem
    #[arg(long, env = "CLUSTERMESH_TRUSTED_PEERS")]
    pub(crate) trusted_peers: bool,
    /// The socket of the admin API
    #[arg(
        long,
        default_value = "/run/clustermesh/apiserver.sock",
        env = "CLUSTERMESH_ADMIN_SOCKET"
    )]
    pub(crate) admin_socket: PathBuf,
    /// Where /healthz, /readyz and /metrics are served
    #[arg(long, default_value = "127.0.0.1:9982", env = "CLUSTERMESH_METRICS_ADDRESS")]
    pub(crate) metrics_address: SocketAddr,
    /// A rule for the labels that make identities, as in `app` or `!version`; may be repeated. One that includes makes
    /// the rules a whitelist
    #[arg(long = "identity-label", env = "CLUSTERMESH_IDENTITY_LABEL", value_delimiter = ' ')]
    pub(crate) identity_labels: Vec<String>,
    /// Seconds between heartbeats
    #[arg(long, default_value_t = 60, env = "CLUSTERMESH_HEARTBEAT_SECONDS", value_parser = clap::value_parser!(u64).range(1..=300))]
    pub(crate) heartbeat_seconds: u64,
    /// Seconds that an identity stays published after its last pod is gone, so that no reader meets an address whose identity
    /// it does not know
    #[arg(long, default_value_t = 900, env = "CLUSTERMESH_IDENTITY_WAIT_SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) identity_wait_seconds: u64,
    /// Take the identity IDs that the etcd has where the journal has none: after the journal was lost, once
    #[arg(long, env = "CLUSTERMESH_ADOPT_IDENTITIES")]
    pub(crate) adopt_identities: bool,
    /// How logs are written
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// The flags of `etcd-init`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct EtcdInitArgs {
    /// The cluster directory: cluster.yaml, pki/, users.yaml
    #[arg(long, default_value = "/etc/clustermesh", env = "CLUSTERMESH_CONFIG_DIR")]
    pub(crate) config_dir: PathBuf,
    /// An etcd user of yours that is left alone; may be repeated. Other users that have a role are an error
    #[arg(long = "etcd-extra-users", env = "CLUSTERMESH_ETCD_EXTRA_USERS", value_delimiter = ',')]
    pub(crate) extra_users: Vec<String>,
    /// Become the etcd afterwards, as the command says, and do not end
    #[arg(long)]
    pub(crate) exec: bool,
    /// How logs are written
    #[command(flatten)]
    pub(crate) log: LogArgs,
    /// The command that starts the etcd, with the flags that it will have, paths absolute: `-- etcd --data-dir=…`
    #[arg(required = true, last = true)]
    pub(crate) etcd: Vec<String>,
}
