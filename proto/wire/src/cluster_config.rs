//! The cluster config, `cilium/cluster-config/<cluster>`.

use mesh_model::{ClusterConfig, ClusterId, ExportMode};
use uuid::Uuid;

use crate::{
    error::DecodeError,
    excerpt::shown,
    go_json::{self, go_struct},
    limits,
};

go_struct! {
    /// The JSON of the value.
    struct ConfigJson {
        "id" => id: u32, omit;
        "capabilities" => capabilities: CapabilitiesJson;
        "clustermesh" => extension: Option<ExtensionJson>, omit;
    }
}

go_struct! {
    /// The features of the writer.
    struct CapabilitiesJson {
        "syncedCanaries" => synced_canaries: bool, omit;
        "cached" => cached: bool, omit;
        "maxConnectedClusters" => max_connected_clusters: u32, omit;
        "serviceExportsEnabled" => service_exports_enabled: Option<bool>, omit;
        "endpointSlicesExportMode" => export_mode: String, omit;
    }
}

go_struct! {
    /// Our extension, which Cilium ignores.
    struct ExtensionJson {
        "uuid" => uuid: String, omit;
        "version" => version: u32, omit;
    }
}

/// The version of our extension.
const EXTENSION_VERSION: u32 = 1;

/// Encodes a cluster config.
pub fn encode(config: &ClusterConfig) -> Vec<u8> {
    let ClusterConfig {
        id,
        synced_canaries,
        cached,
        max_connected_clusters,
        service_exports_enabled,
        export_mode,
        uuid,
    } = config;
    go_json::to_vec(&ConfigJson {
        id: id.get().into(),
        capabilities: CapabilitiesJson {
            synced_canaries: *synced_canaries,
            cached: *cached,
            max_connected_clusters: *max_connected_clusters,
            service_exports_enabled: *service_exports_enabled,
            export_mode: export_mode.as_str().into(),
        },
        extension: uuid
            .map(|uuid| ExtensionJson { uuid: uuid.to_string(), version: EXTENSION_VERSION }),
    })
}

/// Decodes a cluster config. It does not check whether the config is compatible with the reader's.
///
/// # Errors
/// If it is not JSON of this shape, the ID is above 511, the UUID is not one, or a text is too long.
pub fn decode(value: &[u8]) -> Result<ClusterConfig, DecodeError> {
    limits::SMALL_VALUE.check(value.len())?;
    let ConfigJson { id, capabilities, extension } = serde_json::from_slice(value)?;
    limits::WORD.text(&capabilities.export_mode)?;
    let uuid = extension.map(|e| e.uuid).filter(|uuid| !uuid.is_empty());
    Ok(ClusterConfig {
        id: ClusterId::from_wire(id).ok_or(DecodeError::ClusterId { id })?,
        synced_canaries: capabilities.synced_canaries,
        cached: capabilities.cached,
        max_connected_clusters: capabilities.max_connected_clusters,
        service_exports_enabled: capabilities.service_exports_enabled,
        export_mode: ExportMode::from_word(&capabilities.export_mode),
        uuid: uuid
            .map(|uuid| {
                let invalid = |source| DecodeError::Uuid { uuid: shown(&uuid), source };
                Uuid::parse_str(&uuid).map_err(invalid)
            })
            .transpose()?,
    })
}

#[cfg(test)]
mod tests {
    use mesh_model::ClusterLimit;

    use super::*;

    #[test]
    fn encodes_our_config() {
        let config = ClusterConfig {
            id: ClusterId::new(7, ClusterLimit::Max255).unwrap(),
            synced_canaries: true,
            max_connected_clusters: 255,
            service_exports_enabled: Some(false),
            uuid: Some(Uuid::from_u128(1)),
            ..ClusterConfig::default()
        };
        let json = encode(&config);
        assert_eq!(
            String::from_utf8(json.clone()).unwrap(),
            r#"{"id":7,"capabilities":{"syncedCanaries":true,"maxConnectedClusters":255,"serviceExportsEnabled":false},"clustermesh":{"uuid":"00000000-0000-0000-0000-000000000001","version":1}}"#
        );
        assert_eq!(decode(&json).unwrap(), config);
    }

    #[test]
    fn decodes_unusual_configs() {
        assert_eq!(decode(b"{}").unwrap(), ClusterConfig::default());
        assert_eq!(encode(&ClusterConfig::default()), b"{\"capabilities\":{}}");
        let config =
            decode(br#"{"ID":3,"Capabilities":{"endpointslicesexportmode":"new","future":1}}"#)
                .unwrap();
        assert_eq!(config.export_mode, ExportMode::Unknown("new".into()));
        assert_eq!(config.id.get(), 3);
    }

    #[test]
    fn invalid_configs_are_refused() {
        for (json, says) in [
            ("{\"id\":-1}", "id: invalid value: integer `-1`"),
            ("{\"id\":512}", "512 is not a cluster ID"),
            ("{\"capabilities\":{\"cached\":1}}", "capabilities: cached: invalid type"),
            ("{\"clustermesh\":{\"uuid\":\"x\"}}", "\"x\" is not a UUID"),
            ("{} {}", "trailing characters"),
            ("", "EOF"),
        ] {
            let error = decode(json.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(says), "{json}: {error}");
        }
    }
}
