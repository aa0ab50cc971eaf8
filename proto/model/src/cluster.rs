//! Cluster names, cluster IDs, and the configuration that a cluster publishes.

use std::{fmt, ops::RangeInclusive, str::FromStr};

use uuid::Uuid;

use crate::identity::Identity;

/// A cluster's name: 1 to 32 characters of `[a-z0-9-]`, alphanumeric at both ends (`docs/wire.md`, "Cluster names").
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterName(Box<str>);

/// A cluster's ID, 0 to 511. 0 means "not part of a mesh" and is never a valid peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(u16);

/// How many clusters a mesh may have. It decides how the 24 bits of an identity are split into cluster ID and local part, so
/// all clusters of a mesh must have the same limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClusterLimit {
    /// 255 clusters of 65,535 identities.
    #[default]
    Max255,
    /// 511 clusters of 32,767 identities.
    Max511,
}

/// Whether a cluster exports services v1, endpoint slices (services v2), or both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ExportMode {
    /// Services v1 only. On the wire the field is absent.
    #[default]
    Services,
    /// Both.
    ServicesAndEndpointSlices,
    /// Endpoint slices only: the etcd has neither `services` keys nor their canary.
    EndpointSlicesOnly,
    /// A value that this version does not know. A reader refuses such a peer.
    Unknown(String),
}

/// What a cluster reports about itself under `cilium/cluster-config/<name>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterConfig {
    /// The cluster's ID.
    pub id: ClusterId,
    /// The writer puts a canary for each prefix after it has written all its keys.
    pub synced_canaries: bool,
    /// The keys have the cache layout: the etcd has copies of this cluster's records, and belongs to another cluster.
    pub cached: bool,
    /// The writer's [`ClusterLimit`] as a number; 0 if the field is absent.
    pub max_connected_clusters: u32,
    /// Whether the cluster exports MCS-API service exports. `None`: the writer does not support them.
    pub service_exports_enabled: Option<bool>,
    /// Which formats of services it exports.
    pub export_mode: ExportMode,
    /// The cluster's permanent ID. Only our apiserver writes one; Cilium does not.
    pub uuid: Option<Uuid>,
}

/// A text is not a valid cluster name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name:?} is not a cluster name: 1 to 32 of a-z, 0-9 and '-', beginning and ending with a letter or digit"
)]
pub struct InvalidClusterName {
    /// The refused text.
    pub name: String,
}

/// A number is not a valid cluster ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{id} is not a cluster ID: with a limit of {limit} clusters it is 1 to {limit}")]
pub struct InvalidClusterId {
    /// The refused number.
    pub id: u32,
    /// The mesh's limit.
    pub limit: ClusterLimit,
}

/// A number is not a valid cluster limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a limit of connected clusters: it is 255 or 511")]
pub struct InvalidClusterLimit(pub u32);

// === impl ClusterName ===

impl ClusterName {
    /// The longest name, in bytes.
    pub const MAX_LENGTH: usize = 32;

    /// Checks a name: 1 to 32 of a-z, 0-9 and `-`, beginning and ending with a letter or digit.
    pub fn new(name: &str) -> Result<Self, InvalidClusterName> {
        let bytes = name.as_bytes();
        let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let valid = bytes.len() <= Self::MAX_LENGTH
            && bytes.first().is_some_and(alphanumeric)
            && bytes.last().is_some_and(alphanumeric)
            && bytes.iter().all(|b| alphanumeric(b) || *b == b'-');
        if valid { Ok(Self(name.into())) } else { Err(InvalidClusterName { name: name.into() }) }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ClusterName {
    type Err = InvalidClusterName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::new(name)
    }
}

// === impl ClusterId ===

impl ClusterId {
    /// 0: "not part of a mesh".
    pub const NONE: Self = Self(0);

    /// Checks an ID: from 1 to the mesh's limit.
    pub fn new(id: u32, limit: ClusterLimit) -> Result<Self, InvalidClusterId> {
        match u16::try_from(id) {
            Ok(small) if small != 0 && id <= limit.get() => Ok(Self(small)),
            _ => Err(InvalidClusterId { id, limit }),
        }
    }

    /// An ID as a peer wrote it: 0 is accepted, and `None` is returned above 511.
    pub fn from_wire(id: u32) -> Option<Self> {
        u16::try_from(id).ok().filter(|id| u32::from(*id) <= ClusterLimit::Max511.get()).map(Self)
    }

    /// The number.
    pub fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// === impl ClusterLimit ===

impl ClusterLimit {
    /// The number of clusters.
    pub fn get(self) -> u32 {
        match self {
            Self::Max255 => 255,
            Self::Max511 => 511,
        }
    }

    /// How many low bits of an identity are its local part. The cluster ID is in the bits above.
    pub fn shift(self) -> u32 {
        match self {
            Self::Max255 => 16,
            Self::Max511 => 15,
        }
    }

    /// The identities that a cluster may allocate. Those of cluster 0 begin at 256, above the reserved ones.
    pub fn identities(self, cluster: ClusterId) -> RangeInclusive<u32> {
        let start = u32::from(cluster.get()) << self.shift();
        let end = start | ((1 << self.shift()) - 1);
        if cluster == ClusterId::NONE { Identity::FIRST_ALLOCATABLE..=end } else { start..=end }
    }

    /// The cluster that allocated an identity.
    pub fn cluster_of(self, identity: Identity) -> Option<ClusterId> {
        ClusterId::from_wire((identity.get() >> self.shift()) & self.get())
    }
}

impl TryFrom<u32> for ClusterLimit {
    type Error = InvalidClusterLimit;

    fn try_from(limit: u32) -> Result<Self, Self::Error> {
        match limit {
            255 => Ok(Self::Max255),
            511 => Ok(Self::Max511),
            other => Err(InvalidClusterLimit(other)),
        }
    }
}

impl fmt::Display for ClusterLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

// === impl ExportMode ===

impl ExportMode {
    /// The value on the wire, empty for services v1 only.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Services => "",
            Self::ServicesAndEndpointSlices => "services-and-endpointslices",
            Self::EndpointSlicesOnly => "endpointslices-only",
            Self::Unknown(word) => word,
        }
    }

    /// The mode of a value on the wire.
    pub fn from_word(word: &str) -> Self {
        match word {
            "" => Self::Services,
            "services-and-endpointslices" => Self::ServicesAndEndpointSlices,
            "endpointslices-only" => Self::EndpointSlicesOnly,
            other => Self::Unknown(other.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "0", "a-b", "c1", "x".repeat(32).as_str()] {
            assert!(ClusterName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "a/b", "é", "x".repeat(33).as_str()] {
            assert!(ClusterName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn identity_ranges() {
        let id = |id, limit| ClusterId::new(id, limit).unwrap();
        assert_eq!(ClusterLimit::Max255.identities(id(7, ClusterLimit::Max255)), 458_752..=524_287);
        assert_eq!(ClusterLimit::Max511.identities(id(7, ClusterLimit::Max511)), 229_376..=262_143);
        assert_eq!(ClusterLimit::Max255.identities(ClusterId::NONE), 256..=65_535);
        assert_eq!(
            ClusterLimit::Max255.cluster_of(Identity::new(463_073)),
            Some(id(7, ClusterLimit::Max255))
        );
        assert!(ClusterId::new(0, ClusterLimit::Max255).is_err());
        assert!(ClusterId::new(256, ClusterLimit::Max255).is_err());
        assert!(ClusterId::new(511, ClusterLimit::Max511).is_ok());
    }
}
