//! What is reported to the cluster's thread, and how it gets there.

use std::sync::Arc;

use mesh_model::object::{Kind, ObjectKey};
use mesh_source::SourceEvent;
use tokio::sync::mpsc;

use crate::{
    drain::FollowedDrain,
    follower::Problems,
    identities::{FollowedIdentities, IdentityOutcome},
    liveness::Liveness,
};

/// What comes from the API server.
#[derive(Debug)]
pub enum KubeEvent {
    /// Of one kind.
    Kind(FollowedKind),
    /// Of the objects of identities.
    Identities(FollowedIdentities),
    /// Of what is drained.
    Drain(FollowedDrain),
    /// What became of a request about an identity.
    Identity(IdentityOutcome),
    /// Whether the API server answers.
    Liveness(Liveness),
    /// Why an event about an object could not be written; `None`: they can be again.
    ObjectEvents(Option<String>),
}

/// What a follower of a kind reports.
#[derive(Debug)]
pub struct FollowedKind {
    /// Its kind.
    pub kind: Kind,
    /// What happened, in order.
    pub events: Vec<SourceEvent>,
    /// What does not work; `None`: as before.
    pub problems: Option<Problems<ObjectKey>>,
}

/// Where events go.
pub(crate) struct Events<E = KubeEvent> {
    pub(crate) sender: mpsc::Sender<E>,
    /// Called after each event that was sent.
    pub(crate) wake: Arc<dyn Fn() + Send + Sync>,
}

/// The receiver of the events was dropped.
pub(crate) struct Closed;

// === impl Events ===

impl<E> Clone for Events<E> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), wake: Arc::clone(&self.wake) }
    }
}

impl<E> Events<E> {
    pub(crate) async fn send(&self, event: E) -> Result<(), Closed> {
        self.sender.send(event).await.map_err(|_| Closed)?;
        (self.wake)();
        Ok(())
    }
}
