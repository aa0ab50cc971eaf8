//! Several CAs in one file: while a new one replaces an old one, both are trusted.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

use crate::details::{DetailsError, details_of};

/// CAs that are trusted together, each once, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bundle(Vec<CertificateDer<'static>>);

/// Characters a line of PEM (RFC 7468).
const LINE: usize = 64;

impl Bundle {
    /// Takes the certificates of a PEM text; at least one.
    pub fn parse(pem: &str) -> Result<Self, DetailsError> {
        let mut bundle = Self::default();
        for der in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let der = der.map_err(DetailsError::Pem)?;
            details_of(&der)?;
            if !bundle.0.contains(&der) {
                bundle.0.push(der);
            }
        }
        if bundle.0.is_empty() { Err(DetailsError::Empty) } else { Ok(bundle) }
    }

    /// All of both.
    pub fn with(mut self, other: &Self) -> Self {
        let new: Vec<_> = other.0.iter().filter(|der| !self.0.contains(der)).cloned().collect();
        self.0.extend(new);
        self
    }

    /// Whether all of another's are here.
    pub fn includes(&self, other: &Self) -> bool {
        other.0.iter().all(|der| self.0.contains(der))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each by itself.
    pub fn each(&self) -> impl Iterator<Item = Self> {
        self.0.iter().map(|der| Self(vec![der.clone()]))
    }

    /// Their subjects.
    pub fn subjects(&self) -> Vec<String> {
        self.0.iter().filter_map(|der| Some(details_of(der).ok()?.subject)).collect()
    }

    /// Whether one of them signed the first certificate of a PEM text. By its signature: a name is nothing to go by.
    pub fn signed(&self, pem: &str) -> bool {
        let Ok(leaf) = CertificateDer::from_pem_slice(pem.as_bytes()) else { return false };
        let Ok((_, leaf)) = X509Certificate::from_der(&leaf) else { return false };
        self.0.iter().any(|der| {
            X509Certificate::from_der(der).is_ok_and(|(_, ca)| {
                leaf.issuer().as_raw() == ca.subject().as_raw()
                    && leaf.verify_signature(Some(ca.public_key())).is_ok()
            })
        })
    }

    /// As it is written into a file.
    pub fn to_pem(&self) -> String {
        self.0.iter().map(|der| pem(der)).collect()
    }
}

/// A certificate in PEM.
pub(crate) fn pem(der: &[u8]) -> String {
    let mut text = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for (at, character) in STANDARD.encode(der).chars().enumerate() {
        if at > 0 && at % LINE == 0 {
            text.push('\n');
        }
        text.push(character);
    }
    text.push_str("\n-----END CERTIFICATE-----\n");
    text
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::{Ca, Profile};

    #[test]
    fn one_takes_over_from_another() {
        let (now, day) = (SystemTime::now(), Duration::from_secs(24 * 3600));
        let (old, old_files) = Ca::create("a", now, day).unwrap();
        let (new, new_files) = Ca::succeed("a", old.certificate(), now, day).unwrap();
        let bundle = |ca: &Ca| Bundle::parse(ca.certificate()).unwrap();
        let both = bundle(&old).with(&bundle(&new)).with(&bundle(&old));
        assert_eq!(
            both.subjects(),
            ["CN=clustermesh authority of a", "CN=clustermesh authority of a 2"]
        );
        assert_eq!(Bundle::parse(&both.to_pem()).unwrap(), both);
        assert!(both.includes(&bundle(&new)) && !bundle(&new).includes(&both));
        assert_eq!(bundle(&new).to_pem(), new.certificate(), "as rcgen writes it");

        // The key shows which of them signs.
        for (files, of) in [(&old_files, &old), (&new_files, &new)] {
            let signer = Ca::load(&both.to_pem(), &files.key, now).unwrap();
            assert_eq!(signer.certificate(), of.certificate());
            let issued = signer.issue(&Profile::Client { user: "u".into() }, now, day).unwrap();
            assert!(both.signed(&issued.certificate) && bundle(of).signed(&issued.certificate));
            let other = if of.certificate() == old.certificate() { &new } else { &old };
            assert!(!bundle(other).signed(&issued.certificate));
        }
        let third = Ca::succeed("a", &both.to_pem(), now, day).unwrap().0;
        assert_eq!(bundle(&third).subjects(), ["CN=clustermesh authority of a 3"]);
        // Another CA of the same name.
        let (stranger, _) = Ca::create("a", now, day).unwrap();
        let issued = old.issue(&Profile::Client { user: "u".into() }, now, day).unwrap();
        assert!(!bundle(&stranger).signed(&issued.certificate));
        assert!(Bundle::parse("").is_err());
    }
}
