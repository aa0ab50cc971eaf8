//! Following an etcd: list, watch, and after every kind of failure know again exactly what it contains.
//!
//! [`Follower`] does it for any keys; [`PeerFollower`] knows what a cluster's keys mean. Both are state machines
//! without IO ([`Machine`]): inputs are an etcd's answers, actions are requests to it, and time is an argument.
//! `mesh-etcd` drives them over real connections, the tests here over an etcd made of a list.

mod budget;
mod completeness;
mod deletions;
#[cfg(test)]
mod fake;
mod follower;
mod held;
mod machine;
mod peer;
mod rate_limit;
mod replica;
mod status;
mod unexplained_deletion;
mod work;

pub use budget::{BACKENDS_PER_SECOND, Budget, ChangeRate, DECODED_PER_SECOND, Excess, WINDOW};
pub use follower::{Command, Event, Follower, RangeConfig, RangeId};
pub use machine::{
    Action, Header, Input, KeyRange, KeyValue, ListError, Machine, RequestId, WatchEvent, WatchId,
};
pub use peer::{BATCH_BYTES, PeerCommand, PeerConfig, PeerEvent, PeerFollower, Refusal, Role};
pub use rate_limit::RateLimited;
pub use status::{ConnectionPhase, Failure, Status};
