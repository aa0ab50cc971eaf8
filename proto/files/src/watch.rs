//! Noticing that something in a folder changed.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::{sync::Notify, time};

/// How long a burst of events is waited out: an editor or `kubectl` writes several files for one change.
const SETTLE: Duration = Duration::from_millis(20);
/// How often a reader looks although nothing was reported: some file systems report nothing, and the kernel's limit
/// on watches may be spent.
const POLL: Duration = Duration::from_secs(10);

/// Wakes its owner after anything in a folder, or below it, may have changed. It says nothing about what: the owner
/// reads the folder again and compares, so a missed, doubled or late event costs time and never truth.
///
/// Symlink swaps, as Kubernetes does them for mounted Secrets, are events of the folder itself.
#[derive(Debug)]
pub struct FolderWatch {
    folder: PathBuf,
    mode: RecursiveMode,
    changed: Arc<Notify>,
    watcher: Option<RecommendedWatcher>,
}

impl FolderWatch {
    /// Begins to watch a folder and all below it. It need not exist yet.
    pub fn new(folder: &Path) -> Self {
        Self::with_mode(folder, RecursiveMode::Recursive)
    }

    /// Begins to watch the files right in a folder.
    pub fn shallow(folder: &Path) -> Self {
        Self::with_mode(folder, RecursiveMode::NonRecursive)
    }

    fn with_mode(folder: &Path, mode: RecursiveMode) -> Self {
        let changed = Arc::new(Notify::new());
        let mut watch = Self { folder: folder.into(), mode, changed, watcher: None };
        watch.begin();
        watch
    }

    /// Waits until the folder may have changed since the last call, at most [`POLL`].
    ///
    /// Cancel-safe: an event that arrives while nobody waits is kept.
    pub async fn changed(&mut self) {
        if self.watcher.is_none() {
            self.begin();
        }
        if time::timeout(POLL, self.changed.notified()).await.is_ok() {
            time::sleep(SETTLE).await;
        }
        // A watched folder that was removed takes its watch along; only a look tells.
        if !self.folder.exists() {
            self.watcher = None;
        }
    }

    fn begin(&mut self) {
        let changed = Arc::clone(&self.changed);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading is no change, and whoever is woken reads.
            if !matches!(event, Ok(ref event) if event.kind.is_access()) {
                changed.notify_one();
            }
        });
        let watching = watcher.and_then(|mut watcher| {
            watcher.watch(&self.folder, self.mode)?;
            Ok(watcher)
        });
        match watching {
            Ok(watcher) => {
                self.watcher = Some(watcher);
                // What happened before the watch began.
                self.changed.notify_one();
            }
            Err(error) => {
                tracing::debug!(folder = %self.folder.display(), %error, "not watching, only looking now and then");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    async fn soon(watch: &mut FolderWatch) {
        time::timeout(Duration::from_secs(5), watch.changed()).await.unwrap();
    }

    #[tokio::test]
    async fn sees_writes_and_symlink_swaps() {
        let folder = tempfile::tempdir().unwrap();
        let mut watch = FolderWatch::new(folder.path());
        soon(&mut watch).await;

        fs::create_dir(folder.path().join("one")).unwrap();
        fs::write(folder.path().join("one/file"), "1").unwrap();
        soon(&mut watch).await;

        symlink("one", folder.path().join("..data")).unwrap();
        soon(&mut watch).await;
        symlink("two", folder.path().join("..tmp")).unwrap();
        fs::rename(folder.path().join("..tmp"), folder.path().join("..data")).unwrap();
        soon(&mut watch).await;
    }
}
