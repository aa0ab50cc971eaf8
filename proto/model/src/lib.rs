//! The vocabulary of the mesh: clusters, identities, nodes, addresses, services.
//!
//! **Objects** ([`object`]) are what a cluster has: the Kubernetes kinds that the exporter reads, with the fields that the
//! mesh uses. **Records** ([`record`]) are what clusters export to each other: one for each etcd key.
//!
//! Architecture invariant: no IO, no serde, no async. Only `mesh-wire` (records) and `mesh-source` (objects) decode bytes
//! into these types.

pub mod cluster;
mod condition;
pub mod endpoint;
mod excerpt;
pub mod identity;
mod known;
pub mod lb;
pub mod local;
pub mod names;
pub mod node;
pub mod object;
pub mod policy;
pub mod record;
pub mod service;
pub mod traffic;

pub use cluster::{ClusterConfig, ClusterId, ClusterLimit, ClusterName, ExportMode};
pub use condition::Condition;
pub use endpoint::{EndpointAddress, NamedPort};
pub use excerpt::excerpt;
pub use identity::{Identity, Label, Labels};
pub use known::{KnownAddress, KnownIdentities};
pub use local::{LocalDrain, LocalNamespace, LocalPod, LocalService};
pub use node::{AddressKind, Node, NodeAddress};
pub use policy::{LocalPolicy, PolicyKind, PolicyObject, PolicyRef, Refusal, RefusalClass};
pub use record::{Record, RecordEvent, RecordKey, RecordKind};
pub use service::{
    EndpointSlice, GlobalService, Port, PortMap, Protocol, ServiceName, SliceEndpoint,
};
pub use traffic::{Affinity, ServiceTraffic, WeightsOf};
