//! What an etcd says of the cluster's numbers, which the journal must know.

use mesh_alloc::Found;
use mesh_model::{ClusterName, Labels, RecordKey};
use mesh_wire::{Key, cluster_config};

/// Takes note of what a key of the cluster says.
pub(super) fn note(found: &mut Found, own: &ClusterName, key: &str, value: &[u8]) {
    match Key::parse(key.as_bytes()) {
        Ok(Key::ClusterConfig(_)) => {
            found.uuid = cluster_config::decode(value).ok().and_then(|config| config.uuid);
        }
        Ok(Key::Record { record: RecordKey::Identity(identity), .. }) => {
            let labels = Labels::parse(&String::from_utf8_lossy(value));
            if labels.cluster() == Some(own.as_str()) {
                found.identities.push((identity, labels));
            }
        }
        _ => {}
    }
}
