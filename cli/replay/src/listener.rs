//! A cluster's listener, with mutual TLS.

use std::{fs, net::SocketAddr, path::Path, sync::Arc};

use mesh_certs::{ClusterPki, tls_failure};
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

/// A server with a cluster's certificate, for clients that show one of the cluster's CA.
pub(crate) fn server(folder: &Path) -> Result<Server, ReplayError> {
    let pki = ClusterPki::new(folder);
    let certificate = read(&pki.certificate("server"))?;
    let identity = Identity::from_pem(certificate, read(&pki.key("server"))?);
    let ca = Certificate::from_pem(read(&pki.certificate("ca"))?);
    let tls = ServerTlsConfig::new().identity(identity).client_ca_root(ca);
    Server::builder().tcp_nodelay(true).tls_config(tls).map_err(|error| {
        let reason = tls_failure(&error).unwrap_or_else(|| "issue them anew".into());
        ReplayError::Certificates { path: folder.into(), reason }
    })
}

/// Serves a cluster until the listener fails.
pub(crate) async fn serve(
    (listener, address): (TcpListener, SocketAddr),
    mut server: Server,
    served: Arc<Served>,
) -> Result<(), ReplayError> {
    let connections = TcpListenerStream::new(listener);
    server
        .add_service(KvServer::new(Requests(Arc::clone(&served))))
        .add_service(WatchServer::new(Watching(served)))
        .serve_with_incoming(connections)
        .await
        .map_err(|_| ReplayError::Ended(address))
}

fn read(path: &Path) -> Result<String, ReplayError> {
    fs::read_to_string(path).map_err(ReplayError::file(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_that_are_none_are_named_by_their_folder() {
        let folder = tempfile::tempdir().unwrap();
        let pki = ClusterPki::new(folder.path());
        for file in [pki.certificate("server"), pki.key("server"), pki.certificate("ca")] {
            fs::write(file, "none").unwrap();
        }
        let error = server(folder.path()).err().unwrap().to_string();
        let place = folder.path().display();
        let says = format!("{place}: the server's certificate, its key or its CA cannot be used: ");
        assert!(error.starts_with(&says), "{error}");
        assert!(!error.contains("transport error"), "{error}");
    }
}
