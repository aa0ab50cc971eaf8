//! The followed clusters: a task for each, started, restarted and stopped by the peer files.
//!
//! [`Peers`] reads the files and owns the tasks; events are [`PeerMessage`]s to the other end of a channel, and that
//! end handles a task by its [`Follower`].

mod drained;
mod follower;
mod peers;
mod ranges;
mod settings;

pub use follower::Follower;
pub use peers::{PeerMessage, Peers, PeersConfig, follower_thread};
pub use ranges::FileRanges;
