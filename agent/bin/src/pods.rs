//! The node's pods, for the CNI plugin and for operators.

use std::time::Duration;

use mesh_admin::v1::{
    self, BindOutcome, BindRequest, BindResponse, ListPodsRequest, ListPodsResponse, PodState,
    UnbindRequest, UnbindResponse, pods_server::Pods,
};
use mesh_pods::{Attachment, AttachmentKey, Look, PodAnswer, State};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tonic::{Request, Response, Status};

use crate::message::{Message, ask};
use mesh_node::Node;

/// Answers for the node's pods.
pub(crate) struct PodsAdmin {
    pub(crate) driver: mpsc::Sender<Message>,
    pub(crate) looks: mpsc::Sender<Look>,
}

/// How long a pod may wait until its identity is known. It starts then, and is bound later.
const KNOWN: Duration = Duration::from_secs(2);

impl PodsAdmin {
    /// Reads an attachment. The answer comes when its identity is known.
    async fn look(
        &self,
        container: &str,
        interface: &str,
    ) -> Result<oneshot::Receiver<PodAnswer>, Status> {
        let key = AttachmentKey::new(container, interface)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let (sender, answer) = oneshot::channel();
        self.looks.send(Look { key, answer: sender }).await.map_err(|_| stopping())?;
        Ok(answer)
    }
}

fn stopping() -> Status {
    Status::unavailable("the agent is stopping")
}

#[tonic::async_trait]
impl Pods for PodsAdmin {
    async fn bind(&self, request: Request<BindRequest>) -> Result<Response<BindResponse>, Status> {
        let BindRequest { container_id, interface } = request.into_inner();
        let answer = self.look(&container_id, &interface).await?;
        let (outcome, identity) = match timeout(KNOWN, answer).await {
            Ok(Ok(PodAnswer::Bound(identity))) => (BindOutcome::Bound, identity.get()),
            Ok(Ok(PodAnswer::NotAttached)) => (BindOutcome::NotAttached, 0),
            Ok(Err(_)) => return Err(stopping()),
            Err(_) => (BindOutcome::Waiting, 0),
        };
        Ok(Response::new(BindResponse { outcome: outcome.into(), identity }))
    }

    async fn unbind(
        &self,
        request: Request<UnbindRequest>,
    ) -> Result<Response<UnbindResponse>, Status> {
        let UnbindRequest { container_id, interface } = request.into_inner();
        // Its identity does not matter any more.
        drop(self.look(&container_id, &interface).await?);
        Ok(Response::new(UnbindResponse {}))
    }

    async fn list(
        &self,
        request: Request<ListPodsRequest>,
    ) -> Result<Response<ListPodsResponse>, Status> {
        let ListPodsRequest { container_id, namespace } = request.into_inner();
        let list = move |node: &Node| {
            let wanted = |of: &str, wanted: &str| wanted.is_empty() || of == wanted;
            let pods = node.core.pods().iter().filter(|(attachment, _)| {
                wanted(attachment.key.container(), &container_id)
                    && wanted(attachment.pod.namespace(), &namespace)
            });
            let mut pods: Vec<v1::Pod> = pods.map(|found| pod(node, found)).collect();
            pods.sort_by(|one, other| {
                (&one.namespace, &one.name).cmp(&(&other.namespace, &other.name))
            });
            pods
        };
        let pods = ask(&self.driver, list).await.ok_or_else(stopping)?;
        Ok(Response::new(ListPodsResponse { pods }))
    }
}

fn pod(node: &Node, (attachment, state): (&Attachment, State)) -> v1::Pod {
    let Attachment { key, pod, uid, netns, addresses, boot: _, attached_unix_seconds } = attachment;
    let labels = |identity| node.core.merge().labels_of(node.core.local(), identity);
    let (state, identity, labels) = match state {
        State::Bound(identity) => (PodState::Bound, identity.get(), labels(identity)),
        State::Waiting => (PodState::Waiting, 0, None),
    };
    v1::Pod {
        namespace: pod.namespace().into(),
        name: pod.name().into(),
        uid: uid.clone(),
        container_id: key.container().into(),
        interface: key.interface().into(),
        addresses: addresses.iter().map(ToString::to_string).collect(),
        state: state.into(),
        identity,
        netns: netns.path.display().to_string(),
        netns_cookie: netns.cookie,
        attached_unix_seconds: *attached_unix_seconds,
        labels: labels.unwrap_or_default().into(),
    }
}
