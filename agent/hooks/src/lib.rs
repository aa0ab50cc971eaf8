//! Keeps the mesh's programs at their hooks: two tasks, which nothing waits for.
//!
//! [`ProgramsTask`] maintains the socket hooks of the cgroup root: it replaces programs of another release, restores
//! what another process removed, and names other programs there. [`ProbeAnswerTask`] makes the kernel answer probes at
//! the interfaces that carry the node's addresses.

use std::{io::Read as _, net::UdpSocket};

mod effect;
mod probe_answer;
mod programs;

pub use probe_answer::{ProbeAnswerHandle, ProbeAnswerReport, ProbeAnswerTask};
pub use programs::{Place, ProgramsHandle, ProgramsReport, ProgramsTask, Waits};

/// The command of the agent by which [`ProgramsTask`] has a child call `connect`: see [`connect_once`].
pub const CONNECT_ONCE: &str = effect::CALL;

/// Waits for the end of the standard input, and then calls `connect` with an address of this machine, over which nothing is
/// sent. What comes of it does not matter: that programs see the call does.
pub fn connect_once() {
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    let _ = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.connect("127.0.0.1:9"));
}
