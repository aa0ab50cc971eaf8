//! A follower of a cluster, as the driver sees it.

use mesh_core::{Connection, PeerSettings};
use mesh_follow::Budget;
use mesh_follow::{PeerCommand, Status};
use mesh_health::{Etcd, EtcdLink, EtcdState};
use mesh_merge::Claims;
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

/// How the driver sees a follower.
#[derive(Debug)]
pub(crate) struct Follower {
    pub(crate) commands: mpsc::Sender<PeerCommand>,
    pub(crate) status: watch::Receiver<Status>,
    pub(crate) settings: PeerSettings,
}

/// How health asks a followed etcd for a sign of life.
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
    pub(crate) fn new(
        commands: mpsc::Sender<PeerCommand>,
        status: watch::Receiver<Status>,
        claims: Option<Claims>,
        uuid: Option<Uuid>,
        budget: Option<Budget>,
    ) -> Self {
        Self { commands, status, settings: PeerSettings { claims, uuid, budget } }
    }

    /// How health asks its etcd for a sign of life.
    pub(crate) fn link(&self) -> Etcd {
        Box::new(Link { commands: self.commands.clone(), status: self.status.clone() })
    }

    /// How its connection is now.
    pub(crate) fn connection(&self) -> Connection {
        let status = self.status.borrow();
        Connection {
            connected: status.connected,
            synced: status.is_synced(),
            beats: status.own_beats,
        }
    }
}
