//! The followed clusters: a task each, started, restarted and stopped as the peer files say.
//!
//! [`Peers`] reads the files and owns the tasks; what happens is a [`PeerMessage`] to the other end of a channel, and a [`Follower`] is how that end sees a task.

mod drained;
mod follower;
mod peers;
mod settings;

pub use follower::Follower;
pub use peers::{PeerMessage, Peers, PeersConfig, follower_thread};
