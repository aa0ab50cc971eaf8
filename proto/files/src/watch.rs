//! Watches folders for changes.
//!
//! A process uses one inotify instance for all its folders: instances are limited (128 for each user by default), and each
//! agent and apiserver on a machine needs one. Without an instance, folders are polled every second, and [`watch_fallback`]
//! gives the reason.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use nix::errno::Errno;
use notify::{
    ErrorKind, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind, RenameMode},
};
use tokio::{sync::Notify, time};

/// Wakes its owner when something in a folder, or below it, may have changed. The owner then reads the folder and compares.
/// So a lost, duplicate or late event costs time, but never leads to a wrong state.
///
/// Kubernetes updates mounted Secrets by swapping a symlink, which is an event of the folder itself.
#[derive(Debug)]
pub struct FolderWatch {
    instance: Arc<Instance>,
    subscription: Arc<Subscription>,
}

/// How files of a watched folder were written. Clones share one log.
#[derive(Clone, Debug)]
pub struct WriteLog(Arc<Subscription>);

/// The last thing that a watch saw a file's writer do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It created the file or wrote to it, and may continue.
    Partly,
    /// It closed the file.
    Closed,
    /// It renamed a file to this name. A writer that does so has completed the file before.
    Renamed,
}

/// A folder that one [`FolderWatch`] watches.
#[derive(Debug)]
struct Subscription {
    folder: PathBuf,
    mode: RecursiveMode,
    changed: Notify,
    /// The folder's canonical path; `None` while it is not watched.
    watched: Mutex<Option<PathBuf>>,
    /// The watched folder was removed or moved.
    lost: AtomicBool,
    /// Files that were written since the log was last read; `None` if there is no log.
    written: Mutex<Option<BTreeMap<PathBuf, Written>>>,
}

/// An inotify instance, and the subscribers to its events. The instance's thread must not take the lock of the watcher: a
/// caller that holds that lock waits for the thread.
struct Instance {
    make: fn(Arc<Subscriptions>) -> notify::Result<Box<dyn Watcher + Send>>,
    watcher: Mutex<Option<Box<dyn Watcher + Send>>>,
    subscriptions: Arc<Subscriptions>,
    /// Why existing folders are not watched, as a message; `None` if all are.
    fallback: Mutex<Option<String>>,
}

#[derive(Debug, Default)]
struct Subscriptions(Mutex<Vec<Arc<Subscription>>>);

/// How long to wait after an event for more events: an editor or `kubectl` writes several files for one change.
const SETTLE: Duration = Duration::from_millis(20);
/// The polling interval of a watched folder. Some file systems report no events.
const POLL: Duration = Duration::from_secs(10);
/// The polling interval of a folder that is not watched: there is no inotify instance, or the folder does not exist yet.
const POLL_UNWATCHED: Duration = Duration::from_secs(1);

/// The instance of this process.
static INSTANCE: LazyLock<Arc<Instance>> = LazyLock::new(|| Arc::new(Instance::new(make_inotify)));

/// Set by [`exhaust_instances`].
static EXHAUSTED: AtomicBool = AtomicBool::new(false);

/// For tests: makes this process behave as if its user had no more inotify instances. Call it before the first
/// [`FolderWatch`] is made.
pub fn exhaust_instances() {
    EXHAUSTED.store(true, Ordering::Relaxed);
}

/// Sleeps until `due`; for ever if it is `None`.
pub async fn until(due: Option<Instant>) {
    match due {
        Some(due) => time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// Why this process polls folders every second instead of watching them, as a message with a remedy. `None` while all
/// existing folders are watched.
pub fn watch_fallback() -> Option<String> {
    lock(&INSTANCE.fallback).clone()
}

// === impl FolderWatch ===

impl FolderWatch {
    /// Starts to watch a folder and everything below it. The folder need not exist yet.
    pub fn new(folder: &Path) -> Self {
        Self::at(Arc::clone(&INSTANCE), folder, RecursiveMode::Recursive)
    }

    /// Starts to watch the files of a folder, without subfolders. The folder need not exist yet.
    pub fn shallow(folder: &Path) -> Self {
        Self::at(Arc::clone(&INSTANCE), folder, RecursiveMode::NonRecursive)
    }

    /// Starts to log how files are written.
    pub fn write_log(&self) -> WriteLog {
        lock(&self.subscription.written).get_or_insert_default();
        WriteLog(Arc::clone(&self.subscription))
    }

    /// Waits until the folder may have changed since the last call: at most 10 s, or 1 s if it cannot be watched.
    ///
    /// Cancel-safe: an event that arrives while no caller waits is not lost.
    pub async fn changed(&mut self) {
        let notified = self.subscription.changed.notified();
        if time::timeout(self.patience(), notified).await.is_ok() {
            time::sleep(SETTLE).await;
        }
    }

    /// Watches the folder if it can. Returns how long to wait for an event.
    fn patience(&self) -> Duration {
        match self.instance.keep(&self.subscription) {
            true => POLL,
            false => POLL_UNWATCHED,
        }
    }

    fn at(instance: Arc<Instance>, folder: &Path, mode: RecursiveMode) -> Self {
        let subscription = Arc::new(Subscription {
            folder: folder.into(),
            mode,
            changed: Notify::new(),
            watched: Mutex::default(),
            lost: AtomicBool::new(false),
            written: Mutex::default(),
        });
        instance.subscriptions.lock().push(Arc::clone(&subscription));
        instance.keep(&subscription);
        Self { instance, subscription }
    }
}

// === impl WriteLog ===

impl WriteLog {
    /// Takes the files that were written since the last call, with the last event of each. It is empty while the folder
    /// cannot be watched.
    pub fn take(&self) -> BTreeMap<PathBuf, Written> {
        lock(&self.0.written).as_mut().map(std::mem::take).unwrap_or_default()
    }
}

impl Drop for FolderWatch {
    fn drop(&mut self) {
        self.instance.remove(&self.subscription);
    }
}

// === impl Instance ===

impl Instance {
    fn new(make: fn(Arc<Subscriptions>) -> notify::Result<Box<dyn Watcher + Send>>) -> Self {
        let (watcher, subscriptions, fallback) =
            (Mutex::default(), Arc::default(), Mutex::default());
        Self { make, watcher, subscriptions, fallback }
    }

    /// Watches a folder that exists and is not watched yet. Returns whether it is watched now.
    fn keep(&self, subscription: &Subscription) -> bool {
        let place = fs::canonicalize(&subscription.folder).ok();
        let lost = subscription.lost.swap(false, Ordering::Relaxed);
        let before = lock(&subscription.watched).clone();
        if before == place && !lost {
            return place.is_some();
        }
        if let Some(before) = before {
            *lock(&subscription.watched) = None;
            self.unwatch(&before);
        }
        let Some(place) = place else { return false };
        // Set before the watch begins, so that its first event is not dropped.
        *lock(&subscription.watched) = Some(place.clone());
        match self.watch(&place, self.subscriptions.mode_of(&place)) {
            Ok(()) => {
                *lock(&self.fallback) = None;
                // The folder may have changed before the watch began.
                subscription.changed.notify_one();
                true
            }
            Err(error) => {
                *lock(&subscription.watched) = None;
                self.note(subscription, &error);
                false
            }
        }
    }

    fn watch(&self, place: &Path, mode: RecursiveMode) -> notify::Result<()> {
        let mut watcher = lock(&self.watcher);
        let watcher = match &mut *watcher {
            Some(watcher) => watcher,
            none => none.insert((self.make)(Arc::clone(&self.subscriptions))?),
        };
        watcher.watch(place, mode)
    }

    /// Ends the watch of a folder, after one of its subscriptions is gone. Watches again what the others need of it.
    fn unwatch(&self, place: &Path) {
        let mut watcher = lock(&self.watcher);
        let Some(watcher) = &mut *watcher else { return };
        // Fails if the kernel has ended the watch already.
        let _ = watcher.unwatch(place);
        for (other, mode) in self.subscriptions.at_or_below(place) {
            let _ = watcher.watch(&other, mode);
        }
    }

    fn remove(&self, subscription: &Arc<Subscription>) {
        self.subscriptions.lock().retain(|other| !Arc::ptr_eq(other, subscription));
        if let Some(place) = lock(&subscription.watched).take() {
            self.unwatch(&place);
        }
    }

    /// Stores why a folder is not watched, unless the folder has been removed.
    fn note(&self, subscription: &Subscription, error: &notify::Error) {
        let folder = subscription.folder.display();
        let remedy = match &error.kind {
            ErrorKind::PathNotFound => return,
            ErrorKind::Io(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            ErrorKind::MaxFilesWatch => {
                "raise the number of watches: sysctl -w fs.inotify.max_user_watches=1048576"
            }
            _ => "raise the number of instances: sysctl -w fs.inotify.max_user_instances=1024",
        };
        let text = format!(
            "{folder} cannot be watched, so it is polled every second, which is slower: {error}. If a limit is reached, {remedy}"
        );
        let mut fallback = lock(&self.fallback);
        if fallback.as_ref() != Some(&text) {
            tracing::warn!(kind = %folder, problem = text, "no file watch");
            *fallback = Some(text);
        }
    }
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instance").field("fallback", &self.fallback).finish_non_exhaustive()
    }
}

// === impl Subscriptions ===

impl Subscriptions {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Subscription>>> {
        lock(&self.0)
    }

    /// How a path must be watched: recursively if one of its subscriptions needs that.
    fn mode_of(&self, place: &Path) -> RecursiveMode {
        let all = self.at_or_below(place);
        let deep = all.get(place) == Some(&RecursiveMode::Recursive);
        if deep { RecursiveMode::Recursive } else { RecursiveMode::NonRecursive }
    }

    /// The paths at or below `place` that must be watched.
    fn at_or_below(&self, place: &Path) -> BTreeMap<PathBuf, RecursiveMode> {
        let mut all = BTreeMap::new();
        for subscription in self.lock().iter() {
            let watched = lock(&subscription.watched).clone();
            let Some(at) = watched.filter(|at| at.starts_with(place)) else { continue };
            let mode = all.entry(at).or_insert(subscription.mode);
            if subscription.mode == RecursiveMode::Recursive {
                *mode = RecursiveMode::Recursive;
            }
        }
        all
    }

    /// Passes an event to the subscriptions that it concerns; an error goes to all of them.
    fn take(&self, event: notify::Result<Event>) {
        let Ok(event) = event else {
            return self.lock().iter().for_each(|s| s.changed.notify_one());
        };
        // Ignore reads: they are no change, and a subscriber that wakes reads. A close after writing is not ignored.
        if event.kind.is_access() && written(event.kind).is_none() {
            return;
        }
        for subscription in self.lock().iter() {
            if event.need_rescan() || subscription.sees(&event) {
                subscription.note(&event);
                subscription.changed.notify_one();
            }
        }
    }
}

// === impl Subscription ===

impl Subscription {
    fn sees(&self, event: &Event) -> bool {
        let watched = lock(&self.watched);
        let Some(place) = &*watched else { return false };
        event.paths.iter().any(|path| match self.mode {
            RecursiveMode::Recursive => path.starts_with(place),
            RecursiveMode::NonRecursive => path == place || path.parent() == Some(place),
        })
    }

    fn note(&self, event: &Event) {
        let place = lock(&self.watched).clone();
        let Some(place) = place else { return };
        let moved = matches!(event.kind, EventKind::Modify(ModifyKind::Name(_)));
        if (moved || event.kind.is_remove()) && event.paths.contains(&place) {
            self.lost.store(true, Ordering::Relaxed);
        }
        let mut files = lock(&self.written);
        let Some(files) = files.as_mut() else { return };
        if event.need_rescan() {
            // Lost events may concern any file.
            return files.clear();
        }
        for path in &event.paths {
            let Ok(below) = path.strip_prefix(&place) else { continue };
            let path = self.folder.join(below);
            match written(event.kind) {
                Some(seen) => drop(files.insert(path, seen)),
                None if event.kind.is_remove() => drop(files.remove(&path)),
                None => {}
            }
        }
    }
}

/// What an event tells about the writer of a file.
fn written(kind: EventKind) -> Option<Written> {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(Written::Closed),
        EventKind::Modify(ModifyKind::Name(RenameMode::To)) => Some(Written::Renamed),
        EventKind::Create(_) | EventKind::Modify(ModifyKind::Data(_)) => Some(Written::Partly),
        _ => None,
    }
}

fn make_inotify(subscriptions: Arc<Subscriptions>) -> notify::Result<Box<dyn Watcher + Send>> {
    if EXHAUSTED.load(Ordering::Relaxed) {
        return Err(notify::Error::new(ErrorKind::Io(Errno::EMFILE.into())));
    }
    let watcher = RecommendedWatcher::new(
        move |event: notify::Result<Event>| subscriptions.take(event),
        notify::Config::default(),
    );
    Ok(Box::new(watcher?))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic under one of these locks leaves no inconsistent state.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
