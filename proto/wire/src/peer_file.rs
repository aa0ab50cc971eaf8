//! The file that leads to a peer: its etcd's endpoints, the credentials for them, and what the peer may claim.
//!
//! Cilium's format (`docs/wire.md`, "Peer files") with one key of ours, `clustermesh`. The file's name is the peer's
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
    /// Whom the peer's etcd must have its certificate from. May hold several certificates.
    #[serde(
        rename = "trusted-ca-file",
        alias = "ca-file",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub trusted_ca_file: Option<PathBuf>,
    /// Our certificate for that etcd.
    #[serde(rename = "cert-file", default, skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    /// Its key.
    #[serde(rename = "key-file", default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// Names in `endpoints` that are not looked up but stand for these addresses.
    #[serde(
        rename = "cilium-host-aliases",
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "host_aliases"
    )]
    pub host_aliases: Vec<HostAlias>,
    /// What the peer may claim. Absent in files that Cilium's tools wrote.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "grant")]
    pub clustermesh: Option<Grant>,
}

/// A host name and the addresses it stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostAlias {
    /// The name.
    pub hostname: String,
    /// Its addresses, at least one.
    pub ips: Vec<IpAddr>,
}

/// What a peer may claim. A misspelt field is an error: it must never mean "no grant".
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Grant {
    /// Which cluster it must be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<Uuid>,
    /// Its ID, which no other cluster gets. Absent in files that were written before it was written there.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "cluster_id")]
    pub id: Option<u16>,
    /// Where its pods may be.
    #[serde(rename = "podCIDRs", default)]
    pub pod_cidrs: Vec<IpNet>,
    /// Where its nodes may be.
    #[serde(rename = "nodeCIDRs", default)]
    pub node_cidrs: Vec<IpNet>,
    /// Whether its services may lead to addresses that are neither.
    #[serde(default)]
    pub external_backends: bool,
    /// How much it may make us hold and do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
}

/// Limits on what one peer may cost. Absent fields keep the defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Budget {
    /// Records it may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<u64>,
    /// Bytes of memory that its records may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Changes a second, over ten seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes_per_second: Option<u64>,
}

/// Why a peer file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PeerFileError {
    /// Not YAML, or not of this shape.
    #[error("not a peer file: {0}")]
    Yaml(String),
    /// Nothing to connect to.
    #[error("`endpoints` is empty")]
    NoEndpoints,
    /// A name without addresses, or without a name.
    #[error("`cilium-host-aliases`: {0}")]
    HostAlias(String),
    /// The reader's limit on the file, in bytes.
    #[error("larger than {0} bytes")]
    TooLarge(usize),
}

/// No honest peer file is longer.
const MAX_BYTES: usize = 1024 * 1024;

// === impl PeerFile ===

impl PeerFile {
    /// Whether a file's text makes it a peer file at all: certificates lie in the same folder.
    pub fn is_one(text: &str) -> bool {
        text.contains("endpoints:")
    }

    /// Reads a peer file.
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
                (name, _) if !seen.insert(name) => Some(format!("{name} is there twice")),
                _ => None,
            };
            if let Some(wrong) = wrong {
                return Err(PeerFileError::HostAlias(wrong));
            }
        }
        Ok(file)
    }

    /// Writes a peer file.
    pub fn to_yaml(&self) -> Result<String, PeerFileError> {
        serde_saphyr::to_string(self).map_err(|e| PeerFileError::Yaml(e.to_string()))
    }

    /// The addresses a name stands for, if it is an alias.
    pub fn alias(&self, hostname: &str) -> Option<&[IpAddr]> {
        self.host_aliases.iter().find(|alias| alias.hostname == hostname).map(|a| a.ips.as_slice())
    }
}

/// An ID that a cluster can have.
fn cluster_id<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u16>, D::Error> {
    let id = Option::<u32>::deserialize(deserializer)?;
    let Some(id) = id else { return Ok(None) };
    let valid = ClusterId::from_wire(id).filter(|id| *id != ClusterId::NONE);
    let invalid = || serde::de::Error::custom(format!("`id` is {id}: a cluster's is 1 to 511"));
    valid.map(ClusterId::get).map(Some).ok_or_else(invalid)
}

/// A key without a value is no absent key: it must not mean "no grant".
fn grant<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Grant>, D::Error> {
    let empty = || {
        serde::de::Error::custom(
            "`clustermesh` has no value: remove the key, or say what the peer may claim",
        )
    };
    Option::<Grant>::deserialize(deserializer)?.ok_or_else(empty).map(Some)
}

/// Both shapes that exist: a list of `{hostname, ips}`, and (in older templates) a map of name to `{ips}`.
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
    fn ciliums() {
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
    fn ours() {
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
    fn invalid() {
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
