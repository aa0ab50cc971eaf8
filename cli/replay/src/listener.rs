//! A cluster's listener: mutual TLS, and who is on the other side.

use std::sync::Arc;

use mesh_certs::ClusterPki;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request,
    transport::{Certificate, Identity, Server, ServerTlsConfig},
};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::{
    error::ReplayError,
    proto::{kv_server::KvServer, watch_server::WatchServer},
    requests::Requests,
    server::{Served, read},
    watching::Watching,
};

/// A cluster's server certificate, for whoever shows one of the cluster's CA.
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

/// The common name of the certificate that a request came with.
pub(crate) fn user<T>(request: &Request<T>) -> Option<String> {
    let certificates = request.peer_certs()?;
    let (_, certificate) = X509Certificate::from_der(certificates.first()?).ok()?;
    let name = certificate.subject().iter_common_name().next()?;
    name.as_str().ok().map(ToOwned::to_owned)
}
