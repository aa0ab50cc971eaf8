//! What a node wants of its kernel, its probes and its disk, from what all clusters report.
//!
//! All inputs of the agent meet in [`Core`]. Batches of records, verdicts of health, attachments of pods and the time
//! go in ([`Input`]); the wanted state for each writer comes out ([`Wanted`]). It is an order of concerns, each a type
//! of its own with a few methods: which peers exist and what each may claim, quarantine, staleness, the restored state,
//! reachability, the choice of backends, pods, and what the programs must know of this node.
//!
//! Architecture invariant: no IO, no clock, no kernel. Nothing here waits, so the time from a watch event to a write is
//! the core's own work; and a test feeds inputs and times, and checks what is wanted.

mod address_problems;
mod choice;
mod core;
mod found_pods;
mod input;
mod local_pods;
mod local_readiness;
mod peers;
mod probe_targets;
mod problem;
mod program_upgrade;
mod quarantine;
mod refused_records;
mod restored;
mod staleness;

pub use crate::core::{Config, Core};
pub use input::{
    Connection, Input, KubeProxy, Lifted, LocalState, PeerSettings, Prune, Reported,
    RestoredCluster, Wanted,
};
pub use peers::Refused;
pub use problem::{Problem, ProblemKind};
pub use staleness::Away;
