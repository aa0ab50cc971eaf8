//! A follower of a cluster, as the driver sees it.

use mesh_balance::Budget;
use mesh_core::{Connection, PeerSettings};
use mesh_follow::{PeerCommand, Status};
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
