//! The flags of commands that compute from files.

use std::{path::PathBuf, time::Duration};

use clap::{Args as ClapArgs, ValueEnum};
use mesh_admin::duration::with_unit;
use mesh_model::{ClusterLimit, ClusterName};

use super::namespaces::Namespace;

#[derive(Debug, ClapArgs)]
pub(crate) struct ExportArgs {
    /// A manifest, or a folder of them (*.yaml, *.yml, *.json)
    #[arg(long, value_name = "PATH")]
    pub(crate) objects: PathBuf,
    /// The cluster's name
    #[arg(long, value_name = "CLUSTER")]
    pub(crate) cluster: ClusterName,
    /// The cluster's ID
    #[arg(long, value_name = "ID")]
    pub(crate) id: u32,
    /// Also print the keys that only the nodes of the cluster may read
    #[arg(long)]
    pub(crate) local: bool,
    #[command(flatten)]
    pub(crate) options: SetupArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ImportArgs {
    /// A peer's keys file, as `export` writes it; may be repeated
    #[arg(long, value_name = "FILE", required = true)]
    pub(crate) keys: Vec<PathBuf>,
    /// The importing cluster's manifest, or a folder of them (*.yaml, *.yml, *.json), with a cluster.yaml or without
    #[arg(long, value_name = "PATH")]
    pub(crate) objects: PathBuf,
    /// The importing cluster's name
    #[arg(long, value_name = "CLUSTER")]
    pub(crate) cluster: ClusterName,
    /// The importing cluster's ID; by default that of cluster.yaml, or the first that no peer has
    #[arg(long, value_name = "ID")]
    pub(crate) id: Option<u32>,
    /// Show only this service: NAMESPACE/NAME[:PORT], or NAME[:PORT]
    pub(crate) service: Option<String>,
    #[command(flatten)]
    pub(crate) namespace: Namespace,
    #[command(flatten)]
    pub(crate) options: SetupArgs,
}

/// The files of a mesh, and the events of a scenario.
#[derive(Debug, ClapArgs)]
pub(crate) struct WhatIf {
    /// Compute from a folder that has a folder for each cluster, with its manifests and, optionally, a cluster.yaml
    #[arg(long, value_name = "DIR", requires = "from")]
    pub(crate) state: Option<PathBuf>,
    /// The cluster whose clients connect
    #[arg(long, value_name = "CLUSTER", requires = "state")]
    pub(crate) from: Option<ClusterName>,
    /// A file of events: what happens to the clusters, and when
    #[arg(long, value_name = "FILE", requires = "state")]
    pub(crate) events: Option<PathBuf>,
    /// Show the state at this time, as in 0s, 90s, 16m or 1h30m; by default after the last event
    #[arg(long, value_name = "DURATION", requires = "state", value_parser = with_unit)]
    pub(crate) at: Option<Duration>,
    /// How long the backends of an unreachable cluster stay in use
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = with_unit)]
    pub(crate) staleness_budget: Duration,
}

/// The settings of a cluster, instead of those in its cluster.yaml.
#[derive(Debug, ClapArgs)]
pub(crate) struct SetupArgs {
    /// How many clusters the mesh may have: 255 or 511; by default as in cluster.yaml, or 255
    #[arg(long, value_name = "COUNT", value_parser = limit)]
    pub(crate) max_connected_clusters: Option<ClusterLimit>,
    /// Whether services in namespaces without an annotation can be global; by default as in cluster.yaml, or true
    #[arg(long, value_name = "BOOL", hide_possible_values = true)]
    pub(crate) default_global_namespace: Option<bool>,
    /// A rule that says which labels are part of an identity, as the flag of the apiserver; may be repeated
    #[arg(long = "identity-label", value_name = "RULE")]
    pub(crate) identity_labels: Vec<String>,
}

/// A shell for which completions can be generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}

fn limit(text: &str) -> Result<ClusterLimit, String> {
    let number: u32 = text.parse().map_err(|_| format!("{text:?} is not a number"))?;
    ClusterLimit::try_from(number).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use mesh_offline::parse_time;

    use super::*;

    /// Two parsers read them; `parse_time` says why.
    #[test]
    fn a_time_of_an_event_is_what_it_is_in_a_flag() {
        for text in ["0s", "500ms", "90s", "1s500ms", "16m", "1h30m", "720h", "1d", "1d12h"] {
            assert_eq!(parse_time(text).unwrap(), with_unit(text).unwrap(), "{text}");
        }
    }
}
