//! Collects the IDs in an etcd, to compare them with the journal.

use mesh_alloc::Found;
use mesh_model::{ClusterName, Labels, RecordKey};
use mesh_wire::{Key, Position, cluster_config};

/// Adds the content of a key of the cluster.
pub(super) fn note(found: &mut Found, local: &ClusterName, key: &str, value: &[u8]) {
    match Key::parse(key.as_bytes()) {
        Ok(Key::ClusterConfig(_)) => {
            found.uuid = cluster_config::decode(value).ok().and_then(|config| config.uuid);
        }
        Ok(Key::Record { record: RecordKey::Identity(identity), .. }) => {
            let labels = Labels::parse(&String::from_utf8_lossy(value));
            if labels.cluster() == Some(local.as_str()) {
                found.identities.push((identity, labels));
            }
        }
        Ok(Key::LocalPosition) => found.revision = revision(value),
        _ => {}
    }
}

/// The latest revision of the manifests in a position.
fn revision(position: &[u8]) -> u64 {
    let position = Position::decode(position).unwrap_or_default();
    position.source.values().filter_map(|version| version.parse().ok()).max().unwrap_or_default()
}
