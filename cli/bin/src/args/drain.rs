//! The flags of `clustermesh drain` and `clustermesh undrain`.

use std::time::Duration;

use clap::Args as ClapArgs;
use mesh_admin::duration::of_flag;

use super::wait::WaitDuration;

/// The cluster or node that is drained or undrained, and how.
#[derive(Debug, ClapArgs)]
pub(crate) struct DrainArgs {
    /// CLUSTER, or CLUSTER/NODE; with --context also a NODE alone
    ///
    /// CLUSTER is a context's name. With --context, a word that is not the name of that cluster is the name of one of its
    /// nodes. On a host without contexts the command is about the local cluster, as with --context.
    pub(crate) target: String,
    /// The cluster: a context's name, or a cluster directory (with a slash in it)
    #[arg(long, value_name = "CONTEXT")]
    pub(crate) context: Option<String>,
    /// Drain CLUSTER for the clients of this cluster only, also when CLUSTER cannot be reached
    ///
    /// The agents of this cluster use the backends of CLUSTER only where no other backend answers. The setting is in
    /// drained-peers.yaml of the cluster directory, and stays until `undrain CLUSTER --from` the same cluster.
    #[arg(long, value_name = "CONTEXT", conflicts_with = "context")]
    pub(crate) from: Option<String>,
    /// Print what would be changed, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Wait until no agent of the contexts sends new connections there while others can answer, by default for at most 60s
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true, default_missing_value = "60s", value_parser = of_flag, conflicts_with = "dry_run")]
    pub(crate) wait: Option<Duration>,
    #[command(flatten)]
    pub(crate) wait_duration: WaitDuration,
}
