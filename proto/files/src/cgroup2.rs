//! Where cgroups of version 2 are.

use std::{fs, path::PathBuf};

/// What mounts one, whatever else is mounted.
pub const MOUNT_CGROUP2: &str = "mkdir -p /run/cgroup2 && mount -t cgroup2 none /run/cgroup2";

/// The first cgroup2 mount, at its own place or under a hybrid hierarchy; `None` where there is none.
pub fn first_cgroup2() -> Option<PathBuf> {
    first_in(&fs::read_to_string("/proc/self/mounts").ok()?)
}

/// The same from the content of `/proc/PID/mounts`.
fn first_in(mounts: &str) -> Option<PathBuf> {
    let mut fields = mounts.lines().map(|line| line.split(' '));
    fields.find_map(|mut fields| {
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
}
