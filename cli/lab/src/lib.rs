//! Whole clusters out of network namespaces: nodes, pods, an underlay between them, and the real daemons in their places.
//!
//! The lab is the demonstration, the development loop, and a back end of the e2e suite. It makes what a user's machines
//! and Kubernetes would bring along: links, addresses, processes, pods, manifests. What the mesh does in it, the mesh does
//! by itself.
//!
//! Architecture invariant: the lab writes no table, no mesh route and no key, and knows neither `mesh-dataplane` nor
//! `mesh-etcd`.

mod cluster;
pub mod cni;
mod command;
pub mod contexts;
mod cut;
mod error;
mod host_setup;
mod lab;
mod link_fault;
mod names;
mod options;
mod process;
mod starting;
mod state;
pub mod workload;

pub use cluster::Component;
pub use command::{command_line, go_quoted, printed_json, within_netns};
pub use error::LabError;
pub use lab::{Lab, Phase, need_root};
pub use link_fault::{Cut, Impairment};
pub use options::LabOptions;
pub use process::{Ending, Liveness};
pub use state::{ClusterState, LabState, NodeState, PodState, ProcessState, Relay};
