//! The CAs that a running server trusts. Files show what it should trust; an etcd reads its CAs once, when it starts.

use std::{
    io,
    net::{SocketAddr, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, SignatureScheme, client::ResolvesClientCert,
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use x509_parser::{prelude::FromDer as _, x509::X509Name};

use crate::tls_failure::tls_failure;

/// How long a server may take for each step.
const PATIENCE: Duration = Duration::from_secs(5);

/// Records the CAs whose clients the server accepts, and presents no certificate.
#[derive(Debug, Default)]
struct Hints(Mutex<Option<Vec<String>>>);

impl ResolvesClientCert for Hints {
    fn resolve(&self, hints: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let subject = |der: &&[u8]| Some(X509Name::from_der(der).ok()?.1.to_string());
        let subjects = hints.iter().filter_map(subject).collect();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(subjects);
        None
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// The subjects of the CAs whose clients a server accepts: a server names them in the handshake. It must have its own
/// certificate from one of `cas` (PEM), for `name`.
pub fn cas_of_server(address: SocketAddr, name: &str, cas: &str) -> io::Result<Vec<String>> {
    let mut roots = RootCertStore::empty();
    for der in CertificateDer::pem_slice_iter(cas.as_bytes()) {
        roots.add(der.map_err(io::Error::other)?).map_err(io::Error::other)?;
    }
    let hints = Arc::new(Hints::default());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::clone(&hints) as Arc<dyn ResolvesClientCert>);
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    let mut connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    let mut socket = TcpStream::connect_timeout(&address, PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    let mut done = Ok(());
    while connection.is_handshaking() && done.is_ok() {
        done = connection.complete_io(&mut socket).map(|_| ());
    }
    // Without a certificate the server ends the handshake; it has sent the names by then.
    let received = hints.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    match (received, done) {
        (Some(subjects), _) => Ok(subjects),
        (None, Err(error)) => Err(tls_failure(&error).map_or(error, io::Error::other)),
        (None, Ok(())) => Err(io::Error::other("the server asks for no client certificate")),
    }
}
