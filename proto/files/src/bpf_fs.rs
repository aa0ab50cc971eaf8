//! The BPF file system, in which maps, programs and links are pinned.

use std::{io, path::Path};

use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

/// Its usual mount point.
pub const BPF_FS: &str = "/sys/fs/bpf";

/// Whether a path is in a BPF file system.
///
/// # Errors
/// If the path does not exist or cannot be examined.
pub fn is_bpf_fs(path: &Path) -> io::Result<bool> {
    Ok(statfs(path)?.filesystem_type() == BPF_FS_MAGIC)
}

/// Mounts a BPF file system at [`BPF_FS`] if there is none, as in a container.
///
/// # Errors
/// If the process may not mount, or [`BPF_FS`] does not exist because sysfs is not mounted.
pub fn mount_bpf_fs() -> io::Result<()> {
    let at = Path::new(BPF_FS);
    if is_bpf_fs(at)? {
        return Ok(());
    }
    Ok(mount(Some("bpf"), at, Some("bpf"), MsFlags::empty(), None::<&str>)?)
}
