//! The messages to the driver of the core.

use mesh_core::{KubeProxy, Lifted};
use mesh_model::ClusterName;
use mesh_peers::PeerMessage;
use mesh_pods::AttachmentsRead;
use mesh_routes::FoundKubeProxy;
use tokio::sync::{mpsc, oneshot};

use mesh_node::Node;

/// A message for the driver.
#[derive(Debug)]
pub(crate) enum Message {
    /// An event of a followed cluster.
    Peer(PeerMessage),
    /// An operator accepts a quarantined peer again.
    LiftQuarantine(ClusterName, oneshot::Sender<Lifted>),
    /// Attachments, as the folder has them.
    Attachments(AttachmentsRead),
    /// Whether a kube-proxy runs on this node.
    KubeProxy(KubeProxy),
    /// A query of the whole state.
    Query(Query),
    /// The agent stops: the last message.
    Stop,
}

impl From<FoundKubeProxy> for Message {
    fn from(FoundKubeProxy(found): FoundKubeProxy) -> Self {
        Self::KubeProxy(if found { KubeProxy::Present } else { KubeProxy::Absent })
    }
}

impl From<PeerMessage> for Message {
    fn from(message: PeerMessage) -> Self {
        Self::Peer(message)
    }
}

impl From<AttachmentsRead> for Message {
    fn from(read: AttachmentsRead) -> Self {
        Self::Attachments(read)
    }
}

/// A query of the whole state, answered between two changes.
pub(crate) struct Query(pub(crate) Box<dyn FnOnce(&Node) + Send>);

impl Query {
    /// A look, and where its result will be.
    pub(crate) fn new<T: Send + 'static>(
        look: impl FnOnce(&Node) -> T + Send + 'static,
    ) -> (Self, oneshot::Receiver<T>) {
        let (sender, receiver) = oneshot::channel();
        let query = Self(Box::new(move |node| {
            let _ = sender.send(look(node));
        }));
        (query, receiver)
    }
}

impl std::fmt::Debug for Query {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Query")
    }
}

/// Asks the driver; `None` when it is gone.
pub(crate) async fn ask<T: Send + 'static>(
    driver: &mpsc::Sender<Message>,
    look: impl FnOnce(&Node) -> T + Send + 'static,
) -> Option<T> {
    let (query, answer) = Query::new(look);
    driver.send(Message::Query(query)).await.ok()?;
    answer.await.ok()
}
