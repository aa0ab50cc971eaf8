//! What keeps the mesh's programs at their hooks: two tasks, which nothing waits for.
//!
//! [`ProgramsTask`] looks after the sockets' hooks of the cgroup root: it exchanges programs of another release, puts back
//! what another process took away, and names other programs there. [`ProbeAnswerTask`] has the kernel answer probes at the
//! interfaces that carry the node's addresses.

mod probe_answer;
mod programs;

pub use probe_answer::{ProbeAnswerHandle, ProbeAnswerReport, ProbeAnswerTask};
pub use programs::{ProgramsHandle, ProgramsReport, ProgramsTask};
