//! Which backends a frontend leads to.
//!
//! [`Balancer`] is the one place that chooses (`docs/load-balancing.md`), for the agent and for the CLI, which shows
//! what an agent would do. It holds each service's backends in pools, with counts of their health, so that a change of
//! one backend costs only that change.
//!
//! Architecture invariant: no IO and no clock. The balancer asks its caller which node a backend is on; the health of
//! nodes is an argument.

mod backend_health;
mod balancer;
mod cluster;
mod differences;
mod explanation;
mod locality;
mod nodes;
mod plan;
mod pool;
mod port_names;
mod traffic_policy;
mod unplaced;

pub use balancer::{Balancer, KnownBackend, Rules};
pub use cluster::{ClusterState, ClusterView};
pub use differences::differences;
pub use explanation::{
    Basis, Candidate, Explanation, GroupShare, Reason, Share, Tier, TierCluster, Usage,
};
