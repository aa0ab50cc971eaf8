//! A cluster's certificate authority.

use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

use crate::{
    details::{Details, DetailsError, can_be_issuer, details},
    issue::{Issued, Profile, name, valid},
    request::{Request, RequestError},
};

/// An authority: a certificate that may sign others, and its key.
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

/// Why an authority cannot be made, loaded or used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The certificate cannot be read.
    #[error("the authority's certificate: {0}")]
    Certificate(#[from] DetailsError),
    /// It may not sign others.
    #[error("the certificate {subject:?} is not an authority's: it may not sign others")]
    NotAnAuthority {
        /// Its subject.
        subject: String,
    },
    /// The key cannot be read.
    #[error("the authority's key: {0}")]
    Key(rcgen::Error),
    /// The key is another certificate's.
    #[error("the key does not belong to the authority {subject:?}")]
    OtherKey {
        /// The certificate's subject.
        subject: String,
    },
    /// What it signs could not name it.
    #[error("the authority's subject {subject:?} has an attribute twice, or of an unknown kind")]
    Subject {
        /// The subject.
        subject: String,
    },
    /// It is over, or not yet begun.
    #[error(
        "the authority {subject:?} is valid from {not_before} to {not_after}, which is not now"
    )]
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

impl Authority {
    /// How long an authority lives unless asked otherwise.
    pub const LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
    /// How long what it issues lives unless asked otherwise.
    pub const ISSUED_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

    /// Makes an authority for a cluster, self-signed.
    pub fn create(
        cluster: &str,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<(Self, Issued), AuthorityError> {
        Self::called(format!("clustermesh authority of {cluster}"), now, lifetime)
    }

    /// Makes an authority that takes over from others (PEM), with a name that none of them has.
    pub fn succeed(
        cluster: &str,
        others: &str,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<(Self, Issued), AuthorityError> {
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
    ) -> Result<(Self, Issued), AuthorityError> {
        let sign = |source| AuthorityError::Sign { subject: subject.clone(), source };
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

    /// Takes an authority from its two PEM files' content. Of several certificates it is the one that the key belongs to.
    pub fn load(certificate: &str, key: &str, now: SystemTime) -> Result<Self, AuthorityError> {
        let key = KeyPair::from_pem(key).map_err(AuthorityError::Key);
        let all = details(certificate)?;
        let public = key.as_ref().ok().map(rcgen::PublicKeyData::subject_public_key_info);
        let at = all.iter().position(|about| Some(&about.public_key) == public.as_ref());
        let at = at.unwrap_or_default();
        let about = all.into_iter().nth(at).ok_or(DetailsError::Empty)?;
        let Details { subject, is_authority, public_key, not_before, not_after, .. } = about;
        let key = key?;
        let certificate = nth(certificate, at)?;
        let certificate = certificate.as_str();
        if !is_authority {
            return Err(AuthorityError::NotAnAuthority { subject });
        }
        if !can_be_issuer(certificate) {
            return Err(AuthorityError::Subject { subject });
        }
        if rcgen::PublicKeyData::subject_public_key_info(&key) != public_key {
            return Err(AuthorityError::OtherKey { subject });
        }
        if now < not_before || now > not_after {
            let [not_before, not_after] = [not_before, not_after].map(crate::details::shown);
            return Err(AuthorityError::Expired { subject, not_before, not_after });
        }
        let issuer = Issuer::from_ca_cert_pem(certificate, key)
            .map_err(|source| AuthorityError::Sign { subject, source })?;
        Ok(Self { certificate: certificate.into(), issuer })
    }

    /// The authority's own certificate, PEM: of several the one that signs.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Issues a certificate with a new key.
    pub fn issue(
        &self,
        profile: &Profile,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<Issued, AuthorityError> {
        let sign = |source| AuthorityError::Sign { subject: profile.common_name().into(), source };
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
    ) -> Result<String, AuthorityError> {
        let request = Request::parse(request)?;
        request.expect_subject(user)?;
        let sign = |source| AuthorityError::Sign { subject: user.into(), source };
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
