//! The admin API's Unix socket.

use std::{
    error::Error,
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{
    Status, TimeoutExpired,
    body::Body,
    codegen::http::{Request, Response},
    transport::{Channel, Endpoint, Server, Uri, server::Router},
};
use tower::Service;

use crate::v1::{
    admin_client::AdminClient,
    admin_server::{Admin, AdminServer},
    pods_client::PodsClient,
    pods_server::{Pods, PodsServer},
};
use crate::words::plain;

/// Why a socket cannot be served or reached.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The file.
    #[error("{}: {}", path.display(), reason(source))]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No daemon listens there, or one of another protocol.
    #[error("{}: {reason}", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl SocketError {
    /// Whether the socket is another user's.
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }
}

/// What is wrong with a socket's file, and what to do.
fn reason(source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::PermissionDenied => "permission denied: run it as root (sudo)".into(),
        io::ErrorKind::NotFound => "there is no such socket: the daemon does not run".into(),
        io::ErrorKind::ConnectionRefused => {
            "the daemon does not run: nothing listens on its socket; its log says why".into()
        }
        _ => plain(&source.to_string()).into_owned(),
    }
}

/// Serves the admin API on a socket that only its owner may open, until dropped.
pub async fn serve(path: &Path, admin: impl Admin) -> Result<(), SocketError> {
    listen(path, Server::builder().add_service(AdminServer::new(admin))).await
}

/// Serves the admin API and the node's pods on a socket that only its owner may open, until dropped.
pub async fn serve_with_pods(
    path: &Path,
    admin: impl Admin,
    pods: impl Pods,
) -> Result<(), SocketError> {
    let admin = Server::builder().add_service(AdminServer::new(admin));
    listen(path, admin.add_service(PodsServer::new(pods))).await
}

async fn listen(path: &Path, services: Router) -> Result<(), SocketError> {
    let error = |source| SocketError::Io { path: path.into(), source };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(error)?;
    }
    // A predecessor that crashed left its socket; one that lives holds the lock of the state folder.
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(error(e)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(error)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(error)?;
    services
        .serve_with_incoming(UnixListenerStream::new(listener))
        .await
        .map_err(|_| SocketError::Unreachable { path: path.into(), reason: UNSERVED.into() })
}

/// A connection to a daemon. What fails is said of the daemon and not of the transport.
#[derive(Clone, Debug)]
pub struct Daemon {
    channel: Channel,
    path: Arc<Path>,
    limit: Duration,
}

/// What became of a socket that is no longer served: its listener failed.
const UNSERVED: &str = "the socket can no longer be served: restart the daemon";

/// How long a daemon may take to answer. It answers from memory: one that does not is stuck.
const ANSWER: Duration = Duration::from_secs(5);

/// What is waited for instead, where a user says so.
static LIMIT: OnceLock<Duration> = OnceLock::new();

/// How long this process waits for daemons' answers from now on, in place of five seconds. The first call counts.
pub fn answer_within(limit: Duration) {
    let _ = LIMIT.set(limit);
}

fn limit() -> Duration {
    LIMIT.get().copied().unwrap_or(ANSWER)
}

/// Connects to a daemon's admin API.
pub async fn connect(path: &Path) -> Result<AdminClient<Daemon>, SocketError> {
    connect_within(path, limit()).await
}

async fn connect_within(path: &Path, limit: Duration) -> Result<AdminClient<Daemon>, SocketError> {
    daemon(path, limit).await.map(AdminClient::new)
}

/// Connects to an agent's pods.
pub async fn connect_pods(path: &Path) -> Result<PodsClient<Daemon>, SocketError> {
    daemon(path, limit()).await.map(PodsClient::new)
}

async fn daemon(path: &Path, limit: Duration) -> Result<Daemon, SocketError> {
    let socket = path.to_owned();
    // Asked for once by itself: the error of a failed file is lost in the transport's.
    UnixStream::connect(path)
        .await
        .map_err(|source| SocketError::Io { path: path.into(), source })?;
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://admin").timeout(limit);
    let channel = endpoint.connect_with_connector(connector).await.map_err(|error| {
        SocketError::Unreachable { path: path.into(), reason: failure(&error, limit) }
    })?;
    Ok(Daemon { channel, path: path.into(), limit })
}

impl Daemon {
    fn failure(&self, error: &(dyn Error + 'static)) -> Status {
        let message = format!("{}: {}", self.path.display(), failure(error, self.limit));
        match is_late(error) {
            true => Status::deadline_exceeded(message),
            false => Status::unavailable(message),
        }
    }
}

/// What a failed transport means, and what to do.
fn failure(error: &(dyn Error + 'static), limit: Duration) -> String {
    match is_late(error) {
        true => {
            format!("no answer within {limit:?}: the daemon hangs; see its log, or restart it")
        }
        false => "the connection was closed: the daemon has ended or was restarted; try again, or see its log".into(),
    }
}

fn is_late(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<TimeoutExpired>() {
            return true;
        }
        cause = error.source();
    }
    false
}

impl Service<Request<Body>> for Daemon {
    type Response = Response<Body>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Status>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.channel.poll_ready(context).map_err(|error| self.failure(&error))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (answer, daemon) = (self.channel.call(request), self.clone());
        Box::pin(async move { answer.await.map_err(|error| daemon.failure(&error)) })
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinHandle;

    use super::*;
    use crate::v1::StatusRequest;

    /// What a question to a daemon comes to that takes connections and does this with them.
    async fn asked(name: &str, keep: bool) -> Status {
        let folder = std::env::temp_dir().join(format!("mesh-admin-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("agent.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let daemon: JoinHandle<()> = tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                if keep {
                    kept.push(stream);
                }
            }
        });
        let failed = match connect_within(&path, Duration::from_millis(50)).await {
            Ok(mut client) => client.status(StatusRequest::default()).await.unwrap_err(),
            Err(error) => Status::unavailable(error.to_string()),
        };
        daemon.abort();
        fs::remove_dir_all(&folder).unwrap();
        failed
    }

    #[tokio::test]
    async fn a_failed_transport_is_a_sentence_about_the_daemon() {
        let hung = asked("hung", true).await;
        assert!(hung.message().contains("agent.sock: no answer within 50ms"), "{hung:?}");
        let closed = asked("closed", false).await;
        assert!(closed.message().contains("agent.sock: the connection was closed"), "{closed:?}");
    }

    #[test]
    fn a_socket_that_cannot_be_opened_says_what_to_do() {
        for (kind, says) in [
            (io::ErrorKind::PermissionDenied, "run it as root (sudo)"),
            (io::ErrorKind::NotFound, "the daemon does not run"),
            (io::ErrorKind::ConnectionRefused, "the daemon does not run"),
        ] {
            let error = SocketError::Io { path: "agent.sock".into(), source: kind.into() };
            assert!(error.to_string().contains(says), "{error}");
            assert_eq!(error.is_forbidden(), kind == io::ErrorKind::PermissionDenied);
        }
    }
}
