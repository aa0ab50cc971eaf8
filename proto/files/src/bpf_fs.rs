//! The BPF file system, in which maps, programs and links are pinned.

use std::{io, path::Path};

use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

/// Where it normally is.
pub const BPF_FS: &str = "/sys/fs/bpf";

/// Whether a path is in one.
///
/// # Errors
/// Where the path is none.
pub fn is_bpf_fs(path: &Path) -> io::Result<bool> {
    Ok(statfs(path)?.filesystem_type() == BPF_FS_MAGIC)
}

/// Mounts one at [`BPF_FS`] if there is none, as in a container.
///
/// # Errors
/// Without the right to mount, or without sysfs.
pub fn mount_bpf_fs() -> io::Result<()> {
    let at = Path::new(BPF_FS);
    if is_bpf_fs(at)? {
        return Ok(());
    }
    Ok(mount(Some("bpf"), at, Some("bpf"), MsFlags::empty(), None::<&str>)?)
}
