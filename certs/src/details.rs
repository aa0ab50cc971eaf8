//! The content of a certificate, for people and for checks.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use x509_parser::{
    certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _, time::ASN1Time,
};

/// One certificate's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Details {
    /// The whole subject, `CN=remote-a`.
    pub subject: String,
    /// The subject's common name, or empty.
    pub common_name: String,
    /// The whole issuer.
    pub issuer: String,
    /// The serial number in hexadecimal.
    pub serial: String,
    /// When it begins.
    pub not_before: SystemTime,
    /// When it ends.
    pub not_after: SystemTime,
    /// Alternative names: DNS names and IP addresses as text.
    pub names: Vec<String>,
    /// Whether it may sign others.
    pub is_ca: bool,
    /// Its extended key usages: `server`, `client`.
    pub usages: Vec<&'static str>,
    /// The public key (SubjectPublicKeyInfo, DER).
    pub public_key: Vec<u8>,
}

/// Why a certificate cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DetailsError {
    /// No PEM.
    #[error("not PEM: {0}")]
    Pem(rustls_pki_types::pem::Error),
    /// PEM without a certificate in it.
    #[error("no certificate in it")]
    Empty,
    /// A certificate that is none.
    #[error("not an X.509 certificate: {0}")]
    X509(String),
}

/// All certificates of a PEM text, in order; at least one.
pub fn details(pem: &str) -> Result<Vec<Details>, DetailsError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(DetailsError::Pem)?;
    if certificates.is_empty() {
        return Err(DetailsError::Empty);
    }
    certificates.iter().map(|der| details_of(der)).collect()
}

/// The details of a certificate in DER.
pub(crate) fn details_of(der: &[u8]) -> Result<Details, DetailsError> {
    let (_, certificate) =
        X509Certificate::from_der(der).map_err(|e| DetailsError::X509(e.to_string()))?;
    let common_name = certificate.subject().iter_common_name().next();
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    let names =
        alternatives.map(|san| san.value.general_names.iter().filter_map(general_name).collect());
    let usage = certificate.extended_key_usage().ok().flatten();
    let usages = usage.map(|usage| {
        let server = usage.value.server_auth.then_some("server");
        server.into_iter().chain(usage.value.client_auth.then_some("client")).collect()
    });
    Ok(Details {
        subject: certificate.subject().to_string(),
        common_name: common_name.and_then(|cn| cn.as_str().ok()).unwrap_or_default().into(),
        issuer: certificate.issuer().to_string(),
        serial: certificate.raw_serial_as_string(),
        not_before: system_time(certificate.validity().not_before),
        not_after: system_time(certificate.validity().not_after),
        names: names.unwrap_or_default(),
        is_ca: certificate.is_ca(),
        usages: usages.unwrap_or_default(),
        public_key: certificate.public_key().raw.to_vec(),
    })
}

/// Whether the first certificate's subject can be written again, as the issuer of others. What writes names keeps one
/// attribute of each kind, and panics at a kind that is no object identifier it can count (`rcgen`, `yasna`).
pub(crate) fn can_be_issuer(pem: &str) -> bool {
    /// Where the first two numbers, which share a byte (40 x + y), are beyond 2.39.
    const TOO_LARGE: u8 = 120;
    let Ok(der) = CertificateDer::from_pem_slice(pem.as_bytes()) else {
        return false;
    };
    let Ok((_, certificate)) = X509Certificate::from_der(&der) else {
        return false;
    };
    let mut seen = BTreeSet::new();
    certificate.subject().iter_attributes().all(|attribute| {
        let kind = attribute.attr_type().as_bytes();
        kind.first().is_some_and(|first| *first < TOO_LARGE) && seen.insert(kind.to_vec())
    })
}

/// A point in time as RFC 3339, in whole seconds of UTC.
pub fn rfc_3339(time: SystemTime) -> String {
    let time = time::OffsetDateTime::from(time);
    let (date, (hour, minute, second)) = (time.date(), time.time().as_hms());
    format!("{date}T{hour:02}:{minute:02}:{second:02}Z")
}

fn general_name(name: &GeneralName<'_>) -> Option<String> {
    if let GeneralName::DNSName(name) = name {
        return Some((*name).into());
    }
    let GeneralName::IPAddress(bytes) = name else {
        return None;
    };
    let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
    let address = v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
    address.ok().map(|address| address.to_string())
}

fn system_time(time: ASN1Time) -> SystemTime {
    let seconds = time.timestamp();
    let distance = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 { UNIX_EPOCH - distance } else { UNIX_EPOCH + distance }
}
