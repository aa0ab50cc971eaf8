//! Benchmarks of the mesh, each with a reference that is measured in the same run.
//!
//! A number alone depends on the machine; its ratio to the reference does so much less. What is compared takes turns, so
//! that a disturbance affects both.

mod backends;
mod bare_watch;
mod bench_lab;
mod change;
mod clean_up;
mod client;
mod cni;
mod command;
mod connect;
mod cut;
mod datapaths;
mod endpoints;
mod error;
mod export;
mod fill;
mod hostile;
mod judge;
mod mesh;
mod policy;
mod propagation;
mod records;
mod rules;
mod sandbox;
mod source;
mod stats;
mod takeover;
mod usage;

pub use change::{ChangeOptions, ChangeRow, change};
pub use clean_up::clean_up;
pub use client::client;
pub use cni::{CniOptions, CniRow, cni};
pub use connect::{ConnectOptions, ConnectRow, connect};
pub use cut::{CutOptions, PartitionDetection, cut, cut_client};
pub use endpoints::{
    EndpointCost, EventCost, EventOptions, ReconnectCost, endpoint_cost, event_cost, reconnect,
};
pub use error::BenchError;
pub use export::{ExportCost, ExportOptions, export};
pub use fill::{FillCost, TableMemory, fill, memory};
pub use hostile::{HostileCost, hostile};
pub use judge::{JudgeCost, JudgeOptions, judge};
pub use mesh::{Bootstrap, Changes, ClusterSize, Etcds, MeshOptions, MeshRow, mesh, picture};
pub use policy::{PolicyCost, PolicyOptions, policy};
pub use propagation::{Propagation, PropagationOptions, propagation};
pub use source::{SourceCost, SourceOptions, source};
pub use stats::{Distribution, median};
pub use takeover::{Takeover, TakeoverOptions, takeover};
pub use usage::ProcessResources;
