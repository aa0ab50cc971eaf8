//! The content of certificates: names, purposes, lifetimes.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    SanType,
};
use time::OffsetDateTime;

/// What a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Profile {
    /// A server, known by the first name and reachable by all.
    Server {
        /// DNS names, the first of which is the common name. At least one.
        names: Vec<String>,
        /// IP addresses.
        addresses: Vec<IpAddr>,
    },
    /// A client, which etcd knows by its common name.
    Client {
        /// The etcd user.
        user: String,
    },
}

/// A certificate and its key, both PEM.
#[derive(Clone)]
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

/// How far back certificates begin, for clocks that are behind.
pub const BACKDATED: Duration = Duration::from_secs(3600);

/// The common name of an apiserver's certificate: its Service.
pub fn server_name(namespace: &str) -> String {
    format!("clustermesh-apiserver.{namespace}.svc")
}

/// All DNS names of an apiserver's certificate: its Service's, the one Cilium's older charts use, and whatever name a
/// peer calls it by.
pub fn server_names(namespace: &str) -> Vec<String> {
    vec![
        server_name(namespace),
        "clustermesh-apiserver.cilium.io".into(),
        "*.mesh.cilium.io".into(),
        "localhost".into(),
    ]
}

/// The etcd user that a cluster's own writers are.
pub fn admin_user(cluster: &str) -> String {
    format!("admin-{cluster}")
}

/// The etcd user that a cluster's own agents are.
pub fn local_user(cluster: &str) -> String {
    format!("local-{cluster}")
}

impl Profile {
    /// The common name.
    pub fn common_name(&self) -> &str {
        match self {
            Self::Server { names, .. } => names.first().map_or("", String::as_str),
            Self::Client { user } => user,
        }
    }

    /// The certificate's content, valid from an hour before `now` for `lifetime`.
    pub(crate) fn params(
        &self,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<CertificateParams, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = name(self.common_name());
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        valid(&mut params, now, lifetime);
        match self {
            Self::Server { names, addresses } => {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
                for name in names {
                    params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
                }
                params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
            }
            Self::Client { .. } => {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            }
        }
        Ok(params)
    }
}

/// A subject of a common name and nothing else.
pub(crate) fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

/// Sets a certificate's lifetime.
pub(crate) fn valid(params: &mut CertificateParams, now: SystemTime, lifetime: Duration) {
    params.not_before = OffsetDateTime::from(now - BACKDATED);
    params.not_after = OffsetDateTime::from(now + lifetime);
}
