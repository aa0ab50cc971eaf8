//! The flags of `connect` and `disconnect`.

use std::{net::SocketAddr, time::Duration};

use clap::{Args as ClapArgs, ValueEnum};
use mesh_admin::duration::of_flag;

use super::missing;

#[derive(Debug, ClapArgs)]
pub(crate) struct ConnectArgs {
    #[command(flatten)]
    pub(crate) pair: Pair,
    /// Which of the two clusters follow the other
    #[arg(long, value_name = "MODE", value_enum, default_value_t)]
    pub(crate) connection_mode: ConnectionMode,
    /// One of the clusters was rebuilt: replace the connection to the previous cluster of that name
    #[arg(long)]
    pub(crate) replace: bool,
    /// In Kubernetes: at which addresses the clusters reach each other's etcd
    #[arg(long, value_name = "KIND", value_enum, default_value_t)]
    pub(crate) addresses_from: AddressKind,
    /// In Kubernetes: an address of the first cluster's etcd, in place of those; may be repeated
    #[arg(long, value_name = "ADDRESS", value_parser = endpoint)]
    pub(crate) source_endpoint: Vec<SocketAddr>,
    /// In Kubernetes: the same for the second cluster
    #[arg(long, value_name = "ADDRESS", value_parser = endpoint)]
    pub(crate) destination_endpoint: Vec<SocketAddr>,
    /// With -o yaml in Kubernetes: print private keys too
    #[arg(long)]
    pub(crate) include_keys: bool,
    /// Print what would be changed, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Wait until the agents of both clusters are connected, by default for at most 60s
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true, default_missing_value = "60s", value_parser = of_flag, conflicts_with = "dry_run")]
    pub(crate) wait: Option<Duration>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DisconnectArgs {
    #[command(flatten)]
    pub(crate) pair: Pair,
    /// Print what would be changed, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// The two clusters of a connection.
#[derive(Debug, ClapArgs)]
pub(crate) struct Pair {
    /// One of the two clusters: a context's name, or a cluster directory (with a slash in it)
    #[arg(long, value_name = "CONTEXT")]
    pub(crate) context: Option<String>,
    /// The other cluster
    #[arg(long, value_name = "CONTEXT")]
    pub(crate) destination_context: String,
}

impl Pair {
    /// The first cluster. Without it, exits with a usage error: clap cannot require an argument that may come before the
    /// command.
    pub(crate) fn context(&self) -> &str {
        self.context.as_deref().unwrap_or_else(|| missing("--context CONTEXT: one of the clusters"))
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ConnectionMode {
    /// Each cluster follows the other.
    #[default]
    Bidirectional,
    /// Only the first cluster follows the second.
    Unicast,
}

/// What the addresses are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum AddressKind {
    /// `endpoints` of cluster.yaml, else as the type of the Service is; without one that other clusters reach, nodes.
    #[default]
    Auto,
    /// The address of the Service's load balancer.
    LoadBalancer,
    /// The Service's node port, at the nodes' addresses.
    NodePort,
    /// The Service's cluster IP: where the clusters' networks are one.
    ClusterIp,
    /// The addresses of the nodes with a replica, with the etcd's port.
    Nodes,
}

/// Parses an address and port.
fn endpoint(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "not an address and port, as in 192.0.2.1:32379".into())
}
