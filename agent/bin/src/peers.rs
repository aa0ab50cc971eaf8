//! One task for each followed cluster, started, restarted and stopped as the peer files say.
//!
//! Stopping a task is safe at any point: what the cluster said is in the mesh's tables, and the next task lists anew.

use std::{
    collections::BTreeMap,
    fmt::Display,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Instant, SystemTime},
};

use mesh_balance::{Budget, ChangeRate};
use mesh_certs::{Clock, CredentialFiles, Receiver, Store};
use mesh_etcd::{Channels, LastAddresses, Target, follow};
use mesh_follow::{ConnectionPhase, Failure, PeerCommand, PeerConfig, PeerFollower, Role, Status};
use mesh_merge::Claims;
use mesh_model::{ClusterId, ClusterName};
use mesh_wire::peer_file::{Grant, PeerFile};
use tokio::{
    runtime,
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
};

use crate::{follower::Follower, message::Message, peer_files::PeerFiles, rate_limit::RateLimited};

/// The followed clusters.
pub(crate) struct Peers {
    own: PeerConfig,
    local_config: PathBuf,
    folder: PathBuf,
    last_addresses: LastAddresses,
    driver: mpsc::Sender<Message>,
    /// Where followers run.
    runtime: runtime::Handle,
    following: BTreeMap<ClusterName, Following>,
    /// Rings when a task has trouble with new credentials, or no longer has.
    troubled: Arc<Notify>,
}

struct Following {
    file: PeerFile,
    /// Absent while the credentials are unusable.
    running: Option<Running>,
    status: watch::Sender<Status>,
    /// What is said to the task that is running, or was.
    commands: mpsc::Sender<PeerCommand>,
}

struct Running {
    credentials: Store,
    /// Why new credentials do not take over.
    trouble: watch::Receiver<Option<Failure>>,
    task: JoinHandle<()>,
}

/// Batches that may wait for the driver; more, and the etcd waits.
const BATCHES: usize = 64;
const COMMANDS: usize = 16;

impl Peers {
    pub(crate) fn new(
        own: PeerConfig,
        local_config: PathBuf,
        folder: PathBuf,
        last_addresses: LastAddresses,
        driver: mpsc::Sender<Message>,
        runtime: runtime::Handle,
    ) -> Self {
        let (following, troubled) = (BTreeMap::new(), Arc::default());
        Self { own, local_config, folder, last_addresses, driver, runtime, following, troubled }
    }

    /// A channel for [`Message`]s.
    pub(crate) fn channel() -> (mpsc::Sender<Message>, mpsc::Receiver<Message>) {
        mpsc::channel(BATCHES)
    }

    /// Rings when [`Peers::reconcile`] has something else to say although no file changed.
    pub(crate) fn troubled(&self) -> Arc<Notify> {
        Arc::clone(&self.troubled)
    }

    /// Reads the files and makes the tasks what they say. A file that is broken leaves what was in force; one that is gone
    /// removes its peer. Returns what is wrong, and whether all peers there are are known now: a file that cannot be
    /// understood may be of a peer that the kernel still has something of.
    pub(crate) async fn reconcile(&mut self) -> (Vec<String>, bool) {
        let mut problems = Vec::new();
        let mut known = true;
        match fs::read_to_string(&self.local_config) {
            Ok(text) => match PeerFile::parse(&text) {
                Ok(file) => problems.extend(self.follow(&self.own.name.clone(), file).await),
                Err(error) => problems.push(format!("{}: {error}", self.local_config.display())),
            },
            Err(error) => problems.push(format!("{}: {error}", self.local_config.display())),
        }
        match PeerFiles::read(&self.folder, &self.own.name) {
            Ok(files) => {
                problems.extend(files.problems);
                let gone = |name: &&ClusterName| {
                    **name != self.own.name && !files.peers.contains_key(*name)
                };
                let gone: Vec<ClusterName> = self.following.keys().filter(gone).cloned().collect();
                for name in gone {
                    self.remove(&name).await;
                }
                for (name, file) in files.peers {
                    match file {
                        Ok(file) => problems.extend(self.follow(&name, file).await),
                        Err(problem) => {
                            known &= self.following.contains_key(&name);
                            problems.push(problem);
                        }
                    }
                }
            }
            Err(error) => {
                known = false;
                problems.push(format!("{}: {error}", self.folder.display()));
            }
        }
        for (name, following) in &self.following {
            let trouble = following.running.as_ref().map(|running| running.trouble.borrow());
            let trouble = trouble.as_ref().and_then(|trouble| trouble.as_ref());
            problems.extend(trouble.map(|failure| not_used(name, failure)));
        }
        (problems, known)
    }

    /// Follows a cluster as its file says, or as it was where its credentials cannot be used; returns why they cannot.
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
        let beside = match *name == self.own.name {
            true => self.local_config.parent().unwrap_or(Path::new(".")),
            false => &self.folder,
        };
        let credentials = credential_files(&file, beside).and_then(|files| {
            Store::open(files, SystemTime::now()).map_err(|error| error.to_string())
        });
        let running = self.following.get(name).is_some_and(|before| before.running.is_some());
        match credentials {
            // The old file stays in force with its credentials.
            Err(reason) if running => return Some(not_used(name, reason)),
            credentials => self.start(name, file, credentials).await,
        }
        None
    }

    async fn start(
        &mut self,
        name: &ClusterName,
        file: PeerFile,
        credentials: Result<(Store, Receiver), String>,
    ) {
        let before = self.following.remove(name);
        let known = before.as_ref().is_some_and(|before| before.file == file);
        if let Some(before) = before {
            before.stop().await;
        }
        let (status, _) = watch::channel(Status::default());
        let (commands, command_receiver) = mpsc::channel(COMMANDS);
        let (receiver, credentials) = match credentials {
            Ok((store, receiver)) => (receiver, store),
            Err(reason) => {
                if !known {
                    tracing::warn!(peer = %name, reason, "the peer's credentials cannot be used");
                }
                status.send_modify(|status| {
                    status.failure = Some(Failure::new(ConnectionPhase::Tls, reason))
                });
                let following = Following { file, running: None, status, commands };
                self.announce(name, &following).await;
                self.following.insert(name.clone(), following);
                return;
            }
        };
        let grant = file.clustermesh.as_ref();
        let config = PeerConfig {
            name: name.clone(),
            role: if *name == self.own.name { Role::Own } else { Role::Remote },
            uuid: grant.and_then(|grant| grant.uuid),
            endpoints: file.endpoints.len(),
            id: grant.and_then(granted_id),
            ..self.own.clone()
        };
        let target = Target {
            endpoints: file.endpoints.clone(),
            host_aliases: file.host_aliases.clone(),
            credentials: receiver,
            clock: Clock::system(),
            last_addresses: self.last_addresses.clone(),
        };
        let (trouble_sender, trouble) = watch::channel(None);
        let channels = Channels {
            commands: command_receiver,
            events: self.driver.clone(),
            status: status.clone(),
            trouble: trouble_sender,
            reconnect: PeerCommand::Reconnect,
        };
        let seed = rand_seed(name);
        let tagged = name.clone();
        let rate = (*name != self.own.name).then(|| ChangeRate::new(&budget(&file)));
        let (mut troubles, troubled) = (trouble.clone(), Arc::clone(&self.troubled));
        let task = self.runtime.spawn(async move {
            let follower = PeerFollower::new(config, seed, Instant::now());
            let mut follower = RateLimited::new(follower, rate);
            let tag = |events| Message::Events(tagged.clone(), events);
            let ring = async {
                while troubles.changed().await.is_ok() {
                    troubled.notify_one();
                }
            };
            tokio::join!(follow(&mut follower, &target, channels, tag), ring);
        });
        let running = Some(Running { credentials, trouble, task });
        let following = Following { file, running, status, commands };
        self.announce(name, &following).await;
        self.following.insert(name.clone(), following);
    }

    async fn remove(&mut self, name: &ClusterName) {
        if let Some(following) = self.following.remove(name) {
            following.stop().await;
            let _ = self.driver.send(Message::Unfollow(name.clone())).await;
        }
    }

    async fn announce(&self, name: &ClusterName, following: &Following) {
        let grant = following.file.clustermesh.as_ref();
        let follower = Follower::new(
            following.commands.clone(),
            following.status.subscribe(),
            grant.map(claims),
            grant.and_then(|grant| grant.uuid),
            (*name != self.own.name).then(|| budget(&following.file)),
        );
        let _ = self.driver.send(Message::Follow(name.clone(), follower)).await;
    }
}

impl Following {
    /// Ends the task, and waits until it has ended: its last words must not be taken for its successor's.
    async fn stop(self) {
        if let Some(Running { task, .. }) = self.running {
            task.abort();
            let _ = task.await;
        }
    }
}

/// What an operator reads of new credentials, or a new peer file, that cannot be used.
fn not_used(peer: &ClusterName, why: impl Display) -> String {
    format!("{peer}: new credentials are not used, the old ones stay in force: {why}")
}

/// What the file says, and the defaults for what it does not.
fn budget(file: &PeerFile) -> Budget {
    let said = file.clustermesh.as_ref().and_then(|grant| grant.budget.as_ref());
    let (said, defaults) = (said.cloned().unwrap_or_default(), Budget::default());
    Budget {
        keys: said.keys.unwrap_or(defaults.keys),
        bytes: said.bytes.unwrap_or(defaults.bytes),
        changes_per_second: said.changes_per_second.unwrap_or(defaults.changes_per_second),
    }
}

fn claims(grant: &Grant) -> Claims {
    Claims {
        id: granted_id(grant),
        pod_cidrs: grant.pod_cidrs.clone(),
        node_cidrs: grant.node_cidrs.clone(),
        external_backends: grant.external_backends,
    }
}

fn granted_id(grant: &Grant) -> Option<ClusterId> {
    grant.id.and_then(|id| ClusterId::from_wire(id.into()))
}

/// The credentials that a file names; relative names are beside it.
fn credential_files(file: &PeerFile, folder: &Path) -> Result<CredentialFiles, String> {
    let path = |path: &Option<PathBuf>, key: &str| {
        path.as_ref()
            .map(|path| folder.join(path))
            .ok_or_else(|| format!("the peer file names no `{key}`"))
    };
    Ok(CredentialFiles {
        authority: path(&file.trusted_ca_file, "trusted-ca-file")?,
        certificate: path(&file.cert_file, "cert-file")?,
        key: path(&file.key_file, "key-file")?,
    })
}

/// Spreads the readers of a peer: no two agents wait the same times.
fn rand_seed(name: &ClusterName) -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(name)
}
