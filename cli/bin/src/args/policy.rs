//! The flags of `clustermesh policy`.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use ipnet::IpNet;
use mesh_policy::{AllowLocalhost, CidrMatch, Enforcement, Options};

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Answer flow by flow: allowed or denied, by which rule, and why
    Verdict(Box<VerdictArgs>),
    /// Show what policies would newly allow or deny, in which clusters, and what about them may not be meant
    Lint(Box<LintArgs>),
    /// Show what would be refused of policies, and why
    Validate {
        /// The policies: a file, or a folder of them (*.yaml, *.yml, *.json)
        #[arg(value_name = "DIR")]
        policies: PathBuf,
        #[command(flatten)]
        labels: LabelRules,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct VerdictArgs {
    /// The policies: a file, or a folder of them (*.yaml, *.yml, *.json); with several clusters a folder for each
    #[arg(long, value_name = "DIR", required_unless_present = "batch")]
    pub(crate) policies: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) world: WorldArgs,
    /// The flows: JSON, a line each, or CSV: from, to, protocol, and port, portName or icmpType
    #[arg(long, value_name = "FILE")]
    pub(crate) flows: Option<PathBuf>,
    /// Answer for all pairs of ends
    #[arg(long, requires = "ports", conflicts_with_all = ["flows", "batch"])]
    pub(crate) all_pairs: bool,
    /// The ports of --all-pairs, as in 80/TCP,53/UDP,icmp:8
    #[arg(long, value_name = "PORT,…", value_delimiter = ',', requires = "all_pairs")]
    pub(crate) ports: Vec<String>,
    /// A file of changes, in order, with flows after each
    #[arg(long, value_name = "FILE", conflicts_with_all = ["all_pairs", "batch"])]
    pub(crate) steps: Option<PathBuf>,
    /// Answer a file of questions, a JSON object on each line; `-` is standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["policies", "endpoints", "flows"])]
    pub(crate) batch: Option<PathBuf>,
    /// Who judges: the model, or copies of the kernel's programs (needs root)
    #[arg(long, value_enum, value_name = "ENGINE", default_value = "model")]
    pub(crate) engine: EngineArg,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct LintArgs {
    /// The policies: a file, or a folder of them (*.yaml, *.yml, *.json); with several clusters a folder for each
    #[arg(value_name = "DIR")]
    pub(crate) policies: PathBuf,
    /// The policies that are in force now; by default none
    #[arg(long, value_name = "DIR")]
    pub(crate) against: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) world: WorldArgs,
}

/// Pods, nodes and addresses, and how policies are meant.
#[derive(Debug, ClapArgs)]
pub(crate) struct WorldArgs {
    /// A cluster's `kubectl get pods,namespaces,nodes,services,endpointslices -A -o json`, or a list of endpoints; may be
    /// repeated, with the cluster's name first where there are several
    #[arg(long, value_name = "[CLUSTER=]FILE")]
    pub(crate) endpoints: Vec<String>,
    /// The cluster of what names none
    #[arg(long, value_name = "NAME")]
    pub(crate) cluster: Option<String>,
    /// A range of a cluster's services, beside what the files say; may be repeated
    #[arg(long, value_name = "[CLUSTER=]CIDR")]
    pub(crate) service_cidr: Vec<String>,
    /// Which pods are under policy
    #[arg(long, value_enum, value_name = "MODE", default_value = "default")]
    pub(crate) enforcement_mode: ModeArg,
    /// Whether a selector that names no cluster selects pods of the policy's cluster only
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", hide_possible_values = true)]
    pub(crate) default_local_cluster: bool,
    /// Whether a pod's own node may reach it always, or as policies say
    #[arg(long, value_enum, value_name = "MODE", default_value = "always")]
    pub(crate) allow_localhost: LocalhostArg,
    /// Which kinds' CIDRs match pods and nodes of the mesh
    #[arg(long, value_enum, value_name = "KIND", default_value = "network-policy")]
    pub(crate) cidr_match: CidrArg,
    #[command(flatten)]
    pub(crate) labels: LabelRules,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct LabelRules {
    /// A rule that says which labels are part of an identity, as the flag of the apiserver; may be repeated
    #[arg(long = "identity-label", value_name = "RULE")]
    pub(crate) identity_labels: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum EngineArg {
    Model,
    Kernel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ModeArg {
    Default,
    Always,
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LocalhostArg {
    Always,
    Policy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CidrArg {
    NetworkPolicy,
    All,
    None,
}

// === impl WorldArgs ===

impl WorldArgs {
    /// How policies are meant.
    pub(crate) fn options(&self) -> Options {
        Options {
            enforcement: match self.enforcement_mode {
                ModeArg::Default => Enforcement::Default,
                ModeArg::Always => Enforcement::Always,
                ModeArg::Never => Enforcement::Never,
            },
            default_local_cluster: self.default_local_cluster,
            allow_localhost: match self.allow_localhost {
                LocalhostArg::Always => AllowLocalhost::Always,
                LocalhostArg::Policy => AllowLocalhost::Policy,
            },
            cidr_match: match self.cidr_match {
                CidrArg::NetworkPolicy => CidrMatch::NetworkPolicy,
                CidrArg::All => CidrMatch::All,
                CidrArg::None => CidrMatch::None,
            },
        }
    }

    /// The ranges of services, each with its cluster.
    pub(crate) fn service_ranges(&self) -> anyhow::Result<Vec<(Option<&str>, IpNet)>> {
        let mut ranges = Vec::new();
        for text in &self.service_cidr {
            let (cluster, range) = named(text);
            let range = range.parse().with_context(|| format!("--service-cidr {text}"))?;
            ranges.push((cluster, range));
        }
        Ok(ranges)
    }
}

/// The cluster and the rest of `[CLUSTER=]REST`.
pub(crate) fn named(text: &str) -> (Option<&str>, &str) {
    match text.split_once('=') {
        Some((cluster, rest)) if !cluster.contains('/') => (Some(cluster), rest),
        _ => (None, text),
    }
}
