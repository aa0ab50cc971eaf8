//! Where cgroups of version 2 are.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

/// What mounts one, whatever else is mounted.
pub const MOUNT_CGROUP2: &str = "mkdir -p /run/cgroup2 && mount -t cgroup2 none /run/cgroup2";

/// The first cgroup2 mount, at its own place or under a hybrid hierarchy; `None` where there is none.
pub fn first_cgroup2() -> Option<PathBuf> {
    first_in(&fs::read_to_string("/proc/self/mounts").ok()?)
}

/// The cgroup that a folder names: itself, or where it is another file system, the cgroup2 mount below it that is nearest.
/// So a machine's `/sys/fs/cgroup` has one in it, whether its hierarchies are hybrid or not, and also where a container has
/// it mounted elsewhere, with all that is mounted below it.
///
/// # Errors
/// Where the folder does not exist or cannot be examined, and where there is no cgroup2 in it.
pub fn cgroup2_in(folder: &Path) -> io::Result<PathBuf> {
    if statfs(folder)?.filesystem_type() == CGROUP2_SUPER_MAGIC {
        return Ok(folder.into());
    }
    let found = below(&fs::read_to_string("/proc/self/mounts")?, &fs::canonicalize(folder)?);
    found.ok_or_else(|| {
        io::Error::other(
            "there is no cgroup2 in it. In a container, mount the node's /sys/fs/cgroup there, with what is mounted below it",
        )
    })
}

/// The same from the content of `/proc/PID/mounts`, for a folder that is none itself.
fn below(mounts: &str, folder: &Path) -> Option<PathBuf> {
    let found = all_in(mounts).filter(|point| point.starts_with(folder));
    found.min_by_key(|point| point.components().count())
}

/// The same from the content of `/proc/PID/mounts`.
fn first_in(mounts: &str) -> Option<PathBuf> {
    all_in(mounts).next()
}

fn all_in(mounts: &str) -> impl Iterator<Item = PathBuf> {
    let fields = mounts.lines().map(|line| line.split(' '));
    fields.filter_map(|mut fields| {
        let (point, kind) = (fields.nth(1)?, fields.next()?);
        (kind == "cgroup2").then(|| point.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_mount_of_version_2_counts() {
        let hybrid = "proc /proc proc rw 0 0
tmpfs /sys/fs/cgroup tmpfs rw 0 0
cgroup /sys/fs/cgroup/memory cgroup rw 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0
none /mnt cgroup2 rw 0 0
";
        assert_eq!(first_in(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(first_in("cgroup2 /x tmpfs rw 0 0\nbroken\n"), None);
    }

    #[test]
    fn a_folder_of_hierarchies_has_the_nearest_one_below_it() {
        let container = "cgroup2 /sys/fs/cgroup cgroup2 ro 0 0
tmpfs /host/sys/fs/cgroup tmpfs ro 0 0
cgroup /host/sys/fs/cgroup/memory cgroup rw 0 0
cgroup2 /host/sys/fs/cgroup/unified/below/it cgroup2 rw 0 0
cgroup2 /host/sys/fs/cgroup/unified cgroup2 rw 0 0
cgroup2 /host/sys/fs/cgroups cgroup2 rw 0 0
";
        let unified = Some("/host/sys/fs/cgroup/unified".into());
        assert_eq!(below(container, Path::new("/host/sys/fs/cgroup")), unified);
        assert_eq!(below(container, Path::new("/host/sys/fs/cgroup/memory")), None);
        assert!(
            cgroup2_in(Path::new("/proc")).unwrap_err().to_string().contains("no cgroup2 in it")
        );
        assert!(cgroup2_in(Path::new("/nowhere")).is_err());
        let own = first_cgroup2().expect("a cgroup2 mount");
        assert_eq!(cgroup2_in(&own).unwrap(), own);
    }
}
