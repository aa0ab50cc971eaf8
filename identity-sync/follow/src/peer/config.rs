//! Which clusters can be peers.

use mesh_model::{ClusterConfig, ClusterId, ClusterLimit, ClusterName, ExportMode};
pub use mesh_wire::Role;
use uuid::Uuid;

/// The cluster to follow, and the local one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// The cluster to follow.
    pub name: ClusterName,
    /// Whether it is ours.
    pub role: Role,
    /// The local cluster's ID.
    pub local_id: ClusterId,
    /// This node: of the local cluster's pods only its are followed; all, without one.
    pub node: Option<String>,
    /// How many endpoints it has: where there are several, a replica whose writer is away is left for another.
    pub endpoints: usize,
    /// The limit the mesh agreed on.
    pub limit: ClusterLimit,
    /// The UUID that it must have, if that is known.
    pub uuid: Option<Uuid>,
    /// The ID that it must have, if that is known.
    pub id: Option<ClusterId>,
}

/// Why a cluster is not taken as a peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It has no id, so it is not part of a mesh.
    #[error("the cluster has no ID: it is not set up for a mesh")]
    NoId,
    /// Its id is beyond our limit.
    #[error("the cluster's ID {id} is above the limit of {limit} clusters")]
    IdAboveLimit {
        /// Its id.
        id: ClusterId,
        /// Our limit.
        limit: ClusterLimit,
    },
    /// It has our id.
    #[error("the cluster has the local cluster's ID {0}: give one of the two another")]
    LocalId(ClusterId),
    /// What should be the local cluster has another ID than we were started with.
    #[error(
        "the local etcd is of a cluster with ID {found}, but this node is of one with ID {expected}"
    )]
    NotLocalId {
        /// In the etcd.
        found: ClusterId,
        /// Ours.
        expected: ClusterId,
    },
    /// It has another id than the one that it was connected with.
    #[error(
        "the cluster has the ID {found}, not the {expected} that was connected. Run `clustermesh connect` again if that is meant"
    )]
    Id {
        /// Its id.
        found: ClusterId,
        /// The one in the peer file.
        expected: ClusterId,
    },
    /// Another peer has its id.
    #[error("the cluster's ID {id} is in use by {other}: give one of the two another")]
    IdInUse {
        /// Its id.
        id: ClusterId,
        /// The cluster that has it.
        other: ClusterName,
    },
    /// It splits identities differently.
    #[error(
        "the cluster has maxConnectedClusters {found}, ours is {expected}: all clusters need the same"
    )]
    Limit {
        /// Its limit, 0 if it names none.
        found: u32,
        /// Ours.
        expected: ClusterLimit,
    },
    /// It is another cluster than the one connected to.
    #[error(
        "the cluster is {found}, not the {expected} that was connected: it was rebuilt, or it is another. Run `clustermesh connect` again if that is meant"
    )]
    Uuid {
        /// Its id.
        found: Uuid,
        /// The one in the peer file.
        expected: Uuid,
    },
    /// It exports services in a form we do not know.
    #[error("the cluster exports services as {0:?}, which this version does not know")]
    ExportMode(String),
    /// The local cluster, a Cilium's, exports endpoint slices and nothing else.
    #[error(
        "the local etcd has endpoint slices only, which do not name a service's addresses: export services too"
    )]
    NoFrontends,
    /// Its config cannot be read.
    #[error("the cluster's config: {0}")]
    Unreadable(String),
    /// Its config is not there.
    #[error(
        "the etcd has no config of a cluster {0}: is that its name, and does its apiserver run?"
    )]
    Absent(ClusterName),
    /// It has more, or changes more in a time, than it may.
    #[error(
        "over its budget: {0}. What is known of it stays, and nothing more is accepted until `clustermesh quarantine lift`"
    )]
    OverBudget(String),
}

/// Commands of the owner of a cluster's follower.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerCommand {
    /// Break the connection, if there is one, and make another immediately.
    Reconnect,
    /// Take nothing of the cluster, for a reason that only the owner can see.
    Hold(Refusal),
    /// Take it again, from the beginning.
    Release,
    /// Send the etcd a keepalive; [`Status::answers`](crate::Status::answers) counts the answers. One at a time.
    Ask,
}

// === impl PeerConfig ===

impl PeerConfig {
    /// Whether a cluster of that config can be a peer (`docs/wire.md`, "Cluster config").
    pub fn check(&self, config: &ClusterConfig) -> Result<(), Refusal> {
        let id = config.id;
        if id == ClusterId::NONE {
            return Err(Refusal::NoId);
        }
        if u32::from(id.get()) > self.limit.get() {
            return Err(Refusal::IdAboveLimit { id, limit: self.limit });
        }
        match self.role {
            Role::Remote if id == self.local_id => return Err(Refusal::LocalId(id)),
            Role::Local if id != self.local_id => {
                return Err(Refusal::NotLocalId { found: id, expected: self.local_id });
            }
            Role::Local | Role::Remote => {}
        }
        if let Some(expected) = self.id
            && expected != id
        {
            return Err(Refusal::Id { found: id, expected });
        }
        let found = config.max_connected_clusters;
        let absent_is_default = found == 0 && self.limit == ClusterLimit::Max255;
        if found != self.limit.get() && !absent_is_default {
            return Err(Refusal::Limit { found, expected: self.limit });
        }
        if let (Some(expected), Some(found)) = (self.uuid, config.uuid)
            && expected != found
        {
            return Err(Refusal::Uuid { found, expected });
        }
        match &config.export_mode {
            // An apiserver of ours writes the local prefix.
            ExportMode::EndpointSlicesOnly if self.role == Role::Local && config.uuid.is_none() => {
                Err(Refusal::NoFrontends)
            }
            ExportMode::Services
            | ExportMode::ServicesAndEndpointSlices
            | ExportMode::EndpointSlicesOnly => Ok(()),
            ExportMode::Unknown(word) => Err(Refusal::ExportMode(word.clone())),
        }
    }
}
