//! A cluster's listener: mutual TLS, and who is on the other side.

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

/// A cluster's server certificate, for clients that show one of the cluster's CA.
pub(crate) fn tls(pki: &ClusterPki) -> Result<ServerTlsConfig, ReplayError> {
    let certificate = read(&pki.certificate("server"))?;
    let identity = Identity::from_pem(certificate, read(&pki.key("server"))?);
    let ca = Certificate::from_pem(read(&pki.certificate("ca"))?);
    Ok(ServerTlsConfig::new().identity(identity).client_ca_root(ca))
}

/// Serves a cluster, for ever.
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

/// A file's text.
fn read(path: &Path) -> Result<String, ReplayError> {
    fs::read_to_string(path).map_err(ReplayError::file(path))
}
