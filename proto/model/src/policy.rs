//! Policies: their names, their objects as they are exported, and why some are refused.

use std::{fmt, sync::Arc};

use crate::object::Uid;

/// The kinds of policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyKind {
    /// `networking.k8s.io/v1`.
    NetworkPolicy,
    /// `cilium.io/v2`, in a namespace.
    CiliumNetworkPolicy,
    /// `cilium.io/v2`, of the whole cluster.
    CiliumClusterwideNetworkPolicy,
}

/// Names a policy in its cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyRef {
    /// Its kind.
    pub kind: PolicyKind,
    /// Its namespace; empty for cluster-wide ones.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// One field of an object that is refused, and why. The object is refused as a whole.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    /// Where, from the object's root: `spec.egress[0].toFQDNs`.
    pub field: String,
    /// Why, and what to write in its place.
    pub reason: String,
    /// What kind of reason that is.
    pub class: RefusalClass,
}

/// A kind of reason for which a policy is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RefusalClass {
    /// It is not what its schema asks for: a mistake of its author.
    Malformed,
    /// It is valid, and the mesh does not enforce it.
    Unsupported,
    /// A selector names a label that is no part of identities.
    FilteredLabel,
    /// It is larger than a limit, or there are too many.
    Limit,
}

/// A policy object of a cluster, as far as it decides something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyObject {
    /// Its name.
    pub reference: PolicyRef,
    /// Distinguishes it from earlier and later objects of the same name; empty if it has none.
    pub uid: Uid,
    /// The object in compact JSON, with sorted keys: its version, kind, name and namespace, and all other fields that are
    /// neither metadata nor status.
    pub json: Arc<str>,
}

/// A policy of the local cluster, as its nodes get it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPolicy {
    /// Its name.
    pub reference: PolicyRef,
    /// The object in compact JSON.
    pub json: Arc<str>,
    /// Why it is refused as a whole. Empty: it is in force.
    pub refused: Vec<Refusal>,
}

// === impl LocalPolicy ===

impl LocalPolicy {
    /// The largest object, in bytes: with the refusals it fits into a request to an etcd, 1.5 MiB by default.
    pub const MAX_OBJECT: usize = 1024 * 1024;
    /// How many refusals are told.
    pub const MAX_REFUSALS: usize = 16;
    /// The longest field or reason of a refusal, in bytes.
    pub const MAX_REFUSAL: usize = 4096;
}

// === impl PolicyKind ===

impl PolicyKind {
    /// All kinds.
    pub const ALL: [Self; 3] =
        [Self::NetworkPolicy, Self::CiliumNetworkPolicy, Self::CiliumClusterwideNetworkPolicy];

    /// As in the object's `kind`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NetworkPolicy => "NetworkPolicy",
            Self::CiliumNetworkPolicy => "CiliumNetworkPolicy",
            Self::CiliumClusterwideNetworkPolicy => "CiliumClusterwideNetworkPolicy",
        }
    }

    /// The short name, as `kubectl` knows it.
    pub const fn short(self) -> &'static str {
        match self {
            Self::NetworkPolicy => "netpol",
            Self::CiliumNetworkPolicy => "cnp",
            Self::CiliumClusterwideNetworkPolicy => "ccnp",
        }
    }

    /// The version of the API that has it, as in the object's `apiVersion`.
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::NetworkPolicy => "networking.k8s.io/v1",
            Self::CiliumNetworkPolicy | Self::CiliumClusterwideNetworkPolicy => "cilium.io/v2",
        }
    }

    /// Whether its objects are in a namespace.
    pub const fn is_namespaced(self) -> bool {
        match self {
            Self::NetworkPolicy | Self::CiliumNetworkPolicy => true,
            Self::CiliumClusterwideNetworkPolicy => false,
        }
    }
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl PolicyRef ===

impl fmt::Display for PolicyRef {
    /// `NetworkPolicy shop/default-deny`; without a namespace `CiliumClusterwideNetworkPolicy default-deny`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slash = if self.namespace.is_empty() { "" } else { "/" };
        write!(f, "{} {}{slash}{}", self.kind.as_str(), self.namespace, self.name)
    }
}

// === impl RefusalClass ===

impl RefusalClass {
    /// All classes.
    pub const ALL: [Self; 4] =
        [Self::Malformed, Self::Unsupported, Self::FilteredLabel, Self::Limit];

    /// A stable word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unsupported => "unsupported",
            Self::FilteredLabel => "filtered-label",
            Self::Limit => "limit",
        }
    }

    /// The class of a word.
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str() == word)
    }
}

impl fmt::Display for RefusalClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Refusal ===

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field.as_str() {
            "" => f.write_str(&self.reason),
            field => write!(f, "{field}: {}", self.reason),
        }
    }
}
