//! A file lock: one writer at a time.

use std::{
    fs::{File, OpenOptions},
    io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::fcntl::{Flock, FlockArg};

/// An exclusive lock on a file, until it is dropped. The kernel releases it when the process ends, also after a crash.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

/// Why a file could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has the lock.
    #[error("{} is in use by another process", .0.display())]
    Held(PathBuf),
    /// The file cannot be opened or locked.
    #[error("cannot lock {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The time between two attempts to get a lock.
const RETRY: Duration = Duration::from_millis(20);

impl Lock {
    /// Locks `path`, and creates it if it does not exist. Fails at once if another process has the lock.
    pub fn acquire(path: &Path) -> Result<Self, LockError> {
        let io = |source| LockError::Io { path: path.into(), source };
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(io)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => Ok(Self { _file: file }),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(LockError::Held(path.into())),
            Err((_, errno)) => Err(io(errno.into())),
        }
    }

    /// Locks `path` as soon as it is free. Fails after `patience`. Blocks the thread.
    pub fn wait(path: &Path, patience: Duration) -> Result<Self, LockError> {
        let deadline = Instant::now() + patience;
        loop {
            match Self::acquire(path) {
                Err(LockError::Held(_)) if Instant::now() < deadline => thread::sleep(RETRY),
                result => return result,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_holder_has_a_lock() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = Lock::acquire(&path).unwrap();
        assert!(matches!(Lock::acquire(&path), Err(LockError::Held(_))));
        let waiting = thread::spawn({
            let path = path.clone();
            move || Lock::wait(&path, Duration::from_secs(60))
        });
        drop(first);
        drop(waiting.join().unwrap().unwrap());
        Lock::acquire(&path).unwrap();
        assert!(matches!(Lock::acquire(folder.path()), Err(LockError::Io { .. })));
    }
}
