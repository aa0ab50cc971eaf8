//! What makes one cluster follow another.

use std::time::SystemTime;

use anyhow::Context as _;
use mesh_certs::{Bundle, Details, details};
use mesh_wire::{
    peer_file::PeerFile,
    peering::{Acceptance, PeerEntries, Requested, SECRET, SignRequest, Signed},
    users_file::{REMOTE_ROLE, User, remote_user},
};
use serde_json::Value;

use super::{
    peer_commands::{ask, tell},
    side::KubeSide,
};
use crate::{
    connect::{
        check::known_uuid,
        facts::{addresses, peer_file},
        plan::RENEW_BEFORE,
    },
    wait::Progress,
};

/// What is missing so that `source` follows `destination`.
pub(super) struct Follow<'a> {
    source: &'a KubeSide<'a>,
    destination: &'a KubeSide<'a>,
    /// The user in the destination's etcd.
    user: bool,
    /// A certificate for it.
    certificate: bool,
    /// The peer file differs.
    writes_file: bool,
    file: PeerFile,
}

/// Compares what is with what must be. Changes nothing.
pub(super) fn plan<'a>(
    source: &'a KubeSide<'a>,
    destination: &'a KubeSide<'a>,
) -> anyhow::Result<Follow<'a>> {
    let name = destination.name();
    source.has_room(name)?;
    let wanted = User { name: remote_user(source.name()), role: REMOTE_ROLE.into() };
    let known = source.facts.peer(name);
    let file = peer_file(&destination.facts, known);
    Ok(Follow {
        user: !destination.described.users.users.contains(&wanted),
        certificate: !is_usable(source, destination),
        writes_file: known != Some(&file),
        source,
        destination,
        file,
    })
}

/// Whether the credentials are complete, for the source's user, signed by the destination's CA, and do not expire soon.
fn is_usable(source: &KubeSide<'_>, destination: &KubeSide<'_>) -> bool {
    let (secret, name) = (&source.described.secret, destination.name());
    let entries = PeerEntries::new(name);
    // If the destination was rebuilt, the credentials for the previous cluster of that name are useless.
    let uuid = known_uuid(&source.facts, &destination.facts);
    let replaced = uuid.is_some_and(|uuid| Some(uuid) != destination.facts.uuid);
    let has_key = secret.keys.iter().any(|peer| peer == name.as_str());
    let text = |entry: &str| secret.entries.get(entry);
    let (Some(certificate), Some(ca)) = (text(&entries.certificate), text(&entries.ca)) else {
        return false;
    };
    let bundle = |pem: &str| Bundle::parse(pem).ok();
    let same_ca = bundle(ca) == bundle(&destination.described.ca);
    let signed = bundle(&destination.described.signer).is_some_and(|ca| ca.signed(certificate));
    let user = remote_user(source.name());
    let lasts = details(certificate).is_ok_and(|all| {
        let until = SystemTime::now() + RENEW_BEFORE;
        let fits = |found: &Details| found.common_name == user && found.not_after > until;
        all.first().is_some_and(fits)
    });
    !replaced && has_key && same_ca && signed && lasts
}

// === impl Follow ===

impl<'a> Follow<'a> {
    /// A new certificate, where the source follows the destination already.
    pub(super) fn renewal(
        source: &'a KubeSide<'a>,
        destination: &'a KubeSide<'a>,
    ) -> anyhow::Result<Self> {
        let name = destination.name();
        let file = source.facts.peer(name).cloned();
        let file = file.with_context(|| format!("{} does not follow {name}", source.name()))?;
        Ok(Self { source, destination, user: false, certificate: true, writes_file: false, file })
    }
}

impl Follow<'_> {
    /// The steps, for the output.
    pub(super) fn steps(&self) -> Vec<String> {
        let (source, destination) = (self.source.name(), self.destination.name());
        let user = remote_user(source);
        let secret = format!("(Secret {}/{SECRET})", self.source.described.namespace);
        let users =
            format!("(ConfigMap {}/clustermesh-users)", self.destination.described.namespace);
        let mut steps = Vec::new();
        if self.certificate {
            steps.push(format!(
                "{source}: make a private key and a request for {destination} {secret}"
            ));
            steps.push(format!("{destination}: sign the certificate of {user}"));
        }
        if self.user {
            steps.push(format!("{destination}: add user {user} {users}"));
        }
        if self.certificate {
            steps.push(format!(
                "{source}: write the certificate of {user} and the CA of {destination} {secret}"
            ));
        }
        if self.writes_file {
            let at = addresses(&self.destination.facts.settings);
            steps.push(format!("{source}: write peer {destination} at {at} {secret}"));
        }
        steps
    }

    /// Makes the changes. It may be repeated, wherever it was stopped.
    pub(super) fn carry_out(&self) -> anyhow::Result<()> {
        let (source, destination) = (self.source.name(), self.destination.name());
        let mut progress = Progress::new();
        let mut request = None;
        if self.certificate {
            progress.show(&format!("waiting for {source} to make a private key"));
            let args = ["request", "--peer", destination.as_str()];
            request = Some(ask::<Requested>(self.source.at, &args)?.request);
        }
        let mut signed = None;
        if self.certificate || self.user {
            progress.show(&format!("waiting for {destination} to sign the request of {source}"));
            let asked = SignRequest { peer: source.to_string(), request };
            let answer: Signed = tell(self.destination.at, &["sign"], &asked)?;
            signed = Some(answer).filter(|_| self.certificate);
        }
        if self.certificate || self.writes_file {
            progress.show(&format!("waiting for {source} to accept the certificate"));
            let file = self.file.to_yaml()?;
            let acceptance = Acceptance { peer: destination.to_string(), file, signed };
            let _: Value = tell(self.source.at, &["accept"], &acceptance)?;
        }
        Ok(())
    }
}
