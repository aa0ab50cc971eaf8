//! Files that several processes share: written whole or not at all, locked by one writer, watched by many readers.
//!
//! An ADR says why this is a crate: `docs/adr/0002-one-crate-for-shared-files.md`.

mod lock;
mod watch;
mod write;

pub use lock::{Lock, LockError};
pub use watch::FolderWatch;
pub use write::{Access, write_atomic, write_together};
