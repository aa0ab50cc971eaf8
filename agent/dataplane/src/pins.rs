//! Where the tables and links outlive the agent.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use mesh_layout::layout_hash;
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use crate::{kernel::Sizes, programs::HOOKS};

/// A folder on a BPF file system: `<root>/<layout hash>-<sizes>/<map>` and `<root>/links/<program>`.
#[derive(Clone, Debug)]
pub struct PinRoot {
    root: PathBuf,
}

/// Why the pins cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// A folder cannot be made, read or removed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is on another file system.
    #[error(
        "{} is not on a BPF file system. Mount one: mount -t bpf bpf {}", path.display(), PinRoot::MOUNT
    )]
    NotBpf {
        /// The folder.
        path: PathBuf,
    },
}

impl PinRoot {
    /// Where a BPF file system normally is.
    const MOUNT: &str = "/sys/fs/bpf";

    /// Makes the folder, and mounts a BPF file system at the usual place if there is none.
    pub fn open(root: &Path) -> Result<Self, PinError> {
        let mount_point = Path::new(Self::MOUNT);
        if root.starts_with(mount_point) && !is_bpf(mount_point)? {
            mount(Some("bpf"), mount_point, Some("bpf"), MsFlags::empty(), None::<&str>)
                .map_err(|e| io_error(mount_point, e.into()))?;
        }
        fs::create_dir_all(root).map_err(|e| io_error(root, e))?;
        if !is_bpf(root)? {
            return Err(PinError::NotBpf { path: root.into() });
        }
        Ok(Self { root: root.into() })
    }

    /// The folder for tables of this layout and these sizes, made if it is missing.
    pub(crate) fn maps(&self, sizes: Sizes) -> Result<PathBuf, PinError> {
        make(self.root.join(name(sizes)))
    }

    /// The folder for links, made if it is missing.
    pub(crate) fn links(&self) -> Result<PathBuf, PinError> {
        make(self.root.join("links"))
    }

    /// Removes the tables of other layouts and sizes. Programs that still use them keep them alive.
    pub(crate) fn forget_other_maps(&self, sizes: Sizes) -> Result<(), PinError> {
        let keep = [self.root.join(name(sizes)), self.root.join("links")];
        for entry in fs::read_dir(&self.root).map_err(|e| io_error(&self.root, e))? {
            let path = entry.map_err(|e| io_error(&self.root, e))?.path();
            if !keep.contains(&path) {
                fs::remove_dir_all(&path).map_err(|e| io_error(&path, e))?;
            }
        }
        Ok(())
    }

    /// Detaches the programs and removes everything: connections are no longer load-balanced, open ones live on.
    pub fn uninstall(self) -> Result<(), PinError> {
        // In the opposite order of attaching: nothing is translated any more when what shows it as asked goes.
        for hook in HOOKS.iter().rev() {
            let pin = self.root.join("links").join(hook);
            match fs::remove_file(&pin) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io_error(&pin, e)),
                _ => {}
            }
        }
        fs::remove_dir_all(&self.root).map_err(|e| io_error(&self.root, e))
    }
}

/// Sizes are part of what a table is: one of another size is another table.
fn name(sizes: Sizes) -> String {
    let Sizes { services, backends, slots, groups } = sizes;
    format!("{:08x}-{services}-{backends}-{slots}-{groups}", layout_hash())
}

fn make(path: PathBuf) -> Result<PathBuf, PinError> {
    match fs::create_dir_all(&path) {
        Ok(()) => Ok(path),
        Err(e) => Err(io_error(&path, e)),
    }
}

fn is_bpf(path: &Path) -> Result<bool, PinError> {
    let fs = statfs(path).map_err(|e| io_error(path, e.into()))?;
    Ok(fs.filesystem_type() == BPF_FS_MAGIC)
}

fn io_error(path: &Path, source: io::Error) -> PinError {
    PinError::Io { path: path.into(), source }
}
