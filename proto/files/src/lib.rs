//! Files that several processes share: written atomically, locked by one writer, watched by many readers.
//!
//! `docs/adr/0002-one-crate-for-shared-files.md` explains why this is a crate.

mod bpf_fs;
mod cgroup2;
mod folder;
mod lock;
mod netns;
mod settling;
mod watch;
mod write;

pub use bpf_fs::{BPF_FS, is_bpf_fs, mount_bpf_fs};
pub use cgroup2::{MOUNT_CGROUP2, cgroup2_in, first_cgroup2};
pub use folder::{TextFile, TextFolder, texts};
pub use lock::{Lock, LockError};
pub use netns::{NETNS_FOLDER, in_netns, interfaces, is_linked_to, netns_cookie, veth_peer};
pub use settling::{Moment, Progress, QUIET, Settling, Stamp};
pub use watch::{FolderWatch, WriteLog, Written, exhaust_instances, until, watch_fallback};
pub use write::{Access, write_atomic, write_together};
