//! Keeps the mesh's programs at their hooks: two tasks, which nothing waits for.
//!
//! [`ProgramsTask`] maintains the socket hooks of the cgroup root: it replaces programs of another release, restores
//! what another process removed, and names other programs there. [`ProbeAnswerTask`] makes the kernel answer probes at
//! the interfaces that carry the node's addresses.

mod probe_answer;
mod programs;

pub use probe_answer::{ProbeAnswerHandle, ProbeAnswerReport, ProbeAnswerTask};
pub use programs::{ProgramsHandle, ProgramsReport, ProgramsTask};
