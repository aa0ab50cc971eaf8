//! The task of each followed cluster: how it starts, its commands, and how it ends.

use std::{sync::Arc, time::Instant};

use mesh_certs::{Clock, Receiver, Store};
use mesh_etcd::{Channels, Target, follow};
use mesh_follow::{
    ConnectionPhase, Failure, PeerCommand, PeerConfig, PeerFollower, RateLimited, Role, Status,
};
use mesh_model::ClusterName;
use mesh_wire::peer_file::PeerFile;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use super::{PeerMessage, Peers};
use crate::{
    follower::Follower,
    settings::{budget, claims, granted_id},
};

/// A followed cluster.
pub(super) struct Following {
    pub(super) file: PeerFile,
    /// Absent while the credentials are unusable.
    pub(super) running: Option<Running>,
    status: watch::Sender<Status>,
    /// What was sent to the task that is running, or was.
    commands: mpsc::Sender<PeerCommand>,
}

/// Its task, and what that connects with.
pub(super) struct Running {
    pub(super) credentials: Store,
    /// Why new credentials do not take over.
    pub(super) trouble: watch::Receiver<Option<Failure>>,
    task: JoinHandle<()>,
}

/// Commands that may wait for a follower.
const COMMANDS: usize = 16;

// === impl Peers ===

impl<M: From<PeerMessage> + Send + 'static> Peers<M> {
    /// Follows a cluster anew, as its file says; where its credentials cannot be used, without a task.
    pub(super) async fn start(
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
        let credentials = credentials.map_err(|reason| {
            if !known {
                tracing::warn!(peer = %name, reason, "the peer's credentials cannot be used");
            }
            status.send_modify(|status| {
                status.failure = Some(Failure::new(ConnectionPhase::Tls, reason))
            });
        });
        let mut following = Following { file, running: None, status, commands };
        // Before its task begins: events of a cluster that is not followed yet would be lost.
        let receiver = credentials.as_ref().ok().map(|(_, receiver)| receiver.clone());
        self.announce(name, &following, receiver).await;
        if let Ok(credentials) = credentials {
            following.running = Some(self.spawn(name, &following, command_receiver, credentials));
        }
        self.following.insert(name.clone(), following);
    }

    fn spawn(
        &self,
        name: &ClusterName,
        following: &Following,
        commands: mpsc::Receiver<PeerCommand>,
        (credentials, receiver): (Store, Receiver),
    ) -> Running {
        let Following { file, status, .. } = following;
        let grant = file.clustermesh.as_ref();
        let config = PeerConfig {
            name: name.clone(),
            role: if *name == self.local.name { Role::Local } else { Role::Remote },
            uuid: grant.and_then(|grant| grant.uuid),
            endpoints: file.endpoints.len(),
            id: grant.and_then(granted_id),
            ..self.local.clone()
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
            commands,
            events: self.messages.clone(),
            status: status.clone(),
            trouble: trouble_sender,
            reconnect: PeerCommand::Reconnect,
        };
        let seed = rand_seed(name);
        let tagged = name.clone();
        let limits = (*name != self.local.name).then(|| budget(file));
        let (mut troubles, troubled) = (trouble.clone(), Arc::clone(&self.troubled));
        let task = self.runtime.spawn(async move {
            let now = Instant::now();
            let follower = PeerFollower::new(config, seed, now);
            let mut follower = RateLimited::new(follower, limits, now);
            let tag = |events| M::from(PeerMessage::Events(tagged.clone(), events));
            let ring = async {
                while troubles.changed().await.is_ok() {
                    troubled.notify_one();
                }
            };
            tokio::join!(follow(&mut follower, &target, channels, tag), ring);
        });
        Running { credentials, trouble, task }
    }

    /// Follows a cluster no longer.
    pub(super) async fn remove(&mut self, name: &ClusterName) {
        if let Some(following) = self.following.remove(name) {
            following.stop().await;
            let _ = self.send(PeerMessage::Unfollow(name.clone())).await;
        }
    }

    async fn announce(
        &self,
        name: &ClusterName,
        following: &Following,
        credentials: Option<Receiver>,
    ) {
        let grant = following.file.clustermesh.as_ref();
        let follower = Follower::new(
            following.commands.clone(),
            following.status.subscribe(),
            grant.map(claims),
            grant.and_then(|grant| grant.uuid),
            (*name != self.local.name).then(|| budget(&following.file)),
        )
        .with_credentials(credentials);
        let _ = self.send(PeerMessage::Follow(name.clone(), follower)).await;
    }
}

// === impl Following ===

impl Following {
    /// Ends the task, and waits until it has ended: its last words must not be taken for its successor's.
    async fn stop(self) {
        if let Some(Running { task, .. }) = self.running {
            task.abort();
            let _ = task.await;
        }
    }
}

/// Spreads the readers of a peer: no two agents wait the same times.
fn rand_seed(name: &ClusterName) -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(name)
}
