//! Clusters made of network namespaces: nodes, pods, a network between the nodes, and the real daemons.
//!
//! The lab is for demonstration and development, and runs the e2e tests. It provides what a user's machines and Kubernetes
//! would provide: links, addresses, processes, pods, manifests. Everything else is the daemons' work.
//!
//! Architecture invariant: the lab writes no tables, no mesh routes and no keys, and imports neither `mesh-dataplane` nor
//! `mesh-etcd`.

mod cluster;
pub mod cni;
mod command;
pub mod contexts;
mod cut;
mod error;
mod host_setup;
mod kubernetes;
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
pub use kubernetes::{KubeApiServer, KubeApiServerOptions};
pub use lab::{Lab, Phase, need_root};
pub use link_fault::{Cut, Impairment};
pub use options::LabOptions;
pub use process::{Ending, Liveness};
pub use state::{ClusterState, LabState, NodeState, PodState, ProcessState, Relay};
