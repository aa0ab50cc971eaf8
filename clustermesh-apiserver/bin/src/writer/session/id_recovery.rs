//! Collects what an etcd has of a previous run: IDs, to compare them with the journal, and policies.

use mesh_alloc::Found;
use mesh_model::{ClusterName, Labels, LocalPolicy, RecordKey};
use mesh_wire::{Key, Position, cluster_config, decode_policy};

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

/// The policy in a key, if there is one and it is in force.
pub(super) fn policy(key: &str, value: &[u8]) -> Option<LocalPolicy> {
    let policy = decode_policy(key, value)?;
    policy.refused.is_empty().then_some(policy)
}

/// The latest revision of the manifests in a position.
fn revision(position: &[u8]) -> u64 {
    let position = Position::decode(position).unwrap_or_default();
    position.source.values().filter_map(|version| version.parse().ok()).max().unwrap_or_default()
}
