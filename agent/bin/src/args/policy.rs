//! The flags about policies, as `clustermesh policy verdict` has them.

use clap::{ArgAction, Args as ClapArgs, ValueEnum};
use mesh_enforce::RefusedPolicies;
use mesh_policy::{AllowLocalhost, CidrMatch, Enforcement, Options};

#[derive(Clone, Copy, Debug, ClapArgs)]
pub(crate) struct PolicyArgs {
    /// Whether policies are enforced on the pods of this node. Unfinished: `on` is for trying it out (docs/policy.md)
    #[arg(long, value_enum, default_value_t, env = "CLUSTERMESH_POLICY", value_name = "HOW")]
    pub(crate) policy: Policy,
    /// Which pods are under policy
    #[arg(
        long,
        value_enum,
        default_value_t,
        env = "CLUSTERMESH_ENFORCEMENT_MODE",
        value_name = "MODE"
    )]
    pub(crate) enforcement_mode: Mode,
    /// Whether a selector that names no cluster selects pods of this cluster only
    #[arg(long, default_value_t = true, action = ArgAction::Set, env = "CLUSTERMESH_DEFAULT_LOCAL_CLUSTER", value_name = "BOOL")]
    pub(crate) default_local_cluster: bool,
    /// Whether the node may reach its pods always, or as policies say
    #[arg(
        long,
        value_enum,
        default_value_t,
        env = "CLUSTERMESH_ALLOW_LOCALHOST",
        value_name = "MODE"
    )]
    pub(crate) allow_localhost: Localhost,
    /// Which kinds' CIDRs match pods and nodes of the mesh
    #[arg(long, value_enum, default_value_t, env = "CLUSTERMESH_CIDR_MATCH", value_name = "KIND")]
    pub(crate) cidr_match: Cidrs,
    /// Whether the pods that a refused policy governs may do nothing, in the directions that it governs, or it is as if it
    /// were not there
    #[arg(
        long,
        value_enum,
        default_value_t,
        env = "CLUSTERMESH_REFUSED_POLICIES",
        value_name = "HOW"
    )]
    pub(crate) refused_policies: Refused,
}

/// Whether policies are enforced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Policy {
    /// They are not
    #[default]
    Off,
    /// They are (Linux 6.6)
    On,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Refused {
    /// They may do nothing
    #[default]
    Closed,
    /// As if it were not there
    Open,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Those that a policy selects
    #[default]
    Default,
    /// All
    Always,
    /// None
    Never,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Localhost {
    /// Unless a rule denies it: probes of the kubelet
    #[default]
    Always,
    /// As policies say
    Policy,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Cidrs {
    /// Those of NetworkPolicies
    #[default]
    NetworkPolicy,
    /// Those of all kinds
    All,
    /// None
    None,
}

// === impl PolicyArgs ===

impl PolicyArgs {
    /// What becomes of the pods that a refused policy governs.
    pub(crate) fn refused(&self) -> RefusedPolicies {
        match self.refused_policies {
            Refused::Closed => RefusedPolicies::Closed,
            Refused::Open => RefusedPolicies::Open,
        }
    }

    /// How policies are meant.
    pub(crate) fn options(&self) -> Options {
        Options {
            enforcement: match self.enforcement_mode {
                Mode::Default => Enforcement::Default,
                Mode::Always => Enforcement::Always,
                Mode::Never => Enforcement::Never,
            },
            default_local_cluster: self.default_local_cluster,
            allow_localhost: match self.allow_localhost {
                Localhost::Always => AllowLocalhost::Always,
                Localhost::Policy => AllowLocalhost::Policy,
            },
            cidr_match: match self.cidr_match {
                Cidrs::NetworkPolicy => CidrMatch::NetworkPolicy,
                Cidrs::All => CidrMatch::All,
                Cidrs::None => CidrMatch::None,
            },
        }
    }
}
