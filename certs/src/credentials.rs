//! Credentials: a client's certificate and key, and the CA that its server must be from.
//!
//! A [`Store`] reads them from files, validates them and publishes them; any number of [`Receiver`]s see the latest. A
//! bad new file is reported and the old credentials stay in use.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use arc_swap::ArcSwap;
use rustls::{ClientConfig, RootCertStore, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::sync::watch;

use crate::details::{Details, DetailsError, details_of, rfc_3339};

/// Where credentials are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CredentialFiles {
    /// The server's CAs, PEM.
    pub ca: PathBuf,
    /// The client's certificate, PEM, with intermediates if any.
    pub certificate: PathBuf,
    /// The client's key, PEM.
    pub key: PathBuf,
}

/// Sound credentials.
pub struct Credentials {
    tls: Arc<ClientConfig>,
    subject: String,
    not_before: SystemTime,
    not_after: SystemTime,
    /// The file that the certificate is from, for what is reported about it.
    file: PathBuf,
    /// When the last of the CAs, and the certificate, end, by their files.
    ends: [(PathBuf, SystemTime); 2],
    /// The content that they were read from, to notice whether a later reading differs.
    source: [Vec<u8>; 3],
}

/// Publishes credentials.
pub struct Store {
    files: CredentialFiles,
    current: Arc<ArcSwap<Credentials>>,
    changed: watch::Sender<u64>,
}

/// Sees the credentials that a [`Store`] published last.
#[derive(Clone, Debug)]
pub struct Receiver {
    current: Arc<ArcSwap<Credentials>>,
    changed: watch::Receiver<u64>,
}

/// Why credentials are not used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", file.display())]
pub struct CredentialsError {
    /// The file that is to blame.
    pub file: PathBuf,
    /// The error.
    pub problem: Problem,
}

/// The errors of a credentials file.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),
    /// It holds no certificate.
    #[error(transparent)]
    Certificate(#[from] DetailsError),
    /// It holds no key.
    #[error("no private key in it: {0}")]
    Key(rustls_pki_types::pem::Error),
    /// A CA that cannot be one.
    #[error("the certificate {subject:?} cannot be a CA: {reason}")]
    Ca {
        /// Its subject.
        subject: String,
        /// Why.
        reason: String,
    },
    /// The key is another certificate's.
    #[error("the key does not belong to the certificate {subject:?}: {reason}")]
    OtherKey {
        /// The certificate's subject.
        subject: String,
        /// Why.
        reason: String,
    },
    /// Over, or not yet begun.
    #[error(
        "the certificate {subject:?} is valid from {not_before} to {not_after}, not now ({now})"
    )]
    NotNow {
        /// Its subject.
        subject: String,
        /// When it begins.
        not_before: String,
        /// When it ends.
        not_after: String,
        /// The time by the clock.
        now: String,
    },
    /// TLS will not have it.
    #[error("TLS does not accept the certificate {subject:?}: {reason}")]
    Tls {
        /// Its subject.
        subject: String,
        /// Why.
        reason: String,
    },
}

// === impl CredentialFiles ===

impl CredentialFiles {
    /// Reads and checks the files.
    pub fn load(&self, now: SystemTime) -> Result<Credentials, CredentialsError> {
        let read = |path: &Path| fs::read(path).map_err(|e| blame(path, e));
        let source = [read(&self.ca)?, read(&self.certificate)?, read(&self.key)?];
        self.check(source, now)
    }

    fn check(
        &self,
        source: [Vec<u8>; 3],
        now: SystemTime,
    ) -> Result<Credentials, CredentialsError> {
        let [ca, certificate, key] = &source;
        let (roots, last_ca) = roots(ca).map_err(|p| blame(&self.ca, p))?;
        let chain = chain(certificate).map_err(|p| blame(&self.certificate, p))?;
        let leaf = chain.first().ok_or_else(|| blame(&self.certificate, DetailsError::Empty))?;
        let about = details_of(leaf).map_err(|e| blame(&self.certificate, e))?;
        let subject = about.subject;
        let key =
            PrivateKeyDer::from_pem_slice(key).map_err(|e| blame(&self.key, Problem::Key(e)))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        CertifiedKey::from_der(chain.clone(), key.clone_key(), &provider).map_err(|e| {
            blame(&self.key, Problem::OtherKey { subject: subject.clone(), reason: e.to_string() })
        })?;
        let tls = |e: rustls::Error| {
            blame(
                &self.certificate,
                Problem::Tls { subject: subject.clone(), reason: e.to_string() },
            )
        };
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(tls)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(tls)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        let credentials = Credentials {
            tls: Arc::new(config),
            subject,
            not_before: about.not_before,
            not_after: about.not_after,
            file: self.certificate.clone(),
            ends: [(self.ca.clone(), last_ca), (self.certificate.clone(), about.not_after)],
            source,
        };
        credentials.valid_at(now).map(|()| credentials)
    }
}

// === impl Credentials ===

impl Credentials {
    /// The configuration with which a TLS client presents them; it offers HTTP/2.
    pub fn tls(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.tls)
    }

    /// The certificate's subject.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// When the certificate ends.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The files of the CAs and of the certificate, with when each ends: of several CAs, the last one.
    pub fn certificates(&self) -> &[(PathBuf, SystemTime)] {
        &self.ends
    }

    /// Whether the certificate has begun and is not over.
    pub fn valid_at(&self, now: SystemTime) -> Result<(), CredentialsError> {
        if self.not_before <= now && now <= self.not_after {
            return Ok(());
        }
        let [not_before, not_after, now] = [self.not_before, self.not_after, now].map(rfc_3339);
        let problem = Problem::NotNow { subject: self.subject.clone(), not_before, not_after, now };
        Err(blame(&self.file, problem))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("subject", &self.subject).finish_non_exhaustive()
    }
}

// === impl Store ===

impl Store {
    /// Reads the files for the first time.
    pub fn open(
        files: CredentialFiles,
        now: SystemTime,
    ) -> Result<(Self, Receiver), CredentialsError> {
        let current = Arc::new(ArcSwap::from_pointee(files.load(now)?));
        let (changed, receiver) = watch::channel(0);
        let receiver = Receiver { current: Arc::clone(&current), changed: receiver };
        Ok((Self { files, current, changed }, receiver))
    }

    /// Reads the files again. Publishes and returns whether they changed; on an error what was published stays.
    pub fn reload(&self, now: SystemTime) -> Result<bool, CredentialsError> {
        let loaded = self.files.load(now)?;
        if loaded.source == self.current.load().source {
            return Ok(false);
        }
        self.current.store(Arc::new(loaded));
        self.changed.send_modify(|generation| *generation += 1);
        Ok(true)
    }

    /// Where the credentials are.
    pub fn files(&self) -> &CredentialFiles {
        &self.files
    }
}

// === impl Receiver ===

impl Receiver {
    /// The latest credentials.
    pub fn current(&self) -> Arc<Credentials> {
        self.current.load_full()
    }

    /// Waits for newer credentials than those seen so far; forever once the store is gone. Cancel-safe.
    pub async fn changed(&mut self) {
        if self.changed.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

/// Whether a key (PEM) is that of the first certificate (PEM).
pub fn belong_together(certificate: &str, key: &str) -> bool {
    let (Ok(chain), Ok(key)) =
        (chain(certificate.as_bytes()), PrivateKeyDer::from_pem_slice(key.as_bytes()))
    else {
        return false;
    };
    let provider = rustls::crypto::ring::default_provider();
    CertifiedKey::from_der(chain, key, &provider).is_ok()
}

fn blame(file: &Path, problem: impl Into<Problem>) -> CredentialsError {
    CredentialsError { file: file.into(), problem: problem.into() }
}

fn chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let chain = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(DetailsError::Pem)?;
    if chain.is_empty() { Err(DetailsError::Empty.into()) } else { Ok(chain) }
}

/// The CAs, and when the last of them ends.
fn roots(pem: &[u8]) -> Result<(RootCertStore, SystemTime), Problem> {
    let (mut roots, mut last) = (RootCertStore::empty(), SystemTime::UNIX_EPOCH);
    for certificate in chain(pem)? {
        let Details { subject, not_after, .. } = details_of(&certificate)?;
        roots.add(certificate).map_err(|e| Problem::Ca { subject, reason: e.to_string() })?;
        last = last.max(not_after);
    }
    Ok((roots, last))
}
