//! Policies in the kernel: the tables that judging programs read, and copies of those programs to ask (`docs/adr/0043`).
//!
//! [`Engine`] answers as `mesh_policy::Mesh` does, but by the kernel's programs: it loads copies of its own, never what a
//! node has pinned, fills their tables with what the compiler made, and has a packet of the flow judged by
//! `BPF_PROG_TEST_RUN`.

mod copy;
mod engine;
mod error;
mod fill;
mod hooks;
mod packet;
mod stand_ins;
mod tables;
mod writer;

pub use copy::{Asked, Copy, Judged, Sizes, is_denied};
pub use engine::Engine;
pub use error::KernelError;
pub use hooks::Hooks;
pub use packet::{Carried, Packet};
pub use tables::{Places, Tables};
pub use writer::{Meant, Writer};
