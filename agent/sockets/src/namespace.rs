//! Going into network namespaces. Only the calling thread goes.

use std::{fs::File, io, os::unix::fs::MetadataExt as _, path::PathBuf};

use nix::sched::{CloneFlags, setns};

/// A pod's network namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Netns {
    /// The file that it is mounted at.
    pub path: PathBuf,
    /// The file's inode, which tells it from another namespace that is mounted there.
    pub inode: u64,
}

/// The namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Home(File);

impl Home {
    /// The calling thread's.
    pub(crate) fn here() -> io::Result<Self> {
        File::open("/proc/thread-self/ns/net").map(Self)
    }

    pub(crate) fn inode(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.ino())
    }

    /// Does something in another namespace and comes back. `None`: there is no such namespace any more, and nothing was
    /// done.
    pub(crate) fn visit<T>(
        &self,
        netns: &Netns,
        there: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<Option<T>> {
        let file = match File::open(&netns.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if file.metadata()?.ino() != netns.inode {
            return Ok(None);
        }
        setns(&file, CloneFlags::CLONE_NEWNET)?;
        let done = there();
        // Whoever cannot come back must not go on elsewhere.
        setns(&self.0, CloneFlags::CLONE_NEWNET)?;
        done.map(Some)
    }
}
