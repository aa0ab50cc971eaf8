//! The pins by which tables and links outlive the agent.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use mesh_files::{BPF_FS, is_bpf_fs, mount_bpf_fs};
use mesh_layout::{MapGroup, MapLayout};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use crate::{container::is_container, hooks::HOOKS, kernel::Sizes};

/// A folder on a BPF file system, of root's alone. Each group of maps has a folder of its own in it, named by the hash of
/// its layout: `lb-<hash>-<sizes>` has the tables, `<group>-<hash>` the maps of every other group. `links/<program>` and
/// `probe/<interface>` are what is attached.
#[derive(Clone, Debug)]
pub struct PinRoot {
    root: PathBuf,
    /// Groups whose layout is not the one that this release knows: a test's.
    others: Vec<(MapGroup, u32)>,
}

/// No other process uses the pins while this exists; the kernel releases it with the process.
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
        "{} is not on a BPF file system. Mount one: mount -t bpf bpf {}. For a container, do so on the node, as \
         `clustermesh-agent mount-bpffs` does in an init container, and mount the node's into the container",
        path.display(), BPF_FS
    )]
    NotBpf {
        /// The folder.
        path: PathBuf,
    },
    /// Another user than root may exchange what is in it.
    #[error(
        "{} belongs to user {owner} with mode {mode:04o}: another user than root could exchange the tables and programs in it. \
         If it is not meant to be there, remove it (rm -r {}) and start again; else make it root's (chown 0:0, chmod 0700), \
         or name another folder (--pin-root)", path.display(), path.display()
    )]
    NotRoots {
        /// The folder, or one above it.
        path: PathBuf,
        /// The user that it belongs to.
        owner: u32,
        /// Its permissions.
        mode: u32,
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
/// The folder with those that answer probes, by the interfaces' indexes.
const PROBE_LINKS: &str = "probe";
/// The folder of what enforces policies.
const POLICY: &str = "policy";
/// How often a lock that another has is tried.
const RETRY: Duration = Duration::from_millis(20);
/// Permissions of the folder: root's alone.
const MODE: u32 = 0o700;
/// Permissions that let users change a folder that they do not own.
const WRITABLE: u32 = 0o022;
/// A folder in which each user may remove only their own files.
const STICKY: u32 = 0o1000;

// === impl PinRoot ===

impl PinRoot {
    /// Makes the folder, and mounts a BPF file system at the usual place if there is none; not in a container, with which
    /// the mount would end, and with it all that is pinned there.
    pub fn open(root: &Path) -> Result<Self, PinError> {
        if root.starts_with(BPF_FS) && !is_container() {
            mount_bpf_fs().map_err(|e| io_error(Path::new(BPF_FS), e))?;
        }
        let present = root.ancestors().find(|folder| folder.exists()).unwrap_or(root);
        if !is_bpf(present)? {
            return Err(PinError::NotBpf { path: root.into() });
        }
        fs::create_dir_all(root).map_err(|e| io_error(root, e))?;
        for folder in root.ancestors() {
            if !is_bpf(folder)? {
                break;
            }
            check_owner(folder, folder == root)?;
        }
        fs::set_permissions(root, Permissions::from_mode(MODE)).map_err(|e| io_error(root, e))?;
        Ok(Self { root: root.into(), others: Vec::new() })
    }

    /// The same pins as a release knows them that has another layout of a group: a test's way to be one.
    pub fn of_layout(mut self, group: MapGroup, hash: u32) -> Self {
        self.others.push((group, hash));
        self
    }

    /// Keeps other processes out, as soon as the present one ends; fails after `patience`. Blocks the thread.
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
        let folder = self.folder(MapGroup::LoadBalancer);
        self.root.join(format!("{folder}-{services}-{backends}-{slots}-{groups}"))
    }

    /// The folder for a group's maps, of tables of these sizes; it may be missing.
    pub(crate) fn group(&self, sizes: Sizes, group: MapGroup) -> PathBuf {
        match group {
            MapGroup::LoadBalancer => self.tables(sizes),
            _ => self.root.join(self.folder(group)),
        }
    }

    /// Where a map of tables of these sizes is pinned; the folder is made if it is missing.
    pub(crate) fn map(&self, sizes: Sizes, layout: &MapLayout) -> Result<PathBuf, PinError> {
        Ok(make(self.group(sizes, layout.group))?.join(layout.name))
    }

    /// Where a map is pinned whose group does not depend on the tables' sizes; the folder is made if it is missing.
    pub(crate) fn fixed_map(&self, layout: &MapLayout) -> Result<PathBuf, PinError> {
        Ok(make(self.root.join(self.folder(layout.group)))?.join(layout.name))
    }

    /// Where the link is pinned that answers probes at an interface; the folder is made if it is missing.
    pub(crate) fn probe_link(&self, interface: u32) -> Result<PathBuf, PinError> {
        Ok(make(self.root.join(PROBE_LINKS))?.join(interface.to_string()))
    }

    /// The interfaces at which a link that answers probes is pinned.
    pub(crate) fn probe_links(&self) -> Result<Vec<u32>, PinError> {
        let pins = entries(&make(self.root.join(PROBE_LINKS))?)?;
        let index = |pin: &PathBuf| pin.file_name()?.to_str()?.parse().ok();
        Ok(pins.iter().filter_map(index).collect())
    }

    /// The folder of what enforces policies, which may be missing.
    pub fn policy(&self) -> PathBuf {
        self.root.join(POLICY)
    }

    /// The folder for links, made if it is missing.
    pub(crate) fn links(&self) -> Result<PathBuf, PinError> {
        make(self.root.join(LINKS))
    }

    /// Whether an earlier agent left tables, which programs may use.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn has_tables(&self) -> Result<bool, PinError> {
        Ok(!self.all_tables()?.is_empty())
    }

    /// All folders with tables, of whatever layout and sizes.
    pub(crate) fn all_tables(&self) -> Result<Vec<PathBuf>, PinError> {
        let folders = entries(&self.root)?.into_iter();
        Ok(folders.filter(|folder| folder.join("cm_services").exists()).collect())
    }

    /// Whether a folder's tables are of this layout.
    pub(crate) fn is_of_this_layout(&self, tables: &Path) -> bool {
        let name = tables.file_name().and_then(|name| name.to_str());
        let folder = format!("{}-", self.folder(MapGroup::LoadBalancer));
        name.is_some_and(|name| name.starts_with(&folder))
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
        let mut keep: Vec<PathBuf> =
            MapGroup::ALL.into_iter().map(|group| self.group(sizes, group)).collect();
        keep.extend([LINKS, PROBE_LINKS, POLICY].map(|folder| self.root.join(folder)));
        let others = entries(&self.root)?.into_iter().filter(|path| !keep.contains(path));
        others.into_iter().try_for_each(|path| self.forget(&path))
    }

    /// Detaches the programs and removes everything: connections are no longer load-balanced, open ones live on.
    pub fn uninstall(self) -> Result<(), PinError> {
        // In the opposite order of attaching: when the programs that show addresses are removed, nothing is translated
        // any more.
        for hook in HOOKS.iter().rev() {
            let pin = self.root.join(LINKS).join(hook.program);
            match fs::remove_file(&pin) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io_error(&pin, e)),
                _ => {}
            }
        }
        fs::remove_dir_all(&self.root).map_err(|e| io_error(&self.root, e))
    }

    /// How folders with a group's maps begin.
    fn folder(&self, group: MapGroup) -> String {
        let other = self.others.iter().find(|(of, _)| *of == group).map(|(_, hash)| *hash);
        format!("{}-{:08x}", group.name(), other.unwrap_or(group.layout_hash()))
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

/// The process that has the lock of a folder that we did not get: the kernel's list names each lock's file by its number.
fn holder(folder: &File) -> Option<u32> {
    let inode = format!(":{}", folder.metadata().ok()?.ino());
    let locks = fs::read_to_string("/proc/locks").ok()?;
    // A line is like `1: FLOCK  ADVISORY  WRITE 1234 00:1c:5678 0 EOF`.
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

/// Refuses a folder that another user made, or may change: they could exchange what is in it. Above the pin root a folder
/// may be for all to make folders in, where each may remove only its own.
fn check_owner(folder: &Path, is_root: bool) -> Result<(), PinError> {
    let found = fs::symlink_metadata(folder).map_err(|e| io_error(folder, e))?;
    let (owner, mode) = (found.uid(), found.mode() & 0o7777);
    let is_shared = mode & WRITABLE != 0 && (is_root || mode & STICKY == 0);
    match owner != 0 || is_shared || !found.is_dir() {
        true => Err(PinError::NotRoots { path: folder.into(), owner, mode }),
        false => Ok(()),
    }
}

fn is_bpf(path: &Path) -> Result<bool, PinError> {
    is_bpf_fs(path).map_err(|e| io_error(path, e))
}

fn io_error(path: &Path, source: io::Error) -> PinError {
    PinError::Io { path: path.into(), source }
}
