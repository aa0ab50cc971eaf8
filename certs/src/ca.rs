//! A cluster's certificate authority (CA).

use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

use crate::{
    details::{Details, DetailsError, can_be_issuer, details},
    issue::{Issued, Profile, name, valid},
    request::{Request, RequestError},
};

/// A CA: a certificate that may sign others, and its key.
pub struct Ca {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

/// Why a CA cannot be made, loaded or used.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The certificate cannot be read.
    #[error("the CA's certificate: {0}")]
    Certificate(#[from] DetailsError),
    /// It may not sign others.
    #[error("the certificate {subject:?} is not a CA's: it may not sign others")]
    NotACa {
        /// Its subject.
        subject: String,
    },
    /// The key cannot be read.
    #[error("the CA's key: {0}")]
    Key(rcgen::Error),
    /// The key is another certificate's.
    #[error("the key does not belong to the CA {subject:?}")]
    OtherKey {
        /// The certificate's subject.
        subject: String,
    },
    /// A certificate that it signs could not name it.
    #[error("the CA's subject {subject:?} has an attribute twice, or of an unknown kind")]
    Subject {
        /// The subject.
        subject: String,
    },
    /// It is over, or not yet begun.
    #[error("the CA {subject:?} is valid from {not_before} to {not_after}, which is not now")]
    Expired {
        /// Its subject.
        subject: String,
        /// When it begins.
        not_before: String,
        /// When it ends.
        not_after: String,
    },
    /// Signing failed, or a name is not one.
    #[error("cannot sign a certificate for {subject:?}: {source}")]
    Sign {
        /// The wanted subject.
        subject: String,
        /// Why.
        source: rcgen::Error,
    },
    /// The request cannot be signed.
    #[error(transparent)]
    Request(#[from] RequestError),
}

impl Ca {
    /// How long a CA lives unless asked otherwise.
    pub const LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
    /// How long what it issues lives unless asked otherwise.
    pub const ISSUED_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

    /// Makes a CA for a cluster, self-signed.
    pub fn create(
        cluster: &str,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<(Self, Issued), CaError> {
        Self::called(format!("clustermesh authority of {cluster}"), now, lifetime)
    }

    /// Makes a CA that takes over from others (PEM), with a name that none of them has.
    pub fn succeed(
        cluster: &str,
        others: &str,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<(Self, Issued), CaError> {
        let name = format!("clustermesh authority of {cluster}");
        let number = |other: &Details| match other.common_name.strip_prefix(&name) {
            Some(rest) => rest.trim().parse().unwrap_or(1),
            None => 1,
        };
        let last: u32 = details(others)?.iter().map(number).max().unwrap_or(1);
        Self::called(format!("{name} {}", last.saturating_add(1)), now, lifetime)
    }

    fn called(
        subject: String,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<(Self, Issued), CaError> {
        let sign = |source| CaError::Sign { subject: subject.clone(), source };
        let key = KeyPair::generate().map_err(sign)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = name(&subject);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        valid(&mut params, now, lifetime);
        let certificate = params.self_signed(&key).map_err(sign)?.pem();
        let issued = Issued { certificate: certificate.clone(), key: key.serialize_pem() };
        Ok((Self { certificate, issuer: Issuer::new(params, key) }, issued))
    }

    /// Takes a CA from the content of its two PEM files. Of several certificates it is the one that the key belongs to.
    pub fn load(certificate: &str, key: &str, now: SystemTime) -> Result<Self, CaError> {
        let key = KeyPair::from_pem(key).map_err(CaError::Key);
        let all = details(certificate)?;
        let public = key.as_ref().ok().map(rcgen::PublicKeyData::subject_public_key_info);
        let at = all.iter().position(|about| Some(&about.public_key) == public.as_ref());
        let at = at.unwrap_or_default();
        let about = all.into_iter().nth(at).ok_or(DetailsError::Empty)?;
        let Details { subject, is_ca, public_key, not_before, not_after, .. } = about;
        let key = key?;
        let certificate = nth(certificate, at)?;
        let certificate = certificate.as_str();
        if !is_ca {
            return Err(CaError::NotACa { subject });
        }
        if !can_be_issuer(certificate) {
            return Err(CaError::Subject { subject });
        }
        if rcgen::PublicKeyData::subject_public_key_info(&key) != public_key {
            return Err(CaError::OtherKey { subject });
        }
        if now < not_before || now > not_after {
            let [not_before, not_after] = [not_before, not_after].map(crate::details::rfc_3339);
            return Err(CaError::Expired { subject, not_before, not_after });
        }
        let issuer = Issuer::from_ca_cert_pem(certificate, key)
            .map_err(|source| CaError::Sign { subject, source })?;
        Ok(Self { certificate: certificate.into(), issuer })
    }

    /// The CA's own certificate, PEM: of several the one that signs.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Issues a certificate with a new key.
    pub fn issue(
        &self,
        profile: &Profile,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<Issued, CaError> {
        let sign = |source| CaError::Sign { subject: profile.common_name().into(), source };
        let key = KeyPair::generate().map_err(sign)?;
        let params = profile.params(now, lifetime).map_err(sign)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(sign)?.pem();
        Ok(Issued { certificate, key: key.serialize_pem() })
    }

    /// Signs another cluster's request: a client certificate for `user` and nothing else, whatever the request asks.
    /// Of the request only its key is used, and its subject must already be `user`.
    pub fn sign(
        &self,
        request: &str,
        user: &str,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<String, CaError> {
        let request = Request::parse(request)?;
        request.expect_subject(user)?;
        let sign = |source| CaError::Sign { subject: user.into(), source };
        let params = Profile::Client { user: user.into() }.params(now, lifetime).map_err(sign)?;
        Ok(params.signed_by(request.public_key(), &self.issuer).map_err(sign)?.pem())
    }
}

/// One of several certificates by itself.
fn nth(certificates: &str, at: usize) -> Result<String, DetailsError> {
    let der = CertificateDer::pem_slice_iter(certificates.as_bytes()).nth(at);
    let der = der.ok_or(DetailsError::Empty)?.map_err(DetailsError::Pem)?;
    Ok(crate::bundle::pem(&der))
}
