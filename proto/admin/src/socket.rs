//! The admin API's Unix socket: server and client.

use std::{
    error::Error,
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, OnceLock},
    task::{Context, Poll},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::net::UnixListener;
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
use crate::{bridge, socket_error::SocketError};

/// Serves the admin API on a socket that only its owner can open, until the future is dropped. Replaces a socket that a
/// previous run left. Fails if the socket cannot be created.
pub async fn serve(path: &Path, admin: impl Admin) -> Result<(), SocketError> {
    listen(path, Server::builder().add_service(AdminServer::new(admin))).await
}

/// Serves the admin API and the pods API on one socket, as [`serve`] does.
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
    // A previous run left its socket. No other daemon is running with it: this one has the lock of the state folder.
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

/// A connection to a daemon. Its errors describe the daemon, not the transport.
#[derive(Clone, Debug)]
pub struct Daemon {
    channel: Channel,
    path: Arc<Path>,
    limit: Duration,
}

/// The error if the listener failed.
const UNSERVED: &str = "the socket can no longer be served: restart the daemon";

/// How long a daemon may take to answer, by default. It answers from memory, so a daemon that takes longer hangs.
const ANSWER: Duration = Duration::from_secs(5);

/// The time that the user has set instead.
static LIMIT: OnceLock<Duration> = OnceLock::new();

/// Sets how long this process waits for answers of daemons, instead of five seconds. Only the first call has an effect.
pub fn answer_within(limit: Duration) {
    let _ = LIMIT.set(limit);
}

fn limit() -> Duration {
    LIMIT.get().copied().unwrap_or(ANSWER)
}

/// Connects to a daemon's admin API. Fails if nothing listens on the socket.
pub async fn connect(path: &Path) -> Result<AdminClient<Daemon>, SocketError> {
    connect_within(path, limit()).await
}

async fn connect_within(path: &Path, limit: Duration) -> Result<AdminClient<Daemon>, SocketError> {
    daemon(path, limit).await.map(AdminClient::new)
}

/// Connects to an agent's pods API. Fails if nothing listens on the socket.
pub async fn connect_pods(path: &Path) -> Result<PodsClient<Daemon>, SocketError> {
    daemon(path, limit()).await.map(PodsClient::new)
}

async fn daemon(path: &Path, limit: Duration) -> Result<Daemon, SocketError> {
    let socket = path.to_owned();
    // Connect without the transport, whose error does not contain that of the file.
    let first = Arc::new(Mutex::new(Some(bridge::open(path).await?)));
    let connector = tower::service_fn(move |_: Uri| {
        let (socket, first) =
            (socket.clone(), first.lock().ok().and_then(|mut first| first.take()));
        async move {
            match first {
                Some(first) => Ok(TokioIo::new(first)),
                None => bridge::open(&socket).await.map(TokioIo::new),
            }
        }
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

/// What a transport error means, as a message with a remedy.
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

    /// The error of a request to a server that accepts connections and then hangs (`keep`) or closes them.
    async fn error_of_request(name: &str, keep: bool) -> Status {
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
    async fn transport_errors_describe_the_daemon() {
        let hung = error_of_request("hung", true).await;
        assert!(hung.message().contains("agent.sock: no answer within 50ms"), "{hung:?}");
        let closed = error_of_request("closed", false).await;
        assert!(closed.message().contains("agent.sock: the connection was closed"), "{closed:?}");
    }

    #[test]
    fn errors_of_sockets_have_a_remedy() {
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
