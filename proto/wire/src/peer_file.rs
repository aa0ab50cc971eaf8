//! Peer files: the endpoints of a peer's etcd, the credentials for them, and the peer's grant.
//!
//! The format is Cilium's (`docs/wire.md`, "Peer files") with the additional key `clustermesh`. The file's name is the peer's
//! name.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use ipnet::IpNet;
use mesh_model::ClusterId;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A peer file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerFile {
    /// `https://host:port`, tried in any order.
    pub endpoints: Vec<String>,
    /// The file of the CA that issued the certificate of the peer's etcd. It may contain several CAs.
    #[serde(
        rename = "trusted-ca-file",
        alias = "ca-file",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub trusted_ca_file: Option<PathBuf>,
    /// The file of the local cluster's client certificate for that etcd.
    #[serde(rename = "cert-file", default, skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    /// The file of the certificate's private key.
    #[serde(rename = "key-file", default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// Addresses of host names in `endpoints`. These names are not looked up in DNS.
    #[serde(
        rename = "cilium-host-aliases",
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "host_aliases"
    )]
    pub host_aliases: Vec<HostAlias>,
    /// What the peer may report. Absent in files that Cilium's tools wrote.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "grant")]
    pub clustermesh: Option<Grant>,
}

/// A host name with its addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostAlias {
    /// The name.
    pub hostname: String,
    /// Its addresses, at least one.
    pub ips: Vec<IpAddr>,
}

/// What a peer may report. A misspelt field is an error, so that it cannot mean "no grant".
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Grant {
    /// The UUID that the peer's cluster config must have, if it is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<Uuid>,
    /// The peer's cluster ID, 1 to 511. Absent in files that older releases wrote.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "cluster_id")]
    pub id: Option<u16>,
    /// The ranges in which its pods may be.
    #[serde(rename = "podCIDRs", default)]
    pub pod_cidrs: Vec<IpNet>,
    /// The ranges in which its nodes may be.
    #[serde(rename = "nodeCIDRs", default)]
    pub node_cidrs: Vec<IpNet>,
    /// Whether its services may have backends outside both ranges.
    #[serde(default)]
    pub external_backends: bool,
    /// Limits on what it may report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
}

/// Limits on what a peer may report. Absent fields have defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Budget {
    /// The number of its records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<u64>,
    /// The memory that its records take, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Changes in a second, on average over ten seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes_per_second: Option<u64>,
}

/// Why a peer file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PeerFileError {
    /// Not YAML, or not of this shape.
    #[error("not a peer file: {0}")]
    Yaml(String),
    /// It has no endpoints.
    #[error("`endpoints` is empty")]
    NoEndpoints,
    /// A host alias without a name or addresses, or a duplicate one.
    #[error("`cilium-host-aliases`: {0}")]
    HostAlias(String),
    /// The file is larger than the limit, in bytes.
    #[error("larger than {0} bytes")]
    TooLarge(usize),
}

/// The maximum size of a peer file, in bytes.
const MAX_BYTES: usize = 1024 * 1024;

// === impl PeerFile ===

impl PeerFile {
    /// Whether a text looks like a peer file. Certificates are in the same folder.
    pub fn is_one(text: &str) -> bool {
        text.contains("endpoints:")
    }

    /// Parses a peer file.
    pub fn parse(text: &str) -> Result<Self, PeerFileError> {
        if text.len() > MAX_BYTES {
            return Err(PeerFileError::TooLarge(MAX_BYTES));
        }
        let file: Self = serde_saphyr::from_str(text)
            .map_err(|e| PeerFileError::Yaml(e.without_snippet().to_string()))?;
        if file.endpoints.is_empty() {
            return Err(PeerFileError::NoEndpoints);
        }
        let mut seen = std::collections::BTreeSet::new();
        for HostAlias { hostname, ips } in &file.host_aliases {
            let wrong = match (hostname.as_str(), ips.as_slice()) {
                ("", _) => Some("a hostname is empty".to_owned()),
                (name, []) => Some(format!("{name} has no ips")),
                (name, _) if !seen.insert(name) => Some(format!("{name} occurs twice")),
                _ => None,
            };
            if let Some(wrong) = wrong {
                return Err(PeerFileError::HostAlias(wrong));
            }
        }
        Ok(file)
    }

    /// The file's content.
    pub fn to_yaml(&self) -> Result<String, PeerFileError> {
        serde_saphyr::to_string(self).map_err(|e| PeerFileError::Yaml(e.to_string()))
    }

    /// The addresses of a host alias; `None` if the name is not one.
    pub fn alias(&self, hostname: &str) -> Option<&[IpAddr]> {
        self.host_aliases.iter().find(|alias| alias.hostname == hostname).map(|a| a.ips.as_slice())
    }
}

/// Parses an ID from 1 to 511.
fn cluster_id<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u16>, D::Error> {
    let id = Option::<u32>::deserialize(deserializer)?;
    let Some(id) = id else { return Ok(None) };
    let valid = ClusterId::from_wire(id).filter(|id| *id != ClusterId::NONE);
    let invalid = || serde::de::Error::custom(format!("`id` is {id}: it must be 1 to 511"));
    valid.map(ClusterId::get).map(Some).ok_or_else(invalid)
}

/// A key without a value is an error, so that it cannot mean "no grant".
fn grant<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Grant>, D::Error> {
    let empty = || {
        serde::de::Error::custom(
            "`clustermesh` has no value: remove the key, or add the peer's grant",
        )
    };
    Option::<Grant>::deserialize(deserializer)?.ok_or_else(empty).map(Some)
}

/// Both formats in use: a list of `{hostname, ips}`, and, in older Helm templates, a map of host name to `{ips}`.
fn host_aliases<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<HostAlias>, D::Error> {
    #[derive(Deserialize)]
    struct Ips {
        ips: Vec<IpAddr>,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Shape {
        List(Vec<HostAlias>),
        Map(BTreeMap<String, Ips>),
    }
    Ok(match Option::<Shape>::deserialize(deserializer)? {
        None => Vec::new(),
        Some(Shape::List(list)) => list,
        Some(Shape::Map(map)) => {
            map.into_iter().map(|(hostname, Ips { ips })| HostAlias { hostname, ips }).collect()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CILIUM: &str = "endpoints:
- https://beta.mesh.cilium.io:32379
trusted-ca-file: /var/lib/cilium/clustermesh/common-etcd-client-ca.crt
key-file: /var/lib/cilium/clustermesh/common-etcd-client.key
cert-file: /var/lib/cilium/clustermesh/common-etcd-client.crt
";

    #[test]
    fn ciliums_files_are_parsed() {
        let file = PeerFile::parse(CILIUM).unwrap();
        assert_eq!(file.endpoints, ["https://beta.mesh.cilium.io:32379"]);
        assert_eq!(file.clustermesh, None);
        assert_eq!(PeerFile::parse(&file.to_yaml().unwrap()).unwrap(), file);
    }

    #[test]
    fn aliases_in_both_shapes() {
        let list = format!(
            "{CILIUM}cilium-host-aliases:\n- hostname: beta.mesh.cilium.io\n  ips: [10.0.0.1, 'fd00::1']\n"
        );
        let map = format!(
            "{CILIUM}cilium-host-aliases:\n  beta.mesh.cilium.io:\n    ips: [10.0.0.1, 'fd00::1']\n"
        );
        for text in [list, map] {
            let file = PeerFile::parse(&text).unwrap();
            assert_eq!(file.alias("beta.mesh.cilium.io").unwrap().len(), 2);
            assert_eq!(file.alias("other"), None);
        }
    }

    #[test]
    fn our_extension_is_parsed() {
        let text = format!(
            "{CILIUM}clustermesh:\n  uuid: 00000000-0000-0000-0000-000000000001\n  id: 2\n  podCIDRs: [10.2.0.0/16, 'fd00:10:2::/48']\n  nodeCIDRs: [172.31.2.0/24]\n  budget: {{keys: 10}}\n"
        );
        let file = PeerFile::parse(&text).unwrap();
        let grant = file.clustermesh.clone().unwrap();
        assert_eq!((grant.pod_cidrs.len(), grant.node_cidrs.len()), (2, 1));
        assert_eq!((grant.budget.unwrap().keys, grant.id), (Some(10), Some(2)));
        assert_eq!(PeerFile::parse(&file.to_yaml().unwrap()).unwrap(), file);
    }

    #[test]
    fn invalid_files_are_refused() {
        for (extra, says) in [
            ("clustermesh: {podCIDR: [10.0.0.0/8]}", "podCIDR"),
            ("clustermesh: {podCIDRs: [10.0.0.0/33]}", "line 6, column 26"),
            ("clustermesh: {id: 0}", "`id` is 0"),
            ("clustermesh: {id: 512}", "`id` is 512"),
            ("clustermesh: {id: two}", "line 6"),
            ("clustermesh:", "has no value"),
            ("clustermesh: null", "has no value"),
            ("clustermesh: 3", "line 6, column 14"),
            ("cilium-host-aliases: [{hostname: '', ips: [1.2.3.4]}]", "empty"),
            ("cilium-host-aliases: [{hostname: a, ips: []}]", "no ips"),
            (
                "cilium-host-aliases: [{hostname: a, ips: [1.2.3.4]}, {hostname: a, ips: [1.2.3.4]}]",
                "twice",
            ),
        ] {
            let error = PeerFile::parse(&format!("{CILIUM}{extra}\n")).unwrap_err().to_string();
            assert!(error.contains(says), "{extra}: {error}");
        }
        assert!(PeerFile::parse("endpoints: []").is_err());
        assert!(PeerFile::parse("endpoints: [").is_err());
    }
}
