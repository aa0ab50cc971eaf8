//! Entering network namespaces.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    thread,
};

use nix::sched::{CloneFlags, setns};

/// A pod's network namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Netns {
    /// The file that it is mounted at.
    pub path: PathBuf,
    /// The file's inode, which distinguishes it from another namespace that is mounted there.
    pub inode: u64,
}

/// The result of a visit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Visit<T> {
    /// It was done there.
    Done(T),
    /// There is no such namespace any more.
    Gone,
}

/// The inode of the calling thread's namespace.
pub(crate) fn here() -> io::Result<u64> {
    Ok(fs::metadata("/proc/thread-self/ns/net")?.ino())
}

// === impl Netns ===

impl Netns {
    /// Does something there, in a thread of its own. It ends there and never has to come back: a thread that could not
    /// would go on in the wrong place.
    pub(crate) fn visit<T: Send>(
        &self,
        there: impl FnOnce() -> io::Result<T> + Send,
    ) -> io::Result<Visit<T>> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Visit::Gone),
            Err(error) => return Err(error),
        };
        if file.metadata()?.ino() != self.inode {
            return Ok(Visit::Gone);
        }
        let visit = || {
            setns(&file, CloneFlags::CLONE_NEWNET)?;
            there().map(Visit::Done)
        };
        thread::scope(|scope| {
            let visitor = thread::Builder::new().name("sockets-visit".into());
            let visited = visitor.spawn_scoped(scope, visit)?.join();
            visited.unwrap_or_else(|_| Err(io::Error::other("the visit panicked")))
        })
    }
}
