//! A cluster's objects from its Kubernetes API server.
//!
//! A follower lists and watches one resource as a state machine without IO: responses go in, requests and events come out
//! (`docs/adr/0004-one-source-interface.md`). [`follow`] runs one for each kind and one for the identities' objects, executes
//! requests about these, and says whether the API server answers.

mod connection;
mod drain;
mod events;
mod failure;
mod follow;
mod follower;
mod identities;
mod identity_requests;
mod liveness;
mod resource;
mod response;
mod stored;

pub use connection::{ConnectError, Connection, KubeconfigChoice};
pub use drain::{DrainConfigMap, DrainConfigMapError, FollowedDrain, VersionedDrain};
pub use events::{FollowedKind, KubeEvent};
pub use follow::follow;
pub use follower::Problems;
pub use identities::{FollowedIdentities, IdentityEvent, IdentityOutcome};
pub use liveness::{Answer, Liveness};
pub use stored::{Stored, StoredContent, StoredError, StoredKind};
