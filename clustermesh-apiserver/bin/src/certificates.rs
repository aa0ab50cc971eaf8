//! The certificates of a cluster whose CA is a Secret: issued at the start of a pod, and renewed while it runs.
//!
//! The CA (Secret `clustermesh-ca`) is created once, and only `clustermesh certs rotate --ca` changes it: then both CAs are in
//! `ca.crt`, and the key of the new one waits in `ca-next.key` until it signs. Each replica issues the certificates of its own
//! etcd and of itself, into `pki/` of the pod's cluster directory. All agents share one certificate (Secret
//! `clustermesh-local`), which any replica renews.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::DirBuilderExt as _,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, bail, ensure};
use mesh_certs::{
    BACKDATED, Bundle, Ca, ClusterPki, Issued, Profile, admin_user, details, local_user,
    server_names,
};
use mesh_model::ClusterName;
use mesh_source_kube::{Connection, Stored, StoredKind};

/// The cluster's CA: `ca.crt` and `ca.key`; while it is rotated, `ca-next.key` too.
const CA: Stored = Stored { kind: StoredKind::Secret, name: "clustermesh-ca" };
/// What agents need for the cluster's etcd: `ca.crt`, `local.crt`, `local.key`.
pub(crate) const LOCAL: Stored = Stored { kind: StoredKind::Secret, name: "clustermesh-local" };

const CA_CERTIFICATE: &str = "ca.crt";
const CA_KEY: &str = "ca.key";
const CA_NEXT_KEY: &str = "ca-next.key";
pub(crate) const LOCAL_CERTIFICATE: &str = "local.crt";
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
#[derive(Clone, Debug, Default)]
pub(crate) struct StoredCa {
    /// The trusted certificates, PEM: two while the CA is rotated, the new one last.
    pub(crate) certificate: String,
    /// The key of the one that signs.
    pub(crate) key: String,
    /// The key of the new one, until it signs.
    pub(crate) next_key: Option<String>,
    version: u64,
}

/// A step of the exchange of the CA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CaStep {
    /// A new CA is made, and trusted beside the present one.
    Succeed,
    /// The new CA signs from now on.
    Sign,
    /// Only the CA that signs is trusted.
    Forget,
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
    let text = |key: &str| content.texts.get(key).filter(|text| !text.trim().is_empty()).cloned();
    let needed = |key: &str| text(key).with_context(|| format!("{CA} has no {key}"));
    Ok(Some(StoredCa {
        certificate: needed(CA_CERTIFICATE)?,
        key: needed(CA_KEY)?,
        next_key: text(CA_NEXT_KEY),
        version: content.version,
    }))
}

/// Reads the CA, which there must be.
pub(crate) async fn present_ca(api: &Connection) -> anyhow::Result<StoredCa> {
    read_ca(api).await?.with_context(|| format!("{CA} is gone: restore it from a backup"))
}

/// Takes a step of the exchange of the CA, unless it was taken before.
pub(crate) async fn change_ca(
    api: &Connection,
    cluster: &ClusterName,
    step: CaStep,
) -> anyhow::Result<()> {
    let ca = present_ca(api).await?;
    let texts = ca.after(step, cluster, SystemTime::now())?;
    let texts: BTreeMap<String, String> =
        texts.into_iter().map(|(key, text)| (key.to_owned(), text)).collect();
    if texts.is_empty() {
        return Ok(());
    }
    let changed = api.change_stored(CA, &texts, ca.version).await?;
    ensure!(changed.is_some(), "{CA} was changed meanwhile: give the command again");
    let what = match step {
        CaStep::Succeed => "a new CA is trusted beside the old one",
        CaStep::Sign => "the new CA signs",
        CaStep::Forget => "the old CA is not trusted any more",
    };
    tracing::info!(what, "{CA} is changed");
    Ok(())
}

// === impl StoredCa ===

impl StoredCa {
    /// The entries that a step changes; none if it was taken before.
    fn after(
        &self,
        step: CaStep,
        cluster: &ClusterName,
        now: SystemTime,
    ) -> anyhow::Result<Vec<(&'static str, String)>> {
        let trusted = Bundle::parse(&self.certificate)?;
        let is_rotated = trusted.len() > 1;
        Ok(match step {
            CaStep::Succeed if is_rotated => Vec::new(),
            CaStep::Succeed => {
                let name = cluster.as_str();
                let (new, issued) = Ca::succeed(name, &self.certificate, now, Ca::LIFETIME)?;
                let both = trusted.with(&Bundle::parse(new.certificate())?);
                vec![(CA_CERTIFICATE, both.to_pem()), (CA_NEXT_KEY, issued.key)]
            }
            CaStep::Sign => match &self.next_key {
                Some(key) => {
                    Ca::load(&self.certificate, key, now).context(CA_NEXT_KEY)?;
                    vec![(CA_KEY, key.clone()), (CA_NEXT_KEY, String::new())]
                }
                None => Vec::new(),
            },
            CaStep::Forget if !is_rotated => Vec::new(),
            CaStep::Forget => {
                ensure!(self.next_key.is_none(), "the old CA still signs");
                let signer = Ca::load(&self.certificate, &self.key, now)?;
                vec![(CA_CERTIFICATE, signer.certificate().to_owned())]
            }
        })
    }
}

// === impl Issuing ===

impl Issuing {
    /// Writes the CA into the pod's `pki/`, and issues what is missing there, is not of the CA that signs, is past half of its
    /// life, or is named in `again`. Returns what was issued.
    pub(crate) fn write(
        &self,
        ca: &StoredCa,
        again: &[&str],
        now: SystemTime,
    ) -> anyhow::Result<Vec<&'static str>> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(self.pki.folder())?;
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        if read(self.pki.certificate("ca")) != ca.certificate || read(self.pki.key("ca")) != ca.key
        {
            let issued = Issued { certificate: ca.certificate.clone(), key: ca.key.clone() };
            self.pki.write("ca", &issued)?;
        }
        // One that has expired is trusted no more, but it is replaced by this way.
        let signer = Ca::load(&ca.certificate, &ca.key, now)?;
        let by = Bundle::parse(signer.certificate())?;
        let loopback = ["127.0.0.1", "::1"].map(str::parse).into_iter().flatten().collect();
        let server = Profile::Server { names: server_names(&self.namespace), addresses: loopback };
        let admin = Profile::Client { user: admin_user(self.cluster.as_str()) };
        let mut done = Vec::new();
        for (name, profile) in [("server", server), ("admin", admin)] {
            let found = read(self.pki.certificate(name));
            if again.contains(&name) || is_due(&found, &by, self.lifetime, now) {
                self.pki.write(name, &signer.issue(&profile, now, self.lifetime)?)?;
                done.push(name);
            }
        }
        Ok(done)
    }

    /// Issues the agents' certificate, if the Secret has none that is fit or `again` names it. Returns whether that was done.
    pub(crate) async fn share(
        &self,
        api: &Connection,
        ca: &StoredCa,
        again: &[&str],
        now: SystemTime,
    ) -> anyhow::Result<bool> {
        let found = api.stored(LOCAL).await?;
        let content =
            found.with_context(|| format!("there is no {LOCAL}: apply the manifests again"))?;
        let text = |key: &str| content.texts.get(key).map(String::as_str).unwrap_or_default();
        let signer = Ca::load(&ca.certificate, &ca.key, now)?;
        let by = Bundle::parse(signer.certificate())?;
        let mut texts = BTreeMap::new();
        if text(CA_CERTIFICATE) != ca.certificate {
            texts.insert(CA_CERTIFICATE.to_owned(), ca.certificate.clone());
        }
        let fits = mesh_certs::belong_together(text(LOCAL_CERTIFICATE), text(LOCAL_KEY));
        let is_due = is_due(text(LOCAL_CERTIFICATE), &by, self.lifetime, now);
        if !fits || is_due || again.contains(&"local") {
            let user = Profile::Client { user: local_user(self.cluster.as_str()) };
            let Issued { certificate, key } = signer.issue(&user, now, self.lifetime)?;
            texts.insert(LOCAL_CERTIFICATE.into(), certificate);
            texts.insert(LOCAL_KEY.into(), key);
        }
        // If another replica changed it first, the next look shows whether that was enough.
        Ok(!texts.is_empty() && api.change_stored(LOCAL, &texts, content.version).await?.is_some())
    }

    /// Reads the CA, and renews what is due or named, in `pki/` and for the agents. Returns what was renewed.
    pub(crate) async fn renew(
        &self,
        api: &Connection,
        again: &[&str],
    ) -> anyhow::Result<Vec<&'static str>> {
        let now = SystemTime::now();
        let ca = present_ca(api).await?;
        let mut renewed = self.write(&ca, again, now)?;
        if self.share(api, &ca, again, now).await? {
            renewed.push("local");
        }
        Ok(renewed)
    }
}

/// Whether a certificate is to be issued anew: there is none, another CA signed it, half of its life is over, or it lives longer
/// than is wanted now.
fn is_due(certificate: &str, signer: &Bundle, lifetime: Duration, now: SystemTime) -> bool {
    let Ok(found) = details(certificate) else { return true };
    let Some(found) = found.first() else { return true };
    let left = found.not_after.duration_since(now).unwrap_or_default();
    let lives = found.not_after.duration_since(found.not_before + BACKDATED).unwrap_or_default();
    !signer.signed(certificate) || left <= lives / 2 || left > lifetime
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
        let ca = StoredCa { certificate, key, ..StoredCa::default() };
        assert_eq!(issuing.write(&ca, &[], now).unwrap(), ["server", "admin"]);
        assert!(issuing.write(&ca, &["local"], now).unwrap().is_empty());
        assert_eq!(issuing.write(&ca, &["server"], now).unwrap(), ["server"]);
        assert_eq!(issuing.write(&ca, &[], now + DAY).unwrap(), ["server", "admin"]);
        let server = fs::read_to_string(pki.certificate("server")).unwrap();
        let server = details(&server).unwrap().remove(0);
        assert_eq!(server.common_name, "clustermesh-apiserver.clustermesh-system.svc");
        assert!(server.names.contains(&"*.mesh.cilium.io".into()));
        // Another CA: everything is its.
        let (_, Issued { certificate, key }) = Ca::create("a", now, Ca::LIFETIME).unwrap();
        let other = StoredCa { certificate, key, ..StoredCa::default() };
        assert_eq!(issuing.write(&other, &[], now).unwrap(), ["server", "admin"]);
    }

    /// A CA after a step, and whether the step changed it.
    fn after(ca: &StoredCa, step: CaStep, now: SystemTime) -> anyhow::Result<(StoredCa, bool)> {
        let changed = ca.after(step, &ClusterName::new("a").unwrap(), now)?;
        let mut after = ca.clone();
        for (key, text) in &changed {
            match *key {
                CA_CERTIFICATE => after.certificate = text.clone(),
                CA_KEY => after.key = text.clone(),
                _ => after.next_key = Some(text.clone()).filter(|text| !text.is_empty()),
            }
        }
        Ok((after, !changed.is_empty()))
    }

    #[test]
    fn a_ca_is_exchanged_in_three_steps_each_of_which_may_be_repeated() {
        let folder = tempfile::tempdir().unwrap();
        let issuing = Issuing {
            cluster: ClusterName::new("a").unwrap(),
            namespace: "clustermesh-system".into(),
            pki: ClusterPki::new(&folder.path().join("pki")),
            lifetime: DAY,
        };
        let now = SystemTime::now();
        let (old, Issued { certificate, key }) = Ca::create("a", now, Ca::LIFETIME).unwrap();
        let mut ca = StoredCa { certificate, key, ..StoredCa::default() };
        issuing.write(&ca, &[], now).unwrap();
        for step in [CaStep::Sign, CaStep::Forget] {
            assert!(!after(&ca, step, now).unwrap().1, "{step:?} before there is a new one");
        }
        for (step, subjects, issues) in [
            (CaStep::Succeed, 2, &[][..]),
            (CaStep::Sign, 2, &["server", "admin"]),
            (CaStep::Forget, 1, &[]),
        ] {
            let (then, changed) = after(&ca, step, now).unwrap();
            assert!(changed, "{step:?}");
            if step != CaStep::Forget {
                assert!(!after(&then, step, now).unwrap().1, "{step:?} again");
            }
            if step == CaStep::Succeed {
                let refused = after(&then, CaStep::Forget, now).unwrap_err().to_string();
                assert_eq!(refused, "the old CA still signs");
            }
            assert_eq!(Bundle::parse(&then.certificate).unwrap().len(), subjects, "{step:?}");
            assert_eq!(issuing.write(&then, &[], now).unwrap(), issues, "{step:?}");
            ca = then;
        }
        let old = Bundle::parse(old.certificate()).unwrap();
        assert!(!Bundle::parse(&ca.certificate).unwrap().includes(&old));
        assert!(ca.next_key.is_none());
    }
}
