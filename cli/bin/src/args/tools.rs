//! The flags of commands about a whole mesh: the archive for bug reports, and the test of its connections.

use std::{path::PathBuf, time::Duration};

use clap::{Args as ClapArgs, Subcommand};
use mesh_admin::duration::of_flag;

#[derive(Debug, ClapArgs)]
pub(crate) struct CheckArgs {
    /// Also check the certificates of this cluster
    #[arg(long, value_name = "CONTEXT")]
    pub(crate) context: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct SysdumpArgs {
    /// Include only this cluster
    #[arg(long, value_name = "CONTEXT")]
    pub(crate) context: Option<String>,
    /// Where to write the archive; by default clustermesh-sysdump-TIME.tar.gz here
    #[arg(long, value_name = "FILE")]
    pub(crate) output_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConnectivityCommand {
    /// Test connections between the clusters of a lab or of a kubeconfig: local, remote, failover; exits with 1 if a check
    /// fails
    ///
    /// Runs a client and an echo server in the namespace clustermesh-test of each cluster, and removes them afterwards.
    /// Checks that a drained cluster would have to answer are skipped, and so are address families that pods do not have.
    Test {
        /// A cluster of a kubeconfig; without it, all clusters of the lab, or the kubeconfig's current context
        #[arg(long, value_name = "CONTEXT")]
        context: Option<String>,
        /// Another cluster of a kubeconfig; may be repeated
        #[arg(long = "destination-context", value_name = "CONTEXT")]
        destination_contexts: Vec<String>,
        /// How long a check is tried before it has failed
        #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = of_flag)]
        timeout: Duration,
    },
}
