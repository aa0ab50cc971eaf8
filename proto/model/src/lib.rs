//! The vocabulary of the mesh: clusters, identities, nodes, addresses, services.
//!
//! Two families of types live here. **Objects** ([`object`]) are what a cluster has: the Kubernetes kinds the exporter
//! reads, cut down to the fields the mesh uses. **Records** are what clusters export to each other: one per etcd key.
//!
//! Architecture invariant: no IO, no serde, no async. Bytes become these types in `mesh-wire` (records) and
//! `mesh-source` (objects), and nowhere else.

pub mod cluster;
mod condition;
pub mod endpoint;
mod excerpt;
pub mod identity;
pub mod lb;
pub mod local;
pub mod node;
pub mod object;
pub mod record;
pub mod service;
pub mod traffic;

pub use cluster::{ClusterConfig, ClusterId, ClusterLimit, ClusterName, ExportMode};
pub use condition::Condition;
pub use endpoint::{EndpointAddress, NamedPort};
pub use excerpt::excerpt;
pub use identity::{Identity, Label, Labels};
pub use local::{LocalDrain, LocalNamespace, LocalPod, LocalService};
pub use node::{AddressKind, Node, NodeAddress};
pub use record::{Record, RecordEvent, RecordKey, RecordKind};
pub use service::{
    EndpointSlice, GlobalService, Port, PortMap, Protocol, ServiceName, SliceEndpoint,
};
pub use traffic::{Affinity, ServiceTraffic, WeightsOf};
