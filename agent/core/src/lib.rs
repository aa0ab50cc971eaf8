//! What a node wants of its kernel, its probes and its disk, from what all clusters report.
//!
//! [`Core`] is the agent's one place where everything meets. Batches of records, verdicts of health, attachments of pods and
//! the time go in ([`Input`]); what is wanted of each writer comes out ([`Wanted`]). It is an order of concerns, each a type
//! of its own with a few verbs: which peers there are and what each may claim, quarantine, staleness, what the previous run
//! left, reachability, the choice of backends, pods, and what the programs must know of this node.
//!
//! Architecture invariant: no IO, no clock, no kernel. Nothing here waits, so the time from a watch event to a write is the
//! core's own work; and a test is inputs and times in, what is wanted out.

mod choice;
mod core;
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
