//! What this cluster needs to follow a peer: its file, and a certificate for its etcd.

use std::time::SystemTime;

use anyhow::{Context as _, bail, ensure};
use mesh_certs::{Bundle, Details, belong_together, details, request, request_again, rfc_3339};
use mesh_model::ClusterName;
use mesh_source_kube::SecretState;
use mesh_wire::{
    peer_file::PeerFile,
    peering::{Acceptance, PEER_SIZE, PeerEntries, Requested, SECRET, SECRET_LIMIT, Signed},
    users_file::remote_user,
};

use super::{CONTENDED, Local, contended};

impl Local {
    /// Makes a private key for a peer's etcd and the request for a certificate. A key that waits for one is used again, so
    /// that a command that was stopped goes on.
    pub(super) async fn request(&self, peer: &ClusterName) -> anyhow::Result<Requested> {
        let (entries, user) = (PeerEntries::new(peer), remote_user(&self.settings.name));
        for _ in 0..CONTENDED {
            let before = self.secret.read().await?;
            let waiting = before.text(&entries.next_key);
            if let Some(Ok(request)) = waiting.map(|key| request_again(&user, key)) {
                return Ok(Requested { request });
            }
            let made = request(&user)?;
            // The certificate that follows must find room too.
            let has_file = before.data.contains_key(&entries.file);
            let more = if has_file { made.key.len() } else { PEER_SIZE };
            self.has_room(&before, before.bytes() + more)?;
            let mut data = before.of_peer(peer);
            data.insert(entries.next_key.clone(), made.key.into_bytes());
            if self.secret.apply(peer, &data, &before).await?.is_some() {
                return Ok(Requested { request: made.certificate });
            }
        }
        contended("Secret clustermesh-peers")
    }

    /// Writes the peer's file, and the certificate that its cluster signed. Both are in force at once.
    pub(super) async fn accept(
        &self,
        peer: &ClusterName,
        acceptance: Acceptance,
    ) -> anyhow::Result<serde_json::Value> {
        let Acceptance { file, signed, .. } = acceptance;
        let entries = PeerEntries::new(peer);
        check_file(&file, &entries).context("the peer file")?;
        if let Some(signed) = &signed {
            self.check_signed(peer, signed)?;
        }
        for _ in 0..CONTENDED {
            let before = self.secret.read().await?;
            let mut data = before.of_peer(peer);
            data.insert(entries.file.clone(), file.clone().into_bytes());
            match &signed {
                Some(signed) => {
                    let certificate = signed.certificate.clone().unwrap_or_default();
                    let key = key_of(&before, &entries, &certificate)?;
                    data.insert(entries.key.clone(), key.into());
                    data.insert(entries.certificate.clone(), certificate.into_bytes());
                    data.insert(entries.ca.clone(), signed.ca.clone().into_bytes());
                    data.remove(&entries.next_key);
                }
                None => ensure!(
                    before.data.contains_key(&entries.key),
                    "the Secret {SECRET} has no private key for {peer}: request a certificate first"
                ),
            }
            let replaced = before
                .data
                .iter()
                .filter(|(name, _)| data.contains_key(*name) || **name == entries.next_key);
            let replaced: usize = replaced.map(|(_, value)| value.len()).sum();
            let added: usize = data.values().map(Vec::len).sum();
            self.has_room(&before, before.bytes() - replaced + added)?;
            if self.secret.apply(peer, &data, &before).await?.is_some() {
                return Ok(serde_json::json!({}));
            }
        }
        contended("Secret clustermesh-peers")
    }

    /// Whether the Secret may have so many bytes.
    fn has_room(&self, before: &SecretState, bytes: usize) -> anyhow::Result<()> {
        // One that is too large already can only shrink.
        ensure!(
            bytes <= SECRET_LIMIT || bytes <= before.bytes(),
            "the Secret {}/{SECRET} is full: {} of {SECRET_LIMIT} bytes are used, and Kubernetes allows no more. Disconnect a cluster first",
            self.connection.namespace(),
            before.bytes()
        );
        Ok(())
    }

    fn check_signed(&self, peer: &ClusterName, signed: &Signed) -> anyhow::Result<()> {
        let certificate = signed.certificate.as_deref().context("there is no certificate")?;
        let ca = Bundle::parse(&signed.ca).with_context(|| format!("the CA of {peer}"))?;
        let all = details(certificate).with_context(|| format!("the certificate of {peer}"))?;
        let Some(Details { common_name, not_after, .. }) = all.first() else {
            bail!("there is no certificate")
        };
        let user = remote_user(&self.settings.name);
        ensure!(
            *common_name == user,
            "the certificate that {peer} signed is for {common_name:?}, not for {user:?}"
        );
        ensure!(ca.signed(certificate), "the CA that {peer} sent did not sign the certificate");
        ensure!(
            *not_after > SystemTime::now(),
            "the certificate that {peer} signed ended at {}: compare the clocks of both clusters",
            rfc_3339(*not_after)
        );
        Ok(())
    }
}

/// The private key of a certificate: the one that waits for it, or the one in use if the certificate was accepted before.
fn key_of<'a>(
    secret: &'a SecretState,
    entries: &PeerEntries,
    certificate: &str,
) -> anyhow::Result<&'a str> {
    let keys = [&entries.next_key, &entries.key].map(|entry| secret.text(entry));
    let fits = |key: &&str| belong_together(certificate, key);
    keys.into_iter().flatten().find(fits).with_context(|| {
        format!(
            "the certificate is for another private key than the Secret {SECRET} has: another command requested one meanwhile. Give the command again"
        )
    })
}

/// Refuses a file that agents would refuse, or that names other credentials than its own.
fn check_file(text: &str, entries: &PeerEntries) -> anyhow::Result<()> {
    let file = PeerFile::parse(text)?;
    let own = [
        (&file.trusted_ca_file, &entries.ca),
        (&file.cert_file, &entries.certificate),
        (&file.key_file, &entries.key),
    ];
    for (found, wanted) in own {
        let found = found.as_ref().map(|path| path.to_string_lossy());
        ensure!(
            found.as_deref() == Some(wanted),
            "it names {}, not {wanted}",
            found.as_deref().unwrap_or("no file")
        );
    }
    let grant = file.clustermesh.context("it has no `clustermesh`: what the peer may claim")?;
    ensure!(!grant.pod_cidrs.is_empty(), "`clustermesh.podCIDRs` is empty");
    Ok(())
}
