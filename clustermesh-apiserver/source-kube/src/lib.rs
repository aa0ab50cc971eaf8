//! A cluster's objects from its Kubernetes API server.
//!
//! A follower lists and watches one resource as a state machine without IO: responses go in, requests and events come out
//! (`docs/adr/0004-one-source-interface.md`). [`follow`] runs one for each kind and one for the identities' objects, executes
//! requests about these, and says whether the API server answers.

mod cluster_ranges;
mod config_map;
mod connection;
mod drain;
mod drained_peers;
mod etcd_addresses;
mod events;
mod failure;
mod follow;
mod follower;
mod identities;
mod identity_requests;
mod liveness;
mod object_events;
mod peers_secret;
mod resource;
mod response;
mod stored;
mod users;

pub use cluster_ranges::{FoundRanges, cluster_ranges};
pub use config_map::{ConfigMapError, Versioned};
pub use connection::{ConnectError, Connection, KubeconfigChoice};
pub use drain::{DrainConfigMap, FollowedDrain, VersionedDrain};
pub use drained_peers::{DrainedPeersConfigMap, VersionedDrainedPeers};
pub use etcd_addresses::{etcd_addresses, etcd_replicas};
pub use events::{FollowedKind, KubeEvent};
pub use follow::{KubeRequests, follow};
pub use follower::Problems;
pub use identities::{FollowedIdentities, IdentityEvent, IdentityOutcome};
pub use liveness::{Answer, Liveness, cluster_uid};
pub use object_events::ObjectEvent;
pub use peers_secret::{PeersSecret, PeersSecretError, SecretState};
pub use stored::{Stored, StoredContent, StoredError, StoredKind};
pub use users::{FollowedUsers, UsersConfigMap, VersionedUsers};
