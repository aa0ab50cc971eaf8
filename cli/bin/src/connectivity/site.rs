//! Where the pods of the test run.

use std::net::IpAddr;

/// Clusters in which the test may make pods. Calls may come from several threads.
pub(super) trait Site: Sync {
    /// The names of the clusters, as their daemons report them.
    fn clusters(&self) -> &[String];

    /// Makes the objects of the test in a cluster, or changes the number of its echo servers.
    ///
    /// # Errors
    /// They cannot be made, or the client does not start.
    fn apply(&self, cluster: &str, replicas: u32) -> anyhow::Result<()>;

    /// Removes all objects from all clusters, even if one of them fails.
    fn remove(&self) -> Vec<anyhow::Error>;

    /// The addresses of the client in a cluster.
    ///
    /// # Errors
    /// There is none.
    fn client(&self, cluster: &str) -> anyhow::Result<Vec<IpAddr>>;

    /// The addresses of a service of the test in a cluster.
    ///
    /// # Errors
    /// There is no such service.
    fn service(&self, cluster: &str, name: &str) -> anyhow::Result<Vec<IpAddr>>;

    /// Runs a command of this program in the client of a cluster. Returns its standard output.
    ///
    /// # Errors
    /// The command failed; its message is the error.
    fn run(&self, cluster: &str, words: &[&str]) -> anyhow::Result<Vec<u8>>;
}
