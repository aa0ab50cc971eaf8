//! Following an etcd: list, watch, and after every kind of break know again exactly what is there.
//!
//! [`Follower`] does it for any keys; [`PeerFollower`] knows what a cluster's keys mean. Both are state machines without
//! IO ([`Machine`]): inputs are what an etcd answered, actions are what to ask it, and time is an argument. `mesh-etcd`
//! drives them over real connections, the tests here over an etcd made of a list.

mod completeness;
mod deletions;
#[cfg(test)]
mod fake;
mod follower;
mod machine;
mod peer;
mod replica;
mod status;

pub use follower::{Command, Event, Follower, RangeConfig, RangeId};
pub use machine::{
    Action, Header, Input, KeyRange, KeyValue, ListError, Machine, RequestId, WatchEvent, WatchId,
};
pub use peer::{PeerCommand, PeerConfig, PeerEvent, PeerFollower, Refusal, Role};
pub use status::{ConnectionPhase, Failure, Status};
