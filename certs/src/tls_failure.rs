//! What went wrong with TLS, as an operator would say it, with what to do.

use std::{
    error::Error,
    io,
    time::{Duration, SystemTime},
};

use rustls::CertificateError;
use rustls_pki_types::UnixTime;

use crate::details::rfc_3339;

/// How rustls begins what a server's alert is reported with. HTTP/2 hands errors on as text.
const ALERT: &str = "received fatal alert: ";

/// Why TLS with a server failed, and what to do, in a sentence without the library's words; `None` where the error, and
/// what caused it, is not about TLS.
pub fn tls_failure(error: &(dyn Error + 'static)) -> Option<String> {
    if let Some(alert) = alert(error) {
        return Some(refused(&alert));
    }
    causes(error).find_map(|cause| cause.downcast_ref()).map(failed)
}

/// Whether the server ended TLS and said why: in TLS 1.3 a server that does not like our certificate answers only after the
/// handshake.
pub fn is_refused_by_server(error: &(dyn Error + 'static)) -> bool {
    alert(error).is_some()
}

/// The name of the alert that the server sent.
fn alert(error: &(dyn Error + 'static)) -> Option<String> {
    causes(error).find_map(|cause| {
        if let Some(rustls::Error::AlertReceived(alert)) = cause.downcast_ref() {
            return Some(format!("{alert:?}"));
        }
        let text = cause.to_string();
        let (_, name) = text.split_once(ALERT)?;
        Some(name.split(|c: char| !c.is_ascii_alphanumeric()).next()?.to_owned())
    })
}

/// An error and what caused it, what an [`io::Error`] was made of included.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| {
        let inner = error.downcast_ref().and_then(io::Error::get_ref);
        match inner {
            Some(inner) => Some(inner),
            None => (*error).source(),
        }
    })
}

/// What the server's alert means: RFC 8446, 6.2, and what Go's servers send for it.
fn refused(alert: &str) -> String {
    match alert {
        "UnknownCA" | "BadCertificate" | "CertificateUnknown" => {
            "the server does not trust the CA of our certificate: it was not restarted since its CA was rotated, or ours is \
             by another CA (clustermesh certs rotate, or connect again)"
                .into()
        }
        "CertificateExpired" => {
            "the server takes our certificate for expired: clustermesh certs rotate, or set the clock there".into()
        }
        "CertificateRequired" | "NoCertificate" => "the server got no certificate of ours".into(),
        "NoApplicationProtocol" | "ProtocolVersion" | "HandshakeFailure" => {
            "the server speaks TLS and is no etcd: see the endpoint's port".into()
        }
        other => format!("the server ended TLS: {other}"),
    }
}

fn failed(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(error) => certificate(error),
        rustls::Error::InvalidMessage(_) => {
            "what listens there does not speak TLS: see the endpoint's port".into()
        }
        rustls::Error::NoApplicationProtocol | rustls::Error::PeerIncompatible(_) => {
            "the server speaks TLS and is no etcd: see the endpoint's port".into()
        }
        other => format!("TLS failed: {other}"),
    }
}

/// What is wrong with the server's certificate.
fn certificate(error: &CertificateError) -> String {
    let what = match error {
        // A CA that was made anew may have the name of the one that is trusted, and has another key.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "is by a CA that is not trusted for it: the cluster was rebuilt, its CA was rotated without this cluster, or it \
             is another (copy its ca.crt, or connect again)"
                .into()
        }
        CertificateError::Expired => "has expired: clustermesh certs rotate --server there".into(),
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("has expired at {}: clustermesh certs rotate --server there", time(not_after))
        }
        CertificateError::NotValidYet => "is not valid yet: set the clock here, or there".into(),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("is not valid before {}: set the clock here, or there", time(not_before))
        }
        CertificateError::NotValidForName => "is for another name than the endpoint's".into(),
        CertificateError::NotValidForNameContext { presented, .. } => {
            format!(
                "is for other names than the endpoint's: {}. Another server may listen there",
                presented.join(", ")
            )
        }
        CertificateError::BadEncoding => "cannot be read".into(),
        CertificateError::Revoked => "is revoked".into(),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "is not for servers".into()
        }
        other => format!("is not accepted: {other}"),
    };
    format!("the server's certificate {what}")
}

fn time(at: &UnixTime) -> String {
    rfc_3339(SystemTime::UNIX_EPOCH + Duration::from_secs(at.as_secs()))
}

#[cfg(test)]
mod tests {
    use rustls::AlertDescription;

    use super::*;

    fn of_tls(error: rustls::Error) -> String {
        // As tokio-rustls hands it on.
        tls_failure(&io::Error::new(io::ErrorKind::InvalidData, error)).unwrap()
    }

    #[test]
    fn a_failed_handshake_says_what_to_do_without_the_librarys_words() {
        let time = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
        let certificate = rustls::Error::InvalidCertificate;
        for (error, says) in [
            (certificate(CertificateError::UnknownIssuer), "is by a CA that is not trusted for it"),
            (certificate(CertificateError::BadSignature), "is by a CA that is not trusted for it"),
            (certificate(CertificateError::Expired), "has expired: clustermesh certs rotate"),
            (
                certificate(CertificateError::ExpiredContext { time, not_after: time }),
                "has expired at 2027-01-15",
            ),
            (
                certificate(CertificateError::NotValidYetContext { time, not_before: time }),
                "is not valid before 2027-01-15",
            ),
            (
                certificate(CertificateError::NotValidForNameContext {
                    expected: "b.mesh.cilium.io".try_into().unwrap(),
                    presented: vec!["c.mesh.cilium.io".into(), "localhost".into()],
                }),
                "is for other names than the endpoint's: c.mesh.cilium.io, localhost",
            ),
            (rustls::Error::AlertReceived(AlertDescription::UnknownCA), "does not trust the CA"),
            (
                rustls::Error::AlertReceived(AlertDescription::BadCertificate),
                "does not trust the CA",
            ),
            (rustls::Error::NoApplicationProtocol, "is no etcd"),
        ] {
            let raw = error.to_string();
            let text = of_tls(error);
            assert!(text.contains(says) && !text.contains(&raw), "{raw}: {text}");
            assert!(!text.contains("UnknownIssuer") && !text.contains("alert"), "{text}");
        }
    }

    #[test]
    fn a_refusal_is_found_where_http_made_text_of_it() {
        let lost = io::Error::other("connection error: received fatal alert: BadCertificate");
        assert!(is_refused_by_server(&lost));
        assert!(tls_failure(&lost).unwrap().contains("does not trust the CA"));
        let other = io::Error::from(io::ErrorKind::ConnectionReset);
        assert_eq!((is_refused_by_server(&other), tls_failure(&other)), (false, None));
        let unknown = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let unknown = io::Error::new(io::ErrorKind::InvalidData, unknown);
        assert!(!is_refused_by_server(&unknown), "it is we who refuse");
    }
}
