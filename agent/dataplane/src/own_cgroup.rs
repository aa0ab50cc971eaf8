//! The agent's own cgroup, whose sockets the programs do not balance: an agent that reaches its etcd through the tables
//! that it fills could lock itself out.
//!
//! The agent opts out only if it is alone in its cgroup. Other processes in the same cgroup, as in the root, would be
//! taken out of the mesh with it. In a container, all processes of its process namespace are the agent's: one that
//! `kubectl exec` started there costs it nothing.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::container::is_container;

/// What the programs leave alone, and why not if nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bypass {
    /// The cgroup's id.
    pub cgroup: Option<u64>,
    /// For an operator.
    pub problem: Option<String>,
}

/// The files to look in: `/proc`, unless a test made others.
#[derive(Debug)]
struct Processes<'a> {
    proc: &'a Path,
    own: u32,
    in_container: bool,
}

impl Bypass {
    /// Looks at the cgroup that this process is in now.
    pub fn find() -> Self {
        let processes = Processes {
            proc: Path::new("/proc"),
            own: std::process::id(),
            in_container: is_container(),
        };
        match processes.own_cgroup() {
            Ok(cgroup) => Self { cgroup: Some(cgroup), problem: None },
            Err(reason) => Self {
                cgroup: None,
                problem: Some(format!(
                    "the agent's own connections are load-balanced like those of pods: {reason}"
                )),
            },
        }
    }
}

impl Processes<'_> {
    /// The id of a cgroup that no process but this one and its children is in.
    fn own_cgroup(&self) -> Result<u64, String> {
        let folder = self.folder()?;
        let shown = folder.display();
        let io = |error: io::Error| format!("{shown}: {error}");
        let members = fs::read_to_string(folder.join("cgroup.procs")).map_err(io)?;
        // It is not in our process namespace: such a member is shown as 0.
        let stranger = members.lines().find(|pid| !self.is_ours(pid));
        match stranger {
            None => fs::metadata(&folder).map(|cgroup| cgroup.ino()).map_err(io),
            Some(pid) => Err(format!(
                "its cgroup {shown} has other processes in it ({pid}); start it in a cgroup of its own"
            )),
        }
    }

    /// The folder of the cgroup, found by its members: where cgroup2 is mounted, and from which root, is the host's
    /// business.
    fn folder(&self) -> Result<PathBuf, String> {
        let read = |file: &str| {
            let path = self.proc.join("self").join(file);
            fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
        };
        let own = read("cgroup")?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::"));
        let own = own.ok_or("it is in no cgroup of version 2")?.trim_end_matches(" (deleted)");
        let mounts = read("mountinfo")?;
        let found = mounts.lines().filter_map(|line| {
            // proc_pid_mountinfo(5): the root within the file system is field 4, the mount point field 5.
            let (fields, kind) = line.split_once(" - ")?;
            let mut fields = fields.split(' ').skip(3);
            let (root, point) = (fields.next()?, fields.next()?);
            let below = Path::new(own).strip_prefix(root).ok()?;
            kind.starts_with("cgroup2 ").then(|| Path::new(point).join(below))
        });
        let has_us = |folder: &PathBuf| {
            let members = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            members.lines().any(|pid| pid.parse() == Ok(self.own))
        };
        let mut found = found.filter(has_us);
        found.next().ok_or_else(|| format!("its cgroup {own} is in no cgroup2 mount"))
    }

    /// This process, or one that it started to have something done.
    fn is_ours(&self, pid: &str) -> bool {
        if pid.parse() == Ok(self.own) {
            return true;
        }
        if self.in_container {
            return pid != "0";
        }
        let Ok(stat) = fs::read_to_string(self.proc.join(pid).join("stat")) else {
            // It has ended meanwhile; one of another process namespace is none of ours.
            return pid != "0";
        };
        // proc_pid_stat(5): the name in parentheses may hold anything; the parent is the second field after it.
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1));
        parent.is_some_and(|parent| parent.parse() == Ok(self.own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: u32 = 500;

    /// A `/proc` with a process in `/a/agent`, whose cgroup has these members: each with its parent.
    fn looked_at(root: &str, members: &[(u32, u32)]) -> (Result<u64, String>, u64) {
        looked_at_in(root, members, false)
    }

    fn looked_at_in(
        root: &str,
        members: &[(u32, u32)],
        in_container: bool,
    ) -> (Result<u64, String>, u64) {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: String| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let cgroups = folder.path().join("cgroups");
        write("self/cgroup", "4:memory:/x\n0::/a/agent\n".into());
        let mount = |root: &str, kind: &str| {
            format!("30 20 0:25 {root} {} rw - {kind} none rw\n", cgroups.display())
        };
        write(
            "self/mountinfo",
            [mount("/", "tmpfs"), mount("/elsewhere", "cgroup2"), mount(root, "cgroup2")].concat(),
        );
        let list: String = members.iter().map(|(pid, _)| format!("{pid}\n")).collect();
        let below = if root == "/" { "cgroups/a/agent" } else { "cgroups" };
        write(&format!("{below}/cgroup.procs"), list);
        for (pid, parent) in members {
            write(&format!("{pid}/stat"), format!("{pid} (a (b) c) S {parent} 1 1"));
        }
        let inode = fs::metadata(folder.path().join(below)).unwrap().ino();
        (Processes { proc: folder.path(), own: OWN, in_container }.own_cgroup(), inode)
    }

    #[test]
    fn only_a_cgroup_of_its_own_is_left_alone() {
        for root in ["/", "/a/agent"] {
            let (found, inode) = looked_at(root, &[(OWN, 1), (501, OWN)]);
            assert_eq!(found, Ok(inode));
        }
        let (found, _) = looked_at("/", &[(OWN, 1), (7, 1)]);
        assert!(found.unwrap_err().contains("other processes in it (7)"));
        let (found, _) = looked_at("/b", &[(OWN, 1)]);
        assert_eq!(found, Err("its cgroup /a/agent is in no cgroup2 mount".into()));
        let (found, _) = looked_at("/", &[(7, 1)]);
        assert!(found.is_err(), "a mount that shows others' cgroups");
    }

    #[test]
    fn in_a_container_every_process_that_is_seen_is_the_agents() {
        // What was started by `kubectl exec` has a parent outside of the process namespace.
        let (found, inode) = looked_at_in("/a/agent", &[(OWN, 0), (501, OWN), (600, 0)], true);
        assert_eq!(found, Ok(inode));
        let (found, _) = looked_at_in("/a/agent", &[(OWN, 0), (0, 0)], true);
        assert!(found.unwrap_err().contains("other processes in it (0)"));
    }
}
