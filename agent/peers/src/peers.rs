//! One task for each followed cluster, started, restarted and stopped by the peer files.
//!
//! Stopping a task is safe at any point: what the cluster reported is in the mesh's tables, and the next task lists
//! again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Instant, SystemTime},
};

use mesh_certs::Store;
use mesh_etcd::{Batch, LastAddresses};
use mesh_files::{FolderWatch, Moment, TextFile, TextFolder, Written, until};
use mesh_follow::{PeerConfig, PeerEvent};
use mesh_model::ClusterName;
use mesh_wire::{
    peer_file::PeerFile,
    peer_folder::{FoundFile, FoundFolder, PeerFolder, RemovedPeer},
};
use tokio::{
    runtime,
    sync::{Notify, mpsc},
};

use crate::{drained::DrainedPeersFile, follower::Follower, settings::credential_files};
use tasks::Following;

mod tasks;

/// An event of followed clusters.
#[derive(Debug)]
pub enum PeerMessage {
    /// A follower's events.
    Events(ClusterName, Batch<PeerEvent>),
    /// A cluster is followed by a new follower.
    Follow(ClusterName, Follower),
    /// A cluster is no longer followed.
    Unfollow(ClusterName),
    /// The peer files were read.
    Read {
        /// Their errors.
        problems: Vec<String>,
        /// Any cluster that is not followed now is no peer.
        complete: bool,
        /// Clusters that this one is to leave alone.
        drained: BTreeSet<ClusterName>,
    },
}

/// The settings of all followers, and the location of the files.
#[derive(Debug)]
pub struct PeersConfig {
    /// The settings of every follower, apart from those in its file.
    pub local: PeerConfig,
    /// The file that leads to the local cluster's etcd.
    pub local_file: PathBuf,
    /// The folder of peer files.
    pub folder: PathBuf,
    /// The peers that the previous run knew.
    pub previous: Vec<ClusterName>,
    /// Where etcds were when they were last reached.
    pub last_addresses: LastAddresses,
}

/// The followed clusters.
pub struct Peers<M> {
    local: PeerConfig,
    local_file: PathBuf,
    folder: PathBuf,
    files: TextFolder,
    peers: PeerFolder,
    last_addresses: LastAddresses,
    messages: mpsc::Sender<M>,
    /// Where followers run.
    runtime: runtime::Handle,
    following: BTreeMap<ClusterName, Following>,
    drained: DrainedPeersFile,
    /// Rings when a task has trouble with new credentials, or no longer has.
    troubled: Arc<Notify>,
}

/// What came of reading the files.
#[derive(Debug)]
struct PeersRead {
    problems: Vec<String>,
    complete: bool,
    /// When to read them again, although no file changes.
    next_look: Option<Instant>,
}

/// Starts the thread on which clusters are followed, for [`Peers::new`]: the bytes of an event become a batch without a change
/// of threads.
///
/// # Errors
/// When there is no thread to be had.
pub fn follower_thread() -> io::Result<runtime::Handle> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    thread::Builder::new()
        .name("followers".into())
        .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
    Ok(handle)
}

/// Waits for a change in a folder, if there is one to watch.
async fn changed(watch: Option<&mut FolderWatch>) {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

// === impl Peers ===

impl<M: From<PeerMessage> + Send + 'static> Peers<M> {
    /// The local cluster of a file and the peers of a folder, of which nothing is read yet. Followers run on `runtime`.
    pub fn new(config: PeersConfig, messages: mpsc::Sender<M>, runtime: runtime::Handle) -> Self {
        let PeersConfig { local, local_file, folder, previous, last_addresses } = config;
        let drained = DrainedPeersFile::beside(&folder);
        Self {
            files: TextFolder::new(&folder),
            peers: PeerFolder::new(folder.display().to_string(), local.name.clone(), previous),
            local,
            local_file,
            folder,
            last_addresses,
            messages,
            runtime,
            following: BTreeMap::new(),
            drained,
            troubled: Arc::default(),
        }
    }

    /// Follows what the files name, until the receiver of the messages is dropped.
    pub async fn run(mut self) {
        let mut folder = FolderWatch::new(&self.folder);
        let log = folder.write_log();
        let mut above = FolderWatch::shallow(self.drained.folder());
        let beside = self.local_file.parent().unwrap_or(&self.local_file);
        // By default one folder has both files: two watches of it would have each change read twice.
        let apart = beside != self.drained.folder();
        let mut beside = apart.then(|| FolderWatch::shallow(beside));
        let log_above = above.write_log();
        loop {
            let written = (log.take(), log_above.take());
            let PeersRead { problems, complete, next_look } = self.reconcile(written).await;
            for problem in &problems {
                tracing::warn!(kind = problem, "peer files");
            }
            let drained = self.drained.clusters().clone();
            if self.send(PeerMessage::Read { problems, complete, drained }).await.is_err() {
                return;
            }
            tokio::select! {
                () = folder.changed() => {}
                () = changed(beside.as_mut()) => {}
                () = above.changed() => {}
                () = self.troubled.notified() => {}
                () = until(next_look) => {}
            }
        }
    }

    async fn send(&self, message: PeerMessage) -> Result<(), mpsc::error::SendError<M>> {
        self.messages.send(message.into()).await
    }

    /// The peers that were removed within the last hour, with the reason, the last one first.
    fn removed_peers(&self, now: Instant) -> impl Iterator<Item = &RemovedPeer> {
        self.peers.removed(now)
    }

    /// Reads the files and starts and stops tasks accordingly ([`PeerFolder`] has the rules). `written` and
    /// `written_above`: what watches of the folder and of its parent noticed.
    async fn reconcile(
        &mut self,
        (written, written_above): (BTreeMap<PathBuf, Written>, BTreeMap<PathBuf, Written>),
    ) -> PeersRead {
        let mut problems = Vec::new();
        match fs::read_to_string(&self.local_file) {
            Ok(text) => match PeerFile::parse(&text) {
                Ok(file) => problems.extend(self.follow(&self.local.name.clone(), file).await),
                Err(error) => problems.push(format!("{}: {error}", self.local_file.display())),
            },
            Err(error) => problems.push(format!("{}: {error}", self.local_file.display())),
        }
        let at = Moment::now();
        let found = found(self.files.read(written, at));
        let present: BTreeSet<String> = match &found {
            FoundFolder::Files(files) => files.keys().cloned().collect(),
            _ => BTreeSet::new(),
        };
        let reading = self.peers.look(found, at.now, at.wall);
        problems.extend(reading.problems);
        let gone =
            |name: &&ClusterName| **name != self.local.name && !reading.peers.contains_key(*name);
        let gone: Vec<ClusterName> = self.following.keys().filter(gone).cloned().collect();
        for name in gone {
            let removed = self.removed_peers(at.now).find(|removed| removed.name == name);
            let reason = removed.map(|removed| removed.reason.to_string());
            tracing::info!(peer = %name, reason, "a peer is removed");
            self.remove(&name).await;
        }
        for (name, file) in reading.peers {
            // One whose removal is not certain yet goes on: its credentials may be gone with its file.
            let goes_on = self.following.contains_key(&name) && !present.contains(name.as_str());
            if !goes_on {
                problems.extend(self.follow(&name, file).await);
            }
        }
        for (name, following) in &self.following {
            let trouble = following.running.as_ref().map(|running| running.trouble.borrow());
            let trouble = trouble.as_ref().and_then(|trouble| trouble.as_ref());
            problems.extend(trouble.map(|failure| not_used(name, failure)));
        }
        problems.extend(self.drained.look(written_above, at));
        problems.extend(mesh_files::watch_fallback());
        let looks = [reading.next_look, self.files.next_look(), self.drained.next_look()];
        let next_look = looks.into_iter().flatten().min();
        PeersRead { problems, complete: reading.complete, next_look }
    }

    /// Follows a cluster by its file, or as before if its credentials cannot be used; returns why they cannot.
    async fn follow(&mut self, name: &ClusterName, file: PeerFile) -> Option<String> {
        if let Some(following) = self.following.get(name)
            && following.file == file
            && let Some(running) = &following.running
        {
            return match running.credentials.reload(SystemTime::now()) {
                Ok(new) => {
                    if new {
                        tracing::info!(peer = %name, "new credentials: connecting with them");
                    }
                    None
                }
                Err(error) => Some(not_used(name, error)),
            };
        }
        let beside = match *name == self.local.name {
            true => self.local_file.parent().unwrap_or(Path::new(".")),
            false => &self.folder,
        };
        let credentials = credential_files(&file, beside).and_then(|files| {
            Store::open(files, SystemTime::now()).map_err(|error| error.to_string())
        });
        let running = self.following.get(name).is_some_and(|before| before.running.is_some());
        match credentials {
            // The old file stays in use with its credentials.
            Err(reason) if running => return Some(not_used(name, reason)),
            credentials => self.start(name, file, credentials).await,
        }
        None
    }
}

/// The content of the folder, in the types of the wire format.
fn found(read: io::Result<BTreeMap<String, TextFile>>) -> FoundFolder {
    match read {
        Ok(files) => {
            let file = |(name, file)| {
                let file = match file {
                    TextFile::Whole(text) => FoundFile::Text(text),
                    TextFile::BeingWritten => FoundFile::BeingWritten,
                    TextFile::Unreadable(error) => match error.kind() {
                        io::ErrorKind::InvalidData => FoundFile::Binary,
                        _ => FoundFile::Unreadable(error.to_string()),
                    },
                };
                (name, file)
            };
            FoundFolder::Files(files.into_iter().map(file).collect())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => FoundFolder::Missing,
        Err(error) => FoundFolder::Unreadable(error.to_string()),
    }
}

/// The text for an operator about new credentials, or a new peer file, that cannot be used.
fn not_used(peer: &ClusterName, why: impl Display) -> String {
    format!("{peer}: new credentials are not used, the previous ones stay in use: {why}")
}
