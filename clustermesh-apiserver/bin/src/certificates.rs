//! The certificates of a cluster whose CA is a Secret: issued at the start of a pod, and renewed while it runs.
//!
//! The CA (Secret `clustermesh-ca`) is created once and never changed here. Each replica issues the certificates of its own
//! etcd and of itself, into `pki/` of the pod's cluster directory. All agents share one certificate (Secret
//! `clustermesh-local`), which any replica renews.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::DirBuilderExt as _,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, bail};
use mesh_certs::{
    BACKDATED, Bundle, Ca, ClusterPki, Issued, Profile, admin_user, details, local_user,
    server_names,
};
use mesh_model::ClusterName;
use mesh_source_kube::{Connection, Stored, StoredKind};

/// The cluster's CA: `ca.crt` and `ca.key`.
const CA: Stored = Stored { kind: StoredKind::Secret, name: "clustermesh-ca" };
/// What agents need for the cluster's etcd: `ca.crt`, `local.crt`, `local.key`.
pub(crate) const LOCAL: Stored = Stored { kind: StoredKind::Secret, name: "clustermesh-local" };

const CA_CERTIFICATE: &str = "ca.crt";
const CA_KEY: &str = "ca.key";
const LOCAL_CERTIFICATE: &str = "local.crt";
const LOCAL_KEY: &str = "local.key";

/// What certificates are issued for, and how.
#[derive(Clone, Debug)]
pub(crate) struct Issuing {
    pub(crate) cluster: ClusterName,
    /// The namespace of the Service, which is in the server's name.
    pub(crate) namespace: String,
    pub(crate) pki: ClusterPki,
    /// How long an issued certificate is valid.
    pub(crate) lifetime: Duration,
}

/// What the Secret with the CA has.
pub(crate) struct StoredCa {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// Reads the cluster's CA; makes it if there is none yet. Of several replicas that try, one makes it.
pub(crate) async fn obtain_ca(
    api: &Connection,
    cluster: &ClusterName,
    now: SystemTime,
) -> anyhow::Result<StoredCa> {
    if let Some(ca) = read_ca(api).await? {
        return Ok(ca);
    }
    let local = api.stored(LOCAL).await?.unwrap_or_default();
    if local.texts.get(CA_CERTIFICATE).is_some_and(|text| !text.trim().is_empty()) {
        bail!(
            "{CA} is gone, and {LOCAL} is of that CA: restore {CA} from a backup. To make a new CA, which all peers must then be connected to again, delete {LOCAL} first"
        );
    }
    let (_, issued) = Ca::create(cluster.as_str(), now, Ca::LIFETIME)?;
    let texts = [(CA_CERTIFICATE, issued.certificate), (CA_KEY, issued.key)];
    let texts = texts.map(|(key, text)| (key.to_owned(), text)).into();
    if api.create_stored(CA, &texts).await? {
        tracing::info!("{CA} is created");
    }
    // Another replica may have been first.
    read_ca(api).await?.with_context(|| format!("{CA} was removed just after it was created"))
}

async fn read_ca(api: &Connection) -> anyhow::Result<Option<StoredCa>> {
    let Some(content) = api.stored(CA).await? else { return Ok(None) };
    let text = |key: &str| {
        let text = content.texts.get(key).filter(|text| !text.trim().is_empty()).cloned();
        text.with_context(|| format!("{CA} has no {key}"))
    };
    Ok(Some(StoredCa { certificate: text(CA_CERTIFICATE)?, key: text(CA_KEY)? }))
}

// === impl Issuing ===

impl Issuing {
    /// Writes the CA into the pod's `pki/`, and issues what is missing there, is another CA's, or is past half of its life.
    /// Returns what was issued.
    pub(crate) fn write(
        &self,
        ca: &StoredCa,
        now: SystemTime,
    ) -> anyhow::Result<Vec<&'static str>> {
        let signer = Ca::load(&ca.certificate, &ca.key, now)?;
        let trusted = Bundle::parse(&ca.certificate)?;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(self.pki.folder())?;
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        if read(self.pki.certificate("ca")) != ca.certificate {
            let issued = Issued { certificate: ca.certificate.clone(), key: ca.key.clone() };
            self.pki.write("ca", &issued)?;
        }
        let loopback = ["127.0.0.1", "::1"].map(str::parse).into_iter().flatten().collect();
        let server = Profile::Server { names: server_names(&self.namespace), addresses: loopback };
        let admin = Profile::Client { user: admin_user(self.cluster.as_str()) };
        let mut done = Vec::new();
        for (name, profile) in [("server", server), ("admin", admin)] {
            if is_due(&read(self.pki.certificate(name)), &trusted, self.lifetime, now) {
                self.pki.write(name, &signer.issue(&profile, now, self.lifetime)?)?;
                done.push(name);
            }
        }
        Ok(done)
    }

    /// Issues the agents' certificate, if the Secret has none that is fit. Returns whether that was done.
    pub(crate) async fn share(
        &self,
        api: &Connection,
        ca: &StoredCa,
        now: SystemTime,
    ) -> anyhow::Result<bool> {
        let found = api.stored(LOCAL).await?;
        let content =
            found.with_context(|| format!("there is no {LOCAL}: apply the manifests again"))?;
        let text = |key: &str| content.texts.get(key).map(String::as_str).unwrap_or_default();
        let trusted = Bundle::parse(&ca.certificate)?;
        let mut texts = BTreeMap::new();
        if text(CA_CERTIFICATE) != ca.certificate {
            texts.insert(CA_CERTIFICATE.to_owned(), ca.certificate.clone());
        }
        let fits = mesh_certs::belong_together(text(LOCAL_CERTIFICATE), text(LOCAL_KEY));
        if !fits || is_due(text(LOCAL_CERTIFICATE), &trusted, self.lifetime, now) {
            let user = Profile::Client { user: local_user(self.cluster.as_str()) };
            let signer = Ca::load(&ca.certificate, &ca.key, now)?;
            let Issued { certificate, key } = signer.issue(&user, now, self.lifetime)?;
            texts.insert(LOCAL_CERTIFICATE.into(), certificate);
            texts.insert(LOCAL_KEY.into(), key);
        }
        // If another replica changed it first, the next look shows whether that was enough.
        Ok(!texts.is_empty() && api.change_stored(LOCAL, &texts, content.version).await?.is_some())
    }

    /// Reads the CA, and renews what is due in `pki/` and for the agents. Returns what was renewed.
    pub(crate) async fn renew(&self, api: &Connection) -> anyhow::Result<Vec<&'static str>> {
        let now = SystemTime::now();
        let ca = read_ca(api).await?;
        let ca = ca.with_context(|| format!("{CA} is gone: restore it from a backup"))?;
        let mut renewed = self.write(&ca, now)?;
        if self.share(api, &ca, now).await? {
            renewed.push("local");
        }
        Ok(renewed)
    }
}

/// Whether a certificate is to be issued anew: there is none, none of the CAs signed it, half of its life is over, or it lives
/// longer than is wanted now.
fn is_due(certificate: &str, trusted: &Bundle, lifetime: Duration, now: SystemTime) -> bool {
    let Ok(found) = details(certificate) else { return true };
    let Some(found) = found.first() else { return true };
    let left = found.not_after.duration_since(now).unwrap_or_default();
    let lives = found.not_after.duration_since(found.not_before + BACKDATED).unwrap_or_default();
    !trusted.signed(certificate) || left <= lives / 2 || left > lifetime
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn a_certificate_is_renewed_after_half_of_its_life_or_if_another_ca_signed_it() {
        let now = SystemTime::now();
        let ca = |name| Ca::create(name, now, Ca::LIFETIME).unwrap().0;
        let (ours, other) = (ca("a"), ca("a"));
        let trusted = Bundle::parse(ours.certificate()).unwrap();
        let user = Profile::Client { user: "local-a".into() };
        let of = |ca: &Ca, lifetime| ca.issue(&user, now, lifetime).unwrap().certificate;
        let due = |certificate: &str, after| is_due(certificate, &trusted, DAY, now + after);
        let certificate = of(&ours, DAY);
        assert!(!due(&certificate, Duration::ZERO) && !due(&certificate, DAY * 49 / 100));
        assert!(due(&certificate, DAY / 2) && due(&certificate, DAY * 2));
        assert!(due(&of(&other, DAY), Duration::ZERO));
        assert!(due("", Duration::ZERO) && due("nothing", Duration::ZERO));
        // The lifetime was made shorter.
        assert!(due(&of(&ours, DAY * 3), Duration::ZERO));
    }

    #[test]
    fn the_folder_of_a_pod_is_filled_once_and_renewed_when_due() {
        let folder = tempfile::tempdir().unwrap();
        let pki = ClusterPki::new(&folder.path().join("pki"));
        let issuing = Issuing {
            cluster: ClusterName::new("a").unwrap(),
            namespace: "clustermesh-system".into(),
            pki: pki.clone(),
            lifetime: DAY,
        };
        let now = SystemTime::now();
        let (_, Issued { certificate, key }) = Ca::create("a", now, Ca::LIFETIME).unwrap();
        let ca = StoredCa { certificate, key };
        assert_eq!(issuing.write(&ca, now).unwrap(), ["server", "admin"]);
        assert!(issuing.write(&ca, now).unwrap().is_empty());
        assert_eq!(issuing.write(&ca, now + DAY).unwrap(), ["server", "admin"]);
        let server = fs::read_to_string(pki.certificate("server")).unwrap();
        let server = details(&server).unwrap().remove(0);
        assert_eq!(server.common_name, "clustermesh-apiserver.clustermesh-system.svc");
        assert!(server.names.contains(&"*.mesh.cilium.io".into()));
        // Another CA: everything is its.
        let (_, Issued { certificate, key }) = Ca::create("a", now, Ca::LIFETIME).unwrap();
        assert_eq!(
            issuing.write(&StoredCa { certificate, key }, now).unwrap(),
            ["server", "admin"]
        );
    }
}
