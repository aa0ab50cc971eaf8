//! Where the tables and links outlive the agent.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use mesh_layout::{Kept, MapLayout, layout_hash, socket_layout_hash};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use crate::{kernel::Sizes, programs::HOOKS};

/// A folder on a BPF file system: `<root>/<layout hash>-<sizes>/<map>` has the tables, `<root>/sockets-<layout hash>/<map>`
/// what sockets were told, and `<root>/links/<program>` what is attached.
#[derive(Clone, Debug)]
pub struct PinRoot {
    root: PathBuf,
    layout: u32,
}

/// Nobody else uses the pins as long as this is there; the kernel drops it with the process.
#[derive(Debug)]
pub struct PinLock {
    _folder: Flock<File>,
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
    /// Another process uses it.
    #[error(
        "{} is in use by {}: two agents cannot have the same tables", path.display(),
        pid.map_or_else(|| "another process".into(), |pid| format!("process {pid}"))
    )]
    InUse {
        /// The folder.
        path: PathBuf,
        /// The process, where it can be seen from here.
        pid: Option<u32>,
    },
}

/// The folder with the links.
const LINKS: &str = "links";
/// How often a lock that another has is tried.
const RETRY: Duration = Duration::from_millis(20);

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
        Ok(Self { root: root.into(), layout: layout_hash() })
    }

    /// The same pins as a release with another layout of the tables knows them: a test's way to be one.
    pub fn of_layout(self, layout: u32) -> Self {
        Self { layout, ..self }
    }

    /// Keeps others out, as soon as whoever is in there lets go; fails after `patience`. Blocks the thread.
    pub fn lock(&self, patience: Duration) -> Result<PinLock, PinError> {
        let deadline = Instant::now() + patience;
        loop {
            let folder = File::open(&self.root).map_err(|e| io_error(&self.root, e))?;
            match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
                Ok(folder) => return Ok(PinLock { _folder: folder }),
                Err((_, Errno::EWOULDBLOCK)) if Instant::now() < deadline => thread::sleep(RETRY),
                Err((folder, Errno::EWOULDBLOCK)) => {
                    return Err(PinError::InUse { path: self.root.clone(), pid: holder(&folder) });
                }
                Err((_, errno)) => return Err(io_error(&self.root, errno.into())),
            }
        }
    }

    /// The folder for tables of this layout and these sizes, which may be missing.
    pub(crate) fn tables(&self, sizes: Sizes) -> PathBuf {
        let Sizes { services, backends, slots, groups } = sizes;
        self.root.join(format!("{:08x}-{services}-{backends}-{slots}-{groups}", self.layout))
    }

    /// Where a map of tables of these sizes is pinned; the folder is made if it is missing.
    pub(crate) fn map(&self, sizes: Sizes, layout: &MapLayout) -> Result<PathBuf, PinError> {
        let folder = match layout.kept {
            Kept::Sized | Kept::Whole => self.tables(sizes),
            Kept::Sockets => self.sockets(),
        };
        Ok(make(folder)?.join(layout.name))
    }

    /// The folder for links, made if it is missing.
    pub(crate) fn links(&self) -> Result<PathBuf, PinError> {
        make(self.root.join(LINKS))
    }

    /// All folders with tables, of whatever layout and sizes.
    pub(crate) fn all_tables(&self) -> Result<Vec<PathBuf>, PinError> {
        let folders = entries(&self.root)?.into_iter();
        Ok(folders.filter(|folder| folder.join("cm_services").exists()).collect())
    }

    /// Whether a folder's tables are of this layout.
    pub(crate) fn is_of_this_layout(&self, tables: &Path) -> bool {
        let name = tables.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with(&format!("{:08x}-", self.layout)))
    }

    /// Removes a folder with tables. Programs that use them keep them alive.
    pub(crate) fn forget(&self, tables: &Path) -> Result<(), PinError> {
        match fs::remove_dir_all(tables) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error(tables, e)),
            _ => Ok(()),
        }
    }

    /// Removes what other layouts and sizes left.
    pub(crate) fn forget_others(&self, sizes: Sizes) -> Result<(), PinError> {
        let keep = [self.tables(sizes), self.sockets(), self.root.join(LINKS)];
        let others = entries(&self.root)?.into_iter().filter(|path| !keep.contains(path));
        others.into_iter().try_for_each(|path| self.forget(&path))
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

    fn sockets(&self) -> PathBuf {
        self.root.join(format!("sockets-{:08x}", socket_layout_hash()))
    }
}

/// The paths in a folder, in order.
pub(crate) fn entries(folder: &Path) -> Result<Vec<PathBuf>, PinError> {
    let entries = fs::read_dir(folder).map_err(|e| io_error(folder, e))?;
    let paths = entries.map(|entry| Ok(entry?.path()));
    let mut paths: Vec<PathBuf> =
        paths.collect::<Result<_, io::Error>>().map_err(|e| io_error(folder, e))?;
    paths.sort();
    Ok(paths)
}

/// Who has the lock of a folder that we did not get: the kernel's list names each lock's file by its number.
fn holder(folder: &File) -> Option<u32> {
    let inode = format!(":{}", folder.metadata().ok()?.ino());
    let locks = fs::read_to_string("/proc/locks").ok()?;
    // As in `1: FLOCK  ADVISORY  WRITE 1234 00:1c:5678 0 EOF`.
    let pid = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, "FLOCK", _, _, pid, file, ..] = *fields else { return None };
        file.ends_with(&inode).then(|| pid.parse().ok())?
    };
    locks.lines().find_map(pid)
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
