//! Noticing that something in a folder changed.
//!
//! A process has one inotify instance, however many folders it watches: a machine has few of them (128 a user, by default),
//! and each agent and apiserver of it needs one. Without one, folders are looked at every second, and [`watch_fallback`] says why.

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

/// Wakes its owner after anything in a folder, or below it, may have changed. The owner reads the folder again and compares,
/// so a missed, doubled or late event costs time and never truth.
///
/// Symlink swaps, as Kubernetes does them for mounted Secrets, are events of the folder itself.
#[derive(Debug)]
pub struct FolderWatch {
    instance: Arc<Instance>,
    subscription: Arc<Subscription>,
}

/// How files of a watched folder were written. Clones are one.
#[derive(Clone, Debug)]
pub struct WriteLog(Arc<Subscription>);

/// What a watch saw of a file's writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It was written to, and its writer may be about to go on.
    Partly,
    /// Its writer closed it.
    Closed,
    /// It was renamed into its place: a writer that does so has written all of it before.
    Renamed,
}

/// One folder that is watched.
#[derive(Debug)]
struct Subscription {
    folder: PathBuf,
    mode: RecursiveMode,
    changed: Notify,
    /// The folder as the kernel knows it; `None` while it is not watched.
    watched: Mutex<Option<PathBuf>>,
    /// The watched folder was removed, or is at another place.
    lost: AtomicBool,
    /// Files that were written, if the owner wants to know.
    written: Mutex<Option<BTreeMap<PathBuf, Written>>>,
}

/// An inotify instance, and the subscribers to its events. Its thread takes the subscriptions' lock alone: a caller
/// that asks the watcher for something waits for that thread.
struct Instance {
    make: fn(Arc<Subscriptions>) -> notify::Result<Box<dyn Watcher + Send>>,
    watcher: Mutex<Option<Box<dyn Watcher + Send>>>,
    subscriptions: Arc<Subscriptions>,
    /// Why folders are not watched that could be.
    fallback: Mutex<Option<String>>,
}

#[derive(Debug, Default)]
struct Subscriptions(Mutex<Vec<Arc<Subscription>>>);

/// How long a burst of events is waited out: an editor or `kubectl` writes several files for one change.
const SETTLE: Duration = Duration::from_millis(20);
/// How often a reader looks although nothing was reported: some file systems report nothing.
const POLL: Duration = Duration::from_secs(10);
/// The same, where nothing can be reported: there is no inotify instance, or no folder yet.
const POLL_UNWATCHED: Duration = Duration::from_secs(1);

/// The process's own.
static INSTANCE: LazyLock<Arc<Instance>> = LazyLock::new(|| Arc::new(Instance::new(make_inotify)));

/// Makes inotify instances unavailable to this process, as where its user has no more of them.
static EXHAUSTED: AtomicBool = AtomicBool::new(false);

/// Has this process watch no folder that it does not watch yet, as where its user has no more inotify instances: for tests of
/// what readers do then. Called before the first [`FolderWatch`].
pub fn exhaust_instances() {
    EXHAUSTED.store(true, Ordering::Relaxed);
}

/// Waits for a time, such as that of the next look; for ever where there is none.
pub async fn until(due: Option<Instant>) {
    match due {
        Some(due) => time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// Why folders of this process are looked at every second and not watched, with what to do about it; `None` while all are
/// watched that exist.
pub fn watch_fallback() -> Option<String> {
    lock(&INSTANCE.fallback).clone()
}

// === impl FolderWatch ===

impl FolderWatch {
    /// Begins to watch a folder and all below it. It need not exist yet.
    pub fn new(folder: &Path) -> Self {
        Self::at(Arc::clone(&INSTANCE), folder, RecursiveMode::Recursive)
    }

    /// Begins to watch the files right in a folder.
    pub fn shallow(folder: &Path) -> Self {
        Self::at(Arc::clone(&INSTANCE), folder, RecursiveMode::NonRecursive)
    }

    /// Begins to note how files are written, for a reader that takes these notes now and then.
    pub fn write_log(&self) -> WriteLog {
        lock(&self.subscription.written).get_or_insert_default();
        WriteLog(Arc::clone(&self.subscription))
    }

    /// Waits until the folder may have changed since the last call, at most 10 s, or one where it cannot be watched.
    ///
    /// Cancel-safe: an event that arrives while no caller waits is kept.
    pub async fn changed(&mut self) {
        let notified = self.subscription.changed.notified();
        if time::timeout(self.patience(), notified).await.is_ok() {
            time::sleep(SETTLE).await;
        }
    }

    /// How long an event is waited for, once the folder is watched if it can be.
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
    /// The files that were written since the last call, with what was seen last of each. Nothing is seen while the folder
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

    /// Watches a folder, if that is not so already and it is there. Returns whether it is.
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
        // First, so that no event is missed that follows.
        *lock(&subscription.watched) = Some(place.clone());
        match self.watch(&place, self.subscriptions.mode_of(&place)) {
            Ok(()) => {
                *lock(&self.fallback) = None;
                // What happened before the watch began.
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

    /// Watches a folder no longer that one subscription less needs. What others need of it is watched again.
    fn unwatch(&self, place: &Path) {
        let mut watcher = lock(&self.watcher);
        let Some(watcher) = &mut *watcher else { return };
        // It is an error where the kernel has ended the watch already.
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

    /// Takes note of why a folder is not watched. One that went meanwhile is no problem of the kernel's.
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
            "{folder} cannot be watched and is looked at every second, which is slower: {error}. If a limit is reached, {remedy}"
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

    /// How deep a place is watched: as the one wants it that wants most.
    fn mode_of(&self, place: &Path) -> RecursiveMode {
        let all = self.at_or_below(place);
        let deep = all.get(place) == Some(&RecursiveMode::Recursive);
        if deep { RecursiveMode::Recursive } else { RecursiveMode::NonRecursive }
    }

    /// The places at or below one that are to be watched.
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

    /// Takes an event, or the news that some were lost.
    fn take(&self, event: notify::Result<Event>) {
        let Ok(event) = event else {
            return self.lock().iter().for_each(|s| s.changed.notify_one());
        };
        // Reading is no change, and a subscriber that is woken reads. Closing what was written is one.
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
            // What was missed may be of any file.
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

/// What an event says of a file's content.
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
    // Nothing is left half-done under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
