//! Certificates of the mesh: a cluster's CA, what it issues, and the credentials made of them.
//!
//! Who signs what (`docs/adr/0003-an-authority-per-cluster.md`): every cluster has a CA of its own, and its
//! etcd trusts no other. To read another cluster's etcd, a cluster makes a key and a request ([`request`]), the other
//! signs it ([`Ca::sign`]), and only the certificate travels. Private keys never leave their cluster.
//!
//! All keys are ECDSA P-256 unless they came from elsewhere; all cryptography is ring's.

mod bundle;
mod ca;
mod clock;
mod credentials;
mod details;
mod expiry;
mod issue;
mod pki;
mod private_server;
mod probe;
mod request;
mod tls_failure;

pub use bundle::Bundle;
pub use ca::{Ca, CaError};
pub use clock::Clock;
pub use credentials::{
    CredentialFiles, Credentials, CredentialsError, Receiver, Store, belong_together,
};
pub use details::{Details, DetailsError, details, rfc_3339};
pub use expiry::{Expiring, expiring, rotated_by};
pub use issue::{BACKDATED, Issued, Profile, admin_user, local_user, server_name, server_names};
pub use pki::{ClusterPki, PkiError};
pub use probe::cas_of_server;
pub use request::{Request, RequestError, request, request_again};
pub use tls_failure::{is_refused_by_server, tls_failure};

/// Makes ring the process's cryptography. Every `main` calls it first; calling it again is harmless.
pub fn install_crypto() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}
