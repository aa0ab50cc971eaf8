//! Which backends a frontend leads to, and whether the nodes they are on can be reached.
//!
//! [`Balancer`] is the one place that chooses (`docs/load-balancing.md`), for the agent and for whoever wants to know what an
//! agent would do. It holds each service's backends in pools, with counts of how they stand, so that a change of one costs
//! what that one costs.
//!
//! Architecture invariant: no IO and no clock: time is an argument, and what is known of nodes is asked for.

mod backend_health;
mod balancer;
mod budget;
mod cluster;
mod explanation;
mod nodes;
mod plan;
mod pool;
mod probes;
mod traffic_policy;

pub use balancer::{Balancer, Known, Rules};
pub use budget::{Budget, ChangeRate, Excess, WINDOW};
pub use cluster::{ClusterState, ClusterView};
pub use explanation::{
    Basis, Candidate, Explanation, GroupShare, Reason, Share, Tier, TierCluster, Usage,
};
pub use probes::{
    ClusterHealth, HealthChange, Probe, ProbeCounts, Probes, Report, Target, targets,
};
