//! How policies are meant where the objects do not say.

/// As the flags of the agent and of `clustermesh policy verdict` have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Which pods are under policy.
    pub enforcement: Enforcement,
    /// A selector that names no cluster selects pods of the policy's cluster only. Otherwise of all clusters.
    pub default_local_cluster: bool,
    /// What a pod's own node may do.
    pub allow_localhost: AllowLocalhost,
    /// Which kinds' CIDRs match pods and nodes of the mesh.
    pub cidr_match: CidrMatch,
}

/// Which pods are under policy (Cilium, "Policy Enforcement Modes").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Enforcement {
    /// Those that a policy selects, in the directions of its rules.
    #[default]
    Default,
    /// All, in both directions.
    Always,
    /// None.
    Never,
}

/// Whether a pod's own node may reach it whatever policies say: probes of the kubelet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AllowLocalhost {
    /// Yes, unless a rule denies it.
    #[default]
    Always,
    /// As policies say.
    Policy,
}

/// Which kinds' CIDRs match pods and nodes of the mesh. They match everything else in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CidrMatch {
    /// An `ipBlock` of a NetworkPolicy does (Kubernetes' conformance), a CIDR of Cilium's kinds does not.
    #[default]
    NetworkPolicy,
    /// CIDRs of all kinds do.
    All,
    /// None does: Cilium's default.
    None,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            enforcement: Enforcement::default(),
            default_local_cluster: true,
            allow_localhost: AllowLocalhost::default(),
            cidr_match: CidrMatch::default(),
        }
    }
}
