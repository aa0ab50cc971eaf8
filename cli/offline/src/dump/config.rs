//! The cluster configs in an etcd: which cluster the etcd belongs to, and which canaries there must be.

use std::collections::BTreeMap;

use mesh_model::{ClusterConfig, ClusterId, ClusterLimit, ClusterName, ExportMode};
use mesh_wire::{Key, Prefix, cluster_config};

use super::EtcdContent;

/// All configs that can be decoded.
pub(super) fn configs(holding: &EtcdContent) -> BTreeMap<ClusterName, ClusterConfig> {
    let config = |(key, value): (&Vec<u8>, &Vec<u8>)| match Key::parse(key) {
        Ok(Key::ClusterConfig(name)) => Some((name, cluster_config::decode(value).ok()?)),
        _ => None,
    };
    holding.entries.iter().filter_map(config).collect()
}

/// The cluster of the etcd: the one whose config is not a copy.
pub(super) fn owner(
    holding: &EtcdContent,
    configs: &BTreeMap<ClusterName, ClusterConfig>,
) -> Option<(ClusterName, ClusterId)> {
    let local = configs.iter().find(|(_, config)| !config.cached);
    let given = holding.cluster.clone();
    let named = given.as_ref().and_then(|(name, _)| configs.get_key_value(name));
    let known = named.or(local).map(|(name, config)| (name.clone(), config.id));
    known.or(given)
}

/// The limit of clusters in a config.
pub(super) fn limit_of(config: &ClusterConfig) -> ClusterLimit {
    ClusterLimit::try_from(config.max_connected_clusters).unwrap_or_default()
}

/// The invalid fields of a config.
pub(super) fn config_deviations(config: &ClusterConfig) -> Vec<String> {
    let mut found = Vec::new();
    let limit = config.max_connected_clusters;
    if limit != 0 && ClusterLimit::try_from(limit).is_err() {
        found.push(format!("maxConnectedClusters is {limit}: it must be 255 or 511"));
    }
    let id = u32::from(config.id.get());
    if id == 0 {
        found.push("the cluster has no ID".into());
    } else if id > limit_of(config).get() {
        found.push(format!("the ID {id} is above the limit of {} clusters", limit_of(config)));
    }
    if let ExportMode::Unknown(word) = &config.export_mode {
        found.push(format!("endpointSlicesExportMode is {word:?}, which no version knows"));
    }
    found
}

/// The prefixes for which a config promises a canary.
pub(super) fn promised(config: &ClusterConfig) -> Vec<Prefix> {
    if !config.synced_canaries {
        return Vec::new();
    }
    let mut promised = vec![Prefix::Identities, Prefix::Ip, Prefix::Nodes];
    if config.export_mode != ExportMode::EndpointSlicesOnly {
        promised.push(Prefix::Services);
    }
    if config.export_mode != ExportMode::Services {
        promised.push(Prefix::EndpointSlices);
    }
    if config.service_exports_enabled.is_some() {
        promised.push(Prefix::ServiceExports);
    }
    promised
}
