//! Draining and undraining.

use clap::Args as ClapArgs;

use super::duration::seconds;

/// What clients are to leave, or may come back to.
#[derive(Debug, ClapArgs)]
pub(crate) struct DrainArgs {
    /// CLUSTER, or CLUSTER/NODE; with --context also a NODE alone
    ///
    /// CLUSTER is a context's name. With --context it is that cluster's own name, which is only compared; a word that is
    /// not that name is one of its nodes. On a host without contexts the local cluster is meant, as with --context.
    pub(crate) target: String,
    /// The cluster: a name in $CLUSTERMESH_CONTEXTS, or a cluster directory (with a slash in it)
    #[arg(long)]
    pub(crate) context: Option<String>,
    /// Leave CLUSTER alone in this cluster only, whether CLUSTER can be reached or not: a context or a cluster directory
    ///
    /// All of CLUSTER's backends are used only where nothing else answers. It is written to drained-peers.yaml of the cluster
    /// directory, outlives restarts, and ends with `undrain CLUSTER --from` the same cluster.
    #[arg(long, value_name = "CONTEXT", conflicts_with = "context")]
    pub(crate) from: Option<String>,
    /// Show what it would do, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Wait until every agent of the contexts has it in force: no new connection goes there where there are others
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) wait: bool,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = seconds, requires = "wait")]
    pub(crate) wait_duration: u64,
}
