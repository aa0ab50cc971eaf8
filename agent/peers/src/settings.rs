//! What a peer file says of a peer, in the words of those who keep to it.

use std::path::{Path, PathBuf};

use mesh_certs::CredentialFiles;
use mesh_follow::Budget;
use mesh_merge::Claims;
use mesh_model::ClusterId;
use mesh_wire::peer_file::{Grant, PeerFile};

/// What the file says, and the defaults for what it does not.
pub(crate) fn budget(file: &PeerFile) -> Budget {
    let configured = file.clustermesh.as_ref().and_then(|grant| grant.budget.as_ref());
    let (configured, defaults) = (configured.cloned().unwrap_or_default(), Budget::default());
    Budget {
        keys: configured.keys.unwrap_or(defaults.keys),
        bytes: configured.bytes.unwrap_or(defaults.bytes),
        changes_per_second: configured.changes_per_second.unwrap_or(defaults.changes_per_second),
    }
}

/// What it may claim.
pub(crate) fn claims(grant: &Grant) -> Claims {
    Claims {
        id: granted_id(grant),
        pod_cidrs: grant.pod_cidrs.clone(),
        node_cidrs: grant.node_cidrs.clone(),
        external_backends: grant.external_backends,
    }
}

/// The ID that it must have, if the grant has one.
pub(crate) fn granted_id(grant: &Grant) -> Option<ClusterId> {
    grant.id.and_then(|id| ClusterId::from_wire(id.into()))
}

/// The credentials that a file names; relative names are beside it.
pub(crate) fn credential_files(file: &PeerFile, folder: &Path) -> Result<CredentialFiles, String> {
    let path = |path: &Option<PathBuf>, key: &str| {
        path.as_ref()
            .map(|path| folder.join(path))
            .ok_or_else(|| format!("the peer file names no `{key}`"))
    };
    Ok(CredentialFiles {
        ca: path(&file.trusted_ca_file, "trusted-ca-file")?,
        certificate: path(&file.cert_file, "cert-file")?,
        key: path(&file.key_file, "key-file")?,
    })
}
