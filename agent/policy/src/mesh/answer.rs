//! What is decided of a flow.

use std::fmt;

use mesh_policy_rules::PolicyRef;

/// What both ends' clusters decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Where the flow leaves.
    pub egress: Directed,
    /// Where it arrives.
    pub ingress: Directed,
}

/// What one end's cluster decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Directed {
    /// No policy is enforced at this end: it is no pod.
    NotEnforced,
    /// It passes.
    Allowed(Decision),
    /// It is dropped.
    Denied(Decision),
}

/// Why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The kind of reason.
    pub kind: DecisionKind,
    /// The policies: of the rule, or for a default deny all that select the pod in this direction.
    pub policies: Vec<PolicyRef>,
    /// The rule's path within the first policy, as in `ingress[0]`.
    pub rule: Option<String>,
}

/// Seven kinds of reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecisionKind {
    /// No policy has default deny for the pod in this direction, and no rule matches.
    DefaultAllow,
    /// A rule allows it, and none denies it.
    AllowRule,
    /// A rule denies it.
    DenyRule,
    /// Policies select the pod, and no rule allows it.
    DefaultDeny,
    /// The pod's own node may always reach it.
    AllowLocalhost,
    /// Enforcement is switched off.
    EnforcementOff,
    /// A pod may always reach itself.
    SamePod,
}

// === impl Directed ===

impl Directed {
    /// Whether the flow passes this end.
    pub fn passes(&self) -> bool {
        !matches!(self, Self::Denied(_))
    }

    /// Why, where something is enforced.
    pub fn decision(&self) -> Option<&Decision> {
        match self {
            Self::NotEnforced => None,
            Self::Allowed(decision) | Self::Denied(decision) => Some(decision),
        }
    }
}

impl fmt::Display for DecisionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DefaultAllow => "default-allow",
            Self::AllowRule => "allow-rule",
            Self::DenyRule => "deny-rule",
            Self::DefaultDeny => "default-deny",
            Self::AllowLocalhost => "allow-localhost",
            Self::EnforcementOff => "enforcement-off",
            Self::SamePod => "same-pod",
        })
    }
}
