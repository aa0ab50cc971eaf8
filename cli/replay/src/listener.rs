//! A cluster's listener, with mutual TLS.

use std::{fs, path::Path, sync::Arc};

use mesh_certs::ClusterPki;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use crate::{
    error::ReplayError,
    proto::{kv_server::KvServer, watch_server::WatchServer},
    requests::Requests,
    served::Served,
    watching::Watching,
};

/// The TLS settings of a cluster's server: its certificate, and the CA that must have signed the clients' certificates.
pub(crate) fn tls(pki: &ClusterPki) -> Result<ServerTlsConfig, ReplayError> {
    let certificate = read(&pki.certificate("server"))?;
    let identity = Identity::from_pem(certificate, read(&pki.key("server"))?);
    let ca = Certificate::from_pem(read(&pki.certificate("ca"))?);
    Ok(ServerTlsConfig::new().identity(identity).client_ca_root(ca))
}

/// Serves a cluster until the listener fails.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: ServerTlsConfig,
    served: Arc<Served>,
) -> Result<(), ReplayError> {
    let connections = TcpListenerStream::new(listener);
    Server::builder()
        .tcp_nodelay(true)
        .tls_config(tls)?
        .add_service(KvServer::new(Requests(Arc::clone(&served))))
        .add_service(WatchServer::new(Watching(served)))
        .serve_with_incoming(connections)
        .await?;
    Ok(())
}

fn read(path: &Path) -> Result<String, ReplayError> {
    fs::read_to_string(path).map_err(ReplayError::file(path))
}
