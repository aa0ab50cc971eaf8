//! The admin API's Unix socket.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::{Channel, Endpoint, Server, Uri, server::Router};

use crate::v1::{
    admin_client::AdminClient,
    admin_server::{Admin, AdminServer},
    pods_client::PodsClient,
    pods_server::{Pods, PodsServer},
};

/// Why a socket cannot be served or reached.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The file.
    #[error("{}: {source}", path.display())]
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
        .map_err(|e| SocketError::Unreachable { path: path.into(), reason: e.to_string() })
}

/// How long a daemon may take to answer. It answers from memory: one that does not is stuck.
const ANSWER: Duration = Duration::from_secs(5);

/// Connects to a daemon's admin API.
pub async fn connect(path: &Path) -> Result<AdminClient<Channel>, SocketError> {
    channel(path).await.map(AdminClient::new)
}

/// Connects to an agent's pods.
pub async fn connect_pods(path: &Path) -> Result<PodsClient<Channel>, SocketError> {
    channel(path).await.map(PodsClient::new)
}

async fn channel(path: &Path) -> Result<Channel, SocketError> {
    let socket = path.to_owned();
    // Asked for once by itself: the error of a failed file is lost in the transport's.
    UnixStream::connect(path)
        .await
        .map_err(|source| SocketError::Io { path: path.into(), source })?;
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://admin").timeout(ANSWER);
    endpoint
        .connect_with_connector(connector)
        .await
        .map_err(|e| SocketError::Unreachable { path: path.into(), reason: e.to_string() })
}
