//! Problems for an operator.

use mesh_model::ClusterName;

/// Something that is wrong now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Its kind.
    pub kind: ProblemKind,
    /// The cluster, where it is about one.
    pub peer: Option<ClusterName>,
    /// A sentence.
    pub message: String,
}

/// The kinds of problems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// A peer file, or the credentials beside it.
    PeerFile,
    /// Records of a peer that are not accepted.
    RecordsRefused,
    /// A peer file without a grant.
    MissingGrant,
    /// Addresses that more than one cluster claims.
    AddressesContested,
    /// Addresses of a cluster's pods outside its ranges.
    AddressesOutside,
    /// A peer that was unreachable for longer than its budget.
    PeerStale,
    /// The local cluster's writer reports nothing.
    LocalApiserver,
    /// Pods of this node without an identity.
    PodsWaiting,
    /// Services that need a kube-proxy where none runs.
    KubeProxy,
}

// === impl Problem ===

impl Problem {
    pub(crate) fn new(kind: ProblemKind, message: String) -> Self {
        Self { kind, peer: None, message }
    }

    pub(crate) fn of(kind: ProblemKind, peer: &ClusterName, message: String) -> Self {
        Self { kind, peer: Some(peer.clone()), message }
    }
}
