//! Certificate requests: how a cluster asks another for the right to read its etcd.

use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DnType, DnValue, KeyPair, PublicKey,
};

use crate::issue::{Issued, name};

/// A request that was received.
pub struct Request {
    params: CertificateSigningRequestParams,
}

/// Why a request cannot be made or signed.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// No request, or one whose signature is not by its own key.
    #[error("not a certificate request: {0}")]
    Invalid(rcgen::Error),
    /// Longer than any request.
    #[error("not a certificate request: longer than {0} bytes")]
    TooLarge(usize),
    /// It asks for another user's name.
    #[error("the request is for {found:?}, but {expected:?} asked for it")]
    OtherSubject {
        /// The common name in the request.
        found: String,
        /// The one it must have.
        expected: String,
    },
    /// The request could not be made.
    #[error("cannot make a request for {subject:?}: {source}")]
    Make {
        /// The subject.
        subject: String,
        /// Why.
        source: rcgen::Error,
    },
}

/// A request of a P-256 key is some 400 bytes; RSA and a few names leave room.
const MAX_BYTES: usize = 64 * 1024;

/// Makes a key and the request for a certificate of `user` ([`Issued::certificate`] holds the request).
pub fn request(user: &str) -> Result<Issued, RequestError> {
    let make = |source| RequestError::Make { subject: user.into(), source };
    let key = KeyPair::generate().map_err(make)?;
    let request = write(user, &key).map_err(make)?;
    Ok(Issued { certificate: request, key: key.serialize_pem() })
}

/// Makes the request again for a key that exists.
pub fn request_again(user: &str, key: &str) -> Result<String, RequestError> {
    let make = |source| RequestError::Make { subject: user.into(), source };
    write(user, &KeyPair::from_pem(key).map_err(make)?).map_err(make)
}

fn write(user: &str, key: &KeyPair) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = name(user);
    params.serialize_request(key)?.pem()
}

impl Request {
    /// Reads a request and verifies that its sender has the key.
    pub fn parse(pem: &str) -> Result<Self, RequestError> {
        if pem.len() > MAX_BYTES {
            return Err(RequestError::TooLarge(MAX_BYTES));
        }
        let params =
            CertificateSigningRequestParams::from_pem(pem).map_err(RequestError::Invalid)?;
        Ok(Self { params })
    }

    /// The common name it asks for, empty if none.
    pub fn subject(&self) -> &str {
        match self.params.params.distinguished_name.get(&DnType::CommonName) {
            Some(DnValue::Utf8String(text)) => text,
            Some(DnValue::PrintableString(text)) => text.as_str(),
            Some(DnValue::Ia5String(text)) => text.as_str(),
            // Not text that could name an etcd user.
            _ => "",
        }
    }

    /// Refuses a request for any user but `user`.
    pub(crate) fn expect_subject(&self, user: &str) -> Result<(), RequestError> {
        let found = self.subject();
        if found == user {
            return Ok(());
        }
        Err(RequestError::OtherSubject { found: found.into(), expected: user.into() })
    }

    pub(crate) fn public_key(&self) -> &PublicKey {
        &self.params.public_key
    }
}
