//! Calls the node's agent, which may be away, or may run and not answer. Both waits have a limit.

use std::{path::Path, time::Duration};

use mesh_admin::{
    Daemon, SocketError,
    v1::{
        BindOutcome, BindRequest, ListPodsRequest, Pod, PodState, UnbindRequest, UnbindResponse,
        pods_client::PodsClient,
    },
};
use mesh_cni::AttachmentKey;
use tokio::{runtime, time::timeout};

/// How long a pod may wait to become known: the agent's two seconds, and a little for the transport.
const BIND: Duration = Duration::from_millis(2_500);
/// How long the agent may take for what it answers from memory.
const ANSWER: Duration = Duration::from_secs(1);

/// The agent's answer about an attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Its identity is known.
    Bound(u32),
    /// It is not known yet.
    Waiting,
    /// There is none.
    Nothing,
}

/// The agent refused, or did not answer in time.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error("the agent: {0}")]
    Refused(String),
    #[error("the agent does not answer within {0:?}")]
    Late(Duration),
    #[error("it cannot be asked: {0}")]
    Runtime(#[from] std::io::Error),
}

/// A pod was attached.
pub(crate) fn bind(socket: &Path, key: &AttachmentKey) -> Result<Answer, AgentError> {
    let request =
        BindRequest { container_id: key.container().into(), interface: key.interface().into() };
    ask(socket, BIND, async |mut pods| {
        let bound = pods.bind(request).await?.into_inner();
        Ok(match bound.outcome() {
            BindOutcome::Bound => Answer::Bound(bound.identity),
            BindOutcome::Waiting | BindOutcome::Unspecified => Answer::Waiting,
            BindOutcome::NotAttached => Answer::Nothing,
        })
    })
}

/// A pod was detached.
pub(crate) fn unbind(socket: &Path, key: &AttachmentKey) -> Result<(), AgentError> {
    let request =
        UnbindRequest { container_id: key.container().into(), interface: key.interface().into() };
    ask(socket, ANSWER, async |mut pods| {
        let UnbindResponse {} = pods.unbind(request).await?.into_inner();
        Ok(())
    })
}

/// The agent's state of an attachment.
pub(crate) fn look(socket: &Path, key: &AttachmentKey) -> Result<Answer, AgentError> {
    let request =
        ListPodsRequest { container_id: key.container().into(), ..ListPodsRequest::default() };
    let found =
        ask(socket, ANSWER, async |mut pods| Ok(pods.list(request).await?.into_inner().pods))?;
    let is_it = |pod: &&Pod| pod.interface == key.interface();
    Ok(match found.iter().find(is_it) {
        Some(pod) if pod.state() == PodState::Bound => Answer::Bound(pod.identity),
        Some(_) => Answer::Waiting,
        None => Answer::Nothing,
    })
}

fn ask<T>(
    socket: &Path,
    limit: Duration,
    ask: impl AsyncFnOnce(PodsClient<Daemon>) -> Result<T, tonic::Status>,
) -> Result<T, AgentError> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let asked = async {
            let pods = mesh_admin::connect_pods(socket).await?;
            ask(pods).await.map_err(|status| AgentError::Refused(status.message().to_owned()))
        };
        timeout(limit, asked).await.map_err(|_| AgentError::Late(limit))?
    })
}
