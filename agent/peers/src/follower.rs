//! A follower of a cluster, from the driver's side.

use std::{path::PathBuf, time::SystemTime};

use mesh_certs::Receiver;
use mesh_core::{Connection, PeerSettings};
use mesh_follow::{Budget, PeerCommand, Status};
use mesh_health::{Etcd, EtcdLink, EtcdState};
use mesh_merge::Claims;
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

/// How the driver sees a follower.
#[derive(Debug)]
pub struct Follower {
    commands: mpsc::Sender<PeerCommand>,
    /// A command for which it had no room: the last one.
    undelivered: Option<PeerCommand>,
    /// Its state.
    pub status: watch::Receiver<Status>,
    /// The settings in its peer file.
    pub settings: PeerSettings,
    /// Its credentials; `None` while they cannot be used.
    credentials: Option<Receiver>,
}

/// How health sends a followed etcd a keepalive.
#[derive(Debug)]
struct Link {
    commands: mpsc::Sender<PeerCommand>,
    status: watch::Receiver<Status>,
}

impl EtcdLink for Link {
    fn state(&self) -> EtcdState {
        let status = self.status.borrow();
        EtcdState { connected: status.connected, answers: status.answers }
    }

    fn ask(&self) -> bool {
        self.commands.try_send(PeerCommand::Ask).is_ok()
    }
}

impl Follower {
    /// One with what its peer file grants.
    pub fn new(
        commands: mpsc::Sender<PeerCommand>,
        status: watch::Receiver<Status>,
        claims: Option<Claims>,
        uuid: Option<Uuid>,
        budget: Option<Budget>,
    ) -> Self {
        let settings = PeerSettings { claims, uuid, budget };
        Self { commands, undelivered: None, status, settings, credentials: None }
    }

    /// With the credentials that it connects with.
    pub fn with_credentials(self, credentials: Option<Receiver>) -> Self {
        Self { credentials, ..self }
    }

    /// The files of its CAs and certificate, with when each ends; none while they cannot be used.
    pub fn certificates(&self) -> Vec<(PathBuf, SystemTime)> {
        let current = self.credentials.as_ref().map(Receiver::current);
        current.map(|current| current.certificates().to_vec()).unwrap_or_default()
    }

    /// Sends it a command; later, if it has no room now.
    pub fn command(&mut self, command: PeerCommand) {
        self.undelivered = self.commands.try_send(command.clone()).err().map(|_| command);
    }

    /// Sends it again what it had no room for.
    pub fn deliver(&mut self) {
        if let Some(command) = self.undelivered.take() {
            self.command(command);
        }
    }

    /// How health sends its etcd a keepalive.
    pub fn link(&self) -> Etcd {
        Box::new(Link { commands: self.commands.clone(), status: self.status.clone() })
    }

    /// How its connection is now.
    pub fn connection(&self) -> Connection {
        let status = self.status.borrow();
        Connection {
            connected: status.connected,
            synced: status.is_synced(),
            beats: status.local_beats,
        }
    }
}
